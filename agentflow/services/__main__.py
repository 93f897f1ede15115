"""Command line of the local services: python -m agentflow.services teacher | search. See `teacher` and `search`.

Prints one line of JSON {"service", "url", "pid"} when it is ready and serves until it is told to stop. What a user
can mend (a port in use, a missing file, another host) is one message on stderr and exit code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr, ValidationError
from starlette.types import ASGIApp

from agentflow.errors import MissingKeyError, UserError
from agentflow.services.faults import Rule, read_rules
from agentflow.services.listen import HOST, bind, check_host, fail, serve

CreateApp = Callable[[list[Rule]], ASGIApp]


def _common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            click.option("--host", default=HOST, show_default=True, help="The loopback address; others are refused."),
            click.option(
                "--port", default=0, show_default=True, type=click.IntRange(0, 65535), help="0: any free one."
            ),
            click.option("--world-seed", default=0, show_default=True, help="Seed of the invented encyclopedia."),
            click.option("--latency-ms", default=0.0, show_default=True, type=click.FloatRange(min=0)),
            click.option("--faults", type=click.Path(path_type=Path), help="JSON list of fault rules."),
            click.option("--api-key-env", metavar="NAME", help="Environment variable with the only key to accept."),
            click.option("--parent", type=int, hidden=True, help="End with this process, and with standard input."),
        ]
    ):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """Local services that stand in for paid ones, on 127.0.0.1 only."""


@main.command()
@click.option("--wrong-rate", default=0.1, show_default=True, type=click.FloatRange(0, 1))
@click.option("--seed", default=0, show_default=True, help="Which generated questions are answered wrongly.")
@click.option("--known", type=click.Path(path_type=Path), help="JSONL of recorded solutions.")
@_common_options
def teacher(wrong_rate: float, seed: int, known: Path | None, **common: Any) -> None:
    """A reasoning teacher (OpenAI chat completions)."""

    def create(rules: list[Rule]) -> ASGIApp:
        from agentflow.services.teacher import TeacherOptions, create_app

        return create_app(TeacherOptions(wrong_rate=wrong_rate, seed=seed, known=known, **_shared(common)), rules)

    sys.exit(_run("teacher", create, common))


@main.command()
@click.option("--corpus", type=click.Path(path_type=Path), help="JSONL file or folder; default: the encyclopedia.")
@_common_options
def search(corpus: Path | None, **common: Any) -> None:
    """A search service (Tavily /search)."""

    def create(rules: list[Rule]) -> ASGIApp:
        from agentflow.services.search import SearchOptions, create_app  # numpy and scipy: only when needed

        return create_app(SearchOptions(corpus=corpus, **_shared(common)), rules)

    sys.exit(_run("search", create, common))


def _shared(common: dict[str, Any]) -> dict[str, Any]:
    """The options both services have, as their models name them."""
    name = common["api_key_env"]
    if name is not None and not os.environ.get(name):
        raise MissingKeyError(
            f"environment variable {name!r} of --api-key-env is empty; set it or leave the option out"
        )
    api_key = None if name is None else SecretStr(os.environ[name])
    return {"world_seed": common["world_seed"], "latency_s": common["latency_ms"] / 1000, "api_key": api_key}


def _run(service: str, create: CreateApp, common: dict[str, Any]) -> int:
    try:
        check_host(common["host"])
        # The port first: a corpus takes seconds to index, a taken port should not wait for it.
        sock = bind(common["port"])
        with sock:
            app = create([] if common["faults"] is None else read_rules(common["faults"]))
            serve(app, service=service, sock=sock, parent=common["parent"])
    except UserError as error:
        return fail(error)
    except ValidationError as error:
        return fail(UserError(f"options of {service}: {error}"))
    return 0


if __name__ == "__main__":
    main()
