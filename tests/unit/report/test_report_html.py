"""report.html is one inert file: whatever a model wrote is shown as text, nothing asks for an address."""

import json
import re
from html import unescape
from html.parser import HTMLParser

import pytest
from report_rows import (
    call_segment,
    evaluation_row,
    make_record,
    manifest,
    rollout_row,
    text_segment,
    trace_row,
    written,
)

from agentflow.report.model import Limits, RunRecord, StageRun
from agentflow.report.page import render_page
from agentflow.report.pictures import rollout_points
from agentflow.report.samples import judged_calls, mark_calls, mark_spans
from agentflow.report.summary import summarise_run

ATTACKS = [
    "<script>alert(1)</script>",
    "</p></article><img src=https://attacker.example/x.png onerror=alert(1)>",
    "![i](https://attacker.example/x.png) [l](javascript:alert(1))",
    "abc\u202edcba\u2066x\u2069\u200b",
    "\x1b[31mred\x1b[0m \x00 \x07",
    "=cmd()|' /C calc'!A0",
    "{{ 7*7 }} {% include 'x' %}",
    '" onmouseover="alert(1)" x="',
    "\ud800 lone surrogate",
    "$\\frac{1}{0}$ and ]]> and <!-- and </style></svg>",
]


HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
SECTIONS = [
    "funnel",
    "evaluation",
    "training",
    "filter",
    "traces",
    "rollouts",
    "answers",
    "rejects",
    "ledger",
    "config",
]


class Elements(HTMLParser):
    """Collects start tags with attributes and counts unbalanced ones."""

    VOID = {"meta", "br", "path", "use", "rect", "img", "link", "input"}

    def __init__(self, page):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def render(run):
    return render_page(run, summarise_run(run))


def hostile_run(tmp_path, text):
    before, after = trace_row(1, "kept", 0.2)
    segments = [text_segment(text), call_segment(text, {"expression": text}, text, error=text)]
    texts = {"question": text, "predicted": text, "answer": text, "teacher": text, "kind": text, "id": text}
    after = {**after, "call_scores": [{**after["call_scores"][0], "tool": text}]}
    reward = {**rollout_row(1, 0, 0, 1.0), "completion": f"<think>{text}[Calculator({text}) -> 1]", "answer": text}
    reward |= {"failure": text, "gold": text, "rewards": json.dumps({text.encode("utf-8", "replace").decode(): 1.0})}
    answers = [
        {**evaluation_row(1, model, text, True), **dict.fromkeys(("question", "completion", "predicted", "id"), text)}
        for model in ("base", text)
    ]
    reject = {"key": text, "status": "dropped", "reason": text, "detail": text, "row": {text: text}}
    told = {**manifest(text, 1, 0, {text: 1}, {text: 1}, {text: 1}), "config": {text: text}}
    stage = StageRun(name=text, status="ran", manifest=told)
    return RunRecord(
        recipe=text, out_dir=tmp_path, error=text, started_at=text, stages=[stage], notes=[text], machine={text: text},
        tables={
            "tool_insertion": [{**before, **texts, "segments": segments}],
            "loss_filter": [{**after, **texts, "segments": segments}],
            "grpo": [reward], "evaluate": answers,
        },
        rejects={text: [reject]}, logs={text: [{"step": 1, "loss": 1.0}]},
    )  # fmt: skip


@pytest.fixture(scope="module")
def full_page(tmp_path_factory):
    return render(make_record(tmp_path_factory.mktemp("full")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return Elements(render(hostile_run(tmp_path_factory.mktemp("plain"), "plain")))


@pytest.mark.parametrize("text", ATTACKS)
def test_hostile_text_adds_no_element_no_attribute_and_no_hidden_character(tmp_path, plain, text):
    page = render(hostile_run(tmp_path, text))
    assert not HIDDEN.search(page)
    attacked = Elements(page)
    assert not attacked.open

    def counted(elements):
        marks = ("span", "text", "g", "path", "use", "rect", "defs", "style", "tspan", "clippath", "line", "svg")
        return [tag for tag, _ in elements.tags if tag not in marks]

    assert counted(attacked) == counted(plain)
    for tag, attributes in attacked.tags:
        assert tag not in {"script", "img", "iframe", "object", "link", "form"}
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")


def test_a_bidirectional_override_is_shown_by_its_name(tmp_path):
    assert "⟨U+202E⟩" in render(hostile_run(tmp_path, "abc\u202edcba"))


def test_the_page_names_no_outside_address(full_page):
    page = full_page
    assert "http://" not in page.replace('http-equiv="', "") and "https://" not in page
    assert "@import" not in page and "url(http" not in page
    assert "default-src 'none'" in page


def test_a_hundred_thousand_brackets_are_capped_and_said_so(tmp_path):
    page = render(hostile_run(tmp_path, "[" * 100_000))
    assert len(page) < 400_000
    assert "[96,000 more characters]" in page
    assert page.count("[") < 150_000


def test_every_part_of_a_full_run_is_on_the_page(full_page):
    page = full_page
    assert not Elements(page).open
    for anchor in SECTIONS:
        assert f'<section id="{anchor}">' in page
    assert page.count("<svg") == 5
    assert "wrong_answer" in page and "two_hop" in page
    assert f"sft/{manifest('sft', 340, 340)['fingerprint']}" in page


def test_every_model_after_the_first_shows_its_points_over_it(tmp_path):
    rows = [evaluation_row(i, "base", "plain", i == 1) for i in range(1, 5)]
    rows += [evaluation_row(i, "sft", "trained", i < 4) for i in range(1, 5)]
    page = render(RunRecord(recipe="r", out_dir=tmp_path, tables={"evaluate": rows}))
    assert page.count("+50.0\u00a0points") == 2  # of the kind, and of all
    assert page.count("points</small>") == 2 and page.count("prompt: plain") == 2 and "prompt: trained" not in page


def test_ids_in_pictures_are_unique_and_refer_to_something(full_page):
    tags = Elements(full_page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        target = attributes.get("xlink:href") or attributes.get("href") or ""
        assert target[1:] in ids or not target


def test_pictures_take_their_colours_from_the_page(full_page):
    for _, attributes in Elements(full_page).tags:
        assert not re.search(r"#[0-9a-f]{6}", attributes.get("style") or "")


def test_the_trainers_log_stands_at_the_step_of_its_rollouts():
    """Beside the rewards of the same rollouts, which count steps from 0."""
    log = [{"step": 1, "kl": 0.1}, {"step": 2, "kl": float("nan")}, {"step": 3, "kl": 0.3}, {"train_runtime": 9.0}]
    assert rollout_points(log, "kl") == ([0, 2], [0.1, 0.3])


def test_calls_removed_by_the_filter_are_shown_struck_through(tmp_path):
    before, after = trace_row(2, "calls_removed", -0.2)
    tables = {"tool_insertion": [before], "loss_filter": [after]}
    page = render(RunRecord(recipe="r", out_dir=tmp_path, tables=tables))
    traces = page[page.index('<section id="traces">') :]
    assert traces.count('<span class="call removed"><b>Calculator</b>(') == 2


def test_a_sample_the_filter_dropped_is_among_the_traces_with_its_calls_struck_through(tmp_path):
    (kept, after), (loser, lost) = trace_row(1, "kept", 0.2), trace_row(2, "calls_removed", -0.2)
    reject = {"key": "x", "status": "dropped", "reason": "calls_do_not_help", "detail": "", "row": lost}
    tables = {"tool_insertion": [kept, loser], "loss_filter": [after]}
    page = render(RunRecord(recipe="r", out_dir=tmp_path, tables=tables, rejects={"loss_filter": [reject]}))
    traces = page[page.index('<section id="traces">') : page.index('<section id="rejects">')]
    assert traces.count('<span class="pill warn">dropped</span>') == 1 and loser["question"] in traces
    assert traces.count('<span class="call removed"><b>Calculator</b>(') == 2
    assert traces.count('<span class="call"><b>Calculator</b>(') == 2


def test_text_around_a_judged_call_is_cut_between_words_and_says_so(tmp_path):
    before, after = trace_row(1, "kept", 0.3)
    before["segments"][0]["text"] = "first " + "word " * 30
    before["segments"][2]["text"] = " more" * 30
    run = RunRecord(recipe="r", out_dir=tmp_path, tables={"tool_insertion": [before], "loss_filter": [after]})
    told = next(call for call in judged_calls(run)["most"] if call["place"] == 1)
    assert told["before"].startswith("… word ") and "first" not in told["before"]
    assert told["after"].startswith(" more more") and told["after"].endswith(" more …")


def test_calls_judged_by_the_filter_stand_in_their_place_with_their_loss_difference(tmp_path):
    pairs = [trace_row(i, *judged) for i, judged in enumerate([("kept", 0.3), ("calls_removed", -0.2)])]
    tables = {"tool_insertion": [before for before, _ in pairs], "loss_filter": [after for _, after in pairs]}
    page = render(RunRecord(recipe="r", out_dir=tmp_path, tables=tables, limits=Limits(filter_examples=1)))
    section = page[page.index('<section id="filter">') : page.index('<section id="traces">')]
    assert section.index("Calls that helped most") < section.index("0.3100") < section.index("-0.2000")
    assert section.count('class="call removed"') == 1 and section.count("<b>Calculator</b>") == 2


def test_calls_in_a_completion_are_marked_and_nothing_is_lost():
    text = '<think>a [Calculator(48/2) -> 24] b <tool_call>{"name": "x"}</tool_call></think><answer>24</answer>'
    parts = mark_calls(text, 4000)
    assert "".join(part.text for part in parts) == text
    assert [part.text for part in parts if part.role == "call"] == [
        "[Calculator(48/2) -> 24]",
        '<tool_call>{"name": "x"}</tool_call>',
    ]


def test_a_rollouts_calls_are_marked_by_who_wrote_them_not_by_what_they_look_like():
    fake = " [Calculator(1+1) -> 3]"
    row = written(
        ("given", "<think>a"), ("call", " [Calculator(48/2) ->"), ("result", " 24 [Calculator(9) -> 9]"),
        ("text", f" b{fake}</think>"),
    )  # fmt: skip
    parts = mark_spans(row, 4000)
    assert "".join(part.text for part in parts) == row["completion"]
    assert [tuple(part) for part in parts] == [
        ("frame", "<think>"), ("text", "a"), ("call", " [Calculator(48/2) ->"), ("result", " 24 [Calculator(9) -> 9]"),
        ("text", f" b{fake}"), ("frame", "</think>"),
    ]  # fmt: skip
    cut = mark_spans(row, 30)
    said = f" … [{len(row['completion']) - 30} more characters]"
    assert "".join(part.text for part in cut) == row["completion"][:30] + said


def rollouts_section(run):
    page = unescape(render(run))
    return page[page.index('<section id="rollouts">') : page.index("</section>", page.index('<section id="rollouts">'))]


def test_every_rollout_can_be_browsed_by_step_and_question_best_first(tmp_path):
    rows = [
        rollout_row(step, group, sample, 0.5 + 0.1 * sample)
        | {"question": f"Question {group}?", "answer": f"a{sample}"}
        for step in (1, 2)
        for group in range(3)
        for sample in range(12)
    ]
    section = rollouts_section(RunRecord(recipe="r", out_dir=tmp_path, tables={"grpo": rows}))
    assert all(f"{row['id']}</code>" in section for row in rows)
    assert section.count("Question 1?") == 2 and "left out" not in section
    assert "Step 2 · 36 rollouts, 3 questions · mean reward <b>1.05</b>" in section
    assert section.index("1-0-11</code>") < section.index("1-0-0</code>") < section.index("1-1-11</code>")


def test_a_rollout_without_a_reward_stands_last_with_what_failed(tmp_path):
    failed = rollout_row(1, 0, 0, 0.0, "failed") | {"rewards": "null", "failure": "timeout"}
    section = rollouts_section(
        RunRecord(recipe="r", out_dir=tmp_path, tables={"grpo": [failed, rollout_row(1, 0, 1, 1.0)]})
    )
    assert section.index("1-0-1</code>") < section.index("timeout") < section.index("1-0-0</code>")


def test_of_more_rollouts_than_a_page_holds_whole_steps_are_left_out_evenly_and_said(tmp_path):
    rows = [rollout_row(step, 0, sample, 1.0) for step in range(1, 10) for sample in range(2)]
    run = RunRecord(recipe="r", out_dir=tmp_path, tables={"grpo": rows}, limits=Limits(rollouts=6_000))
    section = rollouts_section(run)
    assert re.findall(r"Step (\d+) · 2 rollouts", section) == ["1", "5", "9"]
    assert "18 rollouts are too many for a page: 6 steps are left out" in section and "load_from_disk" in section


def test_a_histogram_without_any_kept_row_is_drawn(tmp_path):
    rows = [trace_row(i, "calls_removed", -0.0)[1] for i in range(3)]
    assert "<svg" in render(RunRecord(recipe="r", out_dir=tmp_path, tables={"loss_filter": rows}))


def test_the_funnel_tells_what_became_of_every_sample(record):
    told = {**record.stages[1].manifest, "extra": {"samples": {"right": 61, "wrong_answer": 2, "cut": 1}}}
    run = record.model_copy(
        update={"stages": [record.stages[0], record.stages[1].model_copy(update={"manifest": told})]}
    )
    funnel = render(run).split('id="funnel"')[1].split("</section>")[0]
    words = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", funnel))
    assert f"samples of {run.stages[1].name} right 61 wrong_answer 2 cut 1" in words
    assert "samples of" not in render(record).split('id="funnel"')[1].split("</section>")[0]


def test_the_page_tells_what_was_lost_what_is_assumed_and_what_the_artifacts_cost_in_all(record):
    paid = record.stages[1].model_copy(
        update={"manifest": {**record.stages[1].manifest, "cost": {"usd": 27.04, "runs": 2}}}
    )
    run = record.model_copy(update={"stages": [record.stages[0], paid, *record.stages[2:]]})
    ledger = render(run).split('id="ledger"')[1].split("</section>")[0]
    words = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", ledger))
    assert "teacher 400 12 3 2 " in words
    assert "cost 1.5000 USD of it assumed 0.2500 USD" in words
    assert "over all runs that worked on them 27.0400 USD" in words
    certain = run.model_copy(update={"ledger": run.ledger.model_copy(update={"usd_assumed": 0.0})})
    assert "assumed" not in render(certain).split('id="ledger"')[1].split("</section>")[0]
