"""What stages may use, from one file; and what a worker's last lines say."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agentflow.access import Access
from agentflow.errors import ConfigError
from flows.cluster import configured_address, places
from flows.recipes import smoke
from flows.run import RunOptions, context_of
from tasks.context import Resources, RunContext
from tasks.resources import ResourcePlan, by_stage, load_resources
from tasks.worker_logs import WorkerLines


def read(tmp_path: Path, text: str) -> ResourcePlan:
    path = tmp_path / "resources.yaml"
    path.write_text(text)
    return load_resources(path)


def where(tmp_path: Path) -> RunContext:
    each = Resources(cpus=4)
    access = Access(ledger_url="sqlite://", run_id="r")
    return RunContext(root=tmp_path, recipe="smoke", access=access, loss_filter=each, training=each, evaluate=each)


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    plan = read(tmp_path, "loss_filter: {num_gpus: 1}\ngrpo: {workers: 8, gpus_per_worker: 1}\ndecode_batch: 96\n")
    applied = plan.apply(where(tmp_path))
    assert applied.loss_filter == Resources(cpus=4, gpus=1) and applied.loss_filter.device == "cuda"
    assert applied.training_of("grpo") == Resources(cpus=4, gpus=1, workers=8)
    assert applied.training_of("sft") == applied.training == applied.evaluate == Resources(cpus=4)
    assert applied.decode_batch == 96 and applied.evaluate.device == "cpu"


def test_a_training_takes_what_it_does_not_name_from_training(tmp_path: Path) -> None:
    applied = read(tmp_path, "training: {workers: 2, num_cpus: 1}\ngrpo: {wait_s: 30}\n").apply(where(tmp_path))
    assert applied.training_of("grpo") == Resources(cpus=1, workers=2, wait_s=30)
    assert applied.training_of("cold_start") == Resources(cpus=1, workers=2)


def test_answers_come_from_two_halves_of_a_machine_and_from_one_gpu(tmp_path: Path) -> None:
    here = where(tmp_path).model_copy(update=by_stage(8))
    assert here.evaluate == Resources(cpus=4, workers=2) and here.training == here.loss_filter == Resources(cpus=8)
    assert by_stage(1)["evaluate"] == Resources(cpus=1)
    applied = read(tmp_path, "evaluate: {num_gpus: 1}\n").apply(here)
    assert applied.evaluate == Resources(cpus=8, gpus=1), "the second worker would wait for a GPU nobody asked for"
    assert read(tmp_path, "evaluate: {num_cpus: 6}\n").apply(here).evaluate == Resources(cpus=6)
    assert read(tmp_path, "evaluate: {workers: 1}\n").apply(here).evaluate == Resources(cpus=8)
    assert read(tmp_path, "evaluate: {wait_s: 5}\n").apply(here).evaluate == Resources(cpus=4, workers=2, wait_s=5)
    inherited = read(tmp_path, "training: {workers: 8, num_gpus: 1}\nsft: {num_gpus: 2}\n").apply(here)
    assert inherited.training_of("sft").workers == 8
    assert read(tmp_path, "evaluate: {num_gpus: 1, workers: 3}\n").apply(here).evaluate.workers == 3


def test_an_empty_file_and_a_context_sent_as_json_keep_what_was_there(tmp_path: Path) -> None:
    before = where(tmp_path)
    assert read(tmp_path, "").apply(before) == before
    assert RunContext.model_validate_json(before.model_dump_json()) == before


@pytest.mark.parametrize(
    "text, said",
    [
        ("gpro: {workers: 2}", "unknown stage 'gpro'; allowed here: loss_filter"),
        ("grpo: {worker: 2}", "unknown field 'grpo.worker'; allowed here: workers, num_cpus"),
        ("grpo: {workers: 0}", "grpo.workers: Input should be greater than or equal to 1 (given: '0')"),
        ("grpo: {num_gpus: 1.5}", "1.5 GPUs for each worker: give a whole number"),
        ("grpo: 8", "grpo: "),
        ("8", "must hold stages with their resources"),
        ("grpo: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    assert said in str(raised.value) and "resources.yaml" in str(raised.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read resources file"):
        load_resources(tmp_path / "none.yaml")


def fingerprints(plan_of: ResourcePlan, tmp_path: Path) -> dict[str, str]:
    """Of smoke's nodes, as a run with these resources makes them."""
    from flows.plan import plan

    where = context_of(smoke(), RunOptions(root=tmp_path, resources=plan_of), None, None)
    assert where.training_workers == plan_of.training_workers
    return {name: node.identity.fingerprint for name, node in plan(smoke(), where.training_workers).items()}


def test_where_a_run_happens_changes_no_fingerprint(tmp_path: Path) -> None:
    from flows.plan import plan

    before = {name: node.identity.fingerprint for name, node in plan(smoke()).items()}
    elsewhere = ResourcePlan(training=Resources(cpus=8, gpus=1), loss_filter=Resources(workers=4), decode_batch=7)
    assert fingerprints(elsewhere, tmp_path) == before == fingerprints(ResourcePlan(), tmp_path)


def test_how_many_workers_train_is_part_of_what_they_make(tmp_path: Path) -> None:
    before = fingerprints(ResourcePlan(), tmp_path)
    policy = fingerprints(ResourcePlan(grpo=Resources(workers=2)), tmp_path)
    assert {name for name in before if before[name] != policy[name]} == {"grpo", "evaluate-grpo"}
    every = fingerprints(ResourcePlan(training=Resources(workers=2), grpo=Resources(workers=1)), tmp_path)
    assert every["sft"] != before["sft"] and every["loss_filter"] == before["loss_filter"]
    assert every["grpo"] not in (before["grpo"], policy["grpo"]), "its cold start is another one"
    assert fingerprints(ResourcePlan(training=Resources(workers=3)), tmp_path)["sft"] not in (
        before["sft"], every["sft"],
    )  # fmt: skip


def test_places_counts_whole_workers_by_node() -> None:
    nodes = [{"CPU": 3.0}, {"CPU": 8.0, "GPU": 2.0}, {"memory": 1.0}]
    assert places(nodes, Resources(cpus=2)) == 1 + 4
    assert places(nodes, Resources(cpus=2, gpus=1)) == 2
    assert places(nodes, Resources(cpus=1, gpus=0.5)) == 4


@pytest.mark.parametrize("address", ["ray://head:10001", "local", "head", "head:port", ":6379"])
def test_an_address_that_could_carry_no_run_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="Ray address"):
        configured_address(address)


def test_an_address_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert configured_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert configured_address(None) == "head:6379"
    assert configured_address("other:6379") == "other:6379" and configured_address("auto") == "auto"


def test_the_last_lines_of_the_worker_that_a_death_names() -> None:
    kept = WorkerLines()
    for pid, lines in ((47, ["a", "b"]), (471, ["c"]), (47, [f"line {i}" for i in range(20)])):
        kept.take({"ip": "10.0.0.1", "pid": pid, "lines": lines, "actor_name": "", "task_name": ""})
    kept.take({"ip": "10.0.0.1", "pid": "raylet", "lines": ["noise"]})
    kept.take({"ip": "10.0.0.2", "pid": 9, "lines": ["paid"], "task_name": "traces-batch"})
    assert kept.of("The actor died\n\tpid: 471\n\tip: 10.0.0.1") == "c"
    assert kept.of("worker PID=47 exited") == " | ".join(f"line {i}" for i in range(12, 20))
    assert kept.of("traces-batch") == "paid"
    assert kept.of("nobody we know, pid: 4") == ""


def test_a_crash_is_told_from_its_signal_on_however_long_its_account_is() -> None:
    kept = WorkerLines()
    account = [
        "a warning",
        "*** SIGSEGV received at time=1 on cpu 0 ***",
        *(f"@ frame {i} {'x' * 60}" for i in range(500)),
    ]
    account += ["Extension modules: " + ", ".join(f"module{i}" for i in range(300))]
    kept.take({"ip": "10.0.0.1", "pid": 5, "lines": account})
    said = kept.of("pid: 5")
    assert said.startswith("*** SIGSEGV") and len(said) <= 1500 and "module7" not in said


def test_lines_that_come_while_a_death_is_told_are_waited_for() -> None:
    kept = WorkerLines()
    kept.take({"ip": "10.0.0.1", "pid": 5, "lines": ["a warning"]})
    late = threading.Timer(0.2, kept.take, [{"ip": "10.0.0.1", "pid": 5, "lines": ["Fatal Python error: Aborted"]}])
    late.start()
    assert kept.of("pid: 5", wait_s=30) == "Fatal Python error: Aborted"


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "resources.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"resources.yaml' is not UTF-8 text"):
        load_resources(tmp_path / "resources.yaml")
