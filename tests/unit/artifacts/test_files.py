"""Errors while writing become one message, whichever library met them."""

from __future__ import annotations

import errno
import os

import pytest

from agentflow.artifacts.files import storage_errors
from agentflow.errors import StoreError


class OfALibrary(Exception):
    """As safetensors raises it: no OSError, the number only in its text."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OfALibrary("Error while serializing: I/O error: No space left on device (os error 28)"),
        OfALibrary("worker died: [Errno 28] No space left on device: '/data/x'"),
    ],
)
def test_a_full_disk_is_named_with_its_remedy(error: Exception) -> None:
    said = r"^cannot write it: No space left on device.*free space"
    with pytest.raises(StoreError, match=said) as caught, storage_errors("write it"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [ValueError("no number in it"), StoreError("ours, about [Errno 28]")])
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, storage_errors("write it"):
        raise error
    assert caught.value is error
