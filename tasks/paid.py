"""Around paid work in any process: its keys, and a slot of the limit all flows share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from agentflow.errors import ConfigError
from tasks.context import RunContext
from tasks.keys import load_secrets

LEASE_S = 60.0
# A slot whose process was killed is free again after this; a living one renews it.


@contextmanager
def paid_work(where: RunContext) -> Iterator[None]:
    """Keys loaded and, where a limit is configured, a slot of it held for the length of the block.

    Raises MissingKeyError for a block that is not there, ConfigError for a limit that is not there: a limit that
    silently limits nothing would be found by the bill.
    """
    load_secrets(where.secrets)
    if where.batch_limit is None:
        yield
        return
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
    from prefect.concurrency.sync import concurrency

    # A lease that could not be renewed for once must not end work that is being paid for.
    slot = concurrency(where.batch_limit, lease_duration=LEASE_S, strict=True, raise_on_lease_renewal_failure=False)
    with ExitStack() as stack:
        try:
            stack.enter_context(slot)
        except ConcurrencySlotAcquisitionError as error:
            raise ConfigError(
                f"no slot of the concurrency limit {where.batch_limit!r}: {error}; `agentflow up` creates it, or: "
                f"prefect gcl create {where.batch_limit} --limit 8"
            ) from error
        yield
