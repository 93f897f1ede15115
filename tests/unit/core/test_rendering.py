"""Rows to text and text to completions: spans concatenate, prompts hold the question as data, any text can be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.insertion.splice import plain_text
from agentflow.records import Segment, Span, ToolCall, ToolResult
from agentflow.rendering import (
    PromptConfig,
    completion_spans,
    parse_completion,
    parse_turn,
    prompt_head,
    prompt_text,
    prompt_turn,
)
from agentflow.syntax import Syntax
from agentflow.tools.neutralise import neutralise

PRIMARY = {"Calculator": "expression", "Search": "query"}
SYNTAXES = {name: Syntax(name, PRIMARY) for name in ("compact", "json")}  # type: ignore[arg-type]
COMPACT = SYNTAXES["compact"]


def text(words):
    return Segment("text", text=words)


def call(expression, result):
    return Segment("call", call=ToolCall("Calculator", {"expression": expression}), result=ToolResult(result))


MIA = [
    text("In May she sold 48/2 ="),
    call("48/2", "24"),
    text(" 24 clips. In all 48+24 ="),
    call("48+24", "72"),
    text(" 72."),
]

words = st.text(st.sampled_from("ab 12.\n"), min_size=1, max_size=10)
results = words.map(neutralise).filter(bool)
segment_lists = st.lists(st.builds(text, words) | st.builds(call, st.sampled_from(["1+1", "2*3"]), results), max_size=5)


def test_the_worked_example_of_the_records_reads_as_it_is_written_there():
    rendered = "".join(span.text for span in completion_spans(MIA[:3], "72", COMPACT))
    assert rendered == (
        "<think>In May she sold 48/2 = [Calculator(48/2) -> 24] 24 clips. In all 48+24 =</think><answer>72</answer>"
    )


def test_spans_have_the_roles_that_decide_the_loss():
    assert completion_spans(MIA[:2], "72", COMPACT) == [
        Span("think", "<think>In May she sold 48/2 ="),
        Span("call", " [Calculator(48/2) ->"),
        Span("result", " 24]"),
        Span("think", "</think>"),
        Span("answer", "<answer>72</answer>"),
    ]


@pytest.mark.parametrize("name", SYNTAXES)
@given(segments=segment_lists)
def test_spans_concatenate_to_a_well_formed_completion_whose_text_is_the_reasoning(name, segments):
    syntax = SYNTAXES[name]
    spans = completion_spans(segments, "72", syntax)
    assert all(span.text for span in spans), "an empty span would be a role without tokens"
    completion = parse_completion("".join(span.text for span in spans), syntax)
    assert completion.well_formed and completion.answer == "72"
    assert list(completion.calls) == [segment.call for segment in segments if segment.kind == "call"]
    assert completion.think is not None
    assert syntax.strip_calls(completion.think) == plain_text(segments)


def test_two_calls_in_a_row_have_no_empty_text_between_them():
    spans = completion_spans([call("1+1", "2"), call("2+2", "4")], "4", COMPACT)
    assert [span.role for span in spans] == ["think", "call", "result", "call", "result", "think", "answer"]


def test_the_chatml_prompt_ends_where_the_model_begins():
    prompt = prompt_text("How many?", PromptConfig(system="Think."))
    assert prompt == (
        "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_prompt_of_paper_a_has_its_preamble_and_fields():
    prompt = prompt_text("How many?", PromptConfig(template="paper_a", system="Use tools."))
    assert prompt.startswith("Below is an instruction that describes a task.")
    assert prompt.endswith("Instruction: Use tools.\n\nInput: How many?\nReason: ")


@pytest.mark.parametrize("template", ["chatml", "paper_a"])
def test_a_prompt_is_a_head_that_all_questions_share_and_a_turn(template):
    config = PromptConfig(template=template, system="S")
    assert prompt_text("q", config) == prompt_head(config) + prompt_turn("q", config)
    assert "S" in prompt_head(config) and "q" not in prompt_head(config).replace("request", "")


@pytest.mark.parametrize("template", ["chatml", "paper_a"])
@pytest.mark.parametrize("question", ["{system}", "{question}", "a {0} {} {{x}} %s", "set {1, 2}"])
def test_a_question_with_braces_is_put_as_it_is(template, question):
    prompt = prompt_text(question, PromptConfig(template=template, system="S"))
    assert prompt == prompt_text("QUESTION", PromptConfig(template=template, system="S")).replace("QUESTION", question)


def test_another_system_text_replaces_the_configured_one():
    head = prompt_head(PromptConfig(system="old"), system="new")
    assert "new" in head and "old" not in head


PIECES = ["<think>", "</think>", "<answer>", "</answer>", " [Calculator(1+1) ->", " 2]", "<tool_call>", "</tool_call>"]


@pytest.mark.parametrize("name", SYNTAXES)
@given(parts=st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=10))
def test_any_text_gives_a_completion(name, parts):
    written = "".join(parts)
    completion = parse_completion(written, SYNTAXES[name])
    if completion.well_formed:
        assert completion.think is not None and completion.answer is not None
        assert written.count("<think>") == written.count("</answer>") == 1
    if completion.answer is not None:
        assert completion.answer == completion.answer.strip() and completion.answer in written


@pytest.mark.parametrize(
    "written",
    [
        "<think>a</think><answer>b</answer>",
        " \n<think>a\nb</think>\n\n<answer> b </answer>\n",
        "<think></think><answer></answer>",
        "<think>1 < 2 <b></think><answer>x</answer>",
    ],
)
def test_a_think_block_and_an_answer_block_are_well_formed(written):
    assert parse_completion(written, COMPACT).well_formed


@pytest.mark.parametrize(
    "written",
    [
        "",
        "72",
        "<think>a</think>",
        "<answer>b</answer>",
        "<answer>b</answer><think>a</think>",
        "<think>a</think>then<answer>b</answer>",
        "so <think>a</think><answer>b</answer>",
        "<think>a</think><answer>b</answer> done",
        "<think>a<answer>b</answer></think>",
        "<think>a<think>b</think><answer>c</answer>",
        "<think>a</think></think><answer>c</answer>",
        "<think>a</think><answer>b</answer><answer>c</answer>",
        "<think>a</think><think>b</think><answer>c</answer>",
        "<think>a</think><answer>b<answer>c</answer>",
        "<think>a <answer>1</answer></think><answer>2</answer>",
        "<THINK>a</THINK><ANSWER>b</ANSWER>",
    ],
)
def test_anything_else_is_not_well_formed(written):
    assert not parse_completion(written, COMPACT).well_formed


def test_several_answers_are_no_answer():
    completion = parse_completion("<think>a</think><answer>1</answer><answer>2</answer>", COMPACT)
    assert completion.answer is None and completion.think == "a"


def test_without_a_single_think_block_calls_are_looked_for_in_the_whole_text():
    completion = parse_completion("12 = [Calculator(6+6) -> 12]", COMPACT)
    assert completion.think is None
    assert completion.calls == (ToolCall("Calculator", {"expression": "6+6"}),)


def test_calls_outside_the_think_block_do_not_count():
    completion = parse_completion("<think>a</think><answer>[Calculator(6+6) -> 12]</answer>", COMPACT)
    assert completion.calls == ()


# ---------------------------------------------------------------- turns of paper B
JSON = SYNTAXES["json"]
ADD = ToolCall("Calculator", {"expression": "6+6"})
ADDING = JSON.call_text(ADD)


@pytest.mark.parametrize(
    "written, calls, answer",
    [
        (f"<think>a</think>{ADDING}", (ADD,), None),
        (f"<think>a</think>\n{ADDING}\n{ADDING}\n", (ADD, ADD), None),
        ("<think>a</think><answer>12</answer>", (), "12"),
    ],
)
def test_a_think_block_and_one_action_are_a_well_formed_turn(written, calls, answer):
    turn = parse_turn(written, JSON)
    assert (turn.well_formed, turn.unreadable, turn.think) == (True, False, "a")
    assert (turn.calls, turn.answer) == (calls, answer)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "<think>a</think>",
        ADDING,
        f"{ADDING}<think>a</think>",
        f"<think>a</think>so{ADDING}",
        f"<think>a</think>{ADDING}so",
        f"<think>a</think>{ADDING}<tool_response>12</tool_response>",
        f"<think>a</think>{ADDING}<answer>12</answer>",
        f"<think>a</think><answer>12</answer>{ADDING}",
        f"<think>a</think><think>b</think>{ADDING}",
        f"<think>a <answer>1</answer></think>{ADDING}",
    ],
)
def test_any_other_turn_is_not_well_formed(written):
    assert not parse_turn(written, JSON).well_formed


def test_a_turns_calls_are_those_outside_the_think_block_or_all_where_that_is_not_closed():
    assert parse_turn(f"<think>a{ADDING}</think><answer>1</answer>", JSON).calls == ()
    assert parse_turn(f"<think>a{ADDING}", JSON).calls == (ADD,)
    inline = parse_turn("<think>a</think> [Calculator(6+6) ->", COMPACT)
    assert (inline.calls, inline.well_formed) == ((ADD,), True)


@pytest.mark.parametrize(
    "syntax, begun",
    [
        (JSON, "<tool_call>{"),
        (JSON, '<tool_call>{"name": 3}</tool_call>'),
        (JSON, "</tool_call>"),
        (COMPACT, "[Calculator(6+6"),
        (COMPACT, "[Calculator(6+6)] "),
    ],
)
def test_a_call_that_was_begun_and_cannot_be_read_is_noticed(syntax, begun):
    turn = parse_turn(f"<think>a</think>{syntax.call_text(ADD)}{begun}", syntax)
    assert turn.unreadable and not turn.well_formed
    assert not parse_turn(f"<think>a</think>{syntax.call_text(ADD)}", syntax).unreadable


def test_several_answers_of_a_turn_are_no_action():
    turn = parse_turn(f"<think>a</think>{ADDING}<answer>1</answer><answer>2</answer>", JSON)
    assert (turn.unreadable, turn.answer, turn.well_formed) == (True, None, False)


@given(st.sampled_from(["compact", "json"]), st.text() | st.lists(st.sampled_from([ADDING, "<think>", "</think>"])))
def test_any_text_is_read_as_a_turn(name, written):
    turn = parse_turn(written if isinstance(written, str) else "".join(written), SYNTAXES[name])
    assert not turn.well_formed or turn.think is not None
