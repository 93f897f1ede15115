"""The benchmark of the loss filter compares the same rows, each scored once by either side, with the same decisions."""

from __future__ import annotations

from pipeline_rows import tool_trace_rows

from agentflow.stages.loss_filter import LossFilterConfig
from benchmarks.data_filter import decisions_row, filtered, in_turns, work


def test_filter_and_plain_loop_take_turns_over_all_rows_and_decide_alike(tiny_model, tiny_tokenizer):
    rows, config = tool_trace_rows(40), LossFilterConfig()
    rows = [row for row in rows if row["n_calls"]]
    ours, filter_s, plain, plain_s = in_turns(rows, tiny_model, tiny_tokenizer, config)
    assert ours == filtered(rows, tiny_model, tiny_tokenizer, config)
    assert ours.keys() == plain.keys() == {row["id"] for row in rows} and len(rows) > 32, "more than one shard"
    assert filter_s > 0 and plain_s > 0
    judged = decisions_row(rows, ours, plain, config)
    assert judged.ok and judged.measured == 0
    flops, tokens = work(rows, tiny_model, tiny_tokenizer, config)
    assert flops > tokens > 0
