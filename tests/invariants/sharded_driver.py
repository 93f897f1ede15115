"""Trains a supervised job in one of several CPU processes, with accelerate's FSDP2 let through on the CPU.

accelerate 1.15 applies FSDP to GPUs alone and trains whole elsewhere. What it then does with a model
(`fsdp2_prepare_model`, torch's `fully_shard`) works on a CPU with gloo too; only that gate is opened here, so that the
rest (our arguments, sharded LoRA weights, checkpoints, the published adapter) really runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, DistributedType, PartialState

_whole = AcceleratorState.__init__


def _sharded(self: Any, *arguments: Any, fsdp_plugin: Any = None, **named: Any) -> None:
    _whole(self, *arguments, fsdp_plugin=fsdp_plugin, **named)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def main() -> None:
    AcceleratorState.__init__ = _sharded  # type: ignore[method-assign]
    from stopping import StopAt

    from agentflow.training.jobs import SupervisedJob
    from agentflow.training.supervised import train_supervised

    job = SupervisedJob.model_validate_json(Path(sys.argv[1]).read_text())
    train_supervised(job, [StopAt(int(sys.argv[2]))])


if __name__ == "__main__":
    main()
