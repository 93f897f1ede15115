"""One thread that takes whatever is queued and does it in one go: group commit, and batched reads.

In: items from any thread or event loop. Out: a future per item, done only after the whole group is. Knows nothing
about databases: `work(items)` returns one result (or one exception object) per item, or raises for all of them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from agentflow.errors import StoreError

Item = TypeVar("Item")


class Batcher(Generic[Item]):
    """Groups concurrent items. While one group is being worked on, the next one gathers; nobody waits for a timer."""

    def __init__(self, name: str, work: Callable[[Sequence[Item]], Sequence[Any]], *, largest: int = 1000) -> None:
        self._work = work
        self._largest = largest
        self._queue: queue.SimpleQueue[tuple[Item, Future[Any]] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> Future[Any]:
        """Future of the item's result. It cannot be cancelled: what is queued is done. Raises StoreError if closed."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._closing:
            if self._closed:
                raise StoreError("the ledger is closed; open it again before asking")
            self._queue.put((item, future))
        return future

    def close(self) -> None:
        """Do everything that is queued, then end the thread."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _loop(self) -> None:
        ended = False
        while not ended:
            taken = [self._queue.get()]
            while len(taken) < self._largest and taken[-1] is not None:
                try:
                    taken.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            ended = taken[-1] is None
            group = [entry for entry in taken if entry is not None]
            if group:
                self._finish(group)

    def _finish(self, group: list[tuple[Item, Future[Any]]]) -> None:
        try:
            results = self._work([item for item, _ in group])
        except BaseException as error:  # whatever it is, somebody waits for each future
            for _, future in group:
                future.set_exception(error)
            return
        for (_, future), result in zip(group, results, strict=True):
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
