"""What `agentflow up` says and does while it is up: of a server that is silent, and of a part that ends."""

from __future__ import annotations

import time

import pytest

from agentflow.errors import AgentflowError, UserError
from flows.watching import MAX_DEATHS, Deaths, Silence


class Server:
    """Answers or not."""

    answers = True

    def ask(self) -> None:
        if not self.answers:
            raise UserError("no server answers; start one") from TimeoutError("timed out")


def test_a_silent_server_is_said_at_ever_larger_distances_and_so_is_its_return() -> None:
    server, said = Server(), list[str]()
    silence = Silence(server.ask, "its log: here", said.append, ask_s=0.01)

    def look(for_s: float) -> None:
        until = time.monotonic() + for_s
        while time.monotonic() < until:
            silence.look()

    look(0.05)
    assert said == []
    server.answers = False
    look(0.5)
    assert said[0].startswith("the Prefect server has not answered for 0 s (timed out); runs under way go on")
    assert said[0].endswith("; its log: here")
    assert 2 <= len(said) <= 7, "0.01 s, 0.02 s, 0.04 s, ..."
    server.answers, before = True, len(said)
    look(0.05)
    (again,) = said[before:]
    assert again.startswith("the Prefect server answers again, after ")


class Ending:
    """A part that ends whenever it is looked at."""

    name = "part"
    starts = 0

    def start(self) -> None:
        self.starts += 1

    def ended(self) -> bool:
        return True

    def said(self) -> str:
        return "its last words"


def test_a_part_that_ends_is_started_again_until_it_ends_too_often() -> None:
    part, said = Ending(), list[str]()
    deaths = Deaths([part], said.append)
    for _ in range(MAX_DEATHS):
        deaths.look()
    assert part.starts == MAX_DEATHS and said == ["the part ended; started again"] * MAX_DEATHS
    with pytest.raises(AgentflowError, match=f"the part ended {MAX_DEATHS + 1} times in 600 s: its last words"):
        deaths.look()
