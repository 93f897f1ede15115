"""`agentflow review`: the cold start's samples, written for a person to accept, edit or reject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentflow.artifacts.store import Store
from agentflow.errors import InputError
from agentflow.stages.cold_start import choose
from agentflow.toolset import syntax_for
from agentflow.training.review import write_review
from flows.plan import plan
from flows.recipes import load_recipe


def write(name: str, settings: Sequence[str], root: Path, file: Path) -> str:
    """Write `file` from the recipe's filtered traces; what to do next. Raises InputError if they are not made yet."""
    recipe = load_recipe(name, settings)
    identity = plan(recipe)["loss_filter"].identity
    kept = Store.open(root / "artifacts").find("loss_filter", identity.fingerprint)
    if kept is None:
        raise InputError(f"recipe {name!r} has no filtered traces below {str(root)!r} yet; run it first")
    config = recipe.stage("cold_start")
    rows = kept.rows()
    chosen = choose(rows, config)
    write_review(chosen, rows, syntax_for(config.prompt.syntax), file)
    return (
        f"{len(chosen)} samples in {file}: set each verdict to accept, edit or reject, then run with "
        f"--set cold_start.review={file}"
    )
