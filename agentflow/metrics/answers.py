"""Is an answer right? Predicted and gold text in, a truth value or a score in [0, 1] out.

Two families: SQuAD-style text answers (exact match and token F1 over aliases, as HotpotQA scores them) and numbers
(exact value, whatever the notation). `read_answer` finds the stated final answer, `lenient_correct` also credits a
model that was never taught where to put it. Every function is total: any string gives a value. No model judges here.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction


def _as_fraction(found: re.Match[str]) -> str:
    """A LaTeX fraction in plain text: "1\\frac{3}{4}" is "1 3/4" (without the blank it would be 13/4)."""
    digit, *parts = found.groups()
    above, below = (part.strip() for part in parts if part is not None)
    return f"{digit + ' ' if digit else ''}{above}/{below}"


_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CLOSED = frozenset({"yes", "no", "noanswer"})
# Answers for which a partial overlap of words means nothing.

_MAX_DIGITS = 60
# Longer numbers are no answers (and int() of a hostile million digits is slow).
_TOLERANCE = Fraction(1, 10**9)
# Relative; covers a calculator's 10 significant digits, e.g. 0.3333333333 for 1/3.

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_POWER = r"(?:(?P<times>\s?[×·*x]\s?10)?\s?\^\s?(?P<power>[-+−]?[0-9]{1,2})(?![0-9])|[eE](?P<e>[-+]?[0-9]{1,2})(?!\w))?"
# "2×10^3", "10^3", "2e3".
_BELOW = r"(?: (?P<above>[0-9]{1,3})/(?P<under>[1-9][0-9]{0,2})(?![0-9./])|\s?/\s?(?P<below>[1-9][0-9]*)(?![0-9./]))?"
# "1 3/4", "3/4".
# A sign counts only where it cannot be a minus or a range: "5-3" ends in 3, "is -3" in -3, "$-3" and "-$3" too.
# What stands behind "^" is an exponent, as in "25 cm^2", and no number of its own.
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w.)%^])[-−])?(?:[$€£₹¥]\s?(?P<inner>-)?)?(?<![\w.,^])(?<!\^[-+−])"
    rf"(?P<value>{_DIGITS}){_POWER}{_BELOW}",
)
_WHOLE = re.compile(
    rf"[~≈]?\s*(?P<sign>[-+−])?\s*(?:[$€£₹¥]\s*(?P<inner>-)?)?(?P<value>{_DIGITS}){_POWER}{_BELOW}"
    r"(?:\s*(?:%|percent|dollars?|cents?|usd))?[.!\s]*",
    re.IGNORECASE,
)
_PART = r"\s*(?:\{([^{}]*)\}|([0-9]))"
# Of \frac: in braces, or one bare digit.
_LATEX = (
    (re.compile(rf"([0-9])?\s?\\[dtc]?frac{_PART}{_PART}"), _as_fraction),
    (re.compile(r"\\(?:text(?:bf|rm|it)?|math(?:rm|bf|it)|mbox)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\times(?![A-Za-z])"), "×"),
    (re.compile(r"\\cdot(?![A-Za-z])"), "·"),
    (re.compile(r"\\approx(?![A-Za-z])"), "≈"),
    (re.compile(r"\^\s?\{\s?([-+−]?[0-9]{1,3})\s?\}"), r"^\1"),
    (re.compile(r"\\[,;! ]|\\left|\\right|\*\*|\\\(|\\\)|\\\[|\\\]"), ""),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"(?<=[0-9])\{,\}(?=[0-9])"), ","),
)
_WRAPPED = re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}|\${1,3}([^$]*)\${1,2}|\{(.*)\}", re.DOTALL)
_MAX_WRAPS = 4
_MARKERS = (
    re.compile(r"<answer>(?P<answer>.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE),
    re.compile(r"^[ \t]*#{4}(?!#)(?P<answer>[^\n]*)", re.MULTILINE),
    re.compile(r"(?<![A-Za-z])answer\**\s?:\**(?P<answer>[^\n]*)", re.IGNORECASE),
    re.compile(r"^[ \t]*A:(?P<answer>[^\n]*)", re.MULTILINE),
)
_BOXED = re.compile(r"\\boxed\s*\{")


# ---------------------------------------------------------------- text answers
def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no a/an/the, single spaces (Rajpurkar et al. 2016)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(predicted: str, golds: Iterable[str]) -> bool:
    """Whether the normal form of `predicted` equals that of one of `golds` (answer and aliases)."""
    wanted = normalise(predicted)
    return any(normalise(gold) == wanted for gold in golds)


def token_f1(predicted: str, golds: Iterable[str]) -> float:
    """Best F1 of normalised words over `golds`, in [0, 1]; yes, no and noanswer count only as a whole (HotpotQA)."""
    return max((_f1(normalise(predicted), normalise(gold)) for gold in golds), default=0.0)


def _f1(predicted: str, gold: str) -> float:
    if predicted == gold:
        return 1.0
    if predicted in _CLOSED or gold in _CLOSED:
        return 0.0
    words, gold_words = predicted.split(), gold.split()
    common = sum((Counter(words) & Counter(gold_words)).values())
    return 2 * common / (len(words) + len(gold_words)) if common else 0.0


# ---------------------------------------------------------------- numbers
def parse_number(text: str) -> Fraction | None:
    """The number `text` is, as a whole; else None.

    "$1,234.50", "72.0", "-3", "3/4", "1 3/4", "50%" (= 50), "2e3", "2×10^3", and the same in LaTeX: "\\frac34",
    "1\\tfrac{3}{4}", "2\\cdot10^{3}", "\\$1{,}234", "72\\text{ dollars}", "\\boxed{72}".
    """
    plain = _without_latex(text).strip()
    for _ in range(_MAX_WRAPS):
        if (wrapped := _WRAPPED.fullmatch(plain.rstrip(".! \n"))) is None:
            break
        plain = next(inside for inside in wrapped.groups() if inside is not None).strip()
    match = _WHOLE.fullmatch(" ".join(plain.split()))
    return _fraction(match) if match else None


def read_number(text: str) -> Fraction | None:
    """The last number in `text`, None if there is none."""
    found = _numbers(text)
    return found[-1] if found else None


def numbers_equal(a: str, b: str) -> bool:
    """Whether both texts are numbers (see `parse_number`) of one value, up to a relative 1e-9."""
    first, second = parse_number(a), parse_number(b)
    return first is not None and second is not None and _close(first, second)


def _numbers(text: str) -> list[Fraction]:
    values = (_fraction(match) for match in _NUMBER.finditer(_without_latex(text)))
    return [value for value in values if value is not None]


def _fraction(match: re.Match[str]) -> Fraction | None:
    digits, below = match["value"].replace(",", ""), match["below"] or "1"
    if len(digits) > _MAX_DIGITS or len(below) > _MAX_DIGITS:
        return None
    value = Fraction(digits)
    if (exponent := match["power"] or match["e"]) is not None:
        # "10^3" raises the number itself, "2×10^3" and "2e3" ten.
        factor, base = (value, Fraction(10)) if match["times"] or match["e"] else (Fraction(1), value)
        power = int(exponent.replace("−", "-"))
        if not base and power < 0:
            return None
        value = factor * base**power
    value /= int(below)
    if match["above"]:
        part = Fraction(int(match["above"]), int(match["under"]))
        value = value + part if part < 1 else part  # "3 48/2" is no mixed number but two, of which the last counts
    return -value if bool(match["sign"] and match["sign"] != "+") != bool(match["inner"]) else value


def _close(a: Fraction, b: Fraction) -> bool:
    return abs(a - b) <= _TOLERANCE * max(Fraction(1), abs(b))


def _without_latex(text: str) -> str:
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    return text


# ---------------------------------------------------------------- reading and judging
def read_answer(text: str, answer_type: str) -> str | None:
    """The final answer stated after the last marker: `<answer>`, `\\boxed{}`, `####`, "Answer:" or a line "A:".

    `answer_type` "number": the marked text reduced to its number, where it holds one. None without a marker.
    """
    marked = _marked(text)
    if marked is None:
        return None
    answer = marked.strip().strip("*").strip()
    if answer_type == "number" and parse_number(answer) is None:
        return _number_text(answer) or answer
    return answer


def is_correct(predicted: str | None, gold: str, aliases: Iterable[str], answer_type: str) -> bool:
    """Whether `predicted` is `gold` or an alias: equal numbers for "number", exact match (SQuAD) for "text"."""
    if predicted is None:
        return False
    golds = (gold, *aliases)
    if answer_type != "number":
        return exact_match(predicted, golds)
    value = parse_number(predicted)
    if value is None:
        found = _numbers(predicted)
        value = found[0] if len(found) == 1 else None
    if value is None:
        return exact_match(predicted, golds) and bool(normalise(predicted))
    return any(_close(value, wanted) for wanted in map(parse_number, golds) if wanted is not None)


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
        return value is not None and any(_close(value, n) for n in map(parse_number, golds) if n is not None)
    where = marked if marked is not None else completion
    return any(_occurs(normalise(name), where) for name in golds)


def _occurs(name: str, text: str) -> bool:
    if not name:
        return False
    if name in _CLOSED:
        sentences = [part for part in re.split(r"[.!?\n]+", text) if part.strip()]
        return bool(sentences) and normalise(sentences[-1]).split()[:1] == [name]
    return f" {name} " in f" {normalise(text)} "


def _marked(text: str) -> str | None:
    """What stands behind the marker that starts last."""
    found = [(match.start(), match["answer"]) for marker in _MARKERS for match in marker.finditer(text)]
    boxed = list(_BOXED.finditer(text))[-1:]
    found += [(match.start(), _braced(text, match.end())) for match in boxed]
    return max(found)[1] if found else None


def _braced(text: str, start: int) -> str:
    """Text from `start` to the brace that closes the one before it, or to the end."""
    depth = 1
    for offset in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[offset], 0)
        if depth == 0:
            return text[start:offset]
    return text[start:]


def _number_text(answer: str) -> str | None:
    """The number a marked answer means: the last one after "=", otherwise the first one."""
    plain = _without_latex(answer)
    after = plain.rpartition("=")[2]
    match = _NUMBER.search(after) or _NUMBER.search(plain)
    return match.group().strip() if match else None
