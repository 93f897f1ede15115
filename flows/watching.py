"""What `agentflow up` does while it is up: start again what ends, and say so when the Prefect server does not answer.

In: the processes it started and the address of the server. Out: lines for whoever looks. A server that is slow or away
ends nothing: runs under way go on, and Prefect's own clients ask it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from agentflow.errors import AgentflowError, UserError

WATCH_S = 0.5
DEATHS_WITHIN_S, MAX_DEATHS = 600.0, 3
ASK_S = 30.0
# Between two questions to a server, and so how long it may be silent before that is said.


class Part(Protocol):
    """A process that is started again when it ends."""

    name: str

    def start(self) -> None: ...

    def ended(self) -> bool: ...

    def said(self) -> str: ...


class Deaths:
    """Starts parts again. Raises AgentflowError for one that ends again and again."""

    def __init__(self, parts: Sequence[Part], say: Callable[[str], object]) -> None:
        self._parts, self._say = parts, say
        self._times: dict[str, list[float]] = {part.name: [] for part in parts}

    def look(self) -> None:
        """Start again what has ended since."""
        now = time.monotonic()
        for part in (part for part in self._parts if part.ended()):
            recent = [death for death in self._times[part.name] if now - death < DEATHS_WITHIN_S] + [now]
            self._times[part.name] = recent
            if len(recent) > MAX_DEATHS:
                raise AgentflowError(
                    f"the {part.name} ended {len(recent)} times in {DEATHS_WITHIN_S:.0f} s: {part.said()}"
                )
            self._say(f"the {part.name} ended; started again")
            part.start()


class Silence:
    """Says how long a server has not answered, at ever larger distances, and when it answers again.

    `ask` raises UserError where it does not; `where` is what helps to find out why.
    """

    def __init__(
        self, ask: Callable[[], object], where: str, say: Callable[[str], object], ask_s: float = ASK_S
    ) -> None:
        self._ask, self._where, self._say, self._ask_s = ask, where, say, ask_s
        self._answered = time.monotonic()
        self._next = self._answered + ask_s
        self._said_s = 0.0
        # How long it had been silent when that was last said; 0: it has answered since.

    def look(self) -> None:
        """Ask, if it is time."""
        if time.monotonic() < self._next:
            return
        try:
            self._ask()
        except UserError as error:
            silent_s = time.monotonic() - self._answered
            if silent_s >= 2 * self._said_s:
                # Its own message says how to start a server.
                cause = error.__cause__ or error
                why = str(cause) or type(cause).__name__
                self._say(
                    f"the Prefect server has not answered for {silent_s:.0f} s ({why}); runs under way go on, and it "
                    f"is asked again; {self._where}"
                )
                self._said_s = silent_s
        else:
            if self._said_s:
                self._say(f"the Prefect server answers again, after {time.monotonic() - self._answered:.0f} s")
            self._answered, self._said_s = time.monotonic(), 0.0
        self._next = time.monotonic() + self._ask_s


def watch(deaths: Deaths, silence: Silence) -> None:
    """Watch until a signal ends it."""
    while True:
        time.sleep(WATCH_S)
        deaths.look()
        silence.look()
