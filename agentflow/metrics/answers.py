"""Is an answer right? Predicted and gold text in, a truth value or a score in [0, 1] out.

Two families: SQuAD-style text answers (exact match and token F1 over aliases, as HotpotQA scores them) and numbers
(exact value, whatever the notation: `metrics.numbers`). `read_answer` finds the stated final answer, `lenient_correct`
also credits a model that was never taught where to put it. Every function is total: any string gives a value. No model
judges here.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

from agentflow.metrics.notation import without_wrappers
from agentflow.metrics.numbers import close, parse_number, read_number, sole_number

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CLOSED = frozenset({"yes", "no", "noanswer"})
# Answers for which a partial overlap of words means nothing.

_REST = r"(?P<answer>(?:(?!</answer>)[^\n])*)"
_TAGS = re.compile(r"<answer>(?P<answer>.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{")
_MARKER = re.compile(r"(?<![A-Za-z])answer\**\s?:\**", re.IGNORECASE)
_LINES = (
    re.compile(rf"^[ \t]*#{{4}}(?!#){_REST}", re.MULTILINE),
    re.compile(rf"{_MARKER.pattern}{_REST}", re.IGNORECASE),
    re.compile(rf"^[ \t]*A:{_REST}", re.MULTILINE),
    re.compile(r"^[#*_ \t]*(?:(?:the|my)[ \t]+)?(?:final[ \t]+)?answer[*_ \t]*(?P<answer>)$", re.MULTILINE | re.I),
)
# Markers whose answer is the rest of their line or, where nothing stands there, the next line that holds something.
# The last one is a heading ("#### Final Answer"); it comes last, since of two markers at one place the later counts.
_FILLER = re.compile(r"(?:[\s*#_$`>]|\\[()\[\]])*")
# What is no answer by itself: emphasis, headings, quotes, and where formulas and code begin and end.
_ABOVE = re.compile(
    r"\W*(?:(?:the|same|as|see|stated|given|shown|found|computed)\W+)+(?:above|before|earlier)\W*", re.IGNORECASE
)
# An answer that only points to the one before it.


# ---------------------------------------------------------------- text answers
def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no a/an/the, single spaces (Rajpurkar et al. 2016)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def holds_words(text: str) -> bool:
    """Whether anything but white space and ASCII punctuation stands in `text`."""
    return bool(_with_articles(text))


def exact_match(predicted: str, golds: Iterable[str]) -> bool:
    """Whether the normal form of `predicted` equals that of one of `golds` (answer and aliases).

    LaTeX's wrappers of text around `predicted` do not count. A gold whose normal form is empty ("A", "The The", ",")
    is matched with its articles, or as it stands, so that no empty answer is right.
    """
    plain = without_wrappers(predicted)
    return any(form == wanted != "" for form, wanted in (_forms(plain, gold) for gold in golds))


def token_f1(predicted: str, golds: Iterable[str]) -> float:
    """Best F1 of normalised words over `golds`, in [0, 1]; yes, no and noanswer count only as a whole (HotpotQA).

    Wrappers and golds with an empty normal form as in `exact_match`.
    """
    plain = without_wrappers(predicted)
    return max((_f1(*_forms(plain, gold)) for gold in golds), default=0.0)


def _with_articles(text: str) -> str:
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def _forms(predicted: str, gold: str) -> tuple[str, str]:
    """Both texts in the first form in which `gold` is not empty: SQuAD's, with articles, as it stands."""
    for form in (normalise, _with_articles):
        if wanted := form(gold):
            return form(predicted), wanted
    return predicted.strip(), gold.strip()


def _f1(predicted: str, gold: str) -> float:
    if predicted == gold:
        return float(gold != "")
    if predicted in _CLOSED or gold in _CLOSED:
        return 0.0
    words, gold_words = predicted.split(), gold.split()
    common = sum((Counter(words) & Counter(gold_words)).values())
    return 2 * common / (len(words) + len(gold_words)) if common else 0.0


# ---------------------------------------------------------------- reading
def read_answer(text: str, answer_type: str) -> str | None:
    """The final answer stated after the last marker: `<answer>`, `\\boxed{}`, `####`, "Answer:" or a line "A:".

    Where nothing stands behind a marker in its line, the next line that holds something is the answer. A marker with
    nothing at all, or with "see above", gives way to the one before it. None without a marker. `answer_type` "number":
    reduced to its number where it states one alone (`numbers.sole_number`); "text": without LaTeX's wrappers of text.
    """
    marked = _marked(text)
    if marked is None:
        return None
    answer = marked.strip().strip("*").strip()
    if answer_type != "number":
        return without_wrappers(answer).strip()
    if parse_number(answer) is None and (number := sole_number(answer)) is not None:
        return number.text
    return answer


def _marked(text: str) -> str | None:
    """What stands behind the marker that starts last and has an answer; of none that has one, behind the last."""
    found = [(match.start(), kind, match) for kind, marker in _markers() for match in marker.finditer(text)]
    last = None
    for _, kind, match in sorted(found, key=lambda one: one[:2], reverse=True):
        answer = _braced(text, match.end()) if kind < 0 else match["answer"]
        if kind > 0 and _FILLER.fullmatch(answer):
            answer = _next_line(text, match.end())
        # Tags and boxes may hold a marker of their own, which was looked at before: alone it is no answer either.
        stated = answer if kind > 0 else _MARKER.sub("", answer)
        if _FILLER.fullmatch(stated) is None and _ABOVE.fullmatch(stated) is None:
            return answer
        last = answer if last is None else last
    return last


def _markers() -> list[tuple[int, re.Pattern[str]]]:
    """All markers with their rank: below 0 in braces, 0 in tags, above 0 in lines."""
    return [(-1, _BOXED), (0, _TAGS), *enumerate(_LINES, start=1)]


def _braced(text: str, start: int) -> str:
    """Text from `start` to the brace that closes the one before it, or to the end."""
    depth = 1
    for offset in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[offset], 0)
        if depth == 0:
            return text[start:offset]
    return text[start:]


def _next_line(text: str, start: int) -> str:
    """The first line behind `start` that holds something; "" if there is none, or if it has a marker of its own."""
    while start < len(text):
        end = text.find("\n", start)
        line, closed, _ = text[start : end if end >= 0 else len(text)].partition("</answer>")
        if any(marker.search(line) for _, marker in _markers()):
            return ""
        if closed or _FILLER.fullmatch(line) is None:
            return line
        start = end + 1 if end >= 0 else len(text)
    return ""


# ---------------------------------------------------------------- judging
def is_correct(
    predicted: str | None, gold: str, aliases: Iterable[str], answer_type: str, *, min_f1: float = 1.0
) -> bool:
    """Whether `predicted` is `gold` or an alias: equal numbers for "number", exact match (SQuAD) for "text".

    An answer of type "number" that states several numbers is none of them. `min_f1` in (0, 1], for "text" alone: below
    1 a token F1 of at least this is right too ("Paris, France" has 2/3 for "Paris"). Raises ValueError outside of it.
    """
    if not 0 < min_f1 <= 1:
        raise ValueError(f"min_f1 {min_f1}: allowed is more than 0, up to 1 (exact match)")
    if predicted is None:
        return False
    golds = (gold, *aliases)
    if answer_type == "number":
        return _same_number(predicted, golds)
    return exact_match(predicted, golds) or (min_f1 < 1 and token_f1(predicted, golds) >= min_f1)


def _same_number(predicted: str, golds: Iterable[str]) -> bool:
    value = parse_number(predicted)
    if value is None and (number := sole_number(predicted)) is not None:
        value = number.value
    numbers = [(gold, parse_number(gold)) for gold in golds]
    if value is not None:
        return any(close(value, wanted) for _, wanted in numbers if wanted is not None)
    # Only what is no number is compared as text: without its punctuation, "3-5" would be 35.
    return exact_match(predicted, [gold for gold, wanted in numbers if wanted is None])


def lenient_correct(completion: str, gold: str, aliases: Iterable[str], answer_type: str) -> bool:
    """`is_correct` for a model that was never taught our format: the fair reading of a base model (source: ours).

    A marked answer counts first. Otherwise: numbers by the last number in the text, text answers by the gold or an
    alias standing anywhere as whole words (yes and no: as the first word of the last sentence).
    """
    golds = (gold, *aliases)
    marked = read_answer(completion, answer_type)
    if marked is not None and is_correct(marked, gold, golds, answer_type):
        return True
    if answer_type == "number":
        value = read_number(completion) if marked is None else None
        return value is not None and any(close(value, n) for n in map(parse_number, golds) if n is not None)
    where = marked if marked is not None else completion
    return any(_occurs(normalise(name), where) for name in golds)


def _occurs(name: str, text: str) -> bool:
    if not name:
        return False
    if name in _CLOSED:
        sentences = [part for part in re.split(r"[.!?\n]+", text) if part.strip()]
        return bool(sentences) and normalise(sentences[-1]).split()[:1] == [name]
    return f" {name} " in f" {normalise(text)} "
