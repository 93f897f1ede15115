"""Two artifacts side by side: why they differ, how many rows went where, which rows changed in which columns.

In: two artifacts of one stage, usually. Out: a `Diff`; `lines()` is what the command line prints. Tables are merged in
order of `id`, so memory does not grow with rows. Checkpoints are compared file by file, not tensor by tensor.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.fingerprint import Change, changes
from agentflow.artifacts.tables import Row, iterate_rows
from agentflow.records import canonical_json

MAX_VALUE_CHARACTERS = 100


@dataclass(frozen=True)
class RowChange:
    """A row that stands in both artifacts with different content."""

    id: str
    columns: tuple[str, ...]
    # Columns that differ, in the order of the table.
    old: dict[str, Any]
    new: dict[str, Any]
    # The values of these columns.


@dataclass
class Diff:
    """What differs from `a` to `b`. Totals are exact, example lists hold the first `n` in order of id."""

    a: str
    b: str
    # "<stage>/<fingerprint>"
    identity: list[Change] = field(default_factory=list)
    # Version, configuration and inputs.
    counts: list[tuple[str, Any, Any]] = field(default_factory=list)
    # (what, in a, in b): rows, keys and rejects by reason; all of them, equal or not.
    same_content: bool = False
    # The digests, or for files all checksums, are equal.
    n_only_a: int = 0
    n_only_b: int = 0
    n_changed: int = 0
    changed_columns: dict[str, int] = field(default_factory=dict)
    # Column to number of rows in which it differs.
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    # Row ids; for checkpoints file names.
    changed: list[RowChange] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The whole comparison as text, most telling part first."""
        lines = [f"a  {self.a}", f"b  {self.b}", "same content" if self.same_content else "content differs", ""]
        lines += ["identity"] + ([f"  {change}" for change in self.identity] or ["  equal"])
        lines += ["counts (a, b)"] + [f"  {what}: {a}, {b}" for what, a, b in self.counts]
        if self.same_content:
            return lines
        lines.append(f"only in a: {self.n_only_a}")
        lines += [f"  - {key}" for key in self.only_a]
        lines.append(f"only in b: {self.n_only_b}")
        lines += [f"  + {key}" for key in self.only_b]
        columns = ", ".join(f"{name} {n}" for name, n in self.changed_columns.items())
        lines.append(f"changed: {self.n_changed}" + (f" ({columns})" if columns else ""))
        for change in self.changed:
            lines.append(f"  ~ {change.id}")
            lines += [f"      {c}: {_short(change.old[c])} -> {_short(change.new[c])}" for c in change.columns]
        return lines


def diff(a: Artifact, b: Artifact, n: int = 5) -> Diff:
    """Compare two artifacts, with up to `n` examples of each kind of difference.

    Raises CorruptArtifact if one of them is damaged.
    """
    result = Diff(a=a.ref, b=b.ref)
    one, other = a.manifest, b.manifest
    old, new = ({"stage": m.stage, **m.identity.fields()} for m in (one, other))
    result.identity = changes(old, new)
    left, right = _counts(a), _counts(b)
    result.counts = [(name, left.get(name, 0), right.get(name, 0)) for name in {**left, **right}]
    if a.is_table and b.is_table:
        result.same_content = one.digest == other.digest
        if not result.same_content:
            _compare_rows(a, b, n, result)
    else:
        _compare_files(a, b, n, result)
    return result


def _counts(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    flat: dict[str, Any] = {"rows": manifest.rows, "keys in": manifest.keys_in}
    flat = {name: value for name, value in flat.items() if value is not None}
    if manifest.counts is not None:
        flat["out"] = manifest.counts.out
        for status in ("dropped", "quarantined", "failed"):
            for reason, number in getattr(manifest.counts, status).items():
                flat[f"{status}: {reason}"] = number
    return flat


def _compare_rows(a: Artifact, b: Artifact, n: int, result: Diff) -> None:
    columns: Counter[str] = Counter()
    lefts, rights = iterate_rows(a.table()), iterate_rows(b.table())
    left, right = next(lefts, None), next(rights, None)
    while left is not None or right is not None:
        if right is None or (left is not None and _order(left) < _order(right)):
            assert left is not None
            result.n_only_a += 1
            result.only_a += [left["id"]] if result.n_only_a <= n else []
            left = next(lefts, None)
        elif left is None or _order(right) < _order(left):
            result.n_only_b += 1
            result.only_b += [right["id"]] if result.n_only_b <= n else []
            right = next(rights, None)
        else:
            changed = _changed_columns(left, right)
            if changed:
                columns.update(changed)
                result.n_changed += 1
                if result.n_changed <= n:
                    old, new = ({name: row.get(name) for name in changed} for row in (left, right))
                    result.changed.append(RowChange(left["id"], changed, old, new))
            left, right = next(lefts, None), next(rights, None)
    result.changed_columns = dict(columns.most_common())


def _compare_files(a: Artifact, b: Artifact, n: int, result: Diff) -> None:
    a.verify()
    b.verify()
    left = {entry.path: entry for entry in a.manifest.files}
    right = {entry.path: entry for entry in b.manifest.files}
    only_a, only_b = sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys())
    changed = sorted(name for name in left.keys() & right.keys() if left[name].sha256 != right[name].sha256)
    result.n_only_a, result.n_only_b, result.n_changed = len(only_a), len(only_b), len(changed)
    result.only_a, result.only_b = only_a[:n], only_b[:n]
    for name in changed[:n]:
        old, new = left[name].model_dump(exclude={"path"}), right[name].model_dump(exclude={"path"})
        columns = tuple(key for key in old if old[key] != new[key])
        result.changed.append(RowChange(name, columns, old, new))
    result.same_content = not (only_a or only_b or changed)


def _order(row: Row) -> bytes:
    return str(row["id"]).encode()


def _changed_columns(left: Row, right: Row) -> tuple[str, ...]:
    if left == right:
        return ()
    names = {**left, **right}
    absent = object()
    changed = [name for name in names if left.get(name, absent) != right.get(name, absent)]
    return tuple(changed)


def _short(value: Any) -> str:
    text = canonical_json(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[:MAX_VALUE_CHARACTERS]}... ({len(text)} characters)"
