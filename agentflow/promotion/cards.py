"""Dataset card and model card of a night, as Markdown with the head that the Hugging Face hub reads.

In: a night, what the gate said, the licences of its rows, and what a recipe alone knows (`About`). Out: two texts.
Every number comes from manifests and tables; accuracies stand with their interval and denominator. Text of foreign
origin is escaped. Nothing is uploaded here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from agentflow.config import Frozen
from agentflow.export.licences import RECORDED_TERMS, STANDIN_TERMS, UNKNOWN, Licences
from agentflow.promotion.gate import GateResult
from agentflow.promotion.night import DATASET, Night
from agentflow.report.evaluation import breakdown, summarise_evaluation
from agentflow.report.markdown import safe_cell

DATASET_CARD = "DATASET_CARD.md"
MODEL_CARD = "MODEL_CARD.md"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


_HARMLESS = re.compile(r"(?!.*(?:://|www\.|__))[A-Za-z0-9 _.,;:()%/+=>'-]*", re.A)
# Text that Markdown shows as it is: a card is also read as a file, where escapes are noise.


class About(Frozen):
    """What no manifest says: names and prices, which decide nothing about the rows."""

    recipe: str
    command: str
    # That makes this night again.
    usd_per_million_in: float | None = None
    usd_per_million_out: float | None = None
    usd_per_credit: float | None = None
    # List prices as configured; None: none was set.
    notes: tuple[str, ...] = ()
    # The recipe's own notes to whoever reads its numbers.


def dataset_card(night: Night, gate: GateResult | None, licences: Licences, about: About) -> str:
    """The card of the training rows."""
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        pretty_name=f"{about.recipe}, edition {night.edition}",
        license=_licence_field(licences),
        language=["en"],
        task_categories=["question-answering", "text-generation"],
        size_categories=[next((name for limit, name in _SIZES if night.n_rows < limit), "n>1M")],
        tags=["tool-use", "reasoning", "synthetic", "agentflow"],
    )
    kept, of = night.kept_of
    parts = [
        f"# {cell(about.recipe)}, edition {cell(night.edition)}: tool-using reasoning",
        f"{night.n_rows} rows: questions, a teacher's reasoning, and tool calls with their results inside it. "
        f"Calls were kept in {kept} of {of} samples that had any, where they make the rest easier to predict.",
        *_notes(about),
        "## Counts",
        "Input keys by stage. Every key is in exactly one column.",
        _funnel(night),
        f"Questions dropped as duplicates: {night.duplicates.count} of {night.duplicates.of}; as too close to an "
        f"evaluation set: {night.contaminated.count} of {night.contaminated.of}.",
        "## Rows",
        _table(["tools", "rows"], [{"tools": name, "rows": n} for name, n in sorted(night.tools.items())]),
        f"Words of reasoning a row: {_spread(night.words)}. Calls a row: {_spread(night.calls)}.",
        *_personal_data(night),
        "## Sources and licences",
        "Counts are rows. A row may stand under several: its question's, its searches', and its teacher's terms.",
        _table(["what", "licence or terms", "rows"], _licence_rows(licences)),
        *_teacher(night, about),
        *_gate(gate),
        *_identity(night, about),
    ]
    return _card(data.to_yaml(), parts)


def model_card(night: Night, gate: GateResult | None, model: str | None, about: About) -> str:
    """The card of the trained adapters; `model` is the one that is promoted."""
    from huggingface_hub import EvalResult, ModelCardData

    rows = [row for answers in night.answers.values() for row in answers]
    scores = summarise_evaluation(rows)
    results = [
        EvalResult(
            task_type="question-answering", task_name="questions answered with tools", dataset_type="agentflow",
            dataset_name=f"{about.recipe}: held-out questions", metric_type="accuracy",
            metric_value=scores[model]["accuracy"],
            metric_name=f"accuracy of {scores[model]['questions']}",
        )
    ] if model in scores and scores[model]["accuracy"] is not None else []  # fmt: skip
    data = ModelCardData(
        model_name=f"{about.recipe}-{model or 'none'}",
        language="en",
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["tool-use", "reasoning", "lora", "agentflow"],
        eval_results=results or None,
    )
    parts = [
        f"# {cell(about.recipe)}, edition {cell(night.edition)}: {cell(model)}",
        "LoRA adapters of one run; the one named in the title is promoted. The base model is not part of it.",
        *_notes(about),
        "## Evaluation",
        "Held-out questions, tools really executed while the model writes. Accuracy with its 95 % Wilson interval over "
        "`questions`; rows that failed by infrastructure are in no denominator. The base model is asked in two styles.",
        _table(
            ["split", "kind", "model", "style", "questions", "accuracy", "95 %", "calls", "format", "failed"],
            [_score(cell) for cell in breakdown(rows)],
        ),
        "All splits together, every model in its better style:",
        _table(
            ["model", "style", "questions", "accuracy", "95 %", "calls", "format", "failed"],
            [_score({"model": name, **cell}) for name, cell in scores.items()],
        ),
        "## Training",
        _table(["stage", "rows used", "steps", "method"], list(_training(night))),
        *_base(night),
        *_gate(gate),
        *_identity(night, about),
    ]
    return _card(data.to_yaml(), parts)


def cell(value: Any, limit: int = 200) -> str:
    """`value` as one inert line (see `report.markdown.safe_cell`), unescaped where nothing in it could act."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(value, str) and len(value) <= limit and _HARMLESS.fullmatch(value):
        return value
    return safe_cell(value, limit)


def _table(columns: list[str], rows: Iterable[dict[str, Any]], limit: int = 200) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join(
        [*lines, *("| " + " | ".join(cell(row.get(name), limit) for name in columns) + " |" for row in rows)]
    )


def _card(head: str, parts: Iterable[str]) -> str:
    return f"---\n{head.strip()}\n---\n\n" + "\n\n".join(parts) + "\n"


def _notes(about: About) -> list[str]:
    return ["\n".join(f"> {cell(note, 1000)}" for note in about.notes)] if about.notes else []


def _funnel(night: Night) -> str:
    def reasons(counts: dict[str, int]) -> str:
        return ", ".join(f"{reason} {n}" for reason, n in counts.items()) or "0"

    rows = [
        {
            "stage": stage.node, "in": stage.keys_in, "out": stage.keys_out, "rows": stage.rows,
            "dropped": reasons(stage.dropped), "quarantined": reasons(stage.quarantined),
            "failed": reasons(stage.failed),
        }
        for stage in night.funnel
    ]  # fmt: skip
    return _table(["stage", "in", "out", "rows", "dropped", "quarantined", "failed"], rows)


def _spread(values: list[int]) -> str:
    if not values:
        return "none"
    ordered = sorted(values)
    return f"median {ordered[len(ordered) // 2]}, from {ordered[0]} to {ordered[-1]}"


def _personal_data(night: Night) -> list[str]:
    found = {
        node: artifact.manifest.extra["pii_removed"]
        for node, artifact in night.artifacts.items()
        if "pii_removed" in artifact.manifest.extra
    }
    if not found:
        return ["Personal data was not looked for."]
    lines = [
        f"{node}: " + (", ".join(f"{kind} {n}" for kind, n in kinds.items()) or "nothing found")
        for node, kinds in found.items()
    ]
    return ["Personal data replaced by marks before the commit, by stage and type: " + "; ".join(lines) + "."]


def _licence_rows(licences: Licences) -> list[dict[str, Any]]:
    names = {
        "terms": "terms of the teacher's answers",
        "source_licence": "questions",
        "search_licence": "search results",
    }
    return [
        {"what": names[name], "licence or terms": value, "rows": n}
        for (name, value), n in sorted(licences.counts.items())
    ]


def _licence_field(licences: Licences) -> list[str]:
    """Licences as the hub names them; "other" where something is unknown."""
    found = {value for name, value in licences.counts if name != "terms"}
    if _real_teacher(licences):
        found.add(UNKNOWN)
    return sorted({"other" if value == UNKNOWN else value.lower() for value in found})


def _real_teacher(licences: Licences) -> bool:
    """Whether answers of a real teacher are among the rows: their terms are the provider's, no licence of the hub."""
    return any(name == "terms" and value not in (STANDIN_TERMS, RECORDED_TERMS) for name, value in licences.counts)


def _teacher(night: Night, about: About) -> list[str]:
    traces, inserted = night.manifest("traces"), night.manifest("tool_insertion")
    parts = ["## Teacher, tools and cost"]
    if traces is not None and traces.config.get("origin") == "recorded":
        parts.append("No teacher: the reasoning is the data sets' own solutions.")
    elif traces is not None:
        asked = {
            name: traces.config["teacher"].get(name)
            for name in ("provider", "model", "temperature", "top_p", "max_tokens")
        }
        parts.append(_table(["teacher", "value"], [{"teacher": name, "value": value} for name, value in asked.items()]))
    if inserted is not None:
        search = inserted.config["search"]
        tools = ", ".join(inserted.config["tools"]["names"])
        parts.append(f"Tools: {cell(tools)}. Searches: {cell(search['provider'])}.")
    prices = {
        "USD per million tokens in": about.usd_per_million_in,
        "USD per million tokens out": about.usd_per_million_out,
        "USD per search credit": about.usd_per_credit,
    }
    parts.append(_table(["price", "value"], [{"price": name, "value": value} for name, value in prices.items()]))
    costs = [
        {"stage": node, **_cost(artifact.manifest.cost)}
        for node, artifact in night.artifacts.items()
        if artifact.manifest.cost
    ]
    said = "What was paid to make each stage, in all the runs that worked on it, failed and killed ones too"
    parts += [f"{said} (replayed calls are free):", _table(["stage", *_cost({})], costs)]
    return parts


def _cost(cost: dict[str, Any]) -> dict[str, Any]:
    """A row of the table of costs. Attempts without an answer, failed or lost with a process, may have been billed."""
    teacher, search = cost.get("teacher", {}), cost.get("search", {})
    without = [service.get(end, 0) for service in (teacher, search) for end in ("failed", "lost")]
    return {
        "teacher calls paid": teacher.get("paid"), "teacher calls replayed": teacher.get("replayed"),
        "searches paid": search.get("paid"), "searches replayed": search.get("replayed"),
        "attempts without an answer": sum(without), "runs": cost.get("runs"), "USD": cost.get("usd"),
        "of it assumed": cost.get("usd_assumed"),
    }  # fmt: skip


def _score(cell: dict[str, Any]) -> dict[str, Any]:
    low_high = cell["ci95"]
    return {
        **{name: cell.get(name) for name in ("split", "kind", "model", "questions", "accuracy", "failed")},
        "style": cell["prompt_style"],
        "95 %": None if low_high is None else f"{low_high[0]:.3f} to {low_high[1]:.3f}",
        "calls": cell["tool_call_rate"],
        "format": cell["format_rate"],
    }


def _training(night: Night) -> Iterable[dict[str, Any]]:
    methods = {
        "sft": "supervised, LoRA",
        "cold_start": "supervised, chosen samples",
        "grpo": "group-relative policy optimisation",
    }
    for node, method in methods.items():
        manifest = night.manifest(node)
        if manifest is not None:
            counts = manifest.counts
            yield {
                "stage": node, "rows used": counts.out if counts else manifest.keys_in,
                "steps": manifest.extra.get("steps"), "method": method,
            }  # fmt: skip


def _base(night: Night) -> list[str]:
    manifest = night.manifest("base_model")
    if manifest is None:
        return []
    source = manifest.config.get("source", {})
    return [
        "Base model:",
        _table(["field", "value"], [{"field": name, "value": value} for name, value in source.items()]),
    ]


def _gate(gate: GateResult | None) -> list[str]:
    if gate is None:
        return []
    stood = {"data": gate.compared_with.data, "model": gate.compared_with.model}
    named = [f"{what} of promotion {number}" for what, number in stood.items() if number]
    against = f"against {' and '.join(named)}" if named else "first promotion"
    checks = [
        {"rule": c.rule, "result": "pass" if c.passed else "FAIL", "value": c.value, "bound": c.bound, "words": c.words}
        for c in gate.checks
    ]
    return [
        f"## Gate: {'passed' if gate.passed else 'not passed'} ({against})",
        _table(["rule", "result", "value", "bound", "words"], checks, limit=400),
    ]


def _identity(night: Night, about: About) -> list[str]:
    refs = [
        {"node": node, "artifact": ref.ref, "digest of content": ref.digest, "rows": ref.rows}
        for node, ref in night.refs.items()
    ]
    version = night.artifacts[DATASET].manifest.code_version
    return [
        "## Identity and reproduction",
        _table(["node", "artifact", "digest of content", "rows"], refs),
        f"Made by agentflow {cell(version)}. With the same ledger of paid answers the same digests come out of:",
        f"```\n{about.command}\n```",
        "`agentflow show <artifact>` prints the full configuration of a stage, `agentflow export <artifact>` its rows "
        "with teacher, terms and licence of each.",
    ]
