"""One line of a benchmark: what was to be reached, what was measured, and whether it was reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """Build it with `done` or `not_run`; the fields are those of the result file."""

    what: str
    # What is measured, as a reader would ask for it ("accuracy after SFT, new arithmetic questions").
    target: str
    # In words with the number ("≥ 0.75"); "" for a number that is only reported.
    measured: float | int | str | None
    # None where it did not run.
    unit: str
    # "s", "MiB", "share"; "" for a plain count.
    ran: bool
    ok: bool | None
    # Whether the target was reached; None where it did not run.
    reason: str = ""
    # Why it did not run, or what explains the number.

    def __post_init__(self) -> None:
        if self.ran != (self.ok is not None):
            raise ValueError(
                f"row {self.what!r}: ok is {self.ok!r} though ran is {self.ran!r}; ok is null iff ran is false"
            )
        if not self.ran and not self.reason:
            raise ValueError(f"row {self.what!r} did not run and gives no reason; say why")

    @classmethod
    def done(cls, what: str, target: str, measured: Any, unit: str, ok: bool, reason: str = "") -> Row:
        """A row that ran."""
        return cls(what, target, measured, unit, True, bool(ok), reason)

    @classmethod
    def not_run(cls, what: str, target: str, unit: str, reason: str) -> Row:
        """A row that could not run here (no GPU, data missing), with the reason."""
        return cls(what, target, None, unit, False, None, reason)
