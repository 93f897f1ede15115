"""The report's section on question hygiene: counts from the manifest, examples from the rejected rows, all escaped."""

from __future__ import annotations

import json
from html import unescape
from typing import Any

from agentflow.report.build import build_report
from agentflow.report.hygiene import hygiene_samples, summarise_hygiene
from agentflow.report.model import RunRecord

FACTS = {"checked": 400, "evaluation": 96, "against": {"<b>.jsonl": 32}, "dropped": {"leak_ngram": 4, "duplicate": 1}}


def rejected(key: str, reason: str, question: str) -> dict[str, Any]:
    row = {"id": key, "question": question}
    return {"key": key, "status": "dropped", "reason": reason, "detail": "there: '<i>'", "row": row}


def with_hygiene(record: RunRecord, extra: dict[str, Any]) -> RunRecord:
    stages = [
        stage.model_copy(update={"manifest": {**stage.manifest, "extra": extra}})
        if stage.name == "questions"
        else stage
        for stage in record.stages
    ]
    rejects = [rejected(f"train.jsonl:{n}", "leak_ngram", f"<script>{n}</script>") for n in range(4)]
    rejects += [rejected("train.jsonl:9", "duplicate", "Which sea?"), rejected("train.jsonl:8", "no_answer", "Why?")]
    return record.model_copy(update={"stages": stages, "rejects": {"questions": rejects}})


def test_counts_and_examples_are_on_the_page_and_in_the_file(record: RunRecord) -> None:
    run = with_hygiene(record, {"hygiene": FACTS})
    build_report(run)
    assert json.loads((run.out_dir / "report.json").read_text())["hygiene"] == FACTS
    page = (run.out_dir / "report.html").read_text()
    section = page[page.index('<section id="hygiene">') : page.index('<section id="evaluation">')]
    assert "400 training questions were compared with 96 evaluation questions" in section and "Left out: 5" in section
    assert "<script>" not in section and "<i>" not in section and "<b>." not in section
    shown = unescape(section)
    assert "32 of <b>.jsonl" in shown and "<script>0</script>" in shown and "<script>3</script>" not in shown
    assert "leak_ngram" in shown and "Which sea?" in shown and "Why?" not in shown
    groups = hygiene_samples(run)
    assert [(group["reason"], group["n"], len(group["rows"])) for group in groups] == [
        ("leak_ngram", 4, run.limits.rejects_per_reason), ("duplicate", 1, 1),
    ]  # fmt: skip


def test_a_run_without_it_has_no_section(record: RunRecord) -> None:
    assert summarise_hygiene(record) is None
    build_report(record)
    assert 'id="hygiene"' not in (record.out_dir / "report.html").read_text()
    assert json.loads((record.out_dir / "report.json").read_text())["hygiene"] is None
