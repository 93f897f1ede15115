"""What a run's paid calls will cost: for `agentflow plan`, and at the start of a run, a deployed one too.

In: a recipe, what of it would run, the store and the ledger. Out: one line a stage and service. Counts come from the
artifacts that are made already, else from the configuration and the question files; it asks no service and makes
nothing. Where only reading could tell how many questions there are (a hub id without a limit) it says so. Searches that
models write themselves during GRPO are only bounded: nobody knows before how often they will. Those of evaluations are
left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentflow.artifacts.store import Store
from agentflow.clients.estimate import Estimate, estimate_search, estimate_teacher
from agentflow.ledger import Ledger
from agentflow.ledger.meters import MeanTokens
from agentflow.sources.parquet import is_parquet
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


@dataclass(frozen=True)
class Unknown:
    """A stage that will pay a service for nobody knows how many questions."""

    stage: str
    source: str

    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.stage:15} unknown: how many questions {self.source} holds is only known when they are read; set "
            "questions.source.limit, or plan again once the questions are made"
        )


def estimates(recipe: Recipe, decisions: Sequence[Decision], store: Store, ledger_url: str) -> list[Estimate | Unknown]:
    """One estimate for each stage among `decisions` that would pay a service; empty if nothing paid would run."""
    running = {decision.node.name: decision for decision in decisions if not decision.reuse}
    paying = [
        name for name, pays in (("traces", _asks), ("tool_insertion", _looks_up)) if name in running and pays(recipe)
    ]
    questions = _questions(recipe, decisions, store) if paying else None
    if questions is None:
        unknown = [Unknown(name, _named(recipe.questions.source)) for name in paying]
        return [*unknown, *_model_searches(recipe, running)]
    found: list[Estimate | Unknown] = []
    seen = _seen(recipe, ledger_url)
    if "traces" in paying:
        traces = recipe.stage("traces")
        calls = questions.asked * traces.samples
        prompt = len(traces.system.encode()) + round(questions.mean_bytes)
        found.append(
            estimate_teacher("traces", recipe.teacher, calls=calls, most_calls=calls, prompt_bytes=prompt, seen=seen)
        )
    if "tool_insertion" in paying:
        found += _lookups(recipe, questions)
    found += _model_searches(recipe, running)
    return found


def lines(found: Iterable[Estimate | Unknown]) -> list[str]:
    """For people; the last one is the sum, where there is something to add up."""
    found = list(found)
    known = [one for one in found if isinstance(one, Estimate)]
    if not known:
        return [f"estimate {one.line()}" for one in found]
    priced = [(one.usd, one.most_usd) for one in known if one.usd is not None and one.most_usd is not None]
    usd, most = sum(pair[0] for pair in priced), sum(pair[1] for pair in priced)
    missing = ["prices"] * (len(priced) < len(known)) + ["numbers of questions"] * (len(known) < len(found))
    unknown = f"; {' and '.join(missing)} are missing, so this is not all" if missing else ""
    total = f"estimate total: expected {usd:,.4f} USD, worst case {most:,.4f} USD without repeated calls{unknown}"
    return [*(f"estimate {one.line()}" for one in found), total]


def _asks(recipe: Recipe) -> bool:
    return recipe.traces.origin == "teacher"


def _looks_up(recipe: Recipe) -> bool:
    return recipe.stage("tool_insertion").lookups != "none" and "Search" in recipe.tools.names


def _named(source: Any) -> str:
    """The first part of a source that has to be read before its questions can be counted."""
    part = next(part for part in getattr(source, "parts", (source,)) if _train_rows(part) is None)
    return f"{part.kind} ({part.hub_id or part.path})"


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
    if source.path is not None and source.path.is_file() and (rows := _rows_of(source.path)) is not None:
        count = rows if count is None else min(count, rows)
    if count is not None and source.test_path is None:
        count = round(count * (1 - source.test_fraction))
    return count if count is None else int(count)


def _rows_of(path: Path) -> int | None:
    """Rows of a question file; of Parquet as its footer says, None if that cannot be read (reading it will say why)."""
    if not is_parquet(path):
        with path.open("rb") as stream:
            return sum(1 for _ in stream)
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return None


def _lookups(recipe: Recipe, questions: _Questions) -> list[Estimate]:
    config = recipe.stage("tool_insertion")
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
