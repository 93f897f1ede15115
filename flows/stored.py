"""How many of a stage's teacher calls need not be paid again: those of its committed batches, and stored answers.

In: the rows a stage would ask about, its configuration, the store and the ledger. Out: counts. The stage itself says
what it would ask, to a teacher that only notes the keys; these are looked up all at once. No answer is read, no service
asked. Searches are left out: which they are is only known from the answers before them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from agentflow.artifacts.fingerprint import Identity
from agentflow.artifacts.store import Store
from agentflow.clients.teacher import Message, TeacherClient
from agentflow.errors import CutAnswer
from agentflow.ledger import Ledger
from flows.recipe import Recipe

Rows = Sequence[dict[str, Any]]
Ask = Callable[[TeacherClient], Awaitable[object]]


class NotingTeacher(TeacherClient):
    """Asks nobody and keeps the keys of what it was to ask, in `keys`."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.keys: list[str] = []

    async def complete(
        self, messages: Sequence[Message], *, sample_index: int = 0, response_format: dict[str, Any] | None = None
    ) -> NoReturn:
        """Raises CutAnswer: a stage then goes on with the next sample of the question."""
        self.keys.append(self.call(messages, sample_index=sample_index, response_format=response_format).key)
        raise CutAnswer("nothing was asked")


@contextmanager
def open_stored(ledger_url: str) -> Iterator[Ledger | None]:
    """The ledger to look at; None where there is none yet (a plan makes none)."""
    path = ledger_url.removeprefix("sqlite:///") if "://" not in ledger_url or ledger_url.startswith("sqlite") else None
    if path is not None and not Path(path).is_file():
        yield None
        return
    with Ledger.open(ledger_url, run_id="plan", mode="replay") as ledger:
        yield ledger


def unfinished(rows: Rows, identity: Identity, size: int, store: Store) -> list[dict[str, Any]]:
    """Those of `rows` that are in no committed batch of `size` rows."""
    keys = store.batch_keys(identity.stage, identity.fingerprint)
    if not keys:
        return list(rows)
    from tasks.batches import batch_key, split  # with Prefect, which takes seconds: only where a run was broken off

    return [row for batch in split(rows, size) if batch_key(batch) not in keys for row in batch]


def stored_answers(ask: Ask, recipe: Recipe, ledger: Ledger) -> int:
    """How many of the calls that `ask(teacher)` makes to the recipe's teacher are answered in `ledger`."""

    async def note() -> list[str]:
        # Room for one connection: none is made, and this machine may not allow as many as the one that runs it.
        alone = recipe.teacher.model_copy(update={"concurrency": 1})
        async with NotingTeacher.open(alone, ledger, edition=recipe.edition) as teacher:
            assert isinstance(teacher, NotingTeacher)
            await ask(teacher)
            return teacher.keys

    keys = asyncio.run(note())
    found = ledger.stored(keys)
    return sum(key in found for key in keys)
