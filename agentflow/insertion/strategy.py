"""The one interface of all ways to decide where calls go: a trace in, a `Plan` of calls or a `Reject` out.

| strategy | finds | in |
|---|---|---|
| `Equations` | calculator calls before the results of worked arithmetic | `strategies` |
| `TeacherLookups` | searches where the teacher says that a fact is needed | `strategies` |
| `Sampled` | calls that a scoring model itself would write (Toolformer) | `strategies`, `models.call_sampling` |

A strategy asks and decides; it runs no tool and splices nothing. Strategies are applied one after another, each to the
reasoning that the one before left; only `Equations` may change it, and says so: the row then has its `contradictions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentflow.insertion.contradictions import Contradiction
from agentflow.records import Reject, ToolCall


@dataclass(frozen=True)
class PlannedCall:
    """A call that has not been run yet, and its place."""

    at: int
    # Offset in the reasoning, in characters.
    call: ToolCall
    paid: bool = False
    # Somebody was paid to propose it: left out last.


@dataclass(frozen=True)
class Plan:
    """What one strategy wants for one trace."""

    calls: tuple[PlannedCall, ...] = ()
    reasoning: str | None = None
    # The corrected reasoning that the offsets are meant for; None: as it was.
    contradictions: tuple[Contradiction, ...] = ()
    ledger_key: str = ""
    # The paid call it was made from.
    left_out: Mapping[tuple[str, str], int] = field(default_factory=dict)
    # What was proposed and is not among `calls`, by tool and reason.


class Strategy(Protocol):
    """A way to decide where calls go."""

    def wants(self, row: dict[str, Any]) -> bool:
        """Whether it has anything to do with `row` (TRACES columns)."""
        ...

    async def plan(self, row: dict[str, Any]) -> Plan | Reject:
        """Calls for `row["reasoning"]`. A Reject means that the row itself cannot be used.

        Raises ServiceFailure and the errors that stop a run, where it asks a service.
        """
        ...
