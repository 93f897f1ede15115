"""Every `agentflow` command in the documentation exists, with the options it is shown with."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from flows.cli import main

PAGES = ("cluster", "docker", "operations", "recipes", "runbooks/*")
RUNBOOKS = {
    "nightly_failed", "search_quota", "teacher_down", "disk_full",
    "node_lost", "bad_promotion", "rotating_keys", "upgrading",
}  # fmt: skip


def commands(text: str) -> list[str]:
    """What stands behind `agentflow` in code blocks and inline code, up to a comment or another command."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [line for block in blocks for line in block.splitlines()] + inline
    found = [re.search(r"(?:^|&& |[A-Z_]+=\S+ |exec worker )agentflow ([a-z][^|>&#]*)", line) for line in lines]
    return [match[1].strip() for match in found if match]


def pages(repository: Path) -> list[Path]:
    return [path for page in PAGES for path in sorted((repository / "docs").glob(f"{page}.md"))]


def test_there_is_a_runbook_for_every_promised_case(repository: Path) -> None:
    folder = repository / "docs" / "runbooks"
    assert {path.stem for path in folder.glob("*.md")} == RUNBOOKS | {"README"}
    for name in RUNBOOKS:
        text = (folder / f"{name}.md").read_text()
        assert f"({name}.md)" in (folder / "README.md").read_text()
        for part in ("**Seen.**", "**Be sure.**", "**Mend.**", "**Do not**"):
            assert part in text, (name, part)


def test_every_command_shown_exists(repository: Path) -> None:
    seen = 0
    for page in pages(repository):
        for shown in commands(page.read_text()):
            words = [word for word in shlex.split(shown.replace("…", "x")) if word]
            command = main.commands.get(words[0])
            assert command is not None, f"{page.name}: agentflow {shown}"
            options = {name for option in command.params for name in option.opts if isinstance(option, click.Option)}
            for word in words[1:]:
                if word.startswith("--"):
                    assert word.split("=")[0] in options | {"--help"}, f"{page.name}: agentflow {shown}"
            seen += 1
    assert seen > 20


@pytest.mark.parametrize("link", ["cluster.md", "docker.md", "runbooks/README.md"])
def test_the_index_leads_to_every_page(repository: Path, link: str) -> None:
    assert f"({link})" in (repository / "docs" / "index.md").read_text()


def test_no_link_between_pages_is_broken(repository: Path) -> None:
    for page in [*pages(repository), repository / "docs" / "index.md"]:
        for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
