"""The papers' own models and hyperparameters, as recipes. They need GPUs, the models' weights and paid answers.

    deliberate_8b, deliberate_70b   paper A: Llama 3.1, QLoRA, traces -> insertion -> loss filter -> SFT -> evaluation
    reason_act_1_7b                 paper B: Qwen3-1.7B, SFT -> cold start -> GRPO
    mtr_7b                          paper C: Qwen2.5-7B on four multi-hop sets, SFT -> cold start -> GRPO

[P] the paper says so, [D] derived from its numbers, [O] ours, since the text is lost or silent. No preset names a
commit of its model: it is asked for (`--set base_model.source.revision=...`). `agentflow plan PRESET` says what it
takes, and works without. Data are read below the folder AGENTFLOW_DATA (default `data`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from agentflow.clients.search import SearchConfig
from agentflow.clients.teacher import TeacherConfig
from agentflow.models.settings import GenerationConfig
from agentflow.models.sources import HubModel
from agentflow.rendering import PromptConfig
from agentflow.rewards.composite import CompositeConfig
from agentflow.rewards.mtr import MtrConfig
from agentflow.sources.file_sources import BamboogleSource, Gsm8kSource, HotpotSource, MusiqueSource, TwoWikiSource
from agentflow.sources.source import MixedSource
from agentflow.stages.base_model import BaseModelConfig
from agentflow.stages.cold_start import ColdStartConfig
from agentflow.stages.evaluate import EvaluateConfig
from agentflow.stages.grpo import GrpoConfig
from agentflow.stages.loss_filter import LossFilterConfig
from agentflow.stages.questions import QuestionsConfig
from agentflow.stages.sft import SftConfig
from agentflow.tools.web_search import WebSearchConfig
from agentflow.toolset import ToolsConfig
from agentflow.training.config import LoraSettings, OptimiserSettings, SupervisedSettings
from flows.recipe import Recipe, evaluations

PAPER_A = PromptConfig(template="paper_a", syntax="compact")
# Template: Fig. 3 [P]. Syntax of the calls [O]: the paper's is lost.
PAPER_B = PromptConfig(
    template="chatml",  # Qwen3's own turns
    syntax="json",  # <tool_call>{"name": ..., "arguments": {...}}</tool_call> [P tags]
    system=(
        "Reason inside <think> and </think>, in 14 to 100 words. To use a tool, write "
        '<tool_call>{"name": "...", "arguments": {"...": "..."}}</tool_call>: its result is filled in. Calculator '
        "takes an expression, Search a query. Then give the final answer as <answer>answer</answer>, and nothing else."
    ),
)
PAPER_C = PromptConfig(
    template="chatml",  # Qwen2.5's own turns
    syntax="json",
    system=(
        "Answer the question by reasoning inside <think> and </think>. Look up what you need, one step at a time, with "
        '<tool_call>{"name": "Search", "arguments": {"query": "..."}}</tool_call>: the observation is filled in. Then '
        "give the final answer as <answer>answer</answer>."
    ),
)
LORA = LoraSettings(rank=16, alpha=32, dropout=0.05)
# Rank, alpha and dropout are lost in A and B [O]. Targets: attention and feed-forward [P in both].
TEACHER = TeacherConfig(
    base_url="https://api.deepseek.com/v1",
    model="deepseek-reasoner",  # DeepSeek-R1 [P, A]
    api_key_env="DEEPSEEK_API_KEY",
    temperature=None,  # this model takes none
    top_p=None,
    max_tokens=4096,
)
WEB = SearchConfig(base_url="https://api.tavily.com")
# Tavily [P, A].
NEEDS_DATA = "Questions are read below AGENTFLOW_DATA; teacher and search are paid services and need their keys."


def deliberate_8b() -> Recipe:
    """Paper A on Llama 3.1 8B: QLoRA on filtered traces with calculator and search, evaluated in the loop."""
    return _deliberate("deliberate_8b", BaseModelConfig(source=HubModel(id="meta-llama/Llama-3.1-8B-Instruct")))


def deliberate_70b() -> Recipe:
    """Paper A on Llama 3.1 70B: as deliberate_8b; one 80 GB GPU holds it only with smaller batches."""
    source = HubModel(id="meta-llama/Llama-3.1-70B-Instruct")
    # NF4 in the scorer and in evaluation too [O]: 141 GB of bf16 weights fit on no GPU alone.
    return _deliberate("deliberate_70b", BaseModelConfig(source=source, four_bit=True))


def _deliberate(name: str, base: BaseModelConfig) -> Recipe:
    settings = SupervisedSettings(
        lora=LORA,
        optimiser=OptimiserSettings(
            learning_rate=2e-4,  # [O], lost
            batch_size=16,  # [P]
            accumulation=4,  # [P]
        ),
        epochs=60,  # [P]
        max_length=2048,  # [P]
        four_bit=True,  # NF4, frozen base [P]; double quantisation [O]
        gradient_checkpointing=True,  # [O]; the same result, less memory
    )
    generation = GenerationConfig(max_new_tokens=512)  # [O]
    return Recipe(
        name=name,
        base_model=base,
        questions=QuestionsConfig(source=_gsm8k_and_hotpotqa()),
        prompt=PAPER_A,
        teacher=TEACHER,
        search=WEB,
        tools=ToolsConfig(web_search=_WEB_RESULTS),
        loss_filter=LossFilterConfig(precision="bfloat16", losers="keep_without_calls"),  # losers [P]; precision [O]
        sft=SftConfig(settings=settings),
        trained_upto="sft",  # [P]: paper A has no policy optimisation
        evaluate=(
            EvaluateConfig(model="base", style="plain", generation=generation),
            EvaluateConfig(model="base", style="tools", generation=generation),
            EvaluateConfig(model="sft", generation=generation),
        ),
        notes=(
            NEEDS_DATA,
            "Paper A also evaluates on TriviaQA, of which this preset reads nothing: add it as a source.",
        ),
    )


_WEB_RESULTS = WebSearchConfig(n_results=2, max_chars_per_result=480, max_tokens=240, leaks="drop")


def _gsm8k_and_hotpotqa() -> MixedSource:
    """Paper A: 5,000 samples with calls in the end [P]; 3,000 questions of each, since some are rejected [O]."""
    data = _data()
    return MixedSource(
        parts=(
            Gsm8kSource(
                path=data / "gsm8k" / "train.jsonl",
                limit=3000,
                test_path=data / "gsm8k" / "test.jsonl",
                test_limit=132,  # 10 % of the evaluation split [P]
            ),
            HotpotSource(
                path=data / "hotpotqa" / "train_distractor.jsonl",
                limit=3000,
                test_path=data / "hotpotqa" / "dev_distractor.jsonl",
                test_limit=741,  # 10 % of the evaluation split [P]
            ),
        )
    )


def reason_act_1_7b() -> Recipe:
    """Paper B on Qwen3-1.7B: SFT, cold start on fewer than 100 samples, GRPO with the composite reward."""
    settings = SupervisedSettings(
        lora=LORA,
        optimiser=OptimiserSettings(learning_rate=5e-5, batch_size=2, accumulation=4),  # rate [O], batch [P]
        epochs=3,  # [P]
        max_length=2048,  # [O]
    )
    policy = GrpoConfig(
        generation=GenerationConfig(max_new_tokens=512, temperature=1.0),  # [O]
        reward=CompositeConfig(),  # accuracy + format + length, weights 1 [P parts, O sum]
        steps=300,  # B's curves [P]
        group_size=8,  # [P]
        beta=0.0,  # [P]
        clip=0.2,  # [P]
        loss_type="grpo",  # [P form]
        optimiser=OptimiserSettings(learning_rate=1e-5, batch_size=1, accumulation=16),  # rate for LoRA [O], batch [P]
    )
    return Recipe(
        name="reason_act_1_7b",
        base_model=BaseModelConfig(source=HubModel(id="Qwen/Qwen3-1.7B")),  # [P]
        questions=QuestionsConfig(source=_gsm8k_and_hotpotqa()),
        prompt=PAPER_B,
        teacher=TEACHER,
        search=WEB,
        tools=ToolsConfig(web_search=_WEB_RESULTS),
        loss_filter=LossFilterConfig(precision="bfloat16"),
        sft=SftConfig(settings=settings),
        cold_start=ColdStartConfig(n_samples=96, settings=settings),  # fewer than 100 [P]
        grpo=policy,
        evaluate=evaluations(GenerationConfig(max_new_tokens=512)),
        notes=(
            NEEDS_DATA,
            "Paper B trains on turns of APIGen-MT conversations; this preset has its model, prompt, reward and "
            "hyperparameters on GSM8K and HotpotQA.",
        ),
    )


def mtr_7b() -> Recipe:
    """Paper C on Qwen2.5-7B: multi-hop questions, SFT on whole traces, then GRPO with its reward; four test sets."""
    data = _data()
    settings = SupervisedSettings(
        lora=LORA,
        optimiser=OptimiserSettings(learning_rate=1e-4, batch_size=8, accumulation=4),  # [O], as all of C's
        epochs=3,  # [O]
        max_length=4096,  # [O]: up to five observations [O]
        gradient_checkpointing=True,
    )
    generation = GenerationConfig(max_new_tokens=1024, max_calls=5, temperature=1.0)  # five calls [O]
    source = MixedSource(
        parts=(
            HotpotSource(
                path=data / "hotpotqa" / "train_distractor.jsonl", limit=3000,
                test_path=data / "hotpotqa" / "dev_distractor.jsonl", test_limit=500,
            ),
            MusiqueSource(
                path=data / "musique" / "train_ans.jsonl", limit=3000,
                test_path=data / "musique" / "dev_ans.jsonl", test_limit=500,
            ),
            TwoWikiSource(
                path=data / "2wikimultihopqa" / "train.jsonl", limit=3000,
                test_path=data / "2wikimultihopqa" / "dev.jsonl", test_limit=500,
            ),
            BamboogleSource(path=data / "bamboogle" / "bamboogle.jsonl", test_fraction=1.0),
        )
    )  # fmt: skip
    return Recipe(
        name="mtr_7b",
        base_model=BaseModelConfig(source=HubModel(id="Qwen/Qwen2.5-7B")),  # base and Instruct [P]
        questions=QuestionsConfig(source=source),  # the four sets [P], how many of each [O]
        prompt=PAPER_C,
        teacher=TEACHER,
        search=WEB,
        tools=ToolsConfig(names=("Search",), web_search=_WEB_RESULTS),
        loss_filter=LossFilterConfig(precision="bfloat16"),
        sft=SftConfig(settings=settings),
        cold_start=ColdStartConfig(settings=settings),
        grpo=GrpoConfig(
            generation=generation,
            reward=MtrConfig(),  # 1.0 A + 0.3 C + 0.2 F [P parts, O values], one to five calls [O]
            steps=300,
            optimiser=OptimiserSettings(learning_rate=1e-5, batch_size=1, accumulation=16),  # [O]
        ),
        evaluate=evaluations(GenerationConfig(max_new_tokens=1024, max_calls=5)),
        notes=(
            NEEDS_DATA,
            "Paper C's simulated tools (ToolMaker, ToolActor) are not built: the tool is a real search, and between "
            "SFT and GRPO stands this project's cold start.",
        ),
    )


def _data() -> Path:
    return Path(os.environ.get("AGENTFLOW_DATA", "data"))


PRESETS: dict[str, Callable[[], Recipe]] = {
    "deliberate_8b": deliberate_8b,
    "deliberate_70b": deliberate_70b,
    "reason_act_1_7b": reason_act_1_7b,
    "mtr_7b": mtr_7b,
}
