"""The engine token for token: what is sampled, what is injected, what runs at the same time, and where it ends."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch
from scripted_model import JUNK, ScriptedModel
from waiting_tools import Broken, Gate, Meeting, compact, opened

from agentflow.errors import AuthFailed
from agentflow.models.generate import RolloutEngine, ToolRunner
from agentflow.models.settings import GenerationConfig
from agentflow.records import ToolCall
from agentflow.rendering import parse_completion
from agentflow.syntax import Syntax
from agentflow.tools.calculator import Calculator
from agentflow.tools.contract import Tool

PROMPTS = ["How many clips did Mia sell?", "x", "Two trains leave. When do they meet, and where?", "6*7"]


def play(tokenizer: Any, scripts: dict[str, list[str]], *tools: Tool, **settings: Any) -> tuple[list[Any], Any]:
    """Rollouts of scripted rows in one batch, and the model that wrote them."""
    model = ScriptedModel(tokenizer, scripts)
    with ToolRunner(opened(*tools)) as runner:
        engine = RolloutEngine(model, tokenizer, compact(*tools), runner, GenerationConfig(**settings))
        return engine.run(list(scripts)), model


def check_accounts(rollout: Any, tokenizer: Any) -> None:
    """What holds for every rollout: lengths agree, and nothing unheard is in the text."""
    assert len(rollout.completion_ids) == len(rollout.model_written) == len(rollout.logprobs)
    assert set(rollout.model_written) <= {0, 1}
    assert JUNK not in rollout.text, "a token was taken from a row that was waiting or reading"
    ends = {tokenizer.eos_token_id}
    assert rollout.text == tokenizer.decode([token for token in rollout.completion_ids if token not in ends])


# ---------------------------------------------------------------- without tools, with the real tiny model
def test_greedy_rollouts_equal_generate_of_transformers_token_for_token(tiny_model, tiny_tokenizer):
    n = 20
    engine = RolloutEngine(tiny_model, tiny_tokenizer, compact(Calculator()), None, GenerationConfig(max_new_tokens=n))
    for prompt, rollout in zip(PROMPTS, engine.run(PROMPTS, batch_size=3), strict=True):
        inputs = tiny_tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        theirs = tiny_model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=n, do_sample=False
        )[0].tolist()
        assert rollout.prompt_ids + rollout.completion_ids == theirs
        assert rollout.model_written == [1] * len(rollout.completion_ids)
        assert rollout.finished == (rollout.completion_ids[-1] == tiny_tokenizer.eos_token_id)


def test_what_a_row_samples_depends_on_its_seed_and_not_on_its_neighbours(tiny_model, tiny_tokenizer):
    config = GenerationConfig(max_new_tokens=16, temperature=1.0)
    engine = RolloutEngine(tiny_model, tiny_tokenizer, compact(Calculator()), None, config)
    seeds = [11, 12, 13, 14]
    together = engine.run(PROMPTS, seeds=seeds)
    assert len({tuple(rollout.completion_ids) for rollout in together}) == len(PROMPTS)
    alone = [engine.run([prompt], seeds=[seed])[0] for prompt, seed in zip(PROMPTS, seeds, strict=True)]
    turned = engine.run(PROMPTS[::-1], seeds=seeds[::-1], batch_size=2)[::-1]
    for other in (alone, turned):
        assert [rollout.completion_ids for rollout in other] == [rollout.completion_ids for rollout in together]
    assert engine.run(PROMPTS[:1], seeds=[99])[0].completion_ids != together[0].completion_ids


def test_log_probabilities_are_those_of_the_policy_at_the_sampling_temperature(tiny_model, tiny_tokenizer):
    config = GenerationConfig(max_new_tokens=12, temperature=0.7)
    engine = RolloutEngine(tiny_model, tiny_tokenizer, compact(Calculator()), None, config)
    for rollout in engine.run(PROMPTS, seeds=[1, 2, 3, 4]):
        tokens = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
        with torch.no_grad():
            logprobs = torch.log_softmax(tiny_model(tokens).logits[0] / 0.7, dim=-1)
        start = len(rollout.prompt_ids)
        expected = [logprobs[start + i - 1, token].item() for i, token in enumerate(rollout.completion_ids)]
        assert rollout.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_shared_head_is_encoded_once_and_changes_nothing(tiny_model, tiny_tokenizer):
    head = "<|im_start|>system\nThink step by step, then answer.<|im_end|>\n"
    turns = [f"<|im_start|>user\n{prompt}<|im_end|>\n" for prompt in PROMPTS]
    config = GenerationConfig(max_new_tokens=16, temperature=1.0)
    engine = RolloutEngine(tiny_model, tiny_tokenizer, compact(Calculator()), None, config)
    shared = engine.run(turns, head=head, seeds=[1, 2, 3, 4], batch_size=2)
    whole = engine.run([head + turn for turn in turns], seeds=[1, 2, 3, 4])
    for one, other in zip(shared, whole, strict=True):
        assert (one.prompt_ids, one.completion_ids) == (other.prompt_ids, other.completion_ids)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_sampling_follows_the_distribution(tiny_model, tiny_tokenizer):
    config = GenerationConfig(max_new_tokens=1, temperature=0.3)
    engine = RolloutEngine(tiny_model, tiny_tokenizer, compact(Calculator()), None, config)
    n = 2000
    first = [rollout.completion_ids[0] for rollout in engine.run(["6*7"] * n, seeds=range(n), batch_size=n)]
    with torch.no_grad():
        tokens = torch.tensor([tiny_tokenizer("6*7", add_special_tokens=False)["input_ids"]])
        probabilities = torch.softmax(tiny_model(tokens).logits[0, -1] / 0.3, dim=-1)
    for token in probabilities.topk(3).indices.tolist():
        p = probabilities[token].item()
        assert abs(first.count(token) / n - p) < 5 * (p * (1 - p) / n) ** 0.5


def test_the_training_mode_of_the_model_is_put_back(tiny_base, tiny_tokenizer):
    from agentflow.models.loading import load_model

    model = load_model(tiny_base).train()
    RolloutEngine(model, tiny_tokenizer, compact(), None, GenerationConfig(max_new_tokens=2)).run(["a"])
    assert model.training


# ---------------------------------------------------------------- with tools, scripted
def test_a_call_is_run_its_result_injected_and_the_model_goes_on(tiny_tokenizer):
    pieces = ["<think>6*7 = [Calculator(6*7) ->", " 42.</think><answer>42</answer>"]
    (rollout,), _ = play(tiny_tokenizer, {"How much?": pieces}, Calculator())
    assert rollout.text == "<think>6*7 = [Calculator(6*7) -> 42] 42.</think><answer>42</answer>"
    assert rollout.calls == (ToolCall("Calculator", {"expression": "6*7"}),)
    assert [result.text for result in rollout.results] == ["42"]
    assert rollout.finished and rollout.failure is None
    check_accounts(rollout, tiny_tokenizer)
    injected = [t for t, own in zip(rollout.completion_ids, rollout.model_written, strict=True) if not own]
    assert injected == tiny_tokenizer(" 42]", add_special_tokens=False)["input_ids"]
    assert rollout.model_written[-1] == 1 and rollout.completion_ids[-1] == tiny_tokenizer.eos_token_id
    assert parse_completion(rollout.text, compact(Calculator())).well_formed


def test_several_calls_of_one_row_run_in_turn(tiny_tokenizer):
    pieces = ["<think>[Calculator(6*7) ->", " so [Calculator(42+1) ->", " 43.</think><answer>43</answer>"]
    (rollout,), _ = play(tiny_tokenizer, {"q": pieces}, Calculator())
    assert rollout.text == ("<think>[Calculator(6*7) -> 42] so [Calculator(42+1) -> 43] 43.</think><answer>43</answer>")
    check_accounts(rollout, tiny_tokenizer)


def test_a_rollout_says_where_each_result_stands(tiny_tokenizer):
    pieces = ["<think>é日 [Calculator(6*7) ->", " so [Calculator(42+1) ->", " 43.</think>"]
    (rollout,), _ = play(tiny_tokenizer, {"q": pieces}, Calculator())
    assert [rollout.text[begin:end] for begin, end in rollout.injected] == [" 42]", " 43]"]
    assert len(rollout.results) == 2 and rollout.text.startswith(pieces[0] + " 42] so ")
    room = rollout.model_written.index(0) + 1
    (cut,), _ = play(tiny_tokenizer, {"q": pieces}, Calculator(), max_new_tokens=room)
    ((begin, end),) = cut.injected
    assert begin < end == len(cut.text) and " 42]".startswith(cut.text[begin:end])


def test_the_json_syntax_runs_too(tiny_tokenizer):
    syntax = Syntax("json", {"Calculator": "expression"})
    call = ToolCall("Calculator", {"expression": "6*7"})
    model = ScriptedModel(tiny_tokenizer, {"q": ["so" + syntax.call_text(call), " bye"]}, closer="</tool_response>")
    with ToolRunner(opened(Calculator())) as runner:
        (rollout,) = RolloutEngine(model, tiny_tokenizer, syntax, runner, GenerationConfig()).run(["q"])
    assert rollout.text == "so" + syntax.call_text(call) + "<tool_response>42</tool_response> bye"
    assert rollout.finished and rollout.calls == (call,)
    check_accounts(rollout, tiny_tokenizer)


def test_refused_arguments_are_shown_to_the_model_and_the_row_goes_on(tiny_tokenizer):
    (rollout,), _ = play(tiny_tokenizer, {"q": ["[Calculator(1/0) ->", " hm."]}, Calculator())
    assert rollout.results[0].error is not None
    assert rollout.text == f"[Calculator(1/0) -> {rollout.results[0].text}] hm."
    assert rollout.finished and rollout.failure is None


def test_an_unfinished_call_is_text_like_any_other(tiny_tokenizer):
    (rollout,), _ = play(tiny_tokenizer, {"q": ["[Calculator(6*7) is what I would write."]}, Calculator())
    assert rollout.calls == () and rollout.model_written == [1] * len(rollout.completion_ids)


def test_without_tools_a_call_is_only_text(tiny_tokenizer):
    model = ScriptedModel(tiny_tokenizer, {"q": ["[Calculator(6*7) -> 9]"]})
    (rollout,) = RolloutEngine(model, tiny_tokenizer, compact(Calculator()), None, GenerationConfig()).run(["q"])
    assert rollout.text == "[Calculator(6*7) -> 9]" and rollout.calls == () and rollout.finished


def test_slow_tools_of_several_rows_overlap(tiny_tokenizer):
    meeting = Meeting(parties=3)
    scripts = {f"row {name}": [f"{'so ' * i}[Meeting({name}) ->", " bye"] for i, name in enumerate("abc")}
    rollouts, _ = play(tiny_tokenizer, scripts, meeting)
    assert meeting.together == 3, "all three calls stood in the tool at once"
    assert [rollout.text for rollout in rollouts] == [
        f"{'so ' * i}[Meeting({name}) -> met {name}] bye" for i, name in enumerate("abc")
    ]
    for rollout in rollouts:
        check_accounts(rollout, tiny_tokenizer)


def test_a_row_goes_on_writing_while_another_waits_for_its_tool(tiny_tokenizer):
    scripts = {
        "waits": ["[Gate(wait) ->", " after."],
        "writes": ["a long text that is written meanwhile, and only then [Gate(open) ->", " open."],
        "has none": ["nothing to call here."],
    }
    rollouts, model = play(tiny_tokenizer, scripts, Gate())
    assert [rollout.text for rollout in rollouts] == [
        "[Gate(wait) -> through] after.",
        "a long text that is written meanwhile, and only then [Gate(open) -> through] open.",
        "nothing to call here.",
    ]
    assert all(rollout.finished for rollout in rollouts)
    assert model.steps[0] == 3 and model.steps[-1] < 3, "finished rows leave the batch"
    for rollout in rollouts:
        check_accounts(rollout, tiny_tokenizer)


def test_a_tool_whose_infrastructure_fails_ends_its_row_alone(tiny_tokenizer):
    scripts = {"bad": ["so [Broken(network) ->", "unheard"], "good": ["[Calculator(6*7) ->", " fine."]}
    (bad, good), _ = play(tiny_tokenizer, scripts, Broken(), Calculator())
    assert bad.failure == "connection" and not bad.finished
    assert bad.text == "so [Broken(network) ->" and bad.results == ()
    assert good.failure is None and good.text == "[Calculator(6*7) -> 42] fine."


def test_what_stops_a_run_is_raised_and_open_calls_of_other_rows_are_cancelled(tiny_tokenizer):
    scripts = {"waits": ["[Gate(wait) ->", "unheard"], "stops": ["so, so [Broken(key) ->", "unheard"]}
    with pytest.raises(AuthFailed, match="the key is wrong"):
        play(tiny_tokenizer, scripts, Gate(), Broken())


def test_a_tool_box_that_does_not_open_says_so_and_leaves_no_thread():
    @asynccontextmanager
    async def closed():
        raise ConnectionError("no service here")
        yield

    runner = ToolRunner(closed())
    with pytest.raises(ConnectionError, match="no service here"), runner:
        pass
    assert not runner._thread.is_alive()


# ---------------------------------------------------------------- single turns, calls not run
def test_a_turn_ends_behind_its_first_call_which_is_not_run(tiny_tokenizer):
    scripts = {"calls": ["<think>a</think> [Broken(network) ->", "unheard"], "answers": ["<answer>42</answer>"]}
    (calls, answers), _ = play(tiny_tokenizer, scripts, Broken(), calls="end")
    assert calls.text == "<think>a</think> [Broken(network) ->" and calls.finished and calls.failure is None
    assert (calls.calls, calls.results) == ((ToolCall("Broken", {"how": "network"}),), ())
    assert calls.completion_ids[-1] == tiny_tokenizer.eos_token_id
    assert calls.model_written == [1] * (len(calls.completion_ids) - 1) + [0], "the end token is ours: no loss on it"
    assert answers.text == "<answer>42</answer>" and answers.calls == () and answers.model_written[-1] == 1
    for rollout in (calls, answers):
        check_accounts(rollout, tiny_tokenizer)


def test_a_turn_that_ends_at_the_cap_is_not_made_longer_by_an_end_token(tiny_tokenizer):
    text = "so [Calculator(6*7) ->"
    cap = len(tiny_tokenizer(text, add_special_tokens=False)["input_ids"])
    (rollout,), _ = play(tiny_tokenizer, {"q": [text, "unheard"]}, Calculator(), calls="end", max_new_tokens=cap)
    assert len(rollout.completion_ids) == cap and rollout.text == text and rollout.finished


def test_a_turn_may_hold_several_calls_none_of_which_is_run(tiny_tokenizer):
    text = "<think>a</think> [Broken(network) -> [Broken(key) ->"
    (rollout,), _ = play(tiny_tokenizer, {"q": [text]}, Broken(), calls="collect", max_calls=1)
    assert rollout.text == text and rollout.finished and rollout.failure is None
    assert [call.arguments["how"] for call in rollout.calls] == ["network", "key"] and rollout.results == ()
    assert rollout.model_written == [1] * len(rollout.completion_ids)


# ---------------------------------------------------------------- caps
def test_a_call_beyond_max_calls_is_not_run_and_ends_the_row_unfinished(tiny_tokenizer):
    pieces = ["[Calculator(6*7) ->", " [Calculator(1+1) ->", "unheard"]
    (rollout,), _ = play(tiny_tokenizer, {"q": pieces}, Calculator(), max_calls=1)
    assert not rollout.finished and rollout.failure is None
    assert rollout.text == "[Calculator(6*7) -> 42] [Calculator(1+1) ->"
    assert len(rollout.results) == 1
    (none,), _ = play(tiny_tokenizer, {"q": pieces}, Calculator(), max_calls=0)
    assert none.text == "[Calculator(6*7) ->" and none.results == () and not none.finished


@pytest.mark.parametrize("cap", [1, 5, 8, 9, 10, 11, 12, 40])
def test_no_row_is_longer_than_max_new_tokens_whoever_writes_the_last_one(tiny_tokenizer, cap):
    pieces = ["so [Calculator(6*7) ->", " 42 and on and on."]
    (whole,), _ = play(tiny_tokenizer, {"q": pieces}, Calculator(), max_new_tokens=200)
    (rollout,), _ = play(tiny_tokenizer, {"q": pieces}, Calculator(), max_new_tokens=cap)
    check_accounts(rollout, tiny_tokenizer)
    assert rollout.completion_ids == whole.completion_ids[:cap]
    assert rollout.model_written == whole.model_written[:cap]
    assert rollout.finished == (cap >= len(whole.completion_ids))


def test_a_call_that_ends_at_the_cap_is_not_run(tiny_tokenizer):
    text = "so [Broken(network) ->"
    cap = len(tiny_tokenizer(text, add_special_tokens=False)["input_ids"])
    (rollout,), _ = play(tiny_tokenizer, {"q": [text, "unheard"]}, Broken(), max_new_tokens=cap)
    assert rollout.text == text
    assert rollout.failure is None and rollout.results == (), "its failure would have been no fault of the row's"


# ---------------------------------------------------------------- the cache, with the real tiny model
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_going_on_after_an_injected_result_equals_encoding_everything_anew(tiny_model, tiny_tokenizer, temperature):
    prompts = {
        "How many clips did Mia sell in all?": ["[Gate(wait) ->", ""],
        "x": ["a long text written meanwhile, then [Gate(open) ->", ""],
        "6*7": ["[Calculator(6*7) ->", ""],
        "Two trains leave.": ["[Calculator(1/0) ->", " and [Calculator(3+4) ->", ""],
    }
    tools = (Gate(), Calculator())
    model = ScriptedModel(tiny_tokenizer, prompts, free=tiny_model)
    config = GenerationConfig(max_new_tokens=120, temperature=temperature)
    with ToolRunner(opened(*tools)) as runner:
        engine = RolloutEngine(model, tiny_tokenizer, compact(*tools), runner, config)
        rollouts = engine.run(list(prompts), seeds=[1, 2, 3, 4])
    for rollout, pieces in zip(rollouts, prompts.values(), strict=True):
        assert len(rollout.results) == len(pieces) - 1
        tokens = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
        with torch.no_grad():
            logprobs = torch.log_softmax(tiny_model(tokens).logits[0], dim=-1)
        start = len(rollout.prompt_ids)
        # What the real model wrote: everything after the last injected token.
        free = len(rollout.model_written) - rollout.model_written[::-1].index(0)
        assert len(rollout.completion_ids) - free >= 10
        for i in range(free, len(rollout.completion_ids)):
            anew, token = logprobs[start + i - 1], rollout.completion_ids[i]
            if temperature == 0:
                assert anew.max() - anew[token] < 1e-4, "the greedy token, up to rounding"
            else:
                assert rollout.logprobs[i] == pytest.approx(anew[token].item(), abs=1e-4)
