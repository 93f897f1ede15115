"""The gate's rules on real artifacts: what passes, what fails, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_night import make_night, recipe

from agentflow.artifacts.store import Store
from agentflow.promotion.config import GateConfig
from agentflow.promotion.gate import Compared, GateResult, compare_answers, judge
from agentflow.promotion.night import Night
from flows.plan import plan


def night(root: Path, *settings: str) -> Night:
    """What the recipe with `settings` has made."""
    store, wanted = Store.open(root / "artifacts"), recipe(*settings)
    found = {name: store.find(node.identity.stage, node.identity.fingerprint) for name, node in plan(wanted).items()}
    return Night.of({name: artifact for name, artifact in found.items() if artifact}, wanted.edition)


def compared(new: Night, old: Night | None, **config: object) -> GateResult:
    return judge(new, old, old, GateConfig(**config), compared_with=Compared())


def failed(result: GateResult) -> set[str]:
    return {check.rule for check in result.failures}


def test_a_first_night_is_judged_by_itself_alone(nights):
    result = compared(night(nights, "edition=bad_model"), None)
    assert result.passed and "nothing is promoted yet" in str(result.checks)
    assert failed(compared(night(nights), None, min_rows=41, min_accuracy=0.6)) == {"rows", "accuracy"}


def test_a_night_like_the_promoted_one_passes(nights):
    result = compared(night(nights, "edition=good"), night(nights))
    assert result.passed, result.failures
    rules = {check.rule for check in result.checks}
    assert {"funnel.traces", "yield_drop", "dataset_length", "dataset_tools", "model_calls", "duplicates"} <= rules


def test_a_worse_model_fails_with_delta_interval_and_denominator(nights):
    result = compared(night(nights, "edition=bad_model"), night(nights))
    assert failed(result) == {"accuracy_change", "accuracy_not_worse", "model_length"}
    words = next(check.words for check in result.failures if check.rule == "accuracy_change")
    assert "-0.400, 95% interval -0.536 to -0.240, paired over 45 shared questions: 0 gained, 18 lost" in words


def test_a_fall_that_chance_explains_is_no_fall_unless_non_inferiority_is_asked(nights):
    old, new = night(nights, "edition=good"), night(nights)
    assert compared(new, old).passed, "one question of 45 lost"
    assert failed(compared(new, old, max_plausible_drop=0.05)) == {"accuracy_not_inferior"}
    assert failed(compared(new, old, max_accuracy_drop=0.01)) == {"accuracy_change"}


def test_a_data_set_whose_calls_do_not_help_any_more_fails(nights):
    result = compared(night(nights, "edition=bad_data"), night(nights))
    assert {"yield_drop", "dataset_calls", "dataset_tools"} == failed(result)
    said = next(check.words for check in result.failures if check.rule == "yield_drop")
    assert "40/40 -> 10/40" in said


def test_failures_of_infrastructure_are_in_no_accuracy_and_too_many_stop_the_night(nights):
    result = compared(night(nights, "edition=broken_tool"), night(nights))
    assert failed(result) == {"evaluation_failures"}, "all its scored answers are right, none of the failed counts"
    accuracy = next(check for check in result.checks if check.rule == "accuracy")
    assert accuracy.value == 1.0 and "23/23" in accuracy.words
    change = next(check for check in result.checks if check.rule == "accuracy_change")
    assert change.value == 0.0 and "paired over 23 shared questions" in change.words


def test_fewer_rows_and_a_narrower_funnel_fail(nights, tmp_path):
    make_night(tmp_path, recipe("questions.source.arithmetic_train=30"))
    result = compared(night(tmp_path, "questions.source.arithmetic_train=30"), night(nights))
    assert failed(result) == {"rows_lost"}
    dropping = ("loss_filter.losers=drop",)
    make_night(tmp_path, recipe(*dropping), helps=lambda i: i % 2 == 0)
    result = compared(night(tmp_path, *dropping), night(nights))
    assert failed(result) == {"rows_lost", "funnel.loss_filter", "yield_drop"}


def test_a_night_without_its_evaluation_cannot_be_judged(nights):
    whole = night(nights)
    cut = Night.of({n: a for n, a in whole.artifacts.items() if a.stage != "evaluate"}, "1")
    assert failed(compared(cut, whole)) == {"evaluation"}
    data = Night.of({n: a for n, a in whole.artifacts.items() if n in ("questions", "traces", "loss_filter")}, "1")
    assert "evaluation" not in {check.rule for check in compared(data, None).checks}, "data alone has no model to judge"


def test_a_stage_that_is_gone_fails(nights):
    whole = night(nights)
    cut = Night.of({n: a for n, a in whole.artifacts.items() if n != "tool_insertion"}, "1")
    assert failed(compared(cut, whole)) == {"funnel.tool_insertion"}


def test_a_gain_over_the_base_model_may_be_demanded(nights):
    assert compared(night(nights), None, min_gain_over_base=0.5).passed
    assert failed(compared(night(nights), None, min_gain_over_base=0.52)) == {"gain_over_base"}


def test_other_questions_are_compared_unpaired():
    old = {f"old{i}": i < 56 for i in range(70)}
    new = {f"new{i}": i < 48 for i in range(80)}
    change, (low, high), how = compare_answers(old, new, 0.95)
    assert (round(change, 4), round(low, 4), round(high, 4)) == (-0.2, -0.3339, -0.0524), "Newcombe 1998, example (a)"
    assert "unpaired, 56/70 -> 48/80" in how
    with pytest.raises(ValueError, match="both sides"):
        compare_answers({}, new, 0.95)


def test_leaks_and_duplicates_are_counted_by_their_reasons(nights):
    base = night(nights)
    counts = base.artifacts["questions"].manifest.counts
    assert counts is not None
    dropped = {"duplicate": 4, "near_duplicate": 3, "leak_exact": 2, "leak_near": 1, "no_answer": 9}
    manifest = base.artifacts["questions"].manifest.model_copy(
        update={"counts": counts.model_copy(update={"dropped": dropped}), "keys_in": 104}
    )
    base.artifacts["questions"].manifest = manifest
    again = Night.of(base.artifacts, "1")
    assert (again.duplicates.count, again.contaminated.count, again.duplicates.of) == (7, 3, 104)
