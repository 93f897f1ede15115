"""What a run's paid calls will cost: for `agentflow plan`, and at the start of a run, a deployed one too.

In: a recipe, what of it would run, the store and the ledger. Out: one line a stage and service. Counts come from the
artifacts that are made already, else from the configuration and the question files; it asks no service and makes
nothing. Where only reading could tell how many questions there are (a hub id without a limit) it says so. What a stage
has paid already is known once its rows are: then committed batches and stored answers of the teacher are taken off
(`stored`). Searches that models write themselves, during GRPO and in evaluations, are only bounded: nobody knows before
how often they will.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.store import Store
from agentflow.clients.estimate import Estimate, estimate_search, estimate_teacher
from agentflow.ledger import Ledger
from agentflow.sources.parquet import is_parquet
from agentflow.stages.tool_insertion import insert_batch, wants_lookups
from agentflow.stages.traces import trace_batch
from agentflow.toolset import make_toolbox
from flows.plan import Decision, Node
from flows.recipes import Recipe
from flows.stored import Rows, open_stored, stored_answers, unfinished

_QUESTION_BYTES = 300
# Of a question nobody has read yet: about GSM8K's mean with room to spare.
_REASONING_BYTES = 1200
_SEARCHES_PER_LOOKUP_ROW = 2
# A two-hop question has two facts to look up.
_LOOKED_UP = 4_000
# Rows whose lookups are searched for in the ledger, spread evenly: composing what would be asked takes about a
# millisecond a row. Of more rows the same share counts as paid.


@dataclass(frozen=True)
class _Questions:
    """The training questions as far as they are known."""

    train: int
    asked: int
    # Those without a recorded solution that is taken instead of an answer.
    text_answers: int
    mean_bytes: float
    rows: Rows | None = None
    # Where they are made already.


@dataclass(frozen=True)
class Unknown:
    """A stage that will pay a service for nobody knows how many questions."""

    stage: str
    source: str
    setting: str
    # What would bound it.

    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.stage:15} unknown: how many questions {self.source} holds is only known when they are read; set "
            f"{self.setting}, or plan again once the questions are made"
        )


def estimates(recipe: Recipe, decisions: Sequence[Decision], store: Store, ledger_url: str) -> list[Estimate | Unknown]:
    """One estimate for each stage among `decisions` that would pay a service; empty if nothing paid would run."""
    running = {decision.node.name: decision for decision in decisions if not decision.reuse}
    paying = [
        name for name, pays in (("traces", _asks), ("tool_insertion", _looks_up)) if name in running and pays(recipe)
    ]
    by_models = [*_grpo_searches(recipe, running), *_evaluation_searches(recipe, running, decisions, store)]
    if not paying:
        return by_models
    questions = _questions(recipe, decisions, store)
    if questions is None:
        unread = _unread(recipe.questions.source, _train_rows)
        return [*(Unknown(name, unread, "questions.source.limit") for name in paying), *by_models]
    found: list[Estimate | Unknown] = []
    with open_stored(ledger_url) as ledger:
        if "traces" in paying:
            found.append(_traces(recipe, running["traces"].node, questions, store, ledger))
        if "tool_insertion" in paying:
            traces = _made(decisions, "traces", store)
            found += _lookups(recipe, running["tool_insertion"].node, questions, traces, store, ledger)
    return [*found, *by_models]


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


def _unread(source: Any, count: Callable[[Any], int | None]) -> str:
    """The first part of a source that has to be read before its questions can be counted."""
    part = next(part for part in getattr(source, "parts", (source,)) if count(part) is None)
    return f"{part.kind} ({part.hub_id or part.path})"


def _made(decisions: Sequence[Decision], name: str, store: Store) -> Artifact | None:
    """The artifact of a node that is there already."""
    fingerprints = [decision.node.identity.fingerprint for decision in decisions if decision.node.name == name]
    return next((artifact for artifact in store.list(name) if artifact.fingerprint in fingerprints), None)


def _questions(recipe: Recipe, decisions: Sequence[Decision], store: Store) -> _Questions | None:
    made = _made(decisions, "questions", store)
    if made is not None:
        rows = [row for row in made.rows() if row["split"] == "train"]
        size = sum(len(row["question"].encode("utf-8", "backslashreplace")) for row in rows)
        text = sum(row["answer_type"] == "text" for row in rows)
        asked = sum(row["kind"] not in recipe.traces.recorded_kinds for row in rows)
        return _Questions(len(rows), asked, text, size / max(1, len(rows)), rows)
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
    if not source.has_own_tests and source.test_fraction == 1:
        return 0
    count = _count(source.path, source.limit)
    if count is not None and not source.has_own_tests:
        count = round(count * (1 - source.test_fraction))
    return count if count is None else int(count)


def _test_rows(source: Any) -> int | None:
    """The same of those that are."""
    if source.has_own_tests:
        return _count(source.test_path, source.test_limit)
    if source.test_fraction == 0:
        return 0
    count = _count(source.path, source.limit)
    return None if count is None else round(count * source.test_fraction)


def _count(path: Path | None, limit: int | None) -> int | None:
    """Rows of a file, at most `limit`; None if nobody knows."""
    if path is None or not path.is_file() or (rows := _rows_of(path)) is None:
        return limit
    return rows if limit is None else min(rows, limit)


def _rows_of(path: Path) -> int | None:
    """Rows of a question file; of Parquet as its footer says, None if that cannot be read (reading it will say why)."""
    if not is_parquet(path):
        with path.open("rb") as stream:
            return sum(1 for _ in stream)
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return None


def _traces(recipe: Recipe, node: Node, questions: _Questions, store: Store, ledger: Ledger | None) -> Estimate:
    config = recipe.stage("traces")
    calls, paid = questions.asked * config.samples, 0
    if questions.rows is not None:
        todo = unfinished(questions.rows, node.identity, config.batch_size, store)
        todo = [row for row in todo if row["kind"] not in config.recorded_kinds]
        paid = calls - len(todo) * config.samples
        if ledger is not None:
            paid += stored_answers(lambda teacher: trace_batch(todo, config, teacher), recipe, ledger)
    left = calls - paid
    prompt = len(config.system.encode()) + round(questions.mean_bytes)
    seen = None if ledger is None else ledger.mean_tokens(recipe.teacher.provider, recipe.teacher.model)
    return estimate_teacher(
        "traces", recipe.teacher, calls=left, most_calls=left, prompt_bytes=prompt, seen=seen, paid=paid
    )


def _lookups(
    recipe: Recipe, node: Node, questions: _Questions, traces: Artifact | None, store: Store, ledger: Ledger | None
) -> list[Estimate]:
    """What the teacher is asked about lookups, and the searches after it: those of rows in no committed batch."""
    config = recipe.stage("tool_insertion")
    rows = (questions.train if config.lookups == "all" else questions.text_answers) * recipe.traces.samples
    left, stored = rows, 0
    if traces is not None:
        made = traces.rows()
        rows = sum(wants_lookups(row, config) for row in made)
        todo = [row for row in unfinished(made, node.identity, config.batch_size, store) if wants_lookups(row, config)]
        left = len(todo)
        if ledger is not None:
            # Without a calculator, which takes far longer than the rest: a row that it corrects counts as not paid.
            none = make_toolbox(config.tools.model_copy(update={"names": ()}), None)
            some = todo[:: 1 + left // _LOOKED_UP]
            answered = stored_answers(lambda teacher: insert_batch(some, config, teacher, none), recipe, ledger)
            stored = round(answered * left / max(1, len(some)))
    if not rows:
        return []
    prompt = round(questions.mean_bytes) + _REASONING_BYTES
    # Without earlier answers of this kind: the traces' own mean would be far too high.
    teacher = estimate_teacher(
        "tool_insertion", recipe.teacher, calls=left - stored, most_calls=left * config.lookup_attempts - stored,
        prompt_bytes=prompt, seen=None, paid=rows - left + stored,
    )  # fmt: skip
    done = f" of the {left:,} rows that are not done" if left < rows else ""
    basis = f"{_SEARCHES_PER_LOOKUP_ROW} a row{done} assumed, at most {config.max_calls}; equal queries are asked once"
    search = estimate_search(
        "tool_insertion",
        recipe.search,
        calls=left * _SEARCHES_PER_LOOKUP_ROW,
        most_calls=left * config.max_calls,
        basis=basis,
    )
    return [teacher, search]


_BOUND = "a bound: models decide how often they search; equal queries are asked once"


def _grpo_searches(recipe: Recipe, running: dict[str, Decision]) -> list[Estimate]:
    """Searches that the model may write while it learns."""
    if "Search" not in recipe.tools.names or "grpo" not in running:
        return []
    grpo = recipe.stage("grpo")
    rollouts = grpo.steps * grpo.optimiser.batch_size * grpo.optimiser.accumulation * grpo.draws
    most = rollouts * grpo.generation.max_calls
    return [estimate_search("grpo", recipe.search, calls=0, most_calls=most, basis=_BOUND)]


def _evaluation_searches(
    recipe: Recipe, running: dict[str, Decision], decisions: Sequence[Decision], store: Store
) -> list[Estimate | Unknown]:
    """Searches that the models may write while they are evaluated, all evaluations together."""
    stages = [decision.node for decision in running.values() if decision.node.identity.stage == "evaluate"]
    configs: list[Any] = [node.config for node in stages]
    configs = [config for config in configs if config.style != "plain" and "Search" in config.tools.names]
    if not configs:
        return []
    held_out = _held_out(recipe, _made(decisions, "questions", store))
    if held_out is None:
        unread = _unread(recipe.questions.source, _test_rows)
        return [Unknown("evaluate", unread, "questions.source.test_limit")]
    asked = [
        sum(min(held_out[split], config.limit or held_out[split]) for split in config.splits) for config in configs
    ]
    most = sum(n * config.generation.max_calls for n, config in zip(asked, configs, strict=True))
    return [estimate_search("evaluate", recipe.search, calls=0, most_calls=most, basis=_BOUND)] if most else []


def _held_out(recipe: Recipe, made: Artifact | None) -> Counter[str] | None:
    """Questions that are not trained on, by split; None if only reading could tell."""
    if made is not None:
        return Counter(made.table()["split"].to_pylist())
    source: Any = recipe.questions.source
    if source.kind == "generated":
        unseen = source.test_unseen_arithmetic + source.test_unseen_two_hop
        return Counter(test=source.test_arithmetic + source.test_two_hop, test_unseen=unseen)
    counts = [_test_rows(part) for part in getattr(source, "parts", (source,))]
    return None if None in counts else Counter(test=sum(count for count in counts if count is not None))
