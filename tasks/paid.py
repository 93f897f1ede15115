"""Around paid work in any process: keys from Prefect Secret blocks, and a slot of the limit all flows share.

In: names only (a variable, a block, a limit). A key never stands in a parameter, a context or an artifact: the process
that opens a client loads it here, into its own environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import cast

from agentflow.errors import ConfigError, MissingKeyError
from tasks.context import RunContext

LEASE_S = 60.0
# A slot whose process was killed is free again after this; a living one renews it.


def load_secrets(secrets: Mapping[str, str]) -> None:
    """Put the value of every Secret block into its environment variable. Raises MissingKeyError naming the block."""
    for variable, block in secrets.items():
        from prefect.blocks.system import Secret

        try:
            value = cast("Secret[str]", Secret.load(block)).get()
        except ValueError as error:
            raise MissingKeyError(
                f"there is no Prefect Secret block {block!r} (for {variable}); create it in the UI under Blocks as "
                "'Secret' with that name, or correct the name in the run's `secrets`"
            ) from error
        if not isinstance(value, str) or not value.strip():
            raise MissingKeyError(f"the Prefect Secret block {block!r} (for {variable}) holds no text; enter the key")
        os.environ[variable] = value


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
