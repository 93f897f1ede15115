"""Which of the calls that strategies planned are run: planned calls in, those that fit and a count of the others out.

A call that the recipe's syntax cannot write is written otherwise if it is a search, and left out if it is not: another
query finds much the same, another expression is another number.

    list of films [2004] -> cast          ->  list of films 2004 cast           (compact)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from agentflow.insertion.strategy import PlannedCall
from agentflow.records import ToolCall
from agentflow.syntax import Syntax

Reason = Literal["unwritable", "max_calls", "place_taken", "refused"]
# Why a planned call is not in the row: the syntax cannot write it; the row had as many as it may; an earlier strategy
# has put one there; the tool refused its arguments.
LeftOut = Counter[tuple[str, str]]
# Calls by (tool, reason): `Reason`, and what a strategy itself left out (`Plan.left_out`).

_UNWRITABLE = re.compile(r"->|[\[\]\s]+")


def without_taken(calls: Iterable[PlannedCall], planned: Sequence[PlannedCall], left_out: LeftOut) -> list[PlannedCall]:
    """Those of `calls` at places where none of `planned` is: what an earlier strategy put there is enough."""
    taken = {one.at for one in planned}
    free = []
    for one in calls:
        if one.at in taken:
            left_out[one.call.tool, "place_taken"] += 1
        else:
            free.append(one)
    return free


def choose(planned: Iterable[PlannedCall], syntax: Syntax, most: int, left_out: LeftOut) -> list[PlannedCall]:
    """At most `most` calls, in order of their places, as `syntax` writes them; what is left out is counted.

    Where there are more, those that somebody was paid to propose go before the free ones, then the first ones.
    """
    writable = []
    for one in planned:
        call = written(one.call, syntax)
        if call is None:
            left_out[one.call.tool, "unwritable"] += 1
        else:
            writable.append(replace(one, call=call))
    ranked = sorted(writable, key=lambda one: (not one.paid, one.at))
    for one in ranked[most:]:
        left_out[one.call.tool, "max_calls"] += 1
    return sorted(ranked[:most], key=lambda one: one.at)


def written(call: ToolCall, syntax: Syntax) -> ToolCall | None:
    """`call` as `syntax` can write it: itself, a search with another query, or None."""
    if syntax.representable(call):
        return call
    query = call.arguments.get("query")
    if call.tool != "Search" or not isinstance(query, str):
        return None
    plain = ToolCall(call.tool, {**call.arguments, "query": " ".join(_UNWRITABLE.sub(" ", query).split())})
    return plain if plain.arguments["query"] and syntax.representable(plain) else None
