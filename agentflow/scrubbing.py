"""Personal data in texts of a teacher or a search -> a mark in its place, counted by type. No model, no network.

    "Mail mia@example.org or +1 415-555-2671."  ->  "Mail (EMAIL REMOVED) or (PHONE REMOVED).", {"email": 1, "phone": 1}

Found is what has a checkable shape: e-mail addresses, telephone numbers that are assigned (libphonenumber), bank
accounts (IBAN with its checksum), payment cards (Luhn and a card's prefix), IP addresses, US social security numbers.
Names, street addresses and dates of birth are not: they need a model, and a false find would spoil a word problem.
Numbers that stand in a calculation stay (`_calculates`).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, get_args

import phonenumbers
from pydantic import Field
from stdnum import iban, luhn
from stdnum.exceptions import ValidationError as WrongNumber

from agentflow.config import Frozen
from agentflow.records import Outcomes, Reject, canonical_json

PiiType = Literal["email", "iban", "card", "ip", "ssn", "phone"]
TYPES: tuple[PiiType, ...] = get_args(PiiType)
# In the order in which they are looked for: the more certain shape wins where two overlap.

_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w@])", re.A)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,4})?(?![A-Za-z0-9])")
_CARD = re.compile(
    r"(?<![\w.,-])[2-6]\d{3}(?:\d{9,12}|(?P<mark>[ -])\d{4}(?P=mark)\d{4}(?P=mark)\d{4}|[ -]\d{6}[ -]\d{5})(?![\w-])",
    re.A,
)
_IP = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w:]|\.\d)", re.A
)
_SSN = re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])", re.A)
_PHONE_HINT = re.compile(r"\+\d|\(\d{2,5}\)|\d[ .-]\d{2,8}[ .-]\d{2}", re.A)
# libphonenumber is slow; a text without any of these shapes holds no number that `_is_phone` would accept.
_OPERATOR_BEFORE = re.compile(r"[-+*/×÷=^%($€£]\s*\Z|\d\s*[-+*/×÷]\s*\Z")
_OPERATOR_BEHIND = re.compile(r"\s*(?:[*/×÷=^%]|[-+]\s*\d)")


class ScrubConfig(Frozen):
    """Which personal data is removed before a row is committed. Off by default: rows stay as they are."""

    types: tuple[PiiType, ...] = ()
    # Empty: nothing is looked for. All of them: ["email", "iban", "card", "ip", "ssn", "phone"].
    phone_region: str | None = Field("US", pattern=r"^[A-Z]{2}$")
    # Country whose national numbers are telephone numbers too; empty: only international ones (+49 …).

    @property
    def on(self) -> bool:
        return bool(self.types)


OFF = ScrubConfig()
_KEPT = ("id", "question_id", "ledger_key", "ledger_keys", "lookups_key")
# Of a rejected row: what names it and its paid calls.


def mark(kind: str) -> str:
    """What stands in the place of a find. Round brackets: square ones would end a call's result."""
    return f"({kind.upper()} REMOVED)"


def scrub(text: str, config: ScrubConfig) -> tuple[str, Counter[str]]:
    """`text` with every find replaced by its mark, and the number of finds by type."""
    counts: Counter[str] = Counter()
    for kind in TYPES:
        if kind not in config.types:
            continue
        spans = list(_finds(kind, text, config))
        for start, end in reversed(spans):
            text = f"{text[:start]}{mark(kind)}{text[end:]}"
        if spans:
            counts[kind] += len(spans)
    return text, counts


def scrub_value(value: Any, config: ScrubConfig) -> Any:
    """JSON data with all its texts scrubbed; keys of objects and numbers stay."""
    if isinstance(value, str):
        return scrub(value, config)[0]
    if isinstance(value, dict):
        return {key: scrub_value(item, config) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub_value(item, config) for item in value]
    return value


def scrub_traces(outcomes: Outcomes, config: ScrubConfig) -> Outcomes:
    """TRACES rows and rejects without personal data.

    Question, reasoning and response are scrubbed. A row whose gold answer is personal data cannot be: it is dropped as
    "pii_in_answer". Ids and ledger keys stay.
    """
    if not config.on:
        return outcomes
    rows: list[dict[str, Any]] = []
    found: dict[str, Reject] = {}
    for row in outcomes.rows:
        if any(scrub(text, config)[1] for text in (row["answer"], *row["aliases"], row["predicted"])):
            key = row["question_id"]
            found[key] = Reject(key, "dropped", "pii_in_answer", "the gold answer is personal data", {"id": key})
            continue
        rows.append({**row, **{name: scrub(row[name], config)[0] for name in ("question", "reasoning", "response")}})
    rows = [row for row in rows if row["question_id"] not in found]
    rejects = [*_scrubbed_rejects(outcomes.rejects, config), *found.values()]
    return Outcomes(rows, rejects, outcomes.keys_in, outcomes.keys_out - len(found), outcomes.counts)


def scrub_segments(outcomes: Outcomes, config: ScrubConfig) -> Outcomes:
    """TOOL_TRACES rows and rejects without personal data in queries and results of searches.

    The calculator's numbers are never touched, nor is the reasoning: `traces` has scrubbed it already.
    """
    if not config.on:
        return outcomes
    rows = [{**row, "segments": [_segment(part, config) for part in row["segments"]]} for row in outcomes.rows]
    return replace(outcomes, rows=rows, rejects=_scrubbed_rejects(outcomes.rejects, config))


def removed(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Marks that stand in rows of TRACES or TOOL_TRACES columns, by type; types without any are left out.

    Counted from the rows themselves, so that it is the same for every split into batches and every retry.
    """
    counts: Counter[str] = Counter()
    for row in rows:
        texts = [row["question"], row["reasoning"], row["response"]]
        texts += [part[name] or "" for part in row.get("segments") or [] for name in ("arguments", "result")]
        for kind in TYPES:
            counts[kind] += sum(text.count(mark(kind)) for text in texts)
    return {kind: n for kind, n in counts.items() if n}


def scrub_extra(outcomes: Outcomes, config: ScrubConfig) -> dict[str, Any]:
    """What a manifest says about it in `extra`: `{"pii_removed": {type: number}}`; nothing while scrubbing is off."""
    return {"pii_removed": removed(outcomes.rows)} if config.on else {}


def _segment(part: dict[str, Any], config: ScrubConfig) -> dict[str, Any]:
    if part["kind"] != "call" or part["tool"] == "Calculator":
        return part
    arguments = canonical_json(scrub_value(json.loads(part["arguments"]), config))
    return {**part, "arguments": arguments, "result": scrub(part["result"], config)[0]}


def _scrubbed_rejects(rejects: Iterable[Reject], config: ScrubConfig) -> list[Reject]:
    return [
        replace(reject, detail=scrub(reject.detail, config)[0], row=_scrubbed_row(reject.row, config))
        for reject in rejects
    ]


def _scrubbed_row(row: dict[str, Any], config: ScrubConfig) -> dict[str, Any]:
    """A rejected row; its ids stay, or nobody could find it again."""
    ids = {name: row[name] for name in _KEPT if name in row}
    return {**scrub_value(row, config), **ids}


# ---------------------------------------------------------------- what counts as a find
def _finds(kind: PiiType, text: str, config: ScrubConfig) -> Iterator[tuple[int, int]]:
    """(start, end) of the finds of one type, in order, without overlaps."""
    if kind == "phone":
        yield from _phones(text, config.phone_region)
        return
    pattern, holds = _SHAPES[kind]
    for match in pattern.finditer(text):
        if holds(match.group()) and not (kind in ("card", "ssn") and _calculates(text, match.start(), match.end())):
            yield match.span()


def _is_iban(found: str) -> bool:
    try:
        iban.validate(found)
    except WrongNumber:
        return False
    return True


def _is_card(found: str) -> bool:
    digits = re.sub(r"\D", "", found)
    # The networks' prefixes: Visa 4, Mastercard 51-55 and 2221-2720, American Express 34 and 37, Discover 6011 and 65.
    network = re.match(r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|6011|65", digits)
    return network is not None and luhn.is_valid(digits)


def _is_ip(found: str) -> bool:
    try:
        ipaddress.ip_address(found)
    except ValueError:
        return False
    return any(char.isdigit() for char in found)  # "::" and "a::b" are addresses too, and more often something else


_SHAPES: dict[str, tuple[re.Pattern[str], Any]] = {
    "email": (_EMAIL, lambda found: True),
    "iban": (_IBAN, _is_iban),
    "card": (_CARD, _is_card),
    "ip": (_IP, _is_ip),
    "ssn": (_SSN, lambda found: True),
}


def _phones(text: str, region: str | None) -> Iterator[tuple[int, int]]:
    if not _PHONE_HINT.search(text):
        return
    matcher = phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID)
    for match in matcher:
        written = match.raw_string
        # Ten digits in a row are an amount more often than a number to call, and "1947) 234 2000" is three numbers.
        shaped = written.startswith(("+", "(")) or len(re.findall(r"[ .-]+", written)) >= 2
        whole = written.count("(") == written.count(")")
        if shaped and whole and not _calculates(text, match.start, match.end):
            yield match.start, match.end


def _calculates(text: str, start: int, end: int) -> bool:
    """Whether the number at [start, end) stands in a calculation or is an amount."""
    return bool(_OPERATOR_BEFORE.search(text[max(0, start - 8) : start]) or _OPERATOR_BEHIND.match(text[end : end + 8]))
