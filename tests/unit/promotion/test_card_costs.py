"""What a dataset card says each stage cost."""

from __future__ import annotations

from pathlib import Path

from made_night import recipe

from agentflow.artifacts.store import Store
from agentflow.export.licences import LicencePolicy, Licences
from agentflow.promotion.cards import About, dataset_card
from agentflow.promotion.night import Night
from flows.plan import plan

COST = {
    "teacher": {"paid": 300, "replayed": 20, "failed": 4, "lost": 2},
    "search": {"paid": 7, "replayed": 0, "failed": 1, "lost": 0},
    "usd": 27.5,
    "usd_assumed": 0.5,
    "runs": 3,
}


def test_a_card_says_what_all_runs_paid_for_a_stage_and_what_of_it_is_assumed(root: Path) -> None:
    store, nodes = Store.open(root / "artifacts"), plan(recipe())
    found = {name: store.find(node.identity.stage, node.identity.fingerprint) for name, node in nodes.items()}
    artifacts = {name: artifact for name, artifact in found.items() if artifact is not None}
    artifacts["traces"].manifest = artifacts["traces"].manifest.model_copy(update={"cost": COST})
    card = dataset_card(
        Night.of(artifacts, "1"), None, Licences(LicencePolicy()), About(recipe="smoke", command="agentflow run")
    )
    header, _, *rows = card.split("failed and killed ones too")[1].split("\n\n")[1].splitlines()
    columns = [column.strip() for column in header.strip("|").split("|")]
    (traces,) = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("| traces ")]
    said = dict(zip(columns, traces, strict=True))
    assert (said["teacher calls paid"], said["searches paid"], said["runs"]) == ("300", "7", "3")
    assert (said["attempts without an answer"], said["USD"], said["of it assumed"]) == ("7", "27.5", "0.5")
