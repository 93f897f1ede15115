"""The gate as the last stage of a real flow run: silent unless asked for, and then visible in Prefect."""

from __future__ import annotations

from pathlib import Path

from made_night import make_night, recipe
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from agentflow.promotion.history import History
from flows.promoting import gate_run
from flows.recipes import Recipe
from flows.run import RunOptions, context_of
from tasks.context import RunContext


@flow(name="ends-with-the-gate", retries=0, persist_result=False)
def ends_with_the_gate(night: Recipe, where: RunContext) -> None:
    gate_run(night, where, "full")


def test_a_run_ends_with_the_gate_only_where_the_recipe_says_so(tmp_path: Path, prefect_api: str) -> None:
    automatic = "promotion.automatic=true"
    make_night(tmp_path, recipe())
    where = context_of(recipe(), RunOptions(root=tmp_path, cpus=1), None, None)
    ends_with_the_gate(recipe(), where)
    assert History(tmp_path, "smoke").read() == []
    ends_with_the_gate(recipe(automatic), where)
    make_night(tmp_path, recipe("edition=2"), right=lambda i: False)
    ends_with_the_gate(recipe(automatic, "edition=2"), where)
    entries = History(tmp_path, "smoke").read()
    assert [entry.action for entry in entries] == ["promoted", "kept_aside"]
    assert entries[0].by == f"run {where.access.run_id}"
    with get_client(sync_client=True) as client:
        left = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["promotion-smoke"])))
    said = {artifact.description for artifact in left}
    assert any("kept aside: smoke, edition 2" in str(text) for text in said)
    assert any("promoted: smoke, edition 1" in str(text) for text in said)
