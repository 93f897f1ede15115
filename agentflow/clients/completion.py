"""What stands in the body of a chat completion: reasoning, content and tokens, or a typed failure.

In: a parsed JSON body of any shape. Out: a `Completed` answer. Reads `reasoning_content` (DeepSeek), `reasoning`
(OpenRouter, vLLM) and inline `<think>...</think>`. Total: whatever stands in the body, it ends as one of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentflow.errors import CutAnswer, EmptyAnswer, FilteredAnswer, MalformedAnswer, ServerFailed

_INTERRUPTED = {"insufficient_system_resource", "error", "abort"}
# The service broke off in the middle: DeepSeek's, OpenRouter's and vLLM's (also SGLang's) words for it.
_KEPT = " (it is paid and kept: asking again would end the same)"
_OPEN, _CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Completed:
    """One usable chat completion."""

    content: str
    # What follows the reasoning, never blank.
    reasoning: str | None
    # The chain of thought, None if the model gave none.
    finish_reason: str


def read_completion(body: dict[str, Any]) -> Completed:
    """The answer in a chat completion body.

    Raises CutAnswer (length), FilteredAnswer (content_filter, or a refusal), ServerFailed (broken off by the service),
    EmptyAnswer (no content) and MalformedAnswer (anything that is no chat completion).
    """
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise MalformedAnswer(f"the body has no choices but the fields {sorted(body)[:8]}", status=200)
    finish, message = choices[0].get("finish_reason"), choices[0].get("message")
    if not isinstance(message, dict):
        raise MalformedAnswer("the first choice has no message", status=200)
    if finish == "length":
        raise CutAnswer(
            f"the answer reached max_tokens and stops in the middle{_KEPT}; for another one raise max_tokens, or "
            "change the model or the edition",
            status=200,
        )
    if finish == "content_filter" or message.get("refusal"):
        raise FilteredAnswer(
            f"the service filtered or refused the answer{_KEPT}; for another one change the model or the edition",
            status=200,
        )
    if isinstance(finish, str) and finish in _INTERRUPTED:
        raise ServerFailed(f"the service broke the answer off (finish_reason {finish})", status=200)
    content = _text(message, "content")
    reasoning = _text(message, "reasoning_content") or _text(message, "reasoning") or None
    if reasoning is None:
        reasoning, content = _split_think(content)
    if not content.strip():
        raise EmptyAnswer("the answer has no content", status=200)
    return Completed(content, reasoning, str(finish))


def _text(message: dict[str, Any], name: str) -> str:
    value = message.get(name)
    if value is not None and not isinstance(value, str):
        raise MalformedAnswer(f"the message's {name} is a {type(value).__name__}, not text", status=200)
    return value or ""


def _split_think(content: str) -> tuple[str | None, str]:
    """Reasoning and the rest. Some chat templates open the block in the prompt, so only its end stands in the text."""
    start = content.lstrip().startswith(_OPEN)
    if _CLOSE not in content:
        if start:
            raise MalformedAnswer(f"the answer opens {_OPEN} and never closes it", status=200)
        return None, content
    thought, rest = content.split(_CLOSE, 1)
    return (thought.lstrip().removeprefix(_OPEN) if start else thought).strip(), rest.strip()


def tokens_used(body: dict[str, Any]) -> tuple[int, int] | None:
    """Prompt and completion tokens that the service billed; None if it does not say so in a believable way."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    if any(isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**40 for count in counts):
        return None
    return int(usage["prompt_tokens"]), int(usage["completion_tokens"])
