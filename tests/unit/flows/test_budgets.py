"""Which runs share the purse of a budget."""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path

import pytest

from agentflow.errors import BudgetExceeded, ConfigError
from agentflow.ledger import Answer, Cost, PaidCall
from flows.parameters import NightlyParameters
from flows.plan import plan
from flows.recipes import Recipe, load_recipe
from flows.reporting import open_run_ledger
from flows.run import RunOptions, context_of

BUDGET_USD = 40.0


def pay(root: Path, recipe: Recipe, usd: float, flow_run: str | None = None) -> None:
    """A run of `recipe` with a budget that pays one call of its own."""
    options = RunOptions(root=root, budget_usd=BUDGET_USD, flow_run=flow_run)
    where = context_of(recipe, options, None, None)
    open_run_ledger(where, options.budget_usd)

    async def send() -> Answer:
        return Answer({}, Cost(usd=usd))

    with where.access.open_ledger() as ledger:
        call = PaidCall("teacher", "local/0", "m", {"run": where.access.run_id}, 0, "1")
        asyncio.run(ledger.ask(call, send, Cost(usd=usd)))


def night_of_recipe(night: str, regenerate: str, budget_per: str) -> Recipe:
    form = NightlyParameters(recipe="smoke", settings=(f"budget_per={budget_per}",), regenerate=regenerate)
    return form.for_night(date.fromisoformat(night).isoformat())


def test_the_purse_of_a_recipe_is_used_up_by_its_nights_together(tmp_path: Path) -> None:
    recipe = load_recipe("smoke")
    pay(tmp_path, recipe, 30, "monday")
    with pytest.raises(BudgetExceeded, match=r"30\.000000 USD spent"):
        pay(tmp_path, recipe, 30, "tuesday")


def test_a_purse_per_run_is_full_every_night_and_a_retry_goes_on_with_what_is_left(tmp_path: Path) -> None:
    recipe = night_of_recipe("2026-01-31", "none", "run")
    pay(tmp_path, recipe, 30, "monday")
    pay(tmp_path, recipe, 30, "tuesday")
    with pytest.raises(BudgetExceeded, match=r"30\.000000 USD spent"):
        pay(tmp_path, recipe, 30, "monday")
    pay(tmp_path, recipe, 10, "monday")


@pytest.mark.parametrize("regenerate", ["search", "teacher", "all"])
def test_a_purse_per_edition_is_full_for_every_night_that_regenerates(tmp_path: Path, regenerate: str) -> None:
    pay(tmp_path, night_of_recipe("2026-01-30", regenerate, "edition"), 30, "friday")
    again = night_of_recipe("2026-01-31", regenerate, "edition")
    pay(tmp_path, again, 30, "saturday")
    with pytest.raises(BudgetExceeded):
        pay(tmp_path, again, 30, "a new run for saturday")


def test_nights_that_regenerate_nothing_share_the_purse_of_their_edition(tmp_path: Path) -> None:
    pay(tmp_path, night_of_recipe("2026-01-30", "none", "edition"), 30)
    with pytest.raises(BudgetExceeded):
        pay(tmp_path, night_of_recipe("2026-01-31", "none", "edition"), 30)


def test_a_purse_per_run_is_refused_where_every_start_would_fill_it_again(tmp_path: Path) -> None:
    recipe = load_recipe("smoke", ["budget_per=run"])
    with pytest.raises(ConfigError, match="budget_per is 'run'.*use 'edition'"):
        context_of(recipe, RunOptions(root=tmp_path, budget_usd=1), None, None)
    assert context_of(recipe, RunOptions(root=tmp_path), None, None).access.budget_key is None, "no budget, no purse"


def test_whose_payments_count_changes_nothing_that_is_made() -> None:
    made = [plan(load_recipe("smoke", [f"budget_per={per}"])) for per in ("recipe", "edition", "run")]
    fingerprints = [{name: node.identity.fingerprint for name, node in nodes.items()} for nodes in made]
    assert fingerprints[0] == fingerprints[1] == fingerprints[2]


def test_an_unknown_purse_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="budget_per.*'recipe', 'edition' or 'run'"):
        load_recipe("smoke", ["budget_per=night"])
