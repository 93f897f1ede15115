"""What a run's paid calls will cost: for `agentflow plan`, and at the start of a run.

In: a recipe, what of it would run, the store and the ledger. Out: one line a stage and service. Counts come from the
artifacts that are made already, else from the configuration; it asks no service and makes nothing. Searches that models
write themselves during GRPO are only bounded: nobody knows before how often they will. Those of evaluations are left
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow.artifacts.store import Store
from agentflow.clients.estimate import Estimate, estimate_search, estimate_teacher
from agentflow.ledger import Ledger
from agentflow.ledger.meters import MeanTokens
from flows.plan import Decision
from flows.recipes import Recipe

_QUESTION_BYTES = 300
# Of a question nobody has read yet: about GSM8K's mean with room to spare.
_REASONING_BYTES = 1200
_SEARCHES_PER_LOOKUP_ROW = 2
# A two-hop question has two facts to look up.


@dataclass(frozen=True)
class _Questions:
    """The training questions as far as they are known."""

    train: int
    asked: int
    # Those without a recorded solution that is taken instead of an answer.
    text_answers: int
    mean_bytes: float


def estimates(recipe: Recipe, decisions: Sequence[Decision], store: Store, ledger_url: str) -> list[Estimate]:
    """One estimate for each stage that would pay a service; empty if nothing paid would run or nothing is known."""
    running = {decision.node.name: decision for decision in decisions if not decision.reuse}
    questions = _questions(recipe, decisions, store)
    if questions is None:
        return []
    found: list[Estimate] = []
    seen = _seen(recipe, ledger_url)
    if "traces" in running and recipe.traces.origin == "teacher":
        traces = recipe.stage("traces")
        calls = questions.asked * traces.samples
        prompt = len(traces.system.encode()) + round(questions.mean_bytes)
        found.append(
            estimate_teacher("traces", recipe.teacher, calls=calls, most_calls=calls, prompt_bytes=prompt, seen=seen)
        )
    if "tool_insertion" in running:
        found += _lookups(recipe, questions)
    found += _model_searches(recipe, running)
    return found


def lines(found: Iterable[Estimate]) -> list[str]:
    """For people; the last one is the sum."""
    found = list(found)
    if not found:
        return []
    priced = [(one.usd, one.most_usd) for one in found if one.usd is not None and one.most_usd is not None]
    usd, most = sum(pair[0] for pair in priced), sum(pair[1] for pair in priced)
    unknown = "" if len(priced) == len(found) else "; prices are missing, so this is not all"
    total = f"estimate total: expected {usd:,.4f} USD, worst case {most:,.4f} USD without repeated calls{unknown}"
    return [*(f"estimate {one.line()}" for one in found), total]


def _questions(recipe: Recipe, decisions: Sequence[Decision], store: Store) -> _Questions | None:
    node = next(decision.node for decision in decisions if decision.node.name == "questions")
    made = next((a for a in store.list("questions") if a.fingerprint == node.identity.fingerprint), None)
    if made is not None:
        rows = [row for row in made.rows() if row["split"] == "train"]
        size = sum(len(row["question"].encode("utf-8", "backslashreplace")) for row in rows)
        text = sum(row["answer_type"] == "text" for row in rows)
        asked = sum(row["kind"] not in recipe.traces.recorded_kinds for row in rows)
        return _Questions(len(rows), asked, text, size / max(1, len(rows)))
    source: Any = recipe.questions.source
    if source.kind == "generated":
        train = source.arithmetic_train + source.two_hop_train
        return _Questions(train, train, source.two_hop_train, _QUESTION_BYTES)
    train = asked = text = 0
    for part in getattr(source, "parts", (source,)):
        count = _train_rows(part)
        if count is None:
            return None
        train += count
        asked += 0 if part.kind in recipe.traces.recorded_kinds else count
        text += 0 if part.kind == "gsm8k" else count
    return _Questions(train, asked, text, _QUESTION_BYTES)


def training_questions(source: Any) -> int | None:
    """Training questions of a source that nobody has read yet; None if only reading could tell."""
    if source.kind == "generated":
        return int(source.arithmetic_train + source.two_hop_train)
    counts = [_train_rows(part) for part in getattr(source, "parts", (source,))]
    return None if None in counts else sum(count for count in counts if count is not None)


def _train_rows(source: Any) -> int | None:
    """Rows of a real source that are not tests, none of them read yet; None if only reading could tell."""
    if source.test_path is None and source.test_fraction == 1:
        return 0
    count = source.limit
    if source.path is not None and source.path.is_file() and source.path.suffix == ".jsonl":
        with source.path.open("rb") as stream:
            lines = sum(1 for _ in stream)
        count = lines if count is None else min(count, lines)
    if count is not None and source.test_path is None:
        count = round(count * (1 - source.test_fraction))
    return count if count is None else int(count)


def _lookups(recipe: Recipe, questions: _Questions) -> list[Estimate]:
    config = recipe.stage("tool_insertion")
    if config.lookups == "none" or "Search" not in recipe.tools.names:
        return []
    rows = (questions.train if config.lookups == "all" else questions.text_answers) * recipe.traces.samples
    if not rows:
        return []
    prompt = round(questions.mean_bytes) + _REASONING_BYTES
    # Without earlier answers of this kind: the traces' own mean would be far too high.
    teacher = estimate_teacher(
        "tool_insertion", recipe.teacher, calls=rows, most_calls=rows, prompt_bytes=prompt, seen=None
    )
    search = estimate_search(
        "tool_insertion",
        recipe.search,
        calls=rows * _SEARCHES_PER_LOOKUP_ROW,
        most_calls=rows * config.max_calls,
        basis=f"{_SEARCHES_PER_LOOKUP_ROW} a row assumed, at most {config.max_calls}; equal queries are asked once",
    )
    return [teacher, search]


def _model_searches(recipe: Recipe, running: dict[str, Decision]) -> list[Estimate]:
    """Searches that the model may write while it learns."""
    if "Search" not in recipe.tools.names or "grpo" not in running:
        return []
    grpo = recipe.stage("grpo")
    rollouts = grpo.steps * grpo.optimiser.batch_size * grpo.optimiser.accumulation * grpo.draws
    most = rollouts * grpo.generation.max_calls
    basis = "a bound: models decide how often they search; equal queries are asked once"
    return [estimate_search("grpo", recipe.search, calls=0, most_calls=most, basis=basis)]


def _seen(recipe: Recipe, ledger_url: str) -> MeanTokens | None:
    """What the teacher took before; None without a ledger (a plan makes none)."""
    path = ledger_url.removeprefix("sqlite:///") if "://" not in ledger_url or ledger_url.startswith("sqlite") else None
    if path is not None and not Path(path).is_file():
        return None
    with Ledger.open(ledger_url, run_id="plan", mode="replay") as ledger:
        return ledger.mean_tokens(recipe.teacher.provider, recipe.teacher.model)
