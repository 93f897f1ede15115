"""The main job, measured: the demo cold and warm, what it learnt, what a changed field runs again, kills, real rows.

In: a quiet machine; `AGENTFLOW_BENCH_ROOT` (default: a temporary folder that is removed). Out: one row per target.
A finished cold run below that folder is measured once: as long as the demo recipe makes the same artifacts, later calls
use its numbers and say so. `AGENTFLOW_BENCH_CI=1` also times `.ci/run` in a fresh clone, which takes up to 40 minutes;
`AGENTFLOW_BENCH_TESTS=0` leaves out the rows that are test runs.
Everything is measured through the command line, as a user would see it; nothing is trained in this process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentflow.artifacts.store import Store
from agentflow.records import canonical_json, sha256_text
from benchmarks.commands import LONGEST_S, REPO, Ran, bench_root, execute, failure, pytest_row, tail
from benchmarks.machine import describe_commit
from benchmarks.row import Row
from flows.plan import decide, plan
from flows.recipes import Recipe, load_recipe

COMMAND = str(Path(sys.executable).with_name("agentflow"))
GSM8K = REPO.parent / "shared" / "data" / "gsm8k" / "train.jsonl"
GSM8K_ROWS = 300
KILLS = "tests/faults/test_kills.py"

SFT_CHANGED = "sft.settings.optimiser.weight_decay=0.01"
AFTER_SFT = {"sft", "cold_start", "grpo", "evaluate-sft", "evaluate-cold_start", "evaluate-grpo"}
TRAINING = ("sft", "cold_start", "grpo")

GSM8K_SOURCE = (
    "name=demo-gsm8k", "traces.origin=recorded", f"questions.source.limit={GSM8K_ROWS}",
    "questions.source.kind=gsm8k", f"questions.source.path={GSM8K}",
)  # fmt: skip
GSM8K_REDUCED = (
    "sft.settings.max_steps=20", "cold_start.settings.max_steps=4", "cold_start.n_samples=16", "grpo.steps=2",
)  # fmt: skip
GSM8K_LIMITS = tuple(f"evaluate.{place}.limit=16" for place in range(5))
# Against the demo recipe, so that the run ends within minutes: it shows that real rows go through, not what they teach.


# ---------------------------------------------------------------- the measurements
def rows() -> Iterator[Row]:
    """Every target's row, in the order they are measured."""
    with bench_root() as bench:
        yield help_row(bench)
        demo = load_recipe("demo")
        cold = measure_once(demo_folder(bench, demo), "cold", ["run", "demo"], "demo")
        yield from cold_rows(cold)
        if cold.code == 0:
            yield from quality_rows(cold.report)
            yield from grpo_rows(cold.report, grpo_facts(cold.runs, demo))
            warm = execute([COMMAND, "run", "demo", "--root", str(cold.runs)], cold.runs.parent / "second.log")
            yield from second_run_rows(warm, read_report(cold.runs, "demo") if warm.code == 0 else {})
            yield planned_row(cold.runs)
        yield from smoke_rows(bench)
        yield from real_questions_rows(cold)
        yield kill_row(bench)
        yield pytest_row(
            "make test, in all", "≤ 600 s", ["-m", "not faults and not ui and not vllm"], bench / "tests.log", 600
        )
        yield ci_row(bench)


@dataclass(frozen=True)
class Measured:
    """A run that is measured once and then remembered in `<folder>/<name>.json`."""

    folder: str
    arguments: list[str]
    code: int
    wall_s: float
    commit: str
    report: dict[str, Any]  # {} if the run failed
    said: str
    remembered: bool = False

    @property
    def runs(self) -> Path:
        """The run's `--root`."""
        return Path(self.folder) / "runs"

    @property
    def origin(self) -> str:
        """Where the numbers come from, for a row's reason."""
        where = f"at commit {self.commit[:12]}, in {Path(self.folder).name}"
        return f"not run again: measured before, {where}" if self.remembered else ""


def measure_once(folder: Path, name: str, arguments: list[str], recipe: str) -> Measured:
    """The remembered run of these arguments if it ended well, otherwise a new one (remembered if it ends well)."""
    file = folder / f"{name}.json"
    if file.is_file():
        stored = json.loads(file.read_text())
        if stored["arguments"] == arguments:
            return Measured(**{**stored, "folder": str(folder), "remembered": True})
    folder.mkdir(parents=True, exist_ok=True)
    print(f"running: agentflow {' '.join(arguments)}   (output in {folder / name}.log)", flush=True)
    ran = execute([COMMAND, *arguments, "--root", str(folder / "runs")], folder / f"{name}.log")
    report = read_report(folder / "runs", recipe) if ran.code == 0 else {}
    commit = describe_commit(REPO)
    measured = Measured(str(folder), arguments, ran.code, round(ran.wall_s, 1), commit, report, tail(ran.output))
    if ran.code == 0:
        file.write_text(json.dumps(asdict(measured), indent=1))
    return measured


def demo_folder(bench: Path, recipe: Recipe) -> Path:
    """The folder of the remembered cold run of exactly these artifacts, or a fresh one."""
    made = {name: node.identity.fingerprint for name, node in plan(recipe).items()}
    start = f"demo-{sha256_text(canonical_json(made))[:10]}-"
    finished = sorted(path.parent for path in bench.glob(f"{start}*/cold.json"))
    return finished[-1] if finished else Path(tempfile.mkdtemp(prefix=start, dir=bench))


def read_report(runs: Path, recipe: str) -> dict[str, Any]:
    """report.json of the newest run of `recipe`."""
    return dict(json.loads((runs / recipe / "report.json").read_text()))


def grpo_facts(runs: Path, recipe: Recipe) -> dict[str, Any]:
    """What the GRPO checkpoint's manifest says about its training."""
    identity = plan(recipe)["grpo"].identity
    artifact = Store.open(runs / "artifacts").find(identity.stage, identity.fingerprint)
    return {} if artifact is None else artifact.manifest.extra


# ---------------------------------------------------------------- rows
def help_row(bench: Path) -> Row:
    """Time to the first help text, the slowest of three."""
    slowest = max((execute([COMMAND, "--help"], bench / "help.log") for _ in range(3)), key=lambda ran: ran.wall_s)
    ok = slowest.wall_s <= 1 and slowest.code == 0
    return Row.done("agentflow --help, the slowest of 3", "≤ 1 s", round(slowest.wall_s, 3), "s", ok)


def cold_rows(cold: Measured) -> Iterator[Row]:
    """Wall time, memory and size of the evaluation of the cold demo."""
    what = "demo in an empty root, whole run"
    if cold.code != 0:
        yield Row.done(what, "≤ 1500 s, goal 900", cold.wall_s, "s", False, f"exit code {cold.code}: {cold.said}")
        return
    seconds = ", ".join(f"{stage['name']} {stage['wall_s']:.0f}" for stage in cold.report["stages"])
    reason = "; ".join(filter(None, [cold.origin, f"seconds: {seconds}"]))
    yield Row.done(what, "≤ 1500 s, goal 900", cold.wall_s, "s", cold.wall_s <= 1500, reason)
    peak = cold.report["peak_rss_mb"] * 2**20 / 1e9
    yield Row.done("demo, peak memory of all its processes", "≤ 8 GB", round(peak, 2), "GB", peak <= 8, cold.origin)
    asked = f"{asked_of(cold.report, 'test')} + {asked_of(cold.report, 'test_unseen')}"
    what = "questions asked of every model (trained + unseen templates)"
    yield Row.done(what, "64 + 32", asked, "", asked == "64 + 32", cold.origin)


def asked_of(report: dict[str, Any], split: str) -> str:
    """How many questions of `split` every model was asked; several numbers if not all were asked the same."""
    totals: dict[tuple[str, str], int] = {}
    for cell in report["evaluation_by"]:
        if cell["split"] == split:
            key = (cell["model"], cell["prompt_style"])
            totals[key] = totals.get(key, 0) + cell["questions"] + cell["failed"]
    return " or ".join(str(total) for total in sorted(set(totals.values())))


def cell_of(report: dict[str, Any], split: str, kind: str, model: str) -> dict[str, Any] | None:
    """A model's numbers on one kind of question, in its better prompt style; None where it was not scored."""
    for cell in report["evaluation_by"]:
        if (cell["split"], cell["kind"], cell["model"]) == (split, kind, model) and cell["best"]:
            return cell if cell["accuracy"] is not None else None
    return None


def quality_rows(report: dict[str, Any]) -> Iterator[Row]:
    """SFT against the better prompt style of the base model, kind by kind."""
    sft = cell_of(report, "test", "arithmetic", "sft")
    what = "SFT, new arithmetic questions of trained templates: "
    if sft is None:
        yield Row.done(what + "accuracy", "≥ 0.75", "none", "", False, "the report holds no such evaluation")
    else:
        low, high = sft["ci95"]
        interval = f"95 % interval {low:.2f} to {high:.2f}, n {sft['questions']}"
        yield Row.done(what + "accuracy", "≥ 0.75", sft["accuracy"], "", sft["accuracy"] >= 0.75, interval)
        rate = sft["tool_call_rate"]
        yield Row.done(what + "share with a tool call", "≥ 0.9", rate, "", rate >= 0.9)
    yield over_base(report, "test", "arithmetic", 40)
    yield over_base(report, "test", "two_hop", 20)
    yield over_base(report, "test_unseen", "arithmetic", None)
    yield over_base(report, "test_unseen", "two_hop", None)


def over_base(report: dict[str, Any], split: str, kind: str, points: int | None) -> Row:
    """Percentage points of SFT over the base; `points` None: it only has to be better."""
    what = f"SFT over base, {kind} questions of {'trained' if split == 'test' else 'unseen'} templates"
    target = "> 0 points" if points is None else f"≥ {points} points"
    base, sft = (cell_of(report, split, kind, model) for model in ("base", "sft"))
    if base is None or sft is None:
        return Row.done(what, target, "none", "", False, "the report holds no such evaluation")
    # Of the counts, so that no rounding decides.
    gain = 100 * (sft["correct"] / sft["questions"] - base["correct"] / base["questions"])
    reason = (
        f"base {base['correct']} of {base['questions']} ({base['prompt_style']} prompt), "
        f"SFT {sft['correct']} of {sft['questions']}, {sft['tool_call_rate']:.2f} with a call"
    )
    return Row.done(what, target, round(gain, 1), "points", gain > 0 if points is None else gain >= points, reason)


def grpo_rows(report: dict[str, Any], facts: dict[str, Any]) -> Iterator[Row]:
    """Whether policy optimisation did something and broke nothing."""
    steps = facts.get("steps", 0)
    yield Row.done("GRPO, optimiser steps", "≥ 5", steps, "", steps >= 5)
    before, after = facts.get("adapter_before"), facts.get("adapter_after")
    changed = before is not None and after is not None and before != after
    yield Row.done("GRPO, adapter weights", "changed", "changed" if changed else "not changed", "", changed)
    groups, varied = facts.get("groups", 0), facts.get("groups_with_variance", 0)
    share = varied / groups if groups else 0.0
    reason = f"{varied} of {groups} groups"
    yield Row.done("GRPO, groups whose rewards differ", "≥ 0.5", round(share, 3), "", share >= 0.5, reason)
    cold, grpo = (report["evaluation"].get(model) for model in ("cold_start", "grpo"))
    what, target = "GRPO, accuracy on all held-out questions", "≥ lower end of the cold start's 95 % interval"
    if not cold or not grpo or cold["ci95"] is None or grpo["accuracy"] is None:
        yield Row.done(what, target, "none", "", False, "the report holds no such evaluation")
        return
    reason = f"cold start {cold['accuracy']:.3f}, interval {cold['ci95'][0]:.3f} to {cold['ci95'][1]:.3f}"
    yield Row.done(what, target, grpo["accuracy"], "", grpo["accuracy"] >= cold["ci95"][0], reason)


def second_run_rows(ran: Ran, report: dict[str, Any]) -> Iterator[Row]:
    """The same demo again: seconds, paid calls, training steps."""
    what = "demo again, nothing changed: "
    ok = ran.code == 0 and ran.wall_s <= 30
    yield Row.done(what + "whole run", "≤ 30 s", round(ran.wall_s, 1), "s", ok, failure(ran))
    if ran.code != 0:
        return
    paid = sum(report["ledger"][kind]["paid"] + report["ledger"][kind]["failed"] for kind in ("teacher", "search"))
    yield Row.done(what + "teacher and search calls", "0", paid, "", paid == 0)
    made = made_in(report)
    steps = sum(report["training"].get(name, {}).get("steps", 0) for name in TRAINING if name in made)
    reason = f"made again: {', '.join(sorted(made))}" if made else "all stages reused"
    yield Row.done(what + "training steps", "0", steps, "", not made, reason)


def made_in(report: dict[str, Any]) -> set[str]:
    """Names of what the run made rather than found."""
    return {stage["name"] for stage in report["stages"] if stage["status"] == "ran"}


def planned_row(runs: Path) -> Row:
    """What `agentflow plan` says after one field of sft is changed, by the command line and by the function."""
    said = execute([COMMAND, "plan", "demo", "--set", SFT_CHANGED, "--root", str(runs)], runs.parent / "plan.log")
    printed = set(re.findall(r"^run +(\S+)", said.output, re.MULTILINE))
    decisions = decide(load_recipe("demo", [SFT_CHANGED]), Store.open(runs / "artifacts"))
    planned = {decision.node.name for decision in decisions if not decision.reuse}
    agree = "" if printed == planned else f"the command line prints {sorted(printed)}"
    return changed_row(f"plan demo with {SFT_CHANGED}: what would run", planned, printed == planned, agree)


def changed_row(what: str, made: set[str], good: bool, reason: str = "") -> Row:
    """A row about what runs after a field of sft changed."""
    good = good and made == AFTER_SFT
    return Row.done(what, "sft and what follows, nothing else", ", ".join(sorted(made)), "", good, reason)


def smoke_rows(bench: Path) -> Iterator[Row]:
    """The smoke recipe in an empty root, and again with one field of sft changed, really run."""
    with tempfile.TemporaryDirectory(prefix="smoke-", dir=bench) as folder:
        runs, log = Path(folder, "runs"), Path(folder, "smoke.log")
        ran = execute([COMMAND, "run", "smoke", "--root", str(runs)], log)
        ok = ran.code == 0 and ran.wall_s <= 180
        yield Row.done("smoke, the whole DAG", "≤ 180 s", round(ran.wall_s, 1), "s", ok, failure(ran))
        if ran.code != 0:
            return
        again = execute([COMMAND, "run", "smoke", "--set", SFT_CHANGED, "--root", str(runs)], log)
        made = made_in(read_report(runs, "smoke")) if again.code == 0 else set()
        yield changed_row(f"run smoke with {SFT_CHANGED}: what ran", made, again.code == 0, failure(again))


def real_questions_rows(cold: Measured) -> Iterator[Row]:
    """The demo on real GSM8K rows, with their own solutions as recorded reasoning."""
    what, target = f"demo on {GSM8K_ROWS} real GSM8K rows, recorded reasoning: ", "runs to its end"
    if not GSM8K.is_file():
        reason = f"no file {GSM8K.relative_to(REPO.parent)} beside the checkout"
        yield Row.not_run(what + "whole run", target, "s", reason)
        return
    settings = (*GSM8K_SOURCE, *GSM8K_REDUCED, *GSM8K_LIMITS)
    arguments = ["run", "demo", *(part for setting in settings for part in ("--set", setting))]
    measured = measure_once(Path(cold.folder), "gsm8k", arguments, "demo-gsm8k")
    reason = f"reduced: {', '.join(GSM8K_REDUCED)}, 16 test questions a model"
    if measured.code != 0:
        reason = f"exit code {measured.code}: {measured.said}"
    reason = "; ".join(filter(None, [measured.origin, reason]))
    yield Row.done(what + "whole run", target, measured.wall_s, "s", measured.code == 0, reason)
    if measured.code == 0:
        yield from real_report_rows(what, measured.report)


def real_report_rows(what: str, report: dict[str, Any]) -> Iterator[Row]:
    """What the report of that run shows."""
    paid = report["ledger"]["teacher"]["paid"]
    yield Row.done(what + "teacher calls", "0", paid, "", paid == 0)
    stages = {stage["name"]: stage for stage in report["stages"]}
    found, read = report["filter"], stages["questions"]["rows_in"]
    accuracy = ", ".join(f"{name} {one['accuracy']}" for name, one in report["evaluation"].items())
    reason = f"{read} rows read, {found['kept']} of {found['with_calls']} keep their calls; accuracy: {accuracy}"
    complete = report["status"] == "completed" and set(TRAINING) <= set(stages) and len(report["evaluation"]) == 4
    ok = complete and read == GSM8K_ROWS
    yield Row.done(what + "rows for SFT", "every stage is in the report", found["sft_rows"], "rows", ok, reason)


# ---------------------------------------------------------------- rows made by other commands
def kill_row(bench: Path) -> Row:
    """The test that kills the data stages at random times and compares digests and paid calls."""
    what = "kill -9 at 5 random times in the data stages, then run again"
    target = "same digests; paid calls ≤ undisturbed + in flight"
    if not (REPO / KILLS).is_file():
        return Row.not_run(what, target, "s", f"there is no {KILLS}")
    return pytest_row(what, target, [KILLS], bench / "kills.log", LONGEST_S)


def ci_row(bench: Path) -> Row:
    """`.ci/run` in a fresh clone of the current commit, set-up included."""
    what, target = ".ci/run from a bare clone", "≤ 2400 s"
    if os.environ.get("AGENTFLOW_BENCH_CI") != "1":
        return Row.not_run(what, target, "s", "takes up to 40 minutes; set AGENTFLOW_BENCH_CI=1 to run it")
    with tempfile.TemporaryDirectory(prefix="clone-", dir=bench) as folder:
        clone = Path(folder, REPO.name)
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(REPO), str(clone)], check=True)
        ran = execute([str(clone / ".ci" / "run")], bench / "ci.log", cwd=clone)
    return Row.done(what, target, round(ran.wall_s, 1), "s", ran.code == 0 and ran.wall_s <= 2400, tail(ran.output, 1))
