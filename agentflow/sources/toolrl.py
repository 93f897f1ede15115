"""ToolRL's reinforcement-learning rows (arXiv 2504.13958) to question rows: turns whose right action is known.

In: {"prompt": [system, user], "reward_model": {"ground_truth"}, "extra_info": {"index"}}. The system text lists the
tools, the user text holds the dialogue so far, the ground truth is `<think>`, then `<tool_call>` with one call a line
and/or `<response>`. Out: QUESTIONS columns (without split and source). The question is the list of tools and the
dialogue; how to answer is left to our own prompt, since ToolRL's format is another one. Gold calls stand in `meta`.
"""

from __future__ import annotations

import json
import re
from typing import Any

from agentflow.rewards.contract import GOLD_CALLS
from agentflow.sources.fields import BadRow, Record, storable, text_row

KIND = "toolrl"
_TOOLS = re.compile(r"\*\*Available Tools\*\*(.*?)\*\*Steps for Each Turn\*\*", re.DOTALL)
_PREAMBLE = "In your response, you can use the following tools:"
_HISTORY = "**Dialogue Records History**"
_CALLS = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESPONSE = re.compile(r"<response>(.*?)</response>", re.DOTALL)


def question_row(record: Record) -> dict[str, Any]:
    """One QUESTIONS row without `split` and `source`; `meta` holds `gold_calls` and `source_id`, `answer` the response
    ("" where the turn only calls).

    Raises BadRow "no_question" (no list of tools or no dialogue), "no_answer" (neither calls nor a response),
    "bad_answer" (a call that is no JSON object with name and parameters), "bad_context" (other shape than published),
    "bad_meta" or "bad_text".
    """
    try:
        texts = {message["role"]: message["content"] for message in record["prompt"]}
        system, user, truth = texts["system"], texts["user"], record["reward_model"]["ground_truth"]
        source_id = record.get("extra_info", {}).get("index")
        tools = _TOOLS.search(system)
        dialogue = user.replace(_HISTORY, "", 1).strip()
        calls, response = _CALLS.search(truth), _RESPONSE.search(truth)
    except (TypeError, KeyError, AttributeError) as error:
        raise BadRow(
            "bad_context",
            f"{type(error).__name__}: {error}; a row is {{prompt: [system, user], reward_model: {{ground_truth}}}}",
        ) from error
    if tools is None or not dialogue:
        raise BadRow("no_question", "the system text lists no tools, or the user text holds no dialogue")
    if not (calls and calls[1].strip()) and not (response and response[1].strip()):
        raise BadRow("no_answer", f"ground_truth {truth!r:.200} holds neither a call nor a response")
    listed = tools[1].replace(_PREAMBLE, "", 1).strip()
    question = storable(f"Tools:\n{listed}\n\nDialogue:\n{dialogue}", "prompt")
    answer = storable(response[1].strip(), "ground_truth") if response else ""
    gold = _gold_calls(calls[1]) if calls else []
    return text_row(KIND, question, [answer], "", {GOLD_CALLS: gold, "source_id": source_id})


def _gold_calls(text: str) -> list[dict[str, Any]]:
    calls = []
    for line in filter(None, map(str.strip, text.splitlines())):
        try:
            call = json.loads(line)
            name, arguments = call["name"], call["parameters"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadRow("bad_answer", f"call {line!r:.200}: {error}; one JSON object a line") from error
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise BadRow("bad_answer", f"call {line!r:.200}; name is text, parameters an object")
        calls.append({"name": name, "arguments": arguments})
    return calls
