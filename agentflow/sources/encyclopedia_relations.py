"""The relations of the invented encyclopedia and how they are put in words. Data only; see `encyclopedia`.

`{s}` is the subject and `{o}` the object as they stand in a sentence ("the Belmar Company"). `phrase` is both the
search query and, after "the", what a question and a rationale call the object; it shares its words with `fact`, which
is what lets a lexical search find the fact.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """A fact that every entity of kind `subject` has exactly one of."""

    id: str
    subject: str
    object: str
    fact: str
    phrase: str
    question: str
    # Asks for the object of `{s}`.


# Kind of entity to (how many there are, how it stands in a sentence).
KINDS: dict[str, tuple[int, str]] = {
    "person": (128, "{}"),
    "company": (64, "the {} Company"),
    "institute": (64, "the {} Institute"),
    "town": (64, "{}"),
    "region": (20, "{}"),
    "river": (48, "the {} River"),
    "lake": (24, "Lake {}"),
    "book": (64, "the book {}"),
    "goods": (0, "{}"),
}

GOODS = (
    "clocks", "lamps", "boats", "chairs", "bells", "shoes", "carpets", "violins", "bricks", "kettles", "bicycles",
    "mirrors", "ropes", "gloves", "tents", "candles",
)  # fmt: skip

RELATIONS: dict[str, Relation] = {
    relation.id: relation
    for relation in (
        Relation(
            "works_for", "person", "company",
            "{s} works for {o}.", "company that {s} works for", "Which company does {s} work for?",
        ),
        Relation(
            "studied_at", "person", "institute",
            "{s} studied at {o}.", "institute where {s} studied", "At which institute did {s} study?",
        ),
        Relation(
            "born_in", "person", "town",
            "{s} was born in the town of {o}.", "town where {s} was born", "In which town was {s} born?",
        ),
        Relation(
            "teacher", "person", "person",
            "The teacher of {s} was {o}.", "teacher of {s}", "Who was the teacher of {s}?",
        ),
        Relation(
            "company_town", "company", "town",
            "{s} is in the town of {o}.", "town of {s}", "In which town is {s}?",
        ),
        Relation(
            "company_founder", "company", "person",
            "The founder of {s} was {o}.", "founder of {s}", "Who was the founder of {s}?",
        ),
        Relation(
            "goods", "company", "goods",
            "{s} makes {o} as its goods.", "goods of {s}", "Which goods does {s} make?",
        ),
        Relation(
            "institute_town", "institute", "town",
            "{s} is in the town of {o}.", "town of {s}", "In which town is {s}?",
        ),
        Relation(
            "institute_founder", "institute", "person",
            "The founder of {s} was {o}.", "founder of {s}", "Who was the founder of {s}?",
        ),
        Relation(
            "mayor", "town", "person",
            "The mayor of {s} is {o}.", "mayor of {s}", "Who is the mayor of {s}?",
        ),
        Relation(
            "town_river", "town", "river",
            "{s} lies on {o}.", "river of {s}", "On which river does {s} lie?",
        ),
        Relation(
            "town_region", "town", "region",
            "{s} is in the region of {o}.", "region of {s}", "In which region is {s}?",
        ),
        Relation(
            "capital", "region", "town",
            "The capital of {s} is {o}.", "capital of {s}", "What is the capital of {s}?",
        ),
        Relation(
            "governor", "region", "person",
            "The governor of {s} is {o}.", "governor of {s}", "Who is the governor of {s}?",
        ),
        Relation(
            "river_lake", "river", "lake",
            "{s} flows into {o}.", "lake that {s} flows into", "Into which lake does {s} flow?",
        ),
        Relation(
            "author", "book", "person",
            "The author of {s} is {o}.", "author of {s}", "Who is the author of {s}?",
        ),
        Relation(
            "book_town", "book", "town",
            "{s} is set in the town of {o}.", "town where {s} is set", "In which town is {s} set?",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Wording:
    """How a two-hop question and its rationale are worded. `{first}` and `{second}` are the phrases of the hops."""

    question: str
    # `{ask}`: the second relation's question about `the {first}`; `{kind}`: what that is ("company", "person");
    # `{ask_it}`: the question about "this {kind}"; `{nested}`: the second phrase about `the {first}`.
    rationale: str
    # `{fact1}` and `{fact2}` are sentences of their own.


WORDINGS: dict[str, Wording] = {
    "ask": Wording(
        "{ask}",
        "First I need the {first}. {fact1} Next I need the {second}. {fact2}",
    ),
    "take": Wording(
        "Take the {first}. {ask_it}",
        "I begin with the {first}. {fact1} Then I look for the {second}. {fact2}",
    ),
    "name": Wording(
        "Please name the {nested}.",
        "To name it I need the {first}. {fact1} After that I need the {second}. {fact2}",
    ),
}

# (first relation, second relation, wording): the templates in order; recipes train on the first of them. The first
# twelve use every relation and every wording at least once, so the others are new combinations of known parts.
TRAINED_CHAINS: tuple[tuple[str, str, str], ...] = (
    ("works_for", "company_town", "ask"),
    ("born_in", "mayor", "ask"),
    ("author", "born_in", "take"),
    ("institute_founder", "studied_at", "ask"),
    ("town_river", "river_lake", "ask"),
    ("studied_at", "institute_town", "name"),
    ("town_region", "capital", "take"),
    ("mayor", "works_for", "ask"),
    ("company_town", "town_region", "ask"),
    ("company_founder", "teacher", "name"),
    ("book_town", "town_river", "take"),
    ("works_for", "goods", "ask"),
)
UNSEEN_CHAINS: tuple[tuple[str, str, str], ...] = (
    ("works_for", "company_founder", "ask"),
    ("studied_at", "institute_founder", "ask"),
    ("born_in", "town_river", "ask"),
    ("born_in", "town_region", "take"),
    ("teacher", "works_for", "ask"),
    ("teacher", "studied_at", "name"),
    ("teacher", "born_in", "ask"),
    ("institute_town", "mayor", "ask"),
    ("institute_town", "town_river", "take"),
    ("institute_town", "town_region", "name"),
    ("institute_founder", "born_in", "ask"),
    ("institute_founder", "teacher", "take"),
    ("company_town", "mayor", "name"),
    ("company_town", "town_river", "ask"),
    ("company_founder", "born_in", "ask"),
    ("company_founder", "studied_at", "take"),
    ("mayor", "born_in", "ask"),
    ("mayor", "studied_at", "name"),
    ("mayor", "teacher", "ask"),
    ("author", "works_for", "name"),
    ("author", "studied_at", "ask"),
    ("author", "teacher", "take"),
    ("book_town", "mayor", "ask"),
    ("book_town", "town_region", "name"),
    ("works_for", "company_town", "take"),
    ("born_in", "mayor", "name"),
    ("author", "born_in", "ask"),
    ("town_region", "governor", "ask"),
)
