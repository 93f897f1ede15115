"""Keys from Prefect Secret blocks.

In: names only (a variable, a block). A key never stands in a parameter, a context or an artifact: the process that
opens a client loads it here, into its own environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from agentflow.errors import MissingKeyError

if TYPE_CHECKING:
    from prefect.blocks.system import Secret


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
