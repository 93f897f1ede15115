"""The README can be followed to the letter: its commands, targets, recipe file, rows and folders exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from agentflow.sources.source import load_questions
from flows.cli import main
from flows.recipes import demo, load_recipe


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


def block(readme: str, language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL)
    return str(found)


def test_every_command_and_target_it_names_exists(readme: str, repository: Path) -> None:
    commands = set(re.findall(r"`agentflow ([a-z-]+)", readme))
    assert {"plan", "show", "diff", "explain-row", "ui"} <= commands <= set(main.commands)
    makefile = (repository / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)", readme):
        assert f"\n{target}: setup" in makefile, target


def test_every_run_it_shows_is_a_valid_recipe(readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taught.yaml").write_text(block(readme, "yaml"))
    script = block(readme, "bash").replace("<40 hex digits>", "0" * 40).replace("\\\n", " ")
    runs = [shlex.split(line) for line in script.splitlines() if line.startswith("agentflow run")]
    names = []
    for _, _, recipe, *flags in runs:
        settings = [value for flag, value in zip(flags, flags[1:], strict=False) if flag == "--set"]
        names.append(load_recipe(recipe, settings).name)
    assert names == ["gsm8k", "bigger", "taught"]


def test_the_row_it_explains_is_a_row_of_the_demo(readme: str) -> None:
    (row,) = re.findall(r"explain-row '([\w-]+)#0'", readme)
    questions = {question["id"]: question["split"] for question in load_questions(demo().questions.source).rows}
    assert questions.get(row) == "train", f"{row} is none of the demo's training questions: name one of them"


def test_its_layout_names_every_package_and_module_of_the_core(readme: str, repository: Path) -> None:
    layout = readme[readme.index("## Layout") : readme.index("## Promises")]
    core = repository / "agentflow"
    names = {f"{path.name}/" for path in core.iterdir() if (path / "__init__.py").is_file()}
    names |= {path.name for path in core.glob("[!_]*.py")}
    assert {name for name in names if name not in layout} == set()


def test_every_promise_is_shown_by_a_test_that_is_there(readme: str, repository: Path) -> None:
    shown = re.findall(r"^\| (P\d) \|.*\| `([\w/.]+)`: `(test_\w+)` \|$", readme, re.MULTILINE)
    assert [name for name, _, _ in shown] == [f"P{number}" for number in range(1, 9)]
    for _, path, test in shown:
        assert f"def {test}(" in (repository / "tests" / path).read_text(), test
