"""Twenty leaks of five classes planted among harmless training questions: recall by class, and what is found by chance.

Paraphrases are planted to be counted, not to be found: no rule here looks at meaning.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from agentflow.hygiene.clean import Finding, find
from agentflow.hygiene.config import HygieneConfig
from agentflow.hygiene.text import text_hash
from agentflow.sources.file_sources import Gsm8kSource
from agentflow.sources.source import load_questions

DATA = Path(__file__).parents[4] / "shared" / "data"
BAKERY = (
    "A bakery in Orle bakes 48 loaves every morning and sells three quarters of them before noon. If each loaf costs "
    "$2.50 and what is left over is given to the school across the street, how much money does the bakery take in?"
)
TRAIN = (
    "Ida drives the slow train from Orle to Brenn, which leaves at 7 and stops at 12 stations for 4 minutes each. "
    "Without any stops the way would take her 95 minutes in good weather. How many minutes late is a visitor who "
    "expected her after 2 hours?"
)
POND = "What is the name of the river that flows past the town in which the author of Pond Days was born?"
GARDEN = (
    "Tom and his sister plant 6 rows of 15 bean seeds in their grandfather's garden, and later 27 seeds do not grow "
    "because the soil was too dry that spring. How many bean plants do they have in the end?"
)
EVALUATION = [BAKERY, TRAIN, POND, GARDEN]
LEAKS = {
    "exact": [
        BAKERY,
        TRAIN.upper(),
        POND.replace(" ", "  ").replace("?", " ?"),
        GARDEN.replace(",", "").replace("'", "’"),
    ],
    "ngram": [
        "Read the story: " + BAKERY[:120] + " Write it again for a child of six, please.",
        "Bo takes the night bus. Without any stops the way would take her 95 minutes in good weather. Is that long?",
        "Please tell me quickly: " + POND[:-1] + ", and how long is it?",
        "In spring two children plant 40 seeds; later 27 seeds do not grow because the soil was too dry that spring.",
    ],
    "number_swap": [
        BAKERY.replace("48", "1,260").replace("2.50", "3"),
        TRAIN.replace("7", "9").replace("12", "31").replace("4 min", "6 min").replace("95", "80").replace("2 h", "5 h"),
        GARDEN.replace("6 rows", "nine rows").replace("15", "twenty-two").replace("27", "a hundred"),
        GARDEN.replace("6", "11").replace("15", "8").replace("27", "30"),
    ],
    "near": [
        BAKERY.replace("loaf", "roll").replace("morning", "day"),
        TRAIN.replace("good weather", "fine weather").replace("12 stations", "12 halts"),
        POND.replace("river", "stream"),
        "Now: " + GARDEN.replace("27", "12"),
    ],
    "paraphrase": [
        "Of 48 loaves baked each day, a baker sells 75 percent at $2.50 apiece and donates the rest. Find his revenue.",
        "A train journey lasts 95 minutes plus 12 halts of 4 minutes. By how much does it exceed two hours?",
        "Near which river lies the birthplace of the writer of Pond Days?",
        "From 90 seeds in the ground 27 never came up. How many plants grew?",
    ],
}
CONFIG = HygieneConfig()


def harmless(n: int) -> list[str]:
    chance = random.Random(1)
    nouns, verbs = "pens cups hats nets maps keys rugs jars".split(), "buys sells lends finds wins packs".split()

    def one(number: int) -> str:
        a, b = chance.sample(nouns, 2)
        c, d = chance.sample(verbs, 2)
        return f"Person{chr(97 + number % 26)} {c} {number} {a} on day {number % 7} and {d} {b}. How many {a} are left?"

    return [one(number) for number in range(n)]


def findings(training: list[str], evaluation: list[str], config: HygieneConfig) -> list[Finding]:
    texts = [*evaluation, *training]
    digests = np.array([text_hash(text) for text in texts], dtype=np.uint64)
    return find(texts, np.arange(len(texts)) < len(evaluation), digests, config)


@pytest.mark.parametrize("hidden", ["\u200b", "\u00ad", "\u2060", "\u200d", "\ufeff"])
def test_characters_that_nobody_sees_hide_no_leak(hidden: str) -> None:
    """Pages carry them between syllables and at line ends."""
    training = ["".join(char + hidden * (char in "aeiou") for char in text) for text in EVALUATION]
    found = findings([*training, *harmless(20)], EVALUATION, CONFIG)
    assert [(one.index, one.reason, one.twin) for one in found] == [(4 + i, "leak_exact", i) for i in range(4)]


def test_twenty_planted_leaks_are_found_class_by_class(capsys: pytest.CaptureFixture[str]) -> None:
    planted = [(name, text) for name, texts in LEAKS.items() for text in texts]
    training = [*harmless(200), *(text for _, text in planted)]
    random.Random(2).shuffle(training)
    found = {training[one.index - 4]: one for one in findings(training, EVALUATION, CONFIG)}
    leaks = {text: one for text, one in found.items() if one.reason.startswith("leak")}
    recall = Counter(name for name, text in planted if text in leaks)
    with capsys.disabled():
        print("\nrecall by class:", ", ".join(f"{name} {recall[name]}/{len(texts)}" for name, texts in LEAKS.items()))
    assert len(planted) == 20
    for name in ("exact", "ngram", "number_swap", "near"):
        assert recall[name] == 4, [text for n, text in planted if n == name and text not in leaks]
    assert set(leaks) <= {text for _, text in planted}
    # The twin that is named is the one it was made from, and the reason says what was shared.
    for name, texts in LEAKS.items():
        for text, evaluation in zip(texts, EVALUATION, strict=True):
            if name in ("exact", "ngram") or (name == "near" and text in leaks):
                assert EVALUATION[leaks[text].twin] == evaluation
    assert all(leaks[text].reason == "leak_exact" for text in LEAKS["exact"])
    assert all(leaks[text].reason == "leak_ngram" for text in LEAKS["ngram"])


def test_each_rule_finds_its_own_class_alone() -> None:
    for name, config in {
        "ngram": CONFIG.model_copy(update={"number_swap": False, "near_duplicate": None}),
        "number_swap": CONFIG.model_copy(update={"ngram": None, "near_duplicate": None}),
        "near": CONFIG.model_copy(update={"ngram": None, "number_swap": False}),
    }.items():
        assert len(findings(LEAKS[name], EVALUATION, config)) == 4, name
    off = HygieneConfig(ngram=None, number_swap=False, near_duplicate=None)
    assert findings(LEAKS["exact"], EVALUATION, off) == []


def test_short_questions_are_looked_for_as_a_whole() -> None:
    evaluation = ["Who wrote the novel Pond Days in nineteen thirty?", "Who is he?"]
    training = [
        "Tell me: who wrote the novel Pond Days in nineteen thirty? And why?",
        "Who wrote the novel Pond Days?",
        "Who is he? I saw him in the garden and wondered who is he, and why.",
        "Who wrote the novel Pond Days in nineteen forty?",
    ]
    found = {one.index - 2: one.reason for one in findings(training, evaluation, HygieneConfig(near_duplicate=None))}
    assert found == {0: "leak_ngram", 3: "leak_number_swap"}


def test_bare_sums_are_not_number_swaps_of_each_other() -> None:
    assert findings(["What is 3 + 4?"], ["What is 5 + 6?"], HygieneConfig()) == []


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real data sets are not at {DATA}")
def test_real_gsm8k_train_against_test_is_nearly_clean(capsys: pytest.CaptureFixture[str]) -> None:
    source = Gsm8kSource(path=DATA / "gsm8k/train.jsonl", test_path=DATA / "gsm8k/test.jsonl")
    rows = load_questions(source).rows
    train, test = ([row["question"] for row in rows if row["split"] == split] for split in ("train", "test"))
    found = findings(train, test, HygieneConfig())
    with capsys.disabled():
        print(f"\n{len(train)} GSM8K training questions against {len(test)} test questions:", end=" ")
        print(dict(Counter(one.reason for one in found)) or "nothing found")
        for one in found[:5]:
            print(f"  {one.reason}: {one.shared or one.similarity} | {train[one.index - len(test)][:90]}")
    # Nothing is planted here: whatever is found is shared wording. More than a handful and the rules are too eager.
    assert len(found) <= 5
