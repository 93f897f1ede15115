"""`agentflow show-tokens`: a row as the model is trained on it, every token in the colour of its role.

In: the id of a row that a loss filter let through. Out: rich text. Same spans, tokenizer and mask as training; tokens
with loss are underlined, a token's border is a thin bar.
"""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.store import Store
from agentflow.errors import InputError
from agentflow.mask import IGNORED, encode
from agentflow.records import SpanRole
from agentflow.rendering import PromptConfig
from agentflow.report.visible import visible

COLOURS: dict[SpanRole, str] = {
    "prompt": "bright_black",
    "think": "green",
    "call": "cyan",
    "mistake": "red",
    "result": "yellow",
    "answer": "magenta",
}
BORDER = "\u2502"


def token_text(row_id: str, root: Path) -> Text:
    """The row's tokens, coloured, with a legend and counts. Raises InputError if no loss filter's artifact holds it."""
    from agentflow.models.loading import load_tokenizer, start_ids, tokenize_with
    from agentflow.training.encoding import row_spans

    store = Store.existing(root / "artifacts")
    artifact, row = _find(store, row_id)
    prompt = PromptConfig.model_validate(artifact.manifest.config["prompt"])
    base = store.resolve(f"base_model/{artifact.manifest.inputs['base_model']}")
    tokenizer = load_tokenizer(base.path)
    spans = row_spans(row, prompt)
    tokens = encode(spans, tokenize_with(tokenizer), start_ids=start_ids(tokenizer), end_id=tokenizer.eos_token_id)
    text = Text()
    for role, colour in COLOURS.items():
        n = tokens.roles.count(role)
        trained = sum(label != IGNORED for label, r in zip(tokens.labels, tokens.roles, strict=True) if r == role)
        text.append(f"{role}", style=_style(colour, trained > 0))
        text.append(f" {n} tokens, {trained} trained   ")
    text.append(f"\n{len(tokens.input_ids)} tokens, {tokens.trained} of them trained on (underlined)\n\n")
    for token, label, role in zip(tokens.input_ids, tokens.labels, tokens.roles, strict=True):
        text.append(visible(tokenizer.decode([token])), style=_style(COLOURS[role], label != IGNORED))
        text.append(BORDER, style="dim")
    return text


def _style(colour: str, trained: bool) -> str:
    return f"{colour} underline" if trained else colour


def _find(store: Store, row_id: str) -> tuple[Artifact, dict[str, object]]:
    """The newest loss filter's artifact with the row, and the row."""
    artifacts = store.list("loss_filter")
    for artifact in artifacts:
        for row in artifact.rows():
            if row["id"] == row_id:
                return artifact, row
    some = [row["id"] for artifact in artifacts[:1] for row in artifact.rows()[:3]]
    raise InputError(
        f"no artifact of the loss filter below {str(store.root)!r} holds a row {row_id!r}; "
        + (f"there are for example {some}" if some else "run a recipe first")
    )
