"""Evaluation rows become accuracies: failures in no denominator, the better prompt style counts."""

import pytest
from report_rows import evaluation_row

from agentflow.report.evaluation import breakdown, summarise_evaluation


def rows_of(model, style, correct, wrong, failed=0, **place):
    marks = [(True, "ok")] * correct + [(False, "ok")] * wrong + [(False, "failed")] * failed
    return [evaluation_row(i, model, style, right, status=status, **place) for i, (right, status) in enumerate(marks)]


def test_failed_rows_are_in_no_denominator_and_counted_apart():
    cell = summarise_evaluation(rows_of("sft", "trained", correct=3, wrong=1, failed=2))["sft"]
    assert (cell["questions"], cell["accuracy"], cell["failed"]) == (4, 0.75, 2)


def test_a_model_whose_rows_all_failed_has_no_accuracy_rather_than_zero():
    cell = summarise_evaluation(rows_of("sft", "trained", correct=0, wrong=0, failed=3))["sft"]
    assert (cell["accuracy"], cell["ci95"], cell["tool_call_rate"], cell["failed"]) == (None, None, None, 3)


def test_the_better_prompt_style_of_the_base_model_is_reported():
    rows = rows_of("base", "tools", 1, 9) + rows_of("base", "plain", 4, 6)
    cell = summarise_evaluation(rows)["base"]
    assert (cell["prompt_style"], cell["accuracy"], cell["questions"]) == ("plain", 0.4, 10)


def test_a_style_that_failed_entirely_is_never_the_better_one():
    rows = rows_of("base", "tools", 0, 0, failed=5) + rows_of("base", "plain", 0, 5)
    assert summarise_evaluation(rows)["base"]["prompt_style"] == "plain"


def test_models_come_in_pipeline_order_whatever_the_order_of_rows():
    rows = rows_of("grpo", "trained", 1, 1) + rows_of("other", "x", 1, 0) + rows_of("base", "plain", 1, 1)
    assert list(summarise_evaluation(rows)) == ["base", "grpo", "other"]


def test_the_interval_is_the_wilson_interval():
    cell = summarise_evaluation(rows_of("sft", "trained", correct=5, wrong=5))["sft"]
    assert cell["ci95"] == pytest.approx([0.2366, 0.7634], abs=1e-4)


def test_the_breakdown_marks_one_style_per_model_and_cell():
    rows = rows_of("base", "tools", 3, 1, split="test") + rows_of("base", "plain", 1, 3, split="test")
    rows += rows_of("base", "tools", 0, 4, split="test_unseen") + rows_of("base", "plain", 2, 2, split="test_unseen")
    best = {(cell["split"], cell["prompt_style"]) for cell in breakdown(rows) if cell["best"]}
    assert best == {("test", "tools"), ("test_unseen", "plain")}
    assert len(breakdown(rows)) == 4


def test_no_rows_give_an_empty_summary():
    assert summarise_evaluation([]) == {}
    assert breakdown([]) == []
