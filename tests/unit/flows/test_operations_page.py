"""docs/operations.md can be followed to the letter: its commands, faults, deployments and pictures exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from agentflow.services.__main__ import main as services
from agentflow.services.faults import Rule
from flows.cli import main
from flows.parameters import NightlyParameters
from flows.registering import DEPLOYMENTS


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "operations.md").read_text()


def lines(page: str) -> list[list[str]]:
    """The commands of its shell blocks, in words."""
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    return [words for line in "\n".join(blocks).splitlines() if (words := shlex.split(line, comments=True))]


def test_every_command_and_option_it_shows_exists(page: str) -> None:
    shown = [words[1:] for words in lines(page) if words[0] == "agentflow"]
    assert {name for name, *_ in shown} >= {"doctor", "up"}
    for name, *rest in shown:
        options = {option for parameter in main.commands[name].params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options
    (service,) = [words for words in lines(page) if words[:3] == ["python", "-m", "agentflow.services"]]
    options = {option for parameter in services.commands[service[3]].params for option in parameter.opts}
    assert {word for word in service if word.startswith("--")} <= options


def test_its_faults_are_faults_and_its_parameters_fill_the_form(page: str) -> None:
    (faults,) = [words[1] for words in lines(page) if words[0] == "echo"]
    assert [Rule.model_validate(rule).status for rule in json.loads(faults)] == [500]
    given = re.findall(r"--params\s+'(\{.*?\})'", page)
    assert given
    for parameters in given:
        NightlyParameters.model_validate(json.loads(parameters)["run"])


def test_every_deployment_it_orders_is_registered(page: str) -> None:
    registered = {entry["name"] for entry in yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]}
    ordered = {name for _, name in re.findall(r"deployment\s+run ([a-z-]+)/([a-z-]+)", page)}
    assert ordered and ordered <= registered


def test_every_picture_is_there_small_and_described(page: str, repository: Path) -> None:
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", page)
    assert len(pictures) == 6
    for said, path in pictures:
        assert len(said) > 20
        assert 10_000 < (repository / "docs" / path).stat().st_size < 100_000
