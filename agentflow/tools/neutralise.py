"""Untrusted text made harmless before it stands in a prompt: text in, one line of plain text out.

What a tool gives back is data. Left as it is, it could end the model's turn (`<|im_start|>`), close a block
(`</think>`), forge a call (`[Search(...) -> ...]`) or an answer (`#### 42`). The mapping:

| in the text                                              | becomes                    |
|----------------------------------------------------------|----------------------------|
| `<` `>` (chat tokens, tags, the arrow `->`)              | `‹` `›`                    |
| `[` `]` (compact calls, `[INST]`)                        | `(` `)`                    |
| two or more `#` in a row                                 | one `#`                    |
| backslashes before `boxed`                               | nothing                    |
| a character that normalises to one of `< > [ ] # \\`     | that character, then as above |
| line breaks, tabs, every run of white space              | one space                  |
| control, format (U+202E, zero-width), private characters | nothing                    |
| lone surrogates                                          | U+FFFD                     |

It does not judge content: a result that states the evaluation's answer is a matter of data quality, not of syntax.
"""

from __future__ import annotations

import re
import unicodedata

_DANGEROUS = frozenset("<>[]#\\")
_BRACKETS = {"<": "‹", ">": "›", "[": "(", "]": ")"}
_HASHES = re.compile(r"#(?:\s*#)+")
_BOXED = re.compile(r"\\+(?=\s*boxed)", re.IGNORECASE)


def neutralise(text: str) -> str:
    """`text` on one line, without anything that could act as syntax. Idempotent and total (source: ours)."""
    plain = "".join(map(_harmless, text))
    plain = _BOXED.sub("", _HASHES.sub("#", plain))
    return " ".join(plain.split())


def _harmless(char: str) -> str:
    if " " <= char <= "~":
        return _BRACKETS.get(char, char)
    if char.isspace():
        return " "
    category = unicodedata.category(char)
    if category == "Cs":
        return "\ufffd"
    if category.startswith("C"):
        return ""
    # Look-alikes such as the full-width "＜": some tokenizers normalise them back to the real thing.
    plain = unicodedata.normalize("NFKD", char)
    if _DANGEROUS.isdisjoint(plain):
        return char
    return "".join(_BRACKETS.get(part, part) for part in plain)
