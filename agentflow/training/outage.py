"""Tools that are down end a training: steps whose rollouts mostly failed teach nothing and use up its questions.

In: ROLLOUTS rows of all workers. Out: an error once too many steps running had too many failures. A step that fails
ends before its checkpoint, so the training goes on from before it when the tools are back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from agentflow.errors import ToolsUnavailable
from agentflow.rewards.grading import tool_failed
from agentflow.stages.grpo import ToolFailureLimit

StepFailures = dict[int, tuple[int, Counter[str]]]
# Step to its rollouts, and how many of them failed by the tool's kind of failure.


def tool_failures(rows: Sequence[dict[str, Any]], steps: Sequence[int]) -> StepFailures:
    """What one worker's `rows` say of `steps`. A rollout that could not be graded is no failure of a tool."""
    found: StepFailures = {step: (0, Counter()) for step in steps}
    for row in rows:
        if row["step"] in found:
            count, kinds = found[row["step"]]
            kinds.update([row["failure"]] if tool_failed(row["failure"]) else [])
            found[row["step"]] = (count + 1, kinds)
    return found


def stop_if_tools_are_down(of_workers: Sequence[StepFailures], limit: ToolFailureLimit) -> None:
    """Raise ToolsUnavailable if in each of the steps counted more than the allowed share failed, over all workers."""
    kinds: Counter[str] = Counter()
    total, steps = 0, sorted(of_workers[0])
    for step in steps:
        rollouts = sum(counts[step][0] for counts in of_workers)
        failed = sum((counts[step][1] for counts in of_workers), Counter[str]())
        if failed.total() <= limit.max_failed_share * rollouts:
            return
        kinds, total = kinds + failed, total + rollouts
    raise ToolsUnavailable(
        f"tools failed in {kinds.total()} of {total} rollouts ({_by_kind(kinds)}) of steps {steps[0]} to {steps[-1]}; "
        f"allowed are {limit.max_failed_share:.0%} in {len(steps)} steps running (grpo.tool_failures). See that the "
        "tools' services answer, then run again or press Retry: it goes on from its last checkpoint"
    )


def _by_kind(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
