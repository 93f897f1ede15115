"""vLLM keeps up with the policy by its adapter alone: megabytes a step, and the base stays as it was loaded.

TRL's own way (1.16) merges the adapter into the base, pushes every weight of the model and takes the adapter out again:
slow for a large base, rounded each time, and with a base in 4 bits wrong by what quantising anew costs. Here the policy
that trains leaves its adapter on the file system that all workers see; vLLM loads it from there, under a new name each
time, so that what it cached of the last policy's prompts is not used again. Ours; it needs two names of TRL's replaced
while a trainer is made, since TRL has no switch for them.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import requests
from accelerate.utils import broadcast_object_list
from peft import LoraConfig
from trl.generation import vllm_generation
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from agentflow.errors import AgentflowError, ConfigError, ConnectionFailed

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# That vLLM makes room for adapters of.
HERE = "default"
# PEFT's name of the adapter that trains.
OK, NOT_FOUND = 200, 404
LOAD_S = 600.0
# What a server may take to load an adapter.


@contextmanager
def adapter_alone(folder: Path) -> Iterator[None]:
    """A GRPOTrainer made inside with `use_vllm` gives vLLM its adapter through `folder`, which all workers see."""
    with _replaced(grpo_trainer, "VLLMGeneration", partial(AdapterGeneration, folder=folder)):
        yield


def room_for(rank: int) -> int:
    """The smallest rank that vLLM can be told to expect and an adapter of `rank` fits. Raises ConfigError above 512."""
    for room in RANKS:
        if rank <= room:
            return room
    raise ConfigError(f"vLLM loads adapters of rank {RANKS[-1]} at most, and this one has {rank}; set engine 'builtin'")


class AdapterGeneration(VLLMGeneration):
    """TRL's access to vLLM, colocated or a server, that samples with the newest adapter it was given."""

    def __init__(self, *arguments: Any, folder: Path, **named: Any) -> None:
        self._folder, self._loaded, self._run = folder, 0, ""
        super().__init__(*arguments, **named)

    def _init_vllm(self) -> None:
        # Before a kill this training, and on the same server others, may have counted from 1 too. vLLM keeps what it
        # computed of a prompt by the adapter's name and path: both must be new.
        self._run = broadcast_object_list([secrets.token_hex(4)])[0]
        if self.accelerator.is_main_process:
            shutil.rmtree(self._folder, ignore_errors=True)
        rank = room_for(cast(LoraConfig, self.model.peft_config[HERE]).r)
        with (
            _replaced(vllm_generation, "LLM", partial(_AdaptedLLM, rank=rank)),
            _replaced(vllm_generation, "VLLMClient", partial(_AdaptedClient, rank=rank)),
        ):
            super()._init_vllm()

    def sync_weights(self) -> None:
        """Load the adapter as it is now; called in all workers, which fail together.

        Raises ConfigError if a server refuses the adapter, ConnectionFailed if it cannot be reached.
        """
        before, self._loaded = self._path(), self._loaded + 1
        now = self._path()
        if self.accelerator.is_main_process:
            # Without False, PEFT asks the hub for the base at every step.
            self.model.save_pretrained(str(now), selected_adapters=[HERE], save_embedding_layers=False)
        self.accelerator.wait_for_everyone()
        if self.mode == "colocate":
            self._wake()
            self.llm.load(now, self._loaded)
        else:
            self._load_on_server(now)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(before, ignore_errors=True)

    def generate(self, *arguments: Any, **named: Any) -> tuple[Any, ...]:
        """As TRL's; a vLLM that slept has its weights still and needs no push."""
        self._wake()
        return super().generate(*arguments, **named)

    def _path(self) -> Path:
        """Where the adapter loaded last lies; its name is the folder's."""
        return self._folder / f"policy-{self._run}-{self._loaded}"

    def _load_on_server(self, folder: Path) -> None:
        refused: list[AgentflowError | None] = [None]
        if self.accelerator.is_main_process:
            try:
                self.vllm_client.load(folder)
            except AgentflowError as error:
                refused[0] = error
        # A worker that raised alone would leave the others waiting.
        refusal = broadcast_object_list(refused)[0]
        if refusal is not None:
            raise refusal

    def _wake(self) -> None:
        if self.mode == "colocate" and self.enable_sleep_mode and self._llm_weights_sleeping:
            vllm_generation.empty_cache()
            self.llm.wake_up(tags=["weights"])
            self._llm_weights_sleeping = False


class _AdaptedLLM:
    """vLLM's `LLM` inside this process, every sample of which is drawn with the adapter loaded last."""

    def __init__(self, *, rank: int, **options: Any) -> None:
        from vllm import LLM

        self._llm = LLM(**options, enable_lora=True, max_loras=1, max_lora_rank=rank)
        self._adapter: Any = None

    def load(self, folder: Path, number: int) -> None:
        from vllm.lora.request import LoRARequest

        before, self._adapter = self._adapter, LoRARequest(folder.name, number, str(folder))
        if before is not None:
            self._llm.llm_engine.remove_lora(before.lora_int_id)
        self._llm.llm_engine.add_lora(self._adapter)

    def generate(self, prompts: Any, **options: Any) -> Any:
        return self._llm.generate(prompts, lora_request=self._adapter, **options)

    def sleep(self, level: int) -> None:
        # TRL's level 2 throws the weights away, to be pushed again. Nobody pushes the base: level 1 keeps it in RAM.
        self._llm.sleep(level=min(level, 1))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)


class _AdaptedClient(VLLMClient):
    """A running `vllm serve` that is asked for the adapter loaded last; no weights of the base are ever sent to it."""

    def __init__(self, *, rank: int, **named: Any) -> None:
        super().__init__(**named)
        self._rank, self._base = rank, self.model

    def init_communicator(self, device: Any = 0) -> None:
        """Nothing: it would make a group of GPUs to push weights through."""

    def load(self, folder: Path) -> None:
        """Sample with the adapter in `folder` from now on, and let go of the one before.

        Raises ConfigError if the server refuses it, ConnectionFailed if there is no answer.
        """
        self._ask("load", {"lora_name": folder.name, "lora_path": str(folder.absolute())}, (OK,))
        before, self.model = self.model, folder.name
        if before != self._base:
            # An unknown name is let go of already.
            self._ask("unload", {"lora_name": before}, (OK, NOT_FOUND))

    def _ask(self, verb: str, body: dict[str, str], good: tuple[int, ...]) -> None:
        try:
            # Not by TRL's session: it tries a refusal (500) five times and then hides it.
            answer = requests.post(f"{self.base_url}/v1/{verb}_lora_adapter", json=body, timeout=LOAD_S)
        except requests.RequestException as error:
            raise ConnectionFailed(f"the vLLM server at {self.base_url} gave no answer: {error}") from error
        if answer.status_code not in good:
            raise ConfigError(
                f"the vLLM server at {self.base_url} did not {verb} the policy's adapter ({answer.status_code}: "
                f"{answer.text[:300]}). Start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and VLLM_SERVER_DEV_MODE=1 "
                f"in its environment, as `vllm serve {self._base} --enable-lora --max-lora-rank {self._rank} "
                "--logprobs-mode processed_logprobs`, where it sees the folder of the run; or set grpo.vllm.sync "
                "to 'merged'"
            )


@contextmanager
def _replaced(module: Any, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """`module.name` is `value` inside."""
    before = getattr(module, name, None)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
