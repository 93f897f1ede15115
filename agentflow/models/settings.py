"""How to generate, as configuration; light, so recipes can import it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from agentflow.config import Frozen, Where


class GenerationConfig(Frozen):
    """Limits and temperature of one rollout."""

    max_new_tokens: int = Field(160, ge=1)
    # Sampled and injected tokens together.
    max_calls: int = Field(6, ge=0)
    # Calls executed per row; a further one ends the row as unfinished.
    calls: Literal["execute", "end", "collect"] = "execute"
    # execute: a call runs and its result is read (papers A and C [P]). end: the first call is not run and ends the
    # completion, as in a turn of paper B, which is exactly one action [P]. collect: calls are not run and the
    # completion goes on to its end, so that one turn can hold several (ToolRL [P]).
    temperature: float = Field(0.0, ge=0)
    # 0 is greedy.

    @property
    def single_turn(self) -> bool:
        """Whether a completion is one turn, whose calls are not run."""
        return self.calls != "execute"


class SamplingConfig(GenerationConfig):
    """The same for the samples of a group, which must differ."""

    temperature: float = 1.0

    @field_validator("temperature")
    @classmethod
    def _samples_differ(cls, value: float) -> float:
        if value <= 0:
            raise ValueError(
                f"temperature {value:g} is greedy: all samples of a question would be the same, and nothing could be "
                "learnt from them; set it above 0, e.g. 1.0"
            )
        return value


class VllmSettings(Frozen):
    """Where vLLM runs, if rollouts are made with it. All of it says where and how fast, nothing what."""

    mode: Annotated[Literal["colocate", "server"], Where()] = "colocate"
    # colocate: in every training worker, on its GPU. server: a running `vllm serve`, on GPUs of its own.
    server_url: Annotated[str | None, Where()] = None
    # http://HOST:PORT of that server.
    sync: Annotated[Literal["adapter", "merged"], Where()] = "adapter"
    # What vLLM gets after a step. adapter: the LoRA weights, from a folder that it sees [O]. merged: all weights, with
    # the adapter merged in, pushed by TRL; a server then needs NCCL.
    memory_share: Annotated[float, Where()] = Field(0.3, gt=0, lt=1)
    # Of a GPU's memory, for vLLM's weights and cache; colocate only.
    tensor_parallel: Annotated[int, Where()] = Field(1, ge=1)
    # Workers that share one copy of the model; it must divide their number. colocate only.
    sleep: Annotated[bool, Where()] = False
    # Give the memory back while the policy is optimised. The base's weights wait in RAM; with `merged` they are pushed
    # again at every turn. colocate only.
    max_length: Annotated[int | None, Where()] = Field(None, ge=1)
    # Tokens of prompt and completion that room is kept for; None: what the model was made for.
