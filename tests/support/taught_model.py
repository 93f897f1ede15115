"""A tiny model that can already write calls and answers, which reinforcement learning needs to have anything to tell
apart; and the job of training it further.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import load_from_disk
from peft import LoraConfig, get_peft_model
from pipeline_rows import question_rows, save

from agentflow.access import Access
from agentflow.mask import encode
from agentflow.models.loading import load_model, load_tokenizer, tokenize_with
from agentflow.records import Segment, Span, ToolCall, ToolResult
from agentflow.rendering import PromptConfig, completion_spans, prompt_text
from agentflow.schemas import QUESTIONS
from agentflow.stages.grpo import GrpoConfig, choose_prompts
from agentflow.toolset import syntax_for
from agentflow.training.jobs import PolicyJob

PROMPT = PromptConfig(system="T")
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
    reasoning: Sequence[Segment] | Callable[[dict[str, Any]], Sequence[Segment]] = REASONING,
) -> None:
    """Write a base model to `folder`/base that mostly answers `questions` with `reasoning` (one call; or a row's own)
    and 2, and a fresh adapter for it to `folder`/adapter. All weights are trained: an adapter alone cannot make random
    embeddings say anything.
    """
    torch.manual_seed(0)
    model, tokenizer = load_model(base), load_tokenizer(base)
    rows = []
    for row in questions:
        spans = [Span("prompt", prompt_text(row["question"], prompt))]
        thought = reasoning(row) if callable(reasoning) else reasoning
        spans += completion_spans(thought, "2", syntax_for(prompt.syntax))
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


def teach_questions(base: Path, folder: Path, steps: int, reasoning: Sequence[Segment] = REASONING) -> Path:
    """`teach` four arithmetic questions, which are kept in `folder`/questions; returns `folder`."""
    questions = [row for row in question_rows(4) if row["split"] == "train"]
    teach(base, folder, questions, PROMPT, steps, reasoning)
    save(questions, folder / "questions", QUESTIONS)
    return folder


def policy_job(
    taught: Path, out: Path, config: GrpoConfig, access: Access | None = None, questions: Path | None = None
) -> PolicyJob:
    """GRPO of what `teach_questions` left in `taught`, on its questions or those of another folder. Without `access`,
    no ledger is opened.
    """
    questions = questions or taught / "questions"
    rows = load_from_disk(str(questions)).to_list()
    return PolicyJob(
        config=config,
        questions=questions,
        question_ids=tuple(row["id"] for row in choose_prompts(rows, config, workers=1)),
        base=taught / "base",
        adapter=taught / "adapter",
        access=access or Access(ledger_url=str(out / "never-opened.db"), run_id="run"),
        out=out,
    )
