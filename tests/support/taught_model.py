"""A tiny model that can already write calls and answers: what reinforcement learning needs to have anything to tell
apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from agentflow.mask import encode
from agentflow.models.loading import load_model, load_tokenizer, tokenize_with
from agentflow.records import Segment, Span, ToolCall, ToolResult
from agentflow.rendering import PromptConfig, completion_spans, prompt_text
from agentflow.toolset import syntax_for

REASONING = [
    Segment("call", call=ToolCall("Calculator", {"expression": "1+1"}), result=ToolResult("2")),
    Segment("text", text=" 2."),
]


def teach(
    base: Path,
    folder: Path,
    questions: list[dict[str, Any]],
    prompt: PromptConfig,
    steps: int,
    reasoning: Sequence[Segment] = REASONING,
) -> None:
    """Write a base model to `folder`/base that mostly answers `questions` with `reasoning` (one call) and 2, and a
    fresh adapter for it to `folder`/adapter. All weights are trained: an adapter alone cannot make random embeddings
    say anything.
    """
    torch.manual_seed(0)
    model, tokenizer = load_model(base), load_tokenizer(base)
    rows = []
    for row in questions:
        spans = [Span("prompt", prompt_text(row["question"], prompt))]
        spans += completion_spans(reasoning, "2", syntax_for(prompt.syntax))
        rows.append(encode(spans, tokenize_with(tokenizer), end_id=tokenizer.eos_token_id))
    longest = max(len(row.input_ids) for row in rows)
    ids = torch.tensor([row.input_ids + [0] * (longest - len(row.input_ids)) for row in rows])
    labels = torch.tensor([row.labels + [-100] * (longest - len(row.labels)) for row in rows])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        model(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    get_peft_model(model, settings).save_pretrained(folder / "adapter")
