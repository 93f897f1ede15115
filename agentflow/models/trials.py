"""What the loss filter compares, as tokens: a row with calls in, the texts to score ("arms") and what to read off out.

    sample     plain   question | In May she sold 48/2 = | 24 clips. In all 48+24 = | 72. | answer
               called  question | In May ... 48/2 = [Calculator(48/2) -> 24] 24 clips. In all ... [...] 72. | answer
    per_call   for each call: the same two with this call alone
               weighting toolformer: question [Calculator(48/2) -> 24] | In May ...   (the call as a prefix)

Every arm cuts the text where the row's calls stand (mask's rule), so the common tokens are the same in all arms; that
is checked, because it does not hold for a tokenizer with dropout. The losses themselves are computed in `scoring`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar

from agentflow.errors import UnscorableRow
from agentflow.mask import encode
from agentflow.models.loading import tokenize_with
from agentflow.models.packing import Packed, pack
from agentflow.records import Span

TOOLFORMER_WEIGHTS = tuple(max(0.0, 1 - 0.2 * t) / 3 for t in range(5))
# w_t of the t-th token after a call (Toolformer, section 2 [P]): (1, .8, .6, .4, .2) / 3.


@dataclass(frozen=True)
class Arm:
    """One way to write a trace, as tokens."""

    input_ids: list[int]
    common: list[int]
    # Positions of the tokens whose loss counts.


@dataclass(frozen=True)
class Pair:
    """A trace without and with calls, and how its losses are read."""

    id: str
    plain: Arm
    called: Arm
    empty: Arm | None = None
    # The calls with empty results, for baseline min(no_call, call_without_result).
    weights: list[float] | None = None
    # Of the common tokens [common]; None: their mean.
    call_weights: tuple[list[float], ...] = ()
    # The same for the share of each call of a sample [calls, common]; all 0 where nothing stands behind a call.

    @property
    def arms(self) -> list[Arm]:
        return [self.plain, self.called] + ([self.empty] if self.empty else [])

    @property
    def length(self) -> int:
        return max(len(arm.input_ids) for arm in self.arms)


@dataclass(frozen=True)
class Trial:
    """All that is scored of one row; its arms share a trunk (see `packing`)."""

    id: str
    pairs: tuple[Pair, ...]
    # One for a sample, one a call for granularity per_call. All have the same plain tokens.

    @cached_property
    def packed(self) -> Packed:
        return pack([arm for pair in self.pairs for arm in pair.arms])

    @property
    def length(self) -> int:
        """Tokens of one forward pass, the shared head not counted."""
        return len(self.packed.ids)


@dataclass(frozen=True)
class TrialRule:
    """The part of the filter's configuration that decides what is scored."""

    weighting: Literal["uniform", "toolformer"] = "uniform"
    granularity: Literal["sample", "per_call"] = "sample"
    empty_result: str | None = None
    # What stands in place of a result in the arm without results; None: no such arm.


def make_pair(row_id: str, prompt: str, spans: Sequence[Span], tokenizer: Any) -> Pair:
    """Both arms of a trace, all calls together and every common token alike (paper A).

    `spans` are the completion's, with calls; the plain arm is the same without call and result spans. Raises
    UnscorableRow as `make_trial` does.
    """
    return make_trial(row_id, prompt, spans, tokenizer).pairs[0]


def make_trial(row_id: str, prompt: str, spans: Sequence[Span], tokenizer: Any, rule: TrialRule = TrialRule()) -> Trial:
    """What has to be scored of a row under `rule`.

    Raises UnscorableRow if the arms' common tokens differ ("arms_misaligned") or no text follows a call
    ("nothing_after_the_call").
    """
    row = _Row(row_id, prompt, spans, tokenizer, rule)
    every = range(row.n_calls)
    if rule.granularity == "sample":
        return Trial(row_id, (row.pair(row_id, every),))
    return Trial(row_id, tuple(row.pair(f"{row_id}/{call}", [call]) for call in every))


class _Row:
    """A trace cut into spans, from which the arms are put together."""

    def __init__(self, row_id: str, prompt: str, spans: Sequence[Span], tokenizer: Any, rule: TrialRule) -> None:
        self.id, self.rule, self._tokenize = row_id, rule, tokenize_with(tokenizer)
        self._head, self._spans = Span("prompt", prompt), list(spans)
        self._call_of: list[int] = []
        # For each span the calls up to and with it.
        seen = 0
        for span in self._spans:
            seen += span.role == "call"
            self._call_of.append(seen)
        self.n_calls = seen
        self._plain = self._encode([span for span in self._spans if span.role not in ("call", "result")])
        after: list[int] = []
        for span, calls in zip(self._spans, self._call_of, strict=True):
            if span.role in ("think", "answer"):
                after += [calls] * len(self._tokenize(span.text))
        if len(after) != len(self._plain[1]):
            raise UnscorableRow(f"row {row_id!r}: its text was cut into tokens in two ways", kind="arms_misaligned")
        self._after = after
        # For each of the text's tokens the number of calls before it.

    def pair(self, name: str, calls: Iterable[int]) -> Pair:
        """The arms without and with `calls` (indices), read from the first of them on."""
        calls = list(calls)
        common = [j for j, seen in enumerate(self._after) if seen > calls[0]]
        starts = [next((k for k, j in enumerate(common) if self._after[j] > call), len(common)) for call in calls]
        if not common or starts[0] >= len(common):
            raise UnscorableRow(f"row {self.id!r}: no text follows its call", kind="nothing_after_the_call")
        call_weights = [
            _at(start, mean, len(common)) for start, mean in zip(starts, self._tails(starts, len(common)), strict=True)
        ]
        weights = None
        if self.rule.weighting == "toolformer":
            weights = [sum(column) / len(calls) for column in zip(*call_weights, strict=True)]
            read = [k for k, weight in enumerate(weights) if weight > 0]
            common, weights = [common[k] for k in read], [weights[k] for k in read]
            call_weights = [[of_call[k] for k in read] for of_call in call_weights]
        called = self._arm(calls, common, None)
        empty = None if self.rule.empty_result is None else self._arm(calls, common, self.rule.empty_result)
        plain = Arm(self._plain[0], [self._plain[1][j] for j in common])
        pair = Pair(
            name, plain, called, empty, weights, tuple(call_weights) if self.rule.granularity == "sample" else ()
        )
        self._check(pair)
        return pair

    def _tails(self, starts: Sequence[int], end: int) -> list[Sequence[float]]:
        """For each call the weights of the tokens from its start on [calls][tokens]."""
        if self.rule.weighting == "toolformer":
            return [TOOLFORMER_WEIGHTS] * len(starts)
        lengths = [following - start for start, following in zip(starts, [*starts[1:], end], strict=True)]
        # Nothing stands between two calls at one place.
        return [[1 / length] * length if length else [] for length in lengths]

    def _arm(self, calls: list[int], common: list[int], result: str | None) -> Arm:
        """The text with `calls`, in place or (weighting toolformer) as a prefix; `result` replaces their results."""
        chosen = [
            Span(span.role, result) if span.role == "result" and result is not None else span
            for span, seen in zip(self._spans, self._call_of, strict=True)
            if span.role not in ("call", "result") or seen - 1 in calls
        ]
        if self.rule.weighting == "toolformer":
            chosen.sort(key=lambda span: span.role not in ("call", "result"))
        input_ids, text = self._encode(chosen)
        return Arm(input_ids, [text[j] for j in common] if len(text) == len(self._after) else [])

    def _encode(self, spans: Sequence[Span]) -> tuple[list[int], list[int]]:
        """Token ids with the prompt before them, and the positions of the text's tokens."""
        encoded = encode([self._head, *spans], self._tokenize)
        return encoded.input_ids, [i for i, role in enumerate(encoded.roles) if role in ("think", "answer")]

    def _check(self, pair: Pair) -> None:
        tokens = [[arm.input_ids[i] for i in arm.common] for arm in pair.arms]
        if any(other != tokens[0] for other in tokens[1:]):
            raise UnscorableRow(
                f"row {self.id!r}: the common tokens with and without calls are not the same", kind="arms_misaligned"
            )


def _at(start: int, weights: Sequence[float], length: int) -> list[float]:
    """`weights` from `start` on in a row of `length` zeros; what does not fit is left out."""
    row = [0.0] * length
    for offset, weight in enumerate(weights[: length - start]):
        row[start + offset] = weight
    return row


class Sized(Protocol):
    """Something with a name and a number of tokens."""

    @property
    def id(self) -> str: ...

    @property
    def length(self) -> int: ...


SizedT = TypeVar("SizedT", bound=Sized)


def make_batches(items: Sequence[SizedT], token_budget: int) -> list[list[SizedT]]:
    """Batches of similar length, each at most `token_budget` padded tokens (always at least one item).

    Composed from all items sorted by (length, id), before any sharding, so the batches do not depend on input order or
    on the number of workers.
    """
    batches: list[list[SizedT]] = []
    for item in sorted(items, key=lambda item: (item.length, item.id)):
        if batches and (len(batches[-1]) + 1) * item.length <= token_budget:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches
