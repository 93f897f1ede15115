"""Ray actors as a pool that outlives its workers: a worker or node that dies costs the item it was at, nothing else.

In: a way to make an actor, items, and what to ask for each. Out: (item, result) in the order they end. Actors that find
no room join when there is some; with none at all the pool waits, then fails and says for what.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

from agentflow.errors import AgentflowError, WorkersLost
from tasks.context import Resources
from tasks.worker_logs import with_last_lines

Item = TypeVar("Item")


class ActorPool:
    """`resources.workers` actors made by `create`, for `name` in messages. Use as a context manager."""

    def __init__(self, name: str, create: Callable[[], Any], resources: Resources, log: logging.Logger | Any) -> None:
        self._name, self._create, self._resources, self._log = name, create, resources, log
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        # Ref that is ready when the actor is -> actor.
        self._alive: list[Any] = []
        self._failed_starts = 0

    def __enter__(self) -> ActorPool:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._alive:
            self._kill(actor)

    def one(self, ask: Callable[[Any], Any]) -> Any:
        """The result of one call to any actor, made again if its worker dies. Raises as `map`."""
        return next(self.map([None], lambda actor, _: ask(actor)))[1]

    def map(self, items: Iterable[Item], ask: Callable[[Any, Item], Any]) -> Iterator[tuple[Item, Any]]:
        """`ask(actor, item)` gives a ref; yields (item, its value) as they end.

        An item is handed out again when its worker died. Raises WorkersLost when that happened to one item more than
        `restarts` times, or when no worker could start within `wait_s`; and what a call itself raised.
        """
        todo = list(enumerate(items))
        losses: Counter[int] = Counter()
        running: dict[Any, tuple[int, Item, Any]] = {}
        while todo or running:
            self._fill(len(todo) + len(running))
            while todo and self._idle:
                actor, (index, item) = self._idle.pop(), todo.pop()
                running[ask(actor, item)] = (index, item, actor)
            ready, _ = ray.wait(
                [*running, *self._starting], num_returns=1, timeout=None if running else self._resources.wait_s
            )
            if not ready:
                raise self._no_room()
            if ready[0] in self._starting:
                self._started(ready[0])
                continue
            index, item, actor = running.pop(ready[0])
            try:
                result = ray.get(ready[0])
            except RayActorError as error:
                losses[index] += 1
                self._lost(actor, error, losses[index])
                todo.append((index, item))
                continue
            except RayTaskError as error:
                raise own_error(error.cause) or error from error
            self._idle.append(actor)
            yield item, result

    def _fill(self, needed: int) -> None:
        """As many actors as there is work for, at most as many as configured."""
        while len(self._alive) < min(needed, self._resources.workers):
            actor = self._create()
            self._alive.append(actor)
            self._starting[actor.__ray_ready__.remote()] = actor

    def _started(self, ref: Any) -> None:
        actor = self._starting.pop(ref)
        try:
            ray.get(ref)
        except RayActorError as error:
            if error.actor_init_failed:
                cause = (str(error).strip().splitlines() or ["unknown"])[-1]
                raise WorkersLost(f"{self._name}: a worker could not start: {cause}") from error
            self._failed_starts += 1
            self._lost(actor, error, self._failed_starts)
            return
        self._idle.append(actor)

    def _lost(self, actor: Any, error: RayActorError, times: int) -> None:
        """Take a dead worker out. Raises WorkersLost if that happened too often."""
        self._kill(actor)
        self._alive.remove(actor)
        said = with_last_lines(f"{self._name}: a worker died ({squeeze(str(error))})", str(error))
        if times > self._resources.restarts:
            raise WorkersLost(
                f"{said}. That is {times} times for the same work; look at its memory and at the node, then run again "
                "or press Retry: what was finished is kept"
            ) from error
        self._log.warning("%s. Its work is handed out again", said)

    def _kill(self, actor: Any) -> None:
        with contextlib.suppress(RayActorError, ValueError):  # it is dead already
            ray.kill(actor)

    def _no_room(self) -> WorkersLost:
        return WorkersLost(no_room(self._name, self._resources))


def own_error(*causes: object) -> AgentflowError | None:
    """The first of `causes` that is an error of ours: its message is for users, Ray's is the worker's traceback."""
    return next((cause for cause in causes if isinstance(cause, AgentflowError)), None)


def no_room(name: str, resources: Resources) -> str:
    """Why a stage ended that waited for nodes in vain."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    sizes = "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes) or "none"
    return (
        f"{name}: no room for {resources.asks_for()} within {resources.wait_s:g} s; nodes alive: {len(nodes)} "
        f"({sizes}). Add a node, or ask for less in the resources file, then run again or press Retry: what was "
        "finished is kept"
    )


def squeeze(text: str, limit: int = 400) -> str:
    """Ray's account of a death on one line, without what only a Ray developer needs."""
    lines = (line.strip() for line in text.splitlines())
    wanted = [line for line in lines if line and not line.startswith(("class_name:", "actor_id:", "namespace:"))]
    return "; ".join(wanted)[:limit]
