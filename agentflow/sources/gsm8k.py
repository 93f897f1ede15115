"""GSM8K records to question rows: {"question", "answer"} in, QUESTIONS columns (without split and source) out.

    answer "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\\n...\\n#### 72"
    ->  rationale "Natalia sold 48/2 = 24 clips in May.\\n...", gold "72", meta {"equations": [["48/2", "24"], ...]}

Shape: openai/grade-school-math. The solution is not checked or corrected, only its marks are taken out.
"""

from __future__ import annotations

import re
from typing import Any

from agentflow.records import canonical_json
from agentflow.sources.fields import BadRow, Record, text_field
from agentflow.sources.problems import question_id

KIND = "gsm8k"
_MARK = re.compile(r"<<([^<>]*)>>")
_GOLD = re.compile(r"^[ \t]*####[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_NUMBER = re.compile(r"[-+]?(\d+(\.\d+)?|\.\d+)", re.ASCII)


def question_row(record: Record) -> dict[str, Any]:
    """One QUESTIONS row without `split` and `source`.

    Raises BadRow "no_question", "no_answer" (no text, no "####" line), "bad_answer" (no number after it) or "bad_text".
    """
    question = text_field(record, "question", "no_question")
    solution = text_field(record, "answer", "no_answer")
    golds = _GOLD.findall(solution)
    if not golds or not golds[-1]:
        raise BadRow("no_answer", f"the answer has no final line '#### <number>': {solution[-80:]!r}")
    gold = golds[-1].replace(",", "").replace("$", "")
    if not _NUMBER.fullmatch(gold):
        raise BadRow("bad_answer", f"{golds[-1][:80]!r} after '####' is no number")
    equations = [mark.partition("=")[::2] for mark in _MARK.findall(solution)]
    return {
        "id": question_id(KIND, question),
        "question": question,
        "answer": gold.removeprefix("+"),
        "aliases": [],
        "answer_type": "number",
        "kind": KIND,
        "template": "",
        "rationale": _MARK.sub("", _GOLD.sub("", solution)).strip(),
        "meta": canonical_json({"equations": equations}),
    }
