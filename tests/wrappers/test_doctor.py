"""`agentflow doctor` here: what is there is ok, what is not is named with its remedy, and no key is shown."""

from __future__ import annotations

import os
from importlib.metadata import version
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentflow.services.server import LocalService
from flows.cli import main
from flows.doctor import bytecode, examine, gpu, packages
from flows.recipes import load_recipe

CANARY = "sk-canary-7d1f"


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def doctor(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["doctor", "smoke", *arguments])
    return result.exit_code, result.output


def test_a_machine_with_everything_passes(tmp_path: Path) -> None:
    code, said = doctor("--root", str(tmp_path))
    assert code == 0, said
    for what in ("Python", "packages", "base model", "GPU", "disk", "Prefect", "Ray", "teacher", "search"):
        assert f" {what}: " in said
    assert "MISSING" not in said


def test_what_is_missing_is_named_and_the_exit_code_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    (tmp_path / "file").write_text("")
    code, said = doctor("--root", str(tmp_path / "file"), "--set", "search.base_url=https://api.tavily.com")
    assert code == 1
    missing = [line for line in said.splitlines() if line.startswith("MISSING")]
    assert [line.split(":")[0].split()[1] for line in missing] == ["disk", "Ray", "search"]
    assert "TAVILY_API_KEY" in missing[2] and "127.0.0.1:9" in missing[1] and "--root" in missing[0]


def test_packages_that_every_process_would_compile_anew_are_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bytecode().verdict == "ok", "make setup compiles them"
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: spec_from_file_location(name, tmp_path / "torch" / "__init__.py")
    )
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    found = bytecode()
    assert found.verdict == "note" and found.mend.endswith(f"-m compileall -q {tmp_path}")
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    assert bytecode().verdict == "ok", "the first import does it"


def test_a_gpu_that_the_installed_torch_cannot_use_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = gpu()
    without_cuda = version("torch").endswith("+cpu")
    assert "NVIDIA H100 80GB HBM3" in found.found and found.verdict == ("note" if without_cuda else "ok")
    assert ("CUDA build" in found.mend) is without_cuda


def test_a_package_of_another_version_is_a_note_and_one_that_is_absent_is_missing(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("pydantic==1.0\nsome-extra-nobody-needs==1\n")
    other = packages(pins)
    assert other.verdict == "note" and "pydantic" in other.found and "tested: 1.0" in other.found
    assert packages(tmp_path / "none.txt").verdict == "note"


def test_an_endpoint_is_asked_only_on_request_and_a_wrong_key_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", CANARY)
    with LocalService("search", api_key="the-right-one") as search:
        recipe = load_recipe("smoke", [f"search.base_url={search.base_url}", "search.api_key_env=MY_KEY"])
        present = examine(recipe, tmp_path)[-1]
        assert (present.verdict, search.stats()["requests"]) == ("ok", 0)
        refused = examine(recipe, tmp_path, call=True)[-1]
        assert (refused.verdict, search.stats()["requests"]) == ("missing", 1)
        assert "401" in refused.found and CANARY not in refused.line()
        monkeypatch.setenv("MY_KEY", "the-right-one")
        assert examine(recipe, tmp_path, call=True)[-1].verdict == "ok"
