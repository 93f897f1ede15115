"""The whole DAG with a tiny random model: what one run leaves in the store, the ledger, the report and in Prefect, and
what a second one does.
"""

from __future__ import annotations

import ast
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import data_flow
import httpx
import pytest
from safetensors import safe_open
from whole_run import FinishedRun, run_recipe

from agentflow import schemas
from agentflow.artifacts.store import Store
from agentflow.ledger import Ledger
from agentflow.metrics.answers import is_correct
from agentflow.training.jobs import ADAPTER, ROLLOUTS, SUMMARY
from flows.plan import decide, plan
from flows.recipes import load_recipe

TABLES = ("questions", "traces", "tool_insertion", "loss_filter")
TRAINED = ("sft", "cold_start", "grpo")
EVALUATIONS = (
    "evaluate-base-plain",
    "evaluate-base-tools",
    "evaluate-sft",
    "evaluate-cold_start",
    "evaluate-grpo",
)
NODES = ("base_model", *TABLES, *TRAINED, *EVALUATIONS)


# ---------------------------------------------------------------- artifacts
def test_every_stage_leaves_an_artifact_that_verifies(smoke: FinishedRun) -> None:
    assert tuple(smoke.artifacts) == NODES
    for artifact in smoke.artifacts.values():
        artifact.verify()
        assert artifact.manifest.recipe == "smoke" and artifact.manifest.files


def test_manifests_name_the_artifacts_they_were_made_from(smoke: FinishedRun) -> None:
    made = {name: artifact.fingerprint for name, artifact in smoke.artifacts.items()}
    inputs = {name: artifact.manifest.inputs for name, artifact in smoke.artifacts.items()}
    assert inputs["base_model"] == inputs["questions"] == {}
    assert inputs["traces"] == {"questions": made["questions"]}
    assert inputs["loss_filter"] == {name: made[name] for name in ("base_model", "tool_insertion")}
    assert inputs["cold_start"] == {name: made[name] for name in ("base_model", "loss_filter", "sft")}
    assert inputs["evaluate-grpo"] == {name: made[name] for name in ("base_model", "grpo", "questions")}


def test_every_input_key_of_every_table_is_accounted_for_once(smoke: FinishedRun) -> None:
    train = {row["id"] for row in smoke.artifacts["questions"].rows() if row["split"] == "train"}
    keys, named = train, "question_id"
    for name in TABLES[1:]:
        artifact = smoke.artifacts[name]
        artifact.manifest.counts.check(len(keys))
        out = {row[named] for row in artifact.rows()}
        rejected = [reject["key"] for reject in artifact.rejects()]
        assert len(rejected) == len(set(rejected))
        assert out | set(rejected) == keys and not out & set(rejected), name
        keys, named = {row["id"] for row in artifact.rows()}, "id"


def test_tables_open_as_hugging_face_datasets_with_the_declared_columns(smoke: FinishedRun) -> None:
    from datasets import load_from_disk

    for name in (*TABLES, *EVALUATIONS):
        artifact = smoke.artifacts[name]
        loaded = load_from_disk(str(artifact.path))
        declared = schemas.STAGES[artifact.stage].writes
        assert loaded.column_names == declared.names and len(loaded) == artifact.manifest.rows > 0
        assert len(set(loaded["id"])) == len(loaded)


def test_questions_are_split_before_anything_is_made_from_them(smoke: FinishedRun) -> None:
    rows = smoke.artifacts["questions"].rows()
    by_split = {split: {row["question"] for row in rows if row["split"] == split} for split in ("train", "test")}
    unseen = {row["template"] for row in rows if row["split"] == "test_unseen"}
    trained = {row["template"] for row in rows if row["split"] == "train"}
    assert by_split["train"].isdisjoint(by_split["test"]) and unseen.isdisjoint(trained)
    assert {row["split"] for row in rows} == {"train", "test", "test_unseen"}


def test_traces_reject_exactly_the_answers_the_teacher_got_wrong(smoke: FinishedRun) -> None:
    traces = smoke.artifacts["traces"]
    for row in traces.rows():
        assert is_correct(row["predicted"], row["answer"], row["aliases"], row["answer_type"])
        assert row["reasoning"].strip() and row["ledger_key"]
    wrong = smoke.services["teacher"]["answers"]["wrong"]
    assert wrong > 0 and traces.manifest.counts.dropped == {"wrong_answer": wrong}
    for reject in traces.rejects():
        assert "instead of" in reject["detail"] and reject["row"]["answer"] in reject["detail"]


def test_removing_the_calls_gives_back_the_teachers_reasoning_byte_for_byte(smoke: FinishedRun) -> None:
    for name in ("tool_insertion", "loss_filter"):
        for row in smoke.artifacts[name].rows():
            assert "".join(segment["text"] for segment in row["segments"]) == row["reasoning"]
            assert row["n_calls"] == sum(segment["kind"] == "call" for segment in row["segments"])


def test_both_tools_are_inserted_with_results_that_were_really_got(smoke: FinishedRun) -> None:
    calls = [s for row in smoke.artifacts["tool_insertion"].rows() for s in row["segments"] if s["kind"] == "call"]
    assert {call["tool"] for call in calls} == {"Calculator", "Search"}
    with Ledger.open(f"sqlite:///{smoke.root / 'ledger.db'}", run_id="look", mode="replay") as ledger:
        for call in calls:
            arguments = json.loads(call["arguments"])
            if call["tool"] == "Search":
                stored = ledger.get(call["ledger_key"])
                assert stored is not None and stored["request"]["query"] == arguments["query"] and call["as_of"]
            else:
                assert re.fullmatch(r"[\d+\-*/(). ]+", arguments["expression"])
                assert float(call["result"]) == pytest.approx(_calculate(ast.parse(arguments["expression"]).body[0]))


def _calculate(node: Any) -> float:
    """The value of an arithmetic expression, independently of the project's calculator."""
    if isinstance(node, ast.Expr):
        return _calculate(node.value)
    if isinstance(node, ast.Constant):
        return float(node.value)
    if isinstance(node, ast.UnaryOp):
        return -_calculate(node.operand)
    left, right = _calculate(node.left), _calculate(node.right)
    operations = {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}
    return operations[type(node.op)] if type(node.op) in operations else left / right


def test_the_filter_decides_by_the_losses_it_stores(smoke: FinishedRun) -> None:
    tau = smoke.artifacts["loss_filter"].manifest.config["tau"]
    for row in smoke.artifacts["loss_filter"].rows():
        if row["n_calls_before"] == 0:
            assert row["decision"] == "no_calls"
            continue
        assert row["delta"] == pytest.approx(row["loss_plain"] - row["loss_with"], abs=2e-4) and row["n_common"] > 0
        assert row["decision"] == ("kept" if row["delta"] > tau else "calls_removed")
        assert (row["n_calls"] > 0) == (row["decision"] == "kept")


def test_checkpoints_are_safetensors_and_json_without_any_pickle(smoke: FinishedRun) -> None:
    for name in ("base_model", *TRAINED):
        artifact = smoke.artifacts[name]
        suffixes = {Path(entry.path).suffix for entry in artifact.manifest.files}
        assert ".safetensors" in suffixes and not suffixes & {".bin", ".pt", ".pth", ".pkl"}


def test_every_training_stage_continues_from_the_adapter_before_it(smoke: FinishedRun) -> None:
    weights = {name: _adapter(smoke.artifacts[name].path / ADAPTER) for name in TRAINED}
    assert set(weights["sft"]) == set(weights["cold_start"]) == set(weights["grpo"])
    assert all("lora" in name for name in weights["sft"])
    assert any((weights["sft"][name] != weights["cold_start"][name]).any() for name in weights["sft"])
    steps = {name: json.loads(smoke.artifacts[name].file(SUMMARY).read_text())["steps"] for name in TRAINED}
    assert steps == {"sft": 4, "cold_start": 2, "grpo": 2}


def _adapter(folder: Path) -> dict[str, Any]:
    with safe_open(folder / "adapter_model.safetensors", framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def test_cold_start_says_why_it_chose_each_of_its_samples(smoke: FinishedRun) -> None:
    chosen = json.loads(smoke.artifacts["cold_start"].file("chosen.json").read_text())
    kept = {row["id"] for row in smoke.artifacts["loss_filter"].rows()}
    assert 0 < len(chosen) <= 6 and {sample["id"] for sample in chosen} <= kept
    assert all(set(sample) > {"id"} for sample in chosen)


def test_every_rollout_of_grpo_is_kept_with_its_reward(smoke: FinishedRun) -> None:
    from datasets import load_from_disk

    rollouts = load_from_disk(str(smoke.artifacts["grpo"].path / ROLLOUTS))
    assert rollouts.column_names == schemas.ROLLOUTS.names
    assert len(rollouts) == len(set(rollouts["id"])) == 2 * 4
    for row in rollouts:
        assert row["status"] == "ok" and row["reward"] is not None and json.loads(row["rewards"])
    train = {row["id"] for row in smoke.artifacts["questions"].rows() if row["split"] == "train"}
    assert set(rollouts["question_id"]) <= train


def test_every_rollout_of_grpo_can_be_browsed_in_the_report_under_its_question(smoke: FinishedRun) -> None:
    from datasets import load_from_disk

    page = html.unescape(smoke.page.read_text())
    section = page[page.index('<section id="rollouts">') :]
    questions = {row["id"]: row["question"] for row in smoke.artifacts["questions"].rows()}
    for row in load_from_disk(str(smoke.artifacts["grpo"].path / ROLLOUTS)):
        assert f"{row['id']}</code>" in section and questions[row["question_id"]] in section


def test_every_model_answers_the_same_held_out_questions(smoke: FinishedRun) -> None:
    held_out = {row["id"] for row in smoke.artifacts["questions"].rows() if row["split"] != "train"}
    for name in EVALUATIONS:
        rows = smoke.artifacts[name].rows()
        assert {row["id"] for row in rows} == held_out
        assert all((row["correct"] is None) == (row["status"] == "failed") for row in rows)


# ---------------------------------------------------------------- ledger and services
def test_the_ledger_counts_what_the_services_themselves_counted(smoke: FinishedRun) -> None:
    ledger = smoke.report["ledger"]
    questions = sum(row["split"] == "train" for row in smoke.artifacts["questions"].rows())
    for service in ("teacher", "search"):
        assert ledger[service]["paid"] == smoke.services[service]["paid"] > 0
        assert ledger[service] == {"paid": ledger[service]["paid"], "replayed": 0, "failed": 0, "lost": 0}
        assert set(smoke.services[service]["by_status"]) == {"200"}
    assert smoke.services["teacher"]["paid"] >= questions
    assert ledger["tokens_in"] > 0 and ledger["tokens_out"] > 0
    assert ledger["usd"] == 0, "stand-ins cost nothing"


def test_every_trace_points_to_the_stored_answer_it_came_from(smoke: FinishedRun) -> None:
    with Ledger.open(f"sqlite:///{smoke.root / 'ledger.db'}", run_id="look", mode="replay") as ledger:
        for row in smoke.artifacts["traces"].rows():
            stored = ledger.get(row["ledger_key"])
            assert stored is not None and not stored["corrupt"]
            assert row["reasoning"] in json.dumps(stored["response"], ensure_ascii=False)


# ---------------------------------------------------------------- report
def test_report_json_has_the_promised_shape(smoke: FinishedRun) -> None:
    report = smoke.report
    assert report["recipe"] == "smoke" and report["status"] == "completed"
    assert report["wall_s"] > 0 and 100 < report["peak_rss_mb"] < 8192
    peaks = {stage["name"]: stage["peak_rss_mb"] for stage in report["stages"]}
    assert all(100 < peaks[name] <= report["peak_rss_mb"] for name in ("sft", "cold_start", "grpo")), peaks
    assert tuple(stage["name"] for stage in report["stages"]) == NODES
    for stage in report["stages"]:
        assert stage["status"] == "ran"
        numbers = [stage[name] for name in ("rows_in", "rows_out", "quarantined", "failed")]
        assert all(isinstance(number, int) for number in numbers), stage["name"]
        assert isinstance(stage["dropped"], dict) and stage["wall_s"] >= 0
    assert set(report["ledger"]) >= {"teacher", "search", "tokens_in", "tokens_out", "usd"}
    assert set(report["evaluation"]) == {"base", "sft", "cold_start", "grpo"}
    for cell in report["evaluation"].values():
        assert set(cell) >= {"questions", "accuracy", "ci95", "tool_call_rate", "format_rate", "failed"}
        low, high = cell["ci95"]
        assert 0 <= low <= cell["accuracy"] <= high <= 1 and cell["questions"] == 8


def test_the_reports_funnel_is_that_of_the_manifests(smoke: FinishedRun) -> None:
    for stage in smoke.report["stages"]:
        manifest = smoke.artifacts[stage["name"]].manifest
        assert stage["rows_out"] == (manifest.rows or 0)
        if manifest.counts is not None:
            assert stage["dropped"] == manifest.counts.dropped
            assert (
                stage["keys_out"] + sum(stage["dropped"].values()) + stage["quarantined"] + stage["failed"]
                == (stage["rows_in"])
            )


class _References(HTMLParser):
    """Everything on a page that a browser would fetch or follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [(name, value or "") for name, value in attrs if name in ("src", "href", "srcset", "action")]


def test_report_html_needs_nothing_from_elsewhere(smoke: FinishedRun) -> None:
    page = smoke.page.read_text()
    references = _References()
    references.feed(page)
    assert {"html", "table"} <= references.tags and not references.tags & {"script", "iframe", "object", "embed"}
    assert all(value.startswith(("data:", "#")) for _, value in references.found), references.found
    assert not re.findall(r"url\(\s*['\"]?(?!data:|#)", page) and "@import" not in page
    for name in (*TABLES, *TRAINED):
        assert name in page


def test_the_command_prints_where_prefects_ui_is_and_every_stage(smoke: FinishedRun, prefect_api: str) -> None:
    assert prefect_api.removesuffix("/api") in smoke.output
    for name in NODES:
        assert re.search(rf"^{name}\s+ran\s", smoke.output, re.MULTILINE), name


# ---------------------------------------------------------------- Prefect
def _filter(api: str, kind: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    answer = httpx.post(f"{api}/{kind}/filter", json={"limit": 200, **query}, timeout=30)
    answer.raise_for_status()
    return answer.json()


@pytest.fixture(scope="module")
def flow_run(smoke: FinishedRun, prefect_api: str) -> dict[str, Any]:
    """Prefect's record of the smoke run: the first of its name that completed (other tests' runs fail on purpose)."""
    completed = {"name": {"like_": "smoke "}, "state": {"type": {"any_": ["COMPLETED"]}}}
    return _filter(prefect_api, "flow_runs", {"flow_runs": completed, "sort": "START_TIME_ASC"})[0]


def _names(stage: str, api: str, flow_run: dict[str, Any]) -> list[str]:
    runs = _filter(api, "task_runs", {"flow_runs": {"id": {"any_": [flow_run["id"]]}}})
    assert all(run["state_type"] == "COMPLETED" for run in runs)
    return sorted(run["name"] for run in runs if run["name"].split(" ")[0] == stage)


def test_prefects_ui_shows_named_batches_and_every_stage(flow_run: dict[str, Any], prefect_api: str) -> None:
    assert flow_run["state_type"] == "COMPLETED"
    assert _names("traces", prefect_api, flow_run) == ["traces 1/3", "traces 2/3", "traces 3/3"]
    assert _names("tool_insertion", prefect_api, flow_run) == [f"tool_insertion {i}/3" for i in (1, 2, 3)]
    for name in ("base_model", "questions", "loss_filter", *TRAINED, *EVALUATIONS):
        assert _names(name, prefect_api, flow_run) == [name]


def test_prefect_has_a_markdown_artifact_per_stage_with_counts_and_rejects(
    flow_run: dict[str, Any], prefect_api: str
) -> None:
    found = _filter(prefect_api, "artifacts", {"artifacts": {"flow_run_id": {"any_": [flow_run["id"]]}}})
    pages = {artifact["key"]: artifact["data"] for artifact in found if artifact["type"] == "markdown"}
    assert set(pages) == {re.sub("_", "-", name) for name in NODES} | {"report"}
    page = html.unescape(pages["traces"])  # every sign of Markdown is escaped in it
    assert "wrong_answer" in page and "24" in page


# ---------------------------------------------------------------- a second run
def test_running_again_reuses_everything_and_asks_nobody(again: FinishedRun) -> None:
    assert set(again.statuses.values()) == {"reused"} and tuple(again.statuses) == NODES
    assert all(counts["requests"] == 0 for counts in again.services.values())
    ledger = again.report["ledger"]
    assert [ledger[kind]["paid"] for kind in ("teacher", "search")] == [0, 0]


def test_running_again_trains_no_step(smoke: FinishedRun, again: FinishedRun) -> None:
    for name in TRAINED:
        assert again.artifacts[name].manifest == smoke.artifacts[name].manifest
    attempts = [{path.name for path in (run.root / "smoke" / "ray_train").iterdir()} for run in (smoke, again)]
    assert attempts[0] == attempts[1] and len(attempts[0]) == 3


def test_one_changed_field_of_sft_runs_only_sft_and_what_follows(smoke: FinishedRun) -> None:
    changed = load_recipe("smoke", ["sft.settings.optimiser.learning_rate=0.004"])
    decisions = decide(changed, Store.open(smoke.root / "artifacts"))
    runs = [decision.node.name for decision in decisions if not decision.reuse]
    assert runs == [*TRAINED, "evaluate-sft", "evaluate-cold_start", "evaluate-grpo"]
    (reason,) = next(decision for decision in decisions if decision.node.name == "sft").changes
    assert "learning_rate" in str(reason) and "0.005" in str(reason) and "0.004" in str(reason)


def test_a_changed_field_runs_one_stage_for_real_and_reuses_the_rest(again: FinishedRun) -> None:
    changed = run_recipe(load_recipe("smoke", ["evaluate.0.limit=1"]), again.root)
    assert {name for name, status in changed.statuses.items() if status == "ran"} == {"evaluate-base-plain"}
    assert changed.artifacts["evaluate-base-plain"].manifest.rows == 2  # one of each held-out split
    assert all(counts["requests"] == 0 for counts in changed.services.values())


def test_other_batches_latencies_and_roots_give_the_same_content(smoke: FinishedRun, tmp_path: Path) -> None:
    settings = [
        "traces.batch_size=5",
        "tool_insertion.batch_size=3",
        "teacher.local.latency_ms=20",
        "search.concurrency=2",
        "teacher.concurrency=3",
    ]
    recipe = load_recipe("smoke", settings)
    first, second = plan(load_recipe("smoke")), plan(recipe)
    assert [node.identity for node in first.values()] == [node.identity for node in second.values()]
    teacher, search = data_flow.services(recipe)
    with teacher, search:
        made = data_flow.run_data(recipe, tmp_path, teacher.base_url, search.base_url)
        paid = {service.service: service.stats()["paid"] for service in (teacher, search)}
    assert {one.status for one in made.values()} == {"ran"}
    assert data_flow.digests(made) == {name: smoke.artifacts[name].manifest.digest for name in TABLES}
    assert paid == {name: counts["paid"] for name, counts in smoke.services.items()}
