"""Promote, keep aside, force, roll back: from artifacts to the history and back, through the functions and the CLI."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from made_night import SETTINGS, make_night, recipe

from agentflow.errors import CorruptArtifact, HistoryDamaged, InputError, StoreError
from agentflow.promotion.history import History, standing
from flows.cli import main
from flows.promoting import gate_and_promote, rollback


def promote(root: Path, *settings: str, **options: object):
    return gate_and_promote(recipe(*settings), root, by="test", **options)


def actions(root: Path) -> list[str]:
    return [entry.action for entry in History(root, "smoke").read()]


def names(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in (root / "artifacts").rglob("manifest.json")}


def test_a_good_night_follows_a_good_night_and_a_bad_one_is_kept_aside(root):
    before = names(root)
    assert promote(root).promoted
    assert promote(root, "edition=good").promoted
    verdict = promote(root, "edition=bad_model")
    assert not verdict.promoted and verdict.entry.action == "kept_aside"
    said = "\n".join(verdict.lines())
    assert "kept aside: smoke, edition bad_model (entry 3); 3 rules do not hold" in said
    assert "what was promoted stays promoted (data: 2, model: 2); nothing was deleted" in said
    assert "FAIL" in verdict.markdown() and "| accuracy&#95;change | FAIL |" in verdict.markdown()
    stands = standing(History(root, "smoke").read())
    assert stands.data.edition == stands.model.edition == "good"
    assert names(root) == before


def test_the_same_night_is_decided_once(root):
    first = promote(root)
    again = promote(root)
    assert first.new and not again.new and again.entry == first.entry
    assert promote(root, "edition=bad_data").new
    assert not promote(root, "edition=bad_data").new
    assert promote(root, what="data").entry == first.entry, "its data set is what is promoted"
    loosened = promote(root, "edition=bad_data", "promotion.gate.max_yield_drop=1")
    assert loosened.new and not loosened.promoted, "other rules: asked again"
    assert actions(root) == ["promoted", "kept_aside", "kept_aside"]


def test_force_wants_a_reason_and_keeps_it(root):
    promote(root)
    with pytest.raises(InputError, match="--why"):
        promote(root, "edition=bad_data", force=True, why=" ")
    verdict = promote(root, "edition=bad_data", force=True, why="the old scorer was wrong")
    assert verdict.promoted and verdict.entry.action == "forced" and verdict.entry.gate.failures
    assert verdict.entry.why == "the old scorer was wrong" and verdict.entry.replaced == 1


def test_a_rollback_brings_back_what_stood_before_and_bars_the_way_back(root):
    promote(root)
    promote(root, "edition=good")
    entry = rollback("smoke", root, why="answers got rude", by="test")
    assert (entry.replaced, entry.restores) == (2, 1)
    assert standing(History(root, "smoke").read()).model.edition == "1"
    barred = promote(root, "edition=good")
    assert not barred.promoted
    assert [check.rule for check in barred.entry.gate.failures] == ["not_rolled_back"]
    assert "answers got rude" in barred.entry.gate.failures[0].words
    with pytest.raises(InputError, match="is the first"):
        rollback("smoke", root)
    assert rollback("smoke", root, to=2).restores == 2
    assert not promote(root, "edition=good").new, "it is what is promoted, again"


def test_the_data_of_a_night_that_was_rolled_back_is_not_promoted_again_by_itself(root):
    promote(root)
    promote(root, "edition=good")
    rollback("smoke", root, why="wrong answers to unit questions")
    barred = promote(root, "edition=good", what="data")
    assert [check.rule for check in barred.entry.gate.failures] == ["not_rolled_back"]
    assert promote(root, "edition=good", what="data", force=True, why="only its model was bad").promoted


def test_a_rollback_to_something_damaged_or_gone_changes_nothing(root):
    promote(root)
    promote(root, "edition=good")
    table = next((root / "artifacts" / "loss_filter").glob("*/data-*.arrow"))
    old = History(root, "smoke").read()[0].artifacts["loss_filter"]
    table = next((root / "artifacts" / old.ref).glob("data-*.arrow"))
    content = table.read_bytes()
    table.write_bytes(content[:-9] + b"x" + content[-8:])
    with pytest.raises(CorruptArtifact):
        rollback("smoke", root)
    shutil.rmtree(root / "artifacts" / old.ref)
    with pytest.raises(StoreError, match="is not in .* any more; put it back"):
        rollback("smoke", root)
    with pytest.raises(InputError, match="there are \\[1, 2\\]"):
        rollback("smoke", root, to=9)
    assert actions(root) == ["promoted", "promoted"]


def test_a_promoted_night_that_is_gone_is_not_guessed(root):
    verdict = promote(root)
    shutil.rmtree(root / "artifacts" / verdict.entry.artifacts["evaluate-grpo"].ref)
    with pytest.raises(StoreError, match="promotion 1 of 'smoke' cannot be compared with: evaluate-grpo"):
        promote(root, "edition=good")
    assert actions(root) == ["promoted"]


def test_a_night_of_data_alone_leaves_the_model_as_it_is(root):
    promote(root)
    make_night(root, recipe("edition=data"), parts=["data"])
    with pytest.raises(InputError, match=r"not made whole: sft \(sft/.*or judge its data alone"):
        promote(root, "edition=data")
    verdict = promote(root, "edition=data", what="data")
    assert verdict.promoted and verdict.entry.model is None
    stands = standing(History(root, "smoke").read())
    assert (stands.data.edition, stands.model.edition) == ("data", "1")
    assert [file.path for file in verdict.entry.files] == ["DATASET_CARD.md"]


def test_two_promoters_at_once_decide_once(root):
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda _: promote(root), range(4)))
    assert [verdict.new for verdict in verdicts].count(True) == 1
    assert actions(root) == ["promoted"]


def test_licences_that_the_policy_forbids_keep_a_night_aside(root):
    verdict = promote(root, 'promotion.policy.refused=["Apache-2.0"]')
    assert [check.rule for check in verdict.entry.gate.failures] == ["licences"]
    assert "source_licence 'Apache-2.0' is refused (40 rows" in verdict.entry.gate.failures[0].words


def test_cards_hold_counts_intervals_denominators_licences_and_the_way_back(root):
    entry = promote(root, command="agentflow run night.yaml").entry
    folder = History(root, "smoke").folder_of(entry)
    dataset, model = ((folder / name).read_text() for name in ("DATASET_CARD.md", "MODEL_CARD.md"))
    head = yaml.safe_load(dataset.split("---")[1])
    assert head["license"] == ["apache-2.0"] and head["size_categories"] == ["n<1K"]
    assert "| traces | 40 | 40 | 40 | 0 | 0 | 0 |" in dataset and "Calls were kept in 40 of 40" in dataset
    assert "| questions | Apache-2.0 | 40 |" in dataset and "Personal data was not looked for" in dataset
    result = yaml.safe_load(model.split("---")[1])["model-index"][0]["results"][0]["metrics"][0]
    assert result["value"] == 0.5111 and "45" in result["name"]
    assert "| grpo | trained | 45 | 0.5111 | 0.370 to 0.650 |" in model
    for card in (dataset, model):
        assert entry.artifacts["loss_filter"].digest in card and entry.artifacts["grpo"].ref in card
        assert "agentflow run night.yaml" in card and "Gate: passed (first promotion)" in card


# ---------------------------------------------------------------- the command line
def agentflow(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


def test_the_commands_promote_say_why_not_roll_back_and_tell_the_history(root):
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    place = ["--root", root]
    assert "nothing of 'smoke' was ever judged" in agentflow("history", "smoke", *place).output
    assert agentflow("promote", "smoke", *sets, *place).exit_code == 0
    bad = agentflow("promote", "smoke", *sets, "--set", "edition=bad_model", *place)
    assert bad.exit_code == 1 and "FAIL  accuracy_change" in bad.output
    bare = agentflow("promote", "smoke", *sets, "--set", "edition=bad_model", "--force", *place)
    assert bare.exit_code == 2 and "give --why TEXT" in bare.output
    forced = ["--set", "edition=bad_model", "--force", "--why", "a test"]
    assert "promoted by force" in agentflow("promote", "smoke", *sets, *forced, *place).output
    back = agentflow("rollback", "smoke", "--why", "enough", *place)
    assert back.exit_code == 0 and "promotion 3 is rolled back; 1, edition 1, counts again" in back.output
    told = agentflow("history", "smoke", *place).output
    for words in ("kept_aside", "forced", "why: a test", "rolled_back 1", "why: enough", "FAIL accuracy_change"):
        assert words in told
    assert told.count("<- promoted now (data, model)") == 1 and "edition 1 " in told.split("<- promoted")[0]
    unmade = agentflow("promote", "smoke", "--set", "edition=never", *place)
    assert unmade.exit_code == 2 and "is not made whole" in unmade.output
    (root / "promoted" / "smoke" / "000002" / "entry.json").write_text("{}")
    damaged = agentflow("history", "smoke", *place)
    assert damaged.exit_code == 1 and "000002/entry.json is damaged" in damaged.output
    with pytest.raises(HistoryDamaged):
        promote(root)
