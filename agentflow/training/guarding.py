"""The collapse guard inside a training: feeds it every step's rollouts, ends the training, brings good weights back.

In: the recorder's rows and the trainer's log. Out: alarms in the summary and the log; by configuration an error
(`stop`) or the last weights from before the alarm's window (`rollback`). The rules stand in `guard`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainerCallback

from agentflow.errors import PolicyCollapsed
from agentflow.rewards.contract import RewardConfig
from agentflow.stages.grpo import GrpoConfig
from agentflow.training.checkpoints import Owner, checkpoint_folder, newest_verified, seal
from agentflow.training.guard import Alarm, CollapseGuard, step_stats

_log = logging.getLogger(__name__)
WEIGHTS = "adapter_model.safetensors"


class GuardCallback(TrainerCallback):
    """Judges every step in all workers alike, since all rows are gathered; keeps adapters to roll back to."""

    def __init__(
        self,
        config: GrpoConfig,
        rows: Callable[[], list[dict[str, Any]]],
        out: Path,
        owner: Owner,
    ) -> None:
        """The reward of `config` says which of its parts stand for accuracy and format."""
        self._config, self._rows, self._owner = config.guard, rows, owner
        # Where calls are not run there is no cap to reach.
        self._max_calls = 0 if config.generation.single_turn else config.generation.max_calls
        self._reward: RewardConfig = config.reward
        accuracy = next(part for part in self._reward.parts() if part.name == self._reward.accuracy_part)
        self._guard = CollapseGuard(self._config, accuracy.high - accuracy.low)
        self._good = out / "trainer" / "good"
        self._unjudged = 0

    @property
    def alarms(self) -> list[Alarm]:
        """All alarms so far."""
        return self._guard.alarms

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A resumed training judges its earlier steps again: they are in the rollouts and the log."""
        entropy = {entry["step"]: entry.get("entropy") for entry in state.log_history}
        for step in range(state.global_step):
            self._observe(step, entropy.get(step + 1))
        # It was killed between the alarm and the end; each alarm is raised once, so none would end it later.
        if self.alarms and self._config.action in ("stop", "rollback"):
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "reward" not in logs:
            return
        entropy = logs.get("entropy")
        new = self._observe(state.global_step - 1, None if entropy is None else float(entropy))
        if new and self._config.action in ("stop", "rollback"):
            control.should_training_stop = True

    def _observe(self, step: int, entropy: float | None) -> list[Alarm]:
        rows = gather_object([row for row in self._rows() if row["step"] == step])
        parts = self._reward.accuracy_part, self._reward.format_part
        stats = step_stats(step, rows, self._max_calls, entropy, *parts, self._config.max_failed_share)
        if stats is None:
            self._unjudged += 1
            return []
        new = self._guard.observe(stats)
        for alarm in new:
            _log.warning("step %d: %s: %s", alarm.step, alarm.name, alarm.detail)
        return new

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the adapter beside the checkpoints, which are soon replaced by newer ones."""
        if self._config.action != "rollback" or not state.is_world_process_zero:
            return
        good = checkpoint_folder(self._good, state.global_step)
        if good.exists():
            shutil.rmtree(good)
        good.mkdir(parents=True)
        shutil.copy2(checkpoint_folder(Path(args.output_dir), state.global_step) / WEIGHTS, good / WEIGHTS)
        seal(good, state.global_step, self._owner)

    def conclude(self, model: Any) -> dict[str, Any]:
        """Facts for the manifest after training. Raises PolicyCollapsed if an alarm was to stop it.

        With `rollback` and an alarm, `model` gets the newest weights that sampled a step before the alarm's window;
        with none that old there is nothing good to publish, so that is PolicyCollapsed too.
        """
        facts: dict[str, Any] = {"alarms": [asdict(alarm) for alarm in self.alarms]} if self.alarms else {}
        if self._unjudged:
            facts["guard_unjudged_steps"] = self._unjudged
        if self._reward.format_part is None:
            facts["guard_silent"] = ["reward_hacking"]
        if not self.alarms or self._config.action in ("warn", "off"):
            return facts
        first = self.alarms[0]
        why = f"the policy collapsed at step {first.step}: {first.name}: {first.detail}"
        advice = "lower the learning rate, set beta above 0, or look at the rollouts' reward parts"
        if self._config.action == "stop":
            raise PolicyCollapsed(f"{why}; {advice}, or set guard.action to 'rollback' or 'warn'")
        # checkpoint-N has sampled step N (from 0): this one the last rollouts before the window.
        latest = self._guard.window_of(first) - 1
        found = newest_verified(self._good, self._owner, latest=latest)
        if found is None:
            raise PolicyCollapsed(
                f"{why}; no checkpoint from before the alarm's window to roll back to (step {latest} or earlier; "
                f"checkpoint_steps decides): {advice}"
            )
        set_peft_model_state_dict(model, load_file(found / WEIGHTS))
        return {**facts, "rolled_back_to": int(found.name.rpartition("-")[2])}
