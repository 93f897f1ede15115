"""A small but complete run record: every stage, both filters' decisions, two models in two prompt styles."""

import json
import random

from agentflow.report.model import CallUse, LedgerUse, RunRecord, StageRun


def text_segment(text):
    return {
        "kind": "text", "text": text, "tool": None, "arguments": None,
        "result": None, "result_error": None, "ledger_key": None, "as_of": None,
    }  # fmt: skip


def call_segment(tool, arguments, result, error=None):
    return {
        "kind": "call", "text": "", "tool": tool, "arguments": json.dumps(arguments),
        "result": result, "result_error": error, "ledger_key": None, "as_of": None,
    }  # fmt: skip


def trace_row(index, decision, delta, kind="arithmetic", question=None):
    clips = 40 + 2 * index
    if kind == "arithmetic":
        question = (
            question or f"Mia has {clips} clips and sells {clips}/2 more in May. How many clips did she sell in all?"
        )
        segments = [
            text_segment(f"In May she sold {clips}/2 = "),
            call_segment("Calculator", {"expression": f"{clips}/2"}, str(clips // 2)),
            text_segment(f"{clips // 2} clips. In all {clips}+{clips // 2} = "),
            call_segment("Calculator", {"expression": f"{clips}+{clips // 2}"}, str(clips + clips // 2)),
            text_segment(f"{clips + clips // 2}."),
        ]
        answer = str(clips + clips // 2)
    else:
        question = question or f"Which river flows through the capital of Velmora {index}?"
        segments = [
            text_segment("I need the capital of Velmora. "),
            call_segment("WebSearch", {"query": f"capital of Velmora {index}"}, "Ostrel is the capital of Velmora."),
            text_segment("The capital is Ostrel, which lies on the Tarn."),
        ]
        answer = "Tarn"
    reasoning = "".join(segment["text"] for segment in segments)
    calls = sum(1 for segment in segments if segment["kind"] == "call")
    row = {
        "id": f"{kind}-{index:03d}#0", "question_id": f"{kind}-{index:03d}", "question": question, "answer": answer,
        "aliases": [], "answer_type": "number", "kind": kind, "template": "clips", "reasoning": reasoning,
        "response": f"The answer is {answer}.", "predicted": answer, "teacher": "local/teacher", "ledger_key": "ab12",
        "segments": segments, "n_calls": calls,
    }  # fmt: skip
    kept = decision == "kept"
    filtered = {
        **row, "segments": segments if kept else [text_segment(reasoning)], "n_calls": calls if kept else 0,
        "decision": decision, "loss_plain": 1.2, "loss_with": 1.2 - delta, "loss_empty": None, "delta": delta,
        "n_common": 30, "n_calls_before": calls,
        "call_scores": [
            {"tool": segment["tool"], "kept": kept, "loss_plain": 1.2, "loss_with": 1.2 - delta - place / 100,
             "loss_empty": None, "delta": delta + place / 100, "n_common": 15}
            for place, segment in enumerate(s for s in segments if s["kind"] == "call")
        ],
    }  # fmt: skip
    return row, filtered


def evaluation_row(index, model, style, correct, kind="arithmetic", split="test", status="ok", completion=None):
    return {
        "id": f"eval-{split}-{kind}-{index:03d}", "model": model, "prompt_style": style, "kind": kind, "split": split,
        "template": "clips", "question": f"Tom has {index} boxes of 12 pens. How many pens?", "gold": str(12 * index),
        "completion": completion
        or f"<think>12 pens in {index} boxes: 12*{index} = [Calculator(12*{index}) -> {12 * index}] pens.</think>"
        f"<answer>{12 * index}</answer>",
        "predicted": str(12 * index if correct else 7), "correct": correct if status == "ok" else None,
        "well_formed": model != "base", "n_calls": 0 if model == "base" else 1, "n_tokens": 40, "status": status,
        "failure": None if status == "ok" else "rate_limited",
    }  # fmt: skip


def written(*pieces):
    """(role, text) in turn as a completion and its spans."""
    spans, place = [], 0
    for role, text in pieces:
        tool = "Calculator" if role in ("call", "result") else None
        spans.append({"role": role, "begin": place, "end": place + len(text), "tool": tool, "ledger_key": None})
        place += len(text)
    return {"completion": "".join(text for _, text in pieces), "spans": spans}


def rollout_row(step, group, sample, reward, status="ok"):
    return {
        "id": f"{step}-{group}-{sample}", "step": step, "question_id": f"q{group}", "prompt": "…", "gold": "24",
        **written(
            ("text", "<think>48/2 ="), ("call", " [Calculator(48/2) ->"), ("result", " 24]"),
            ("text", " so 24 clips.</think><answer>24</answer>"),
        ),
        "answer": "24", "n_calls": 1, "rewards": json.dumps({"accuracy": reward - 1.5, "format": 1.0, "length": 0.5}),
        "reward": reward if status == "ok" else None, "advantage": 0.3 if status == "ok" else None, "status": status,
        "failure": None if status == "ok" else "timeout",
    }  # fmt: skip


def manifest(stage, keys_in, out, dropped=None, quarantined=None, failed=None, rows=None, config=None):
    return {
        "stage": stage, "fingerprint": f"{stage}{'0123456789abcdef' * 4}"[-64:], "rows": out if rows is None else rows,
        "counts": {"out": out, "dropped": dropped or {}, "quarantined": quarantined or {}, "failed": failed or {}},
        "keys_in": keys_in, "timings": {"wall_s": 12.5}, "cost": {"usd": 0.0},
        "config": config or {"seed": 0, "batch_size": 8}, "extra": {},
    }  # fmt: skip


def checkpoint(stage, **extra):
    return {**manifest(stage, 0, 0), "rows": None, "keys_in": None, "counts": None, "extra": extra}


def make_record(out_dir):
    chance = random.Random(7)
    pairs = []
    for index in range(60):
        delta = round(chance.gauss(0.15, 0.2), 4)
        kind = "arithmetic" if index % 3 else "two_hop"
        pairs.append(trace_row(index, "kept" if delta > 0 else "calls_removed", delta, kind))
    evaluations = [
        evaluation_row(index, model, style, chance.random() < share, kind, split, status)
        for model, style, share in (
            ("base", "plain", 0.1), ("base", "tools", 0.03), ("sft", "trained", 0.78), ("cold_start", "trained", 0.8),
            ("grpo", "trained", 0.84),
        )
        for split, kind, n in (("test", "arithmetic", 40), ("test", "two_hop", 24), ("test_unseen", "arithmetic", 32))
        for index in range(1, n + 1)
        for status in (("failed",) if (model, index, split) == ("sft", 3, "test_unseen") else ("ok",))
    ]  # fmt: skip
    rollouts = [
        rollout_row(step, group, sample, round(1.0 + 0.15 * step + chance.choice([0, 0, 1.0]) * (group % 2), 2),
                    "failed" if (step, group, sample) == (2, 1, 3) else "ok")
        for step in range(1, 7) for group in range(4) for sample in range(4)
    ]  # fmt: skip
    stages = [
        StageRun(name="base_model", status="reused", manifest=checkpoint("base_model")),
        StageRun(name="questions", status="ran", wall_s=2.1,
                 manifest=manifest("questions", 402, 400, quarantined={"no_answer": 2})),
        StageRun(name="traces", status="ran", wall_s=48.0,
                 manifest=manifest("traces", 400, 352, {"wrong_answer": 41, "no_answer": 7}, rows=704)),
        StageRun(name="tool_insertion", status="ran", wall_s=20.5,
                 manifest=manifest("tool_insertion", 352, 340, {"mismatch": 10}, {"nan": 1}, {"timeout": 1})),
        StageRun(name="loss_filter", status="ran", wall_s=95.0, manifest=manifest("loss_filter", 340, 340)),
        StageRun(name="sft", status="ran", wall_s=310.0, manifest=checkpoint("sft", rows_in=340)),
        StageRun(name="evaluate", status="ran", wall_s=150.0,
                 manifest=manifest("evaluate", 96, 95, failed={"rate_limited": 1})),
    ]  # fmt: skip
    return RunRecord(
        recipe="demo",
        out_dir=out_dir,
        started_at="2026-01-05 22:00 UTC",
        wall_s=754.3,
        peak_rss_mb=5321.0,
        stages=stages,
        ledger=LedgerUse(
            teacher=CallUse(paid=400, replayed=12, failed=3, lost=2),
            search=CallUse(paid=210),
            tokens_in=81234,
            tokens_out=60111,
            usd=1.5,
            usd_assumed=0.25,
        ),
        tables={
            "tool_insertion": [before for before, _ in pairs],
            "loss_filter": [after for _, after in pairs],
            "grpo": rollouts,
            "evaluate": evaluations,
        },
        rejects={
            "traces": [
                {"key": f"q{i}", "status": "dropped", "reason": "wrong_answer", "detail": "predicted 23, gold 24",
                 "row": {"id": "q", "predicted": "23"}} for i in range(5)
            ],
            "questions": [
                {"key": "line 17", "status": "quarantined", "reason": "no_answer", "detail": "field 'answer' is empty",
                 "row": {"question": "How many?"}}
            ],
        },
        logs={
            "sft": [{"step": s, "loss": 1.5 * 0.85**s + 0.02, "learning_rate": 1e-3} for s in range(1, 31)],
            "cold_start": [{"step": s, "loss": 0.4 * 0.9**s + 0.05} for s in range(1, 13)],
            "grpo": [{"step": s, "kl": 0.002 * s, "completions/mean_length": 80 - s} for s in range(1, 7)],
        },
        machine={"cpu": "a processor", "cores": 2, "memory": "24 GiB", "python": "3.11.7", "torch": "2.13.0"},
        notes=["The teacher is the local stand-in; numbers show the pipeline, not the method's quality."],
    )  # fmt: skip
