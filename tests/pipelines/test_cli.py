"""The command line from outside: what bad configuration, surroundings, data and services are answered with."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import data_flow
import pytest
from command_line import agentflow
from whole_run import FinishedRun

from flows.plan import plan
from flows.recipes import load_recipe


def in_a_shell(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command as its own process, without a Prefect server from this session."""
    own = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        env={**own, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )


def names_below(folder: Path) -> set[str]:
    """What a reader sees of a store's stage."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()


# ---------------------------------------------------------------- configuration
BAD = {
    "recipe": (["smok"], ["'smok'", "deliberate_data, demo, ", "did you mean 'smoke'"]),
    "recipe file": (["no.yaml"], ["'no.yaml'", "No such file"]),
    "field": (
        ["smoke", "--set", "sft.settings.optimizer.learning_rate=1"],
        ["'sft.settings.optimizer'", "did you mean 'optimiser'", "max_steps"],
    ),
    "type": (["smoke", "--set", "traces.samples=many"], ["traces.samples", "valid integer", "'many'"]),
    "range": (
        ["smoke", "--set", "teacher.local.wrong_rate=2"],
        ["teacher.local.wrong_rate", "less than or equal to 1", "'2'"],
    ),
    "not a number": (
        ["smoke", "--set", "teacher.usd_per_million_in=nan"],
        ["teacher.usd_per_million_in", "finite number", "'nan'"],
    ),
    "kind": (["smoke", "--set", "questions.source.kind=gsm9k"], ["'gsm9k'", "'generated', 'gsm8k', 'hotpotqa'"]),
    "form": (["smoke", "--set", "sft"], ["'sft'", "path.to.field=value"]),
    "shared field": (["smoke", "--set", "traces.edition=2"], ["traces.edition", "top of the recipe"]),
    "entry": (["smoke", "--set", "evaluate.9.limit=2"], ["'evaluate.9'", "0 to 4"]),
    "field of a further entry": (
        ["smoke", "--set", f"evaluate={json.dumps([{'model': 'base'}] * 6 + [{'model': 'sft', 'bogus': 1}])}"],
        ["evaluate.6.bogus", "allowed here", "failure_budget"],
    ),
    "missing file": (
        ["smoke", "--set", "questions.source.kind=gsm8k", "--set", "questions.source.path=/no/such.jsonl"],
        ["'/no/such.jsonl'", "existing file"],
    ),
    "no origin": (["smoke", "--set", "questions.source.kind=gsm8k"], ["path None", "give exactly one"]),
    "address": (["smoke", "--set", "teacher.base_url=ftp://x"], ["'ftp://x'", "http(s)://HOST"]),
    "budget": (["smoke", "--budget-usd", "nan"], ["a budget of nan USD", "from 0 to 1,000,000,000"]),
    "group size": (["smoke", "--set", "grpo.group_size=3"], ["group_size = 3", "multiple"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_configuration_is_one_message_with_the_value_and_what_is_allowed(name: str, tmp_path: Path) -> None:
    arguments, words = BAD[name]
    result = agentflow("run", *arguments, "--root", tmp_path / "runs")
    assert result.exit_code == 2
    assert result.output.startswith("error: ") and len(result.output.strip().splitlines()) == 1
    for word in words:
        assert word in result.output
    assert not names_below(tmp_path / "runs" / "artifacts")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1", "is not YAML"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"- smoke", "must hold `recipe`"),
        (b"recipe: smoke\nset: [1, 2]\n", "must map fields to values"),
        (b"recipe: smoke\nset: {1: 3}\n", "must map fields to values"),
    ],
)
def test_a_recipe_file_that_is_none_is_named_with_what_it_must_hold(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    result = agentflow("plan", tmp_path / "mine.yaml", "--root", tmp_path / "runs")
    assert result.exit_code == 2 and result.output.startswith("error: recipe file" if "map" not in words else "error: ")
    assert str(tmp_path / "mine.yaml") in result.output and words in result.output


def test_a_recipe_file_is_a_recipe_with_other_fields(smoke: FinishedRun, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: smoke\nname: mine\nset:\n  sft.settings.max_steps: 7\n")
    recipe: Any = load_recipe(str(path))
    assert recipe.name == "mine" and recipe.sft.settings.max_steps == 7
    first, second = plan(load_recipe("smoke")), plan(recipe)
    assert first["loss_filter"].identity == second["loss_filter"].identity != first["sft"].identity
    result = agentflow("plan", path, "--root", smoke.root)
    assert [line.split()[0] for line in result.output.splitlines()][:6] == ["reuse"] * 5 + ["run"]


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000])
def test_a_value_that_json_cannot_read_is_taken_as_text(value: str) -> None:
    assert load_recipe("smoke", [f"edition={value}"]).edition == value


def test_an_unwritable_root_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = agentflow("run", "smoke", "--root", tmp_path / "file")
    assert result.exit_code == 2
    assert str(tmp_path / "file") in result.output and "choose another root folder" in result.output


@pytest.mark.parametrize("name", [".prefect", "smoke", "ledger.db"])
def test_something_else_in_the_place_of_what_a_run_writes_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("in the way") if name != "ledger.db" else (tmp_path / name).mkdir()
    done = in_a_shell("run", "smoke", "--root", tmp_path)
    (message,) = done.stderr.strip().splitlines()
    assert done.returncode in (1, 2) and message.startswith("error: ") and str(tmp_path / name) in message
    assert not names_below(tmp_path / "artifacts" / "base_model")


def test_a_read_only_file_system_is_refused_before_anything_starts(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o ro none {tmp_path}"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts in a namespace of one's own (unshare -Urm)")
    command = f"{mount} && exec {sys.executable} -m flows.cli run smoke --root {tmp_path}/runs"
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{tmp_path}/runs" in done.stderr and "Read-only file system" in done.stderr


def test_a_port_in_use_is_refused_with_its_number(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = in_a_shell("run", "smoke", "--root", tmp_path, "--port", port)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"port {port} is in use" in done.stderr and "--port" in done.stderr
    assert not names_below(tmp_path / "artifacts")


def test_the_process_itself_says_the_same_on_stderr_and_exits_with_2() -> None:
    done = in_a_shell("run", "smok")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown recipe 'smok'") and "Traceback" not in done.stderr


def test_help_loads_no_heavy_library() -> None:
    heavy = ("torch", "ray", "prefect", "transformers", "datasets", "openai", "pydantic", "pyarrow")
    code = (
        "import sys; from click.testing import CliRunner; from flows.cli import main\n"
        "print(CliRunner().invoke(main, ['--help']).exit_code)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["0", "[]"], done.stderr


# ---------------------------------------------------------------- data
def test_bad_rows_are_quarantined_alone_and_counted(tmp_path: Path, ray_up: None) -> None:
    lines = [
        json.dumps({"question": f"What is {n} plus {n}?", "answer": f"{n}+{n} = {2 * n}\n#### {2 * n}"})
        for n in range(4)
    ]
    lines[1:1] = [
        '{"question": "cut off',
        json.dumps({"question": "And the answer?"}),
        '{"question": "?", "answer": "#### six"}',
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    settings = [
        "questions.source.kind=gsm8k",
        f"questions.source.path={path}",
        "questions.source.test_fraction=0",
        "traces.origin=recorded",
    ]
    made = data_flow.run_data(load_recipe("smoke", settings), tmp_path / "runs", None, None, until="traces")
    manifest = made["questions"].artifact.manifest
    assert (manifest.keys_in, manifest.rows) == (7, 4)
    assert manifest.counts is not None
    assert manifest.counts.quarantined == {"bad_json": 1, "no_answer": 1, "bad_answer": 1}
    by_key = {reject["key"]: reject for reject in made["questions"].artifact.rejects()}
    assert set(by_key) == {f"rows.jsonl:{n}" for n in (2, 3, 4)}
    assert by_key["rows.jsonl:2"]["row"] == {"line": lines[1]} and "six" in by_key["rows.jsonl:4"]["detail"]
    assert made["traces"].artifact.manifest.rows == 4

    shown = agentflow("show", made["questions"].artifact.ref, "--root", tmp_path / "runs", "--rows", 0)
    assert json.loads(shown.output)["counts"]["quarantined"] == manifest.counts.quarantined


def test_a_file_without_one_usable_row_is_an_error_that_says_why(tmp_path: Path, ray_up: None) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("not json\n{}\n")
    recipe = ["smoke", "--set", "questions.source.kind=gsm8k", "--set", f"questions.source.path={path}"]
    result = agentflow("run", *recipe, "--set", "base_model.source.seed=0", "--root", tmp_path / "runs")
    assert result.exit_code == 2
    assert "no usable question among 2 lines" in result.output and "bad_json" in result.output
    assert names_below(tmp_path / "runs" / "artifacts" / "questions") == set()


# ---------------------------------------------------------------- services
@pytest.fixture
def root_with_model(smoke: FinishedRun, tmp_path: Path) -> Path:
    """A root that has the base model and nothing else, so that a run soon comes to its first paid call."""
    model = smoke.artifacts["base_model"]
    shutil.copytree(model.path, tmp_path / "runs" / "artifacts" / "base_model" / model.fingerprint)
    return tmp_path / "runs"


def test_an_endpoint_that_refuses_fails_the_run_with_its_address(root_with_model: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    settings = [f"teacher.base_url=http://127.0.0.1:{port}/v1", "teacher.api_key_env=", "teacher.max_attempts=1"]
    settings += ["teacher.patience.breaker_failures=1000"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    done = in_a_shell("run", "smoke", *flags, "--root", root_with_model)
    assert done.returncode == 1
    # One message and nothing else: what Prefect and Ray have to say about it stands in the UI.
    (message,) = done.stderr.strip().splitlines()
    assert message.startswith("error: traces: 3 of 3 batches failed (24 connection")
    assert "refused" in message.lower() and str(port) in message and "only the missing calls are made" in message
    # Nothing half-written is visible, and the report says how far it came.
    assert names_below(root_with_model / "artifacts" / "traces") == set()
    report = json.loads((root_with_model / "smoke" / "report.json").read_text())
    assert report["status"] == "failed" and "24 connection" in report["error"]
    assert [stage["name"] for stage in report["stages"]] == ["base_model", "questions"]
    assert report["ledger"]["teacher"] == {"paid": 0, "replayed": 0, "failed": 24, "lost": 0}
    # Nobody looks on, so nothing is broken into lines of 80 characters.
    lines = done.stdout.splitlines()
    assert f"report of what was made: {root_with_model / 'smoke' / 'report.html'}" in lines
    made = report["stages"][1]["artifact"]
    assert any(line.startswith("questions ") and line.endswith(made) for line in lines)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["teacher.base_url=https://api.openai.com/v1"], ["OPENAI_API_KEY", "https://api.openai.com/v1", "stand-in"]),
        (["search.base_url=https://api.tavily.com"], ["TAVILY_API_KEY", "https://api.tavily.com"]),
        (["teacher.base_url=https://api.deepseek.com/v1"], ["OPENAI_API_KEY", "api.deepseek.com", "api_key_env"]),
    ],
    ids=["teacher", "search", "another host's key"],
)
def test_a_missing_key_is_named_before_anything_starts(
    settings: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "TAVILY_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    if "deepseek" in settings[0]:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-host")
    result = agentflow("run", "smoke", *[f for s in settings for f in ("--set", s)], "--root", tmp_path)
    assert result.exit_code == 2
    for word in words:
        assert word in result.output
    assert "Prefect UI" not in result.output and "sk-of-another-host" not in result.output
    assert not names_below(tmp_path / "artifacts")
