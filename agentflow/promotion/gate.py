"""The gate: a night against the promoted one, rule by rule.

In: two nights (or one, while nothing is promoted) and the rules. Out: a `GateResult` of checks, each with value, bound
and words. It reads artifacts and writes nothing. A failure of infrastructure is in no value but `evaluation_failures`,
which counts exactly these; a value that was never measured fails its rule or stands aside, and is never taken as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from agentflow.config import Frozen
from agentflow.metrics.intervals import difference, paired_difference, wilson
from agentflow.promotion.config import GateConfig
from agentflow.promotion.drift import Distance, kolmogorov_smirnov, stability_index
from agentflow.promotion.night import Night
from agentflow.report.evaluation import summarise_evaluation

FIRST = "nothing is promoted yet, so there is nothing to compare with"


class Check(Frozen):
    """One rule applied."""

    rule: str
    passed: bool
    value: float | None = None
    # What was measured; None where it could not be.
    bound: float | None = None
    # What it was held against; None where the rule does not apply.
    words: str

    def line(self) -> str:
        """One line for a person."""
        return f"{'pass' if self.passed else 'FAIL'}  {self.rule:30} {self.words}"


class Compared(Frozen):
    """Numbers of the promotions a night was compared with; None where there is none yet."""

    data: int | None = None
    model: int | None = None


class GateResult(Frozen):
    """All rules applied to one night."""

    passed: bool
    compared_with: Compared
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


def judge(
    night: Night, data: Night | None, model: Night | None, config: GateConfig, *, named: str | None = None,
    compared_with: Compared, further: Iterable[Check] = (),
) -> GateResult:  # fmt: skip
    """Apply every rule of `config` to `night`; those about a model only if the night has one.

    `data` and `model` are the nights whose data set and model are promoted, `named` is the model whose evaluation
    counts (None: the last trained one), `further` are checks made elsewhere. Raises CorruptArtifact if a table of a
    night is damaged.
    """
    checks = list(_data(night, data, config))
    if night.has_model:
        checks += _model(night, model, named or night.last_model, config)
    checks += further
    return GateResult(passed=all(check.passed for check in checks), compared_with=compared_with, checks=tuple(checks))


# ---------------------------------------------------------------- data set
def _data(night: Night, promoted: Night | None, config: GateConfig) -> Iterator[Check]:
    yield _at_least("rows", night.n_rows, config.min_rows, "training rows")
    kept, of = night.kept_of
    share = kept / of if of else None
    if of or config.min_yield > 0:
        yield _at_least("yield", share, config.min_yield, f"of samples kept their calls ({kept} of {of})")
    if promoted is None:
        yield Check(rule="data_comparison", passed=True, words=FIRST)
        return
    loss = 1 - night.n_rows / promoted.n_rows if promoted.n_rows else 0.0
    yield _at_most("rows_lost", loss, config.max_row_loss, f"fewer rows: {promoted.n_rows} -> {night.n_rows}")
    yield from _funnel(night, promoted, config.max_funnel_drop)
    kept_before, of_before = promoted.kept_of
    if of_before:
        before = kept_before / of_before
        drop = None if share is None else before - share
        words = f"lower yield of the loss filter: {kept_before}/{of_before} -> {kept}/{of}"
        yield _at_most("yield_drop", drop, config.max_yield_drop, words)
    for rule, old, new, bound in (
        ("duplicates", promoted.duplicates, night.duplicates, config.max_duplicate_rise),
        ("contamination", promoted.contaminated, night.contaminated, config.max_contamination_rise),
    ):
        words = f"higher share of questions: {old.count}/{old.of} -> {new.count}/{new.of}"
        yield _at_most(rule, new.share - old.share, bound, words)
    lengths = kolmogorov_smirnov(promoted.words, night.words, config.alpha)
    yield _drift("dataset_length", lengths, config.max_length_ks, "KS distance of words of reasoning a row")
    calls = kolmogorov_smirnov(promoted.calls, night.calls, config.alpha)
    yield _drift("dataset_calls", calls, config.max_calls_ks, "KS distance of calls a row")
    tools = stability_index(promoted.tools, night.tools, config.alpha)
    said = f"PSI of tools a row uses: {_shares(promoted.tools)} -> {_shares(night.tools)}"
    yield _drift("dataset_tools", tools, config.max_tool_psi, said)


def _funnel(night: Night, promoted: Night, bound: float) -> Iterator[Check]:
    before = {stage.node: stage for stage in promoted.funnel}
    after = {stage.node: stage for stage in night.funnel}
    for node, old in before.items():
        rule = f"funnel.{node}"
        if node not in after:
            yield Check(
                rule=rule, passed=False, bound=bound, words="the promoted night has this stage, this one has not"
            )
            continue
        new = after[node]
        if old.share_out is None:  # nothing came in when it was promoted
            continue
        drop = None if new.share_out is None else old.share_out - new.share_out
        words = f"smaller share let through: {old.keys_out}/{old.keys_in} -> {new.keys_out}/{new.keys_in}"
        yield _at_most(rule, drop, bound, words)


# ---------------------------------------------------------------- model
def _model(night: Night, promoted: Night | None, model: str | None, config: GateConfig) -> Iterator[Check]:
    rows = night.answers_of(model) if model else []
    scored = _scored(rows)
    failed = len(rows) - len(scored)
    if model is None or not rows:
        words = f"the night holds no evaluation of {model or 'a trained model'}, so its model cannot be judged"
        yield Check(rule="evaluation", passed=False, words=words)
        return
    words = f"of {len(rows)} answers of {model} failed by infrastructure ({failed}); they are in no accuracy"
    yield _at_most("evaluation_failures", failed / len(rows), config.max_failed_share, words)
    if not scored:
        yield Check(rule="accuracy", passed=False, words=f"no answer of {model} could be scored")
        return
    right = sum(scored.values())
    accuracy = right / len(scored)
    said = (
        f"accuracy of {model}, {right}/{len(scored)}, {_span(wilson(right, len(scored), config.level), config.level)}"
    )
    yield _at_least("accuracy", accuracy, config.min_accuracy, said)
    if config.min_gain_over_base is not None:
        base = summarise_evaluation(night.answers_of("base")).get("base")
        gain = None if base is None or base["accuracy"] is None else accuracy - base["accuracy"]
        yield _at_least("gain_over_base", gain, config.min_gain_over_base, f"accuracy of {model} less the base model's")
    if promoted is None:
        yield Check(rule="model_comparison", passed=True, words=FIRST)
        return
    before = promoted.answers_of(model)
    if not _scored(before):
        yield Check(rule="accuracy_change", passed=False, words=f"the promoted night has no scored answer of {model}")
        return
    yield from _accuracy_change(_scored(before), scored, config)
    for rule, column, bound, what in (
        ("model_length", "n_tokens", config.max_length_ks, "KS distance of tokens an answer"),
        ("model_calls", "n_calls", config.max_calls_ks, "KS distance of calls an answer"),
    ):
        old, new = _column(before, column), _column(rows, column)
        yield _drift(rule, kolmogorov_smirnov(old, new, config.alpha), bound, what)


def _accuracy_change(old: dict[str, bool], new: dict[str, bool], config: GateConfig) -> Iterator[Check]:
    change, interval, how = compare_answers(old, new, config.level)
    words = f"change of accuracy {change:+.3f}, {_span(interval, config.level)}, {how}"
    yield Check(
        rule="accuracy_change",
        passed=-change <= config.max_accuracy_drop,
        value=_round(change),
        bound=-config.max_accuracy_drop,
        words=words,
    )
    low, high = interval
    worse = f"the whole interval may not lie below zero; its upper end is {high:+.3f}"
    yield Check(rule="accuracy_not_worse", passed=high >= 0, value=_round(high), bound=0.0, words=worse)
    if config.max_plausible_drop is not None:
        bound = -config.max_plausible_drop
        said = f"the interval may not reach below {bound:+.3f}; its lower end is {low:+.3f}"
        yield Check(rule="accuracy_not_inferior", passed=low >= bound, value=_round(low), bound=bound, words=said)


def compare_answers(old: dict[str, bool], new: dict[str, bool], level: float) -> tuple[float, tuple[float, float], str]:
    """(new accuracy - old accuracy, its interval, how it was computed) of scored answers by question id.

    Paired over the shared questions where at least half of the smaller set is shared, otherwise as two independent
    samples. Both formulas: Newcombe 1998, see `metrics.intervals`. ValueError if either is empty.
    """
    if not old or not new:
        raise ValueError("both sides need at least one scored answer")
    shared = old.keys() & new.keys()
    if 2 * len(shared) >= min(len(old), len(new)):
        both = sum(old[q] and new[q] for q in shared)
        gained = sum(new[q] and not old[q] for q in shared)
        lost = sum(old[q] and not new[q] for q in shared)
        n = len(shared)
        paired = paired_difference(both, gained, lost, n - both - gained - lost, level)
        assert paired is not None
        return (gained - lost) / n, paired, f"paired over {n} shared questions: {gained} gained, {lost} lost"
    k1, k2 = sum(new.values()), sum(old.values())
    apart = difference(k1, len(new), k2, len(old), level)
    assert apart is not None
    how = f"unpaired, {k2}/{len(old)} -> {k1}/{len(new)}: only {len(shared)} questions are shared"
    return k1 / len(new) - k2 / len(old), apart, how


def _scored(rows: Iterable[dict[str, Any]]) -> dict[str, bool]:
    """Question id to right or wrong; failed answers are left out."""
    return {row["id"]: row["correct"] for row in rows if row["status"] == "ok" and row["correct"] is not None}


def _column(rows: Iterable[dict[str, Any]], name: str) -> list[int]:
    return [row[name] or 0 for row in rows if row["status"] == "ok"]


# ---------------------------------------------------------------- words
def _at_least(rule: str, value: float | None, bound: float, what: str) -> Check:
    return _check(rule, value, bound, what, "at least", lambda v: v >= bound)


def _at_most(rule: str, value: float | None, bound: float, what: str) -> Check:
    return _check(rule, value, bound, what, "at most", lambda v: v <= bound)


def _check(rule: str, value: float | None, bound: float, what: str, must: str, holds: Callable[[float], bool]) -> Check:
    if value is None:
        return Check(rule=rule, passed=False, bound=bound, words=f"not measured: {what}")
    words = f"{_number(value)} {what}; {must} {_number(bound)}"
    # Compared as it is shown: 0.30000000000000004 is no more than 0.3.
    return Check(rule=rule, passed=holds(_round(value)), value=_round(value), bound=bound, words=words)


def _drift(rule: str, distance: Distance | None, bound: float, what: str) -> Check:
    if distance is None:
        return Check(rule=rule, passed=False, bound=bound, words=f"not measured, one side is empty: {what}")
    limit = max(bound, distance.chance)
    chance = " (what chance allows for so few)" if distance.chance > bound else ""
    words = f"{_number(distance.value)} {what}; at most {_number(limit)}{chance}"
    return Check(
        rule=rule, passed=distance.value <= limit, value=_round(distance.value), bound=_round(limit), words=words
    )


def _round(value: float) -> float:
    return round(value, 6)


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.3f}".rstrip("0").rstrip(".")


def _span(interval: tuple[float, float] | None, level: float) -> str:
    assert interval is not None
    return f"{level:.0%} interval {interval[0]:.3f} to {interval[1]:.3f}"


def _shares(counts: dict[str, int]) -> str:
    total = sum(counts.values()) or 1
    return ", ".join(f"{name} {n / total:.2f}" for name, n in sorted(counts.items()))
