"""The gate at the end of a run, and what a person does about promotions: promote, rollback, history.

In: a recipe and a root. Out: an entry in the history, with cards, and a `Verdict` that says why. Nothing is deleted: a
night that fails is kept aside, and may be promoted later by `--force`. A flow calls `gate_and_promote` as its last
stage; it needs no Prefect and no Ray.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.manifest import code_version
from agentflow.artifacts.store import Store
from agentflow.errors import CorruptArtifact, InputError, LicenceRefused, StoreError
from agentflow.export.licences import LicencePolicy, Licences, check_table
from agentflow.promotion.cards import DATASET_CARD, MODEL_CARD, About, dataset_card, model_card
from agentflow.promotion.gate import Check, GateResult, judge
from agentflow.promotion.history import Action, Entry, History, Standing, before, rolled_back, standing
from agentflow.promotion.night import DATASET, ArtifactRef, Night
from agentflow.report.markdown import safe_cell, table
from flows.plan import Workers, plan
from flows.recipes import Recipe, load_recipe
from tasks.context import RunContext

What = Literal["data", "full"]
DATA_NODES = ("base_model", "questions", "traces", "tool_insertion", "loss_filter")
# The nodes of a night of data alone.


@dataclass(frozen=True)
class Verdict:
    """What the gate decided about a night."""

    entry: Entry
    # The entry that says so: a new one, or an older one where the same night was judged against the same before.
    new: bool
    # Whether the history grew.

    @property
    def promoted(self) -> bool:
        return self.entry.promotes

    def lines(self) -> list[str]:
        """What a person reads: the decision first, then the rules."""
        entry, gate = self.entry, self.entry.gate
        assert gate is not None, "a verdict comes from the gate"
        said = {
            "promoted": f"promoted: {entry.recipe}, edition {entry.edition}, is promotion {entry.number}",
            "forced": f"promoted by force: {entry.recipe}, edition {entry.edition}, is promotion {entry.number}",
            "kept_aside": f"kept aside: {entry.recipe}, edition {entry.edition} (entry {entry.number}); "
            f"{len(gate.failures)} rules do not hold",
        }[entry.action]
        head = said if self.new else f"{said} (decided {entry.at}, nothing has changed since)"
        stays = [] if self.promoted else [f"what was promoted stays promoted ({_stood(gate)}); nothing was deleted"]
        return [head, *(check.line() for check in gate.checks), *stays]

    def markdown(self) -> str:
        """The same for Prefect's UI."""
        gate = self.entry.gate
        assert gate is not None, "a verdict comes from the gate"
        rows = [
            {
                "rule": c.rule,
                "result": "pass" if c.passed else "FAIL",
                "value": c.value,
                "bound": c.bound,
                "words": c.words,
            }
            for c in gate.checks
        ]
        cells = table(["rule", "result", "value", "bound", "words"], rows, 400)
        return f"## {safe_cell(self.lines()[0], 400)}\n\n{cells}\n"


def gate_and_promote(
    recipe: Recipe, root: Path, *, by: str | None = None, why: str = "", force: bool = False, what: What = "full",
    command: str | None = None, on_wait: Callable[[], None] | None = None, workers: Workers | None = None,
) -> Verdict:  # fmt: skip
    """Judge what `recipe` has made below `root` and promote it, or keep it aside and say why.

    `what="data"` judges the data stages alone. `force` promotes whatever the rules say, and wants `why`. `by` is who
    asked (None: this user), `command` what makes the night again, `workers` how many trained it. Called twice for the
    same night it decides once.

    Raises InputError if the night is not whole or `force` has no `why`, HistoryDamaged, CorruptArtifact or StoreError
    for a history or artifacts that cannot be trusted (those of the promoted night too).
    """
    if force and not why.strip():
        raise InputError("a forced promotion needs a reason that others can read later; give --why TEXT")
    store = Store.open(root / "artifacts")
    night = Night.of(_artifacts(recipe, store, what, workers), _edition(recipe))
    history = History(root.absolute(), recipe.name)
    with history.lock(on_wait):
        entries = history.read()
        stands = standing(entries)
        if (known := _decided(entries, stands, night, recipe, force)) is not None:
            return Verdict(known, new=False)
        licences, licence_check = _licences(night, store, recipe.promotion.policy)
        gate = judge(
            night,
            _open(store, stands.data),
            _open(store, stands.model),
            recipe.promotion.gate,
            named=recipe.promotion.model,
            compared_with=stands.numbers,
            further=[licence_check, *_not_rolled_back(entries, night)],
        )
        action: Action = "promoted" if gate.passed else "forced" if force else "kept_aside"
        entry = Entry(
            number=len(entries) + 1,
            recipe=recipe.name,
            action=action,
            edition=night.edition,
            model=(recipe.promotion.model or night.last_model) if night.has_model else None,
            artifacts=dict(night.refs),
            gate=gate,
            rules=recipe.promotion,
            replaced=stands.data.number if stands.data and action != "kept_aside" else None,
            at=_now(),
            by=by or getpass.getuser(),
            why=why,
            code_version=code_version(),
        )
        cards = _cards(night, gate, licences, entry, _about(recipe, command)) if entry.promotes else {}
        return Verdict(history.append(entry, cards), new=True)


def gate_run(recipe: Recipe, where: RunContext, what: What) -> None:
    """The last stage of a run, inside its flow: does nothing unless `recipe.promotion.automatic`.

    Leaves the verdict in the flow's log and as an artifact in Prefect's UI. A night kept aside is no failed run.
    """
    if not recipe.promotion.automatic:
        return
    from prefect.artifacts import create_markdown_artifact
    from prefect.logging import get_run_logger

    log = get_run_logger()
    verdict = gate_and_promote(
        recipe, where.root, by=f"run {where.access.run_id}", what=what, workers=where.training_workers,
        on_wait=lambda: log.info("another promotion of %s goes on; waiting for it", recipe.name),
    )  # fmt: skip
    (log.info if verdict.promoted else log.warning)("%s", "\n".join(verdict.lines()))
    key = f"promotion-{recipe.name.replace('_', '-')}"
    create_markdown_artifact(key=key, markdown=verdict.markdown(), description=verdict.lines()[0][:250])


def rollback(
    recipe: str, root: Path, *, to: int | None = None, by: str | None = None, why: str = "",
    on_wait: Callable[[], None] | None = None,
) -> Entry:  # fmt: skip
    """Bring back the promotion before the current one (or number `to`), data set and model.

    Raises InputError if there is none, StoreError or CorruptArtifact if its artifacts are gone or damaged: then nothing
    changes. The gate is not asked, and what is rolled back is not promoted again without `force`.
    """
    store = Store.open(root / "artifacts")
    history = History(root.absolute(), recipe)
    with history.lock(on_wait):
        entries = history.read()
        now = standing(entries).data
        if now is None:
            raise InputError(f"nothing of {recipe!r} is promoted below {str(root)!r}, so there is nothing to roll back")
        target = before(entries, now) if to is None else _promotion(entries, to)
        if target is None:
            raise InputError(f"promotion {now.number} of {recipe!r} is the first; there is nothing before it")
        if target.number == now.number:
            raise InputError(f"promotion {target.number} of {recipe!r} is what is promoted now")
        back = standing(entries[: target.number])
        for entry in {e.number: e for e in (back.data, back.model) if e is not None}.values():
            _open(store, entry)
        entry = Entry(
            number=len(entries) + 1, recipe=recipe, action="rolled_back", edition=target.edition, model=target.model,
            artifacts=target.artifacts, replaced=now.number, restores=target.number, at=_now(),
            by=by or getpass.getuser(), why=why, code_version=code_version(),
        )  # fmt: skip
        return history.append(entry, {})


def history_lines(recipe: str, root: Path) -> list[str]:
    """All decisions about a recipe, oldest first, and what is promoted now. Raises HistoryDamaged."""
    entries = History(root.absolute(), recipe).read()
    if not entries:
        return [f"nothing of {recipe!r} was ever judged below {str(root)!r}; `agentflow promote {recipe}` does it"]
    now = standing(entries)
    lines = []
    for entry in entries:
        marks = [what for what, one in (("data", now.data), ("model", now.model)) if one and one.number == entry.number]
        mark = f"  <- promoted now ({', '.join(marks)})" if marks else ""
        data = entry.artifacts[DATASET]
        back = f" {entry.restores}" if entry.restores else ""
        lines.append(
            f"{entry.number:4}  {entry.at}  {entry.action}{back}  edition {entry.edition}  {data.ref} "
            f"({data.rows} rows, {data.digest[:12]})  model {entry.model or '-'}  by {entry.by}{mark}"
        )
        if entry.why:
            lines.append(f"      why: {entry.why}")
        if entry.gate is not None:
            lines += [f"      FAIL {check.rule}: {check.words}" for check in entry.gate.failures]
    return lines


def recipe_name(recipe: str) -> str:
    """The name under which a recipe has its history: of a .yaml file the name it gives, otherwise `recipe` itself.

    A recipe that is gone from the code keeps its history, so a plain name need not be known.
    """
    return load_recipe(recipe).name if recipe.endswith((".yaml", ".yml")) else recipe


# ---------------------------------------------------------------- inside
def _artifacts(recipe: Recipe, store: Store, what: What, workers: Workers | None) -> dict[str, Artifact]:
    """The night's artifacts by node, all of them verified. Raises InputError naming what was not made."""
    found: dict[str, Artifact] = {}
    missing: list[str] = []
    for name, node in plan(recipe, workers).items():
        if what == "data" and name not in DATA_NODES:
            continue
        artifact = store.find(node.identity.stage, node.identity.fingerprint)
        if artifact is None:
            missing.append(f"{name} ({node.identity.stage}/{node.identity.fingerprint})")
        else:
            found[name] = artifact
    if missing:
        raise InputError(
            f"recipe {recipe.name!r}, edition {_edition(recipe)}, is not made whole: {', '.join(missing)} not found; "
            "run it first, with the same settings (--set edition=... for a night) and resources, or judge its data "
            "alone"
        )
    return found


def _open(store: Store, entry: Entry | None) -> Night | None:
    if entry is None:
        return None
    try:
        return Night.open(store, entry.artifacts, entry.edition)
    except CorruptArtifact:
        raise
    except StoreError as error:
        raise StoreError(f"promotion {entry.number} of {entry.recipe!r} cannot be compared with: {error}") from error


def _decided(entries: list[Entry], stands: Standing, night: Night, recipe: Recipe, force: bool) -> Entry | None:
    """An entry that has decided this very night already: it is what is promoted, or the last word was no to it, by the
    same rules and against the same promotions.
    """
    refs = dict(night.refs)
    if stands.data is not None and all(stands.data.artifacts.get(name) == ref for name, ref in refs.items()):
        return stands.data
    last = entries[-1] if entries else None
    if last is not None and last.action == "kept_aside" and last.artifacts == refs and not force:
        same = last.rules == recipe.promotion and last.gate is not None and last.gate.compared_with == stands.numbers
        return last if same else None
    return None


def _not_rolled_back(entries: list[Entry], night: Night) -> list[Check]:
    refs = dict(night.refs)
    for number, rollback_entry in rolled_back(entries).items():
        if _same_night(entries[number - 1].artifacts, refs):
            words = f"this night was promotion {number}, and {rollback_entry.by} rolled it back on {rollback_entry.at}"
            reason = f": {rollback_entry.why}" if rollback_entry.why else ""
            return [Check(rule="not_rolled_back", passed=False, words=words + reason)]
    return []


def _same_night(one: Mapping[str, ArtifactRef], other: Mapping[str, ArtifactRef]) -> bool:
    """Whether two sets of artifacts are one night, or one is the data of the other: who rolled back a whole night need
    not have meant its model.
    """
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _licences(night: Night, store: Store, policy: LicencePolicy) -> tuple[Licences, Check]:
    """What the rows are made of, and whether the policy lets them be promoted."""
    artifact = night.artifacts[DATASET]
    try:
        licences = check_table(artifact, store, policy)
    except LicenceRefused as refused:
        every = check_table(artifact, store, LicencePolicy(
            licences=policy.licences, terms=policy.terms, allow_unknown=True, refuse_together=(),
        ))  # fmt: skip
        return every, Check(rule="licences", passed=False, words=str(refused))
    found = ", ".join(f"{value} {n}" for (_, value), n in sorted(licences.counts.items()))
    return licences, Check(rule="licences", passed=True, words=f"rows by licence and terms: {found}")


def _cards(night: Night, gate: GateResult, licences: Licences, entry: Entry, about: About) -> dict[str, str]:
    cards = {DATASET_CARD: dataset_card(night, gate, licences, about)}
    if night.has_model:
        cards[MODEL_CARD] = model_card(night, gate, entry.model, about)
    return cards


def _about(recipe: Recipe, command: str | None) -> About:
    editions = [f"--set edition={recipe.edition}"] if recipe.edition != "1" else []
    editions += [f"--set search_edition={recipe.search_edition}"] if recipe.search_edition is not None else []
    return About(
        recipe=recipe.name,
        command=command or " ".join(["agentflow run", recipe.name, *editions]),
        usd_per_million_in=recipe.teacher.usd_per_million_in,
        usd_per_million_out=recipe.teacher.usd_per_million_out,
        usd_per_credit=recipe.search.price,
        notes=recipe.notes,
    )


def _edition(recipe: Recipe) -> str:
    return recipe.edition if recipe.search_edition is None else f"{recipe.edition}, searches {recipe.search_edition}"


def _promotion(entries: list[Entry], number: int) -> Entry:
    promotions = [entry for entry in entries if entry.action in ("promoted", "forced")]
    found = next((entry for entry in promotions if entry.number == number), None)
    if found is None:
        raise InputError(f"entry {number} is no promotion; there are {[entry.number for entry in promotions]}")
    return found


def _stood(gate: GateResult) -> str:
    data, model = gate.compared_with.data, gate.compared_with.model
    return f"data: {data or 'nothing'}, model: {model or 'nothing'}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
