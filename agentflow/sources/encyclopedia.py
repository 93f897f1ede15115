"""A small invented encyclopedia and two-hop questions over it: a seed in; passages, questions and solutions out.

    Q  In which town is the company that Mira Tal works for?
    R  First I need the company that Mira Tal works for. Mira Tal works for the Orlen Company. Next I need the town
       of the Orlen Company. The Orlen Company is in the town of Vesk.          A  Vesk

Each fact is one passage; a lookup's query is the phrase its sentence needs ("town of the Orlen Company"). All names
are made up, so no model knows an answer without looking. Questions of other origin give None.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, TypedDict

from agentflow.errors import ConfigError
from agentflow.records import sha256_text
from agentflow.sources.encyclopedia_relations import (
    GOODS,
    KINDS,
    RELATIONS,
    TRAINED_CHAINS,
    UNSEEN_CHAINS,
    WORDINGS,
    Relation,
)
from agentflow.sources.invented_names import NameSupply
from agentflow.sources.problems import Lookup, Problem, Solution, question_id, seeded

KIND = "two_hop"
Starts = Literal["all", "train", "test"]


class PassageRow(TypedDict):
    """One fact, in the shape of a search corpus."""

    id: str
    title: str
    text: str
    source: list[str]


@dataclass(frozen=True)
class Template:
    """A chain of two relations in one wording."""

    id: str
    first: Relation
    second: Relation
    wording: str
    trained: bool


def _templates() -> dict[str, Template]:
    found = [
        Template(f"{one}-{two}-{wording}", RELATIONS[one], RELATIONS[two], wording, trained)
        for chains, trained in ((TRAINED_CHAINS, True), (UNSEEN_CHAINS, False))
        for one, two, wording in chains
    ]
    assert all(template.first.object == template.second.subject for template in found)
    return {template.id: template for template in found}


TEMPLATES: dict[str, Template] = _templates()
TRAINED: tuple[str, ...] = tuple(t.id for t in TEMPLATES.values() if t.trained)
UNSEEN: tuple[str, ...] = tuple(t.id for t in TEMPLATES.values() if not t.trained)


@dataclass(frozen=True)
class World:
    """All entities and facts of one encyclopedia; equal seeds give equal worlds."""

    seed: int = 0
    entities: dict[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)
    # Kind to the names of its entities as they stand in a sentence ("the Orlen Company").
    facts: dict[tuple[str, str], str] = field(init=False, repr=False, compare=False)
    # (relation id, subject) to object.

    def __post_init__(self) -> None:
        rng = seeded("encyclopedia", self.seed)
        supply = NameSupply(rng)
        first_names = [supply.word() for _ in range(24)]
        entities: dict[str, tuple[str, ...]] = {"goods": GOODS}
        for kind, (count, form) in KINDS.items():
            if count:
                words = [supply.word() for _ in range(count)]
                if kind == "person":  # family names are unique, first names are shared
                    words = [f"{rng.choice(first_names)} {word}" for word in words]
                entities[kind] = tuple(form.format(word) for word in words)
        facts: dict[tuple[str, str], str] = {}
        for relation in RELATIONS.values():
            for subject in entities[relation.subject]:
                facts[relation.id, subject] = rng.choice(
                    [name for name in entities[relation.object] if name != subject]
                )
        object.__setattr__(self, "entities", entities)
        object.__setattr__(self, "facts", facts)

    def passages(self) -> list[PassageRow]:
        """Every fact as one short sentence under the name of its subject [number of facts]."""
        rows: list[PassageRow] = []
        for (relation, subject), name in self.facts.items():
            text = state(RELATIONS[relation], subject, name)
            identifier = sha256_text(f"{relation}|{subject}")[:16]
            rows.append({"id": identifier, "title": title(subject), "text": text, "source": [f"world-{self.seed}"]})
        return rows

    def starts(self, kind: str, part: Starts = "all") -> list[str]:
        """Entities of `kind` that questions may start from: about 70 % are for training, 30 % for tests."""
        names = self.entities[kind]
        if part == "all":
            return list(names)
        return [name for name in names if (_share(self.seed, name) < 0.3) == (part == "test")]


def _share(seed: int, name: str) -> float:
    return int(sha256_text(f"start|{seed}|{name}")[:8], 16) / 16**8


def title(name: str) -> str:
    """An entity's name as a title or an answer: without article, and without "book" for books."""
    return name.removeprefix("the book ").removeprefix("the ")


def state(relation: Relation, subject: str, name: str) -> str:
    """The sentence that states a fact."""
    return _capital(relation.fact.format(s=subject, o=name))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ask(template: Template, start: str) -> str:
    """The question that `template` asks about `start`."""
    first, second = template.first, template.second
    phrase = first.phrase.format(s=start)
    return _capital(
        WORDINGS[template.wording].question.format(
            first=phrase,
            ask=second.question.format(s=f"the {phrase}"),
            ask_it=second.question.format(s=f"this {first.object}"),
            nested=second.phrase.format(s=f"the {phrase}"),
        )
    )


def _explain(template: Template, start: str, middle: str, end: str) -> Solution:
    """The solution along start -> middle -> end, whether that is true or not."""
    first, second = template.first.phrase.format(s=start), template.second.phrase.format(s=middle)
    rationale = WORDINGS[template.wording].rationale.format(
        first=first,
        second=second,
        fact1=state(template.first, start, middle),
        fact2=state(template.second, middle, end),
    )
    # Sentences: need, fact, need, fact. A lookup belongs before each fact.
    lookups: tuple[Lookup, ...] = ({"sentence": 1, "query": first}, {"sentence": 3, "query": second})
    return Solution(rationale, title(end), lookups=lookups)


def generate(seed: int, n: int, templates: Sequence[str], world: World, *, starts: Starts = "all") -> list[Problem]:
    """`n` problems over `world`, taking the templates in turn [n].

    Row i depends on (seed, its template, i, world, starts) alone; a larger `n` only appends. No question occurs twice.
    `starts` "train" and "test" ask about disjoint entities, so that no test question starts where a training one did.
    Raises ConfigError for an unknown template, for no template, and if the templates have no further questions.
    """
    unknown = [name for name in templates if name not in TEMPLATES]
    if unknown or (n > 0 and not templates):
        raise ConfigError(f"two-hop templates {unknown or list(templates)!r}; give some of {list(TEMPLATES)}")
    orders: dict[str, list[str]] = {}
    problems: list[Problem] = []
    for index in range(n):
        template = TEMPLATES[templates[index % len(templates)]]
        if template.id not in orders:
            orders[template.id] = _start_order(seed, template, world, starts)
        order, position = orders[template.id], index // len(templates)
        if position >= len(order):
            raise ConfigError(
                f"two-hop template {template.id!r} has {len(order)} questions ({starts}), not {position + 1}; "
                f"ask for at most {index} questions or give more templates"
            )
        problems.append(_problem(template, order[position], world))
    return problems


def _start_order(seed: int, template: Template, world: World, starts: Starts) -> list[str]:
    """Where the questions of a template start, in seeded order; entities that lead back to themselves are left out."""
    order = [
        name
        for name in world.starts(template.first.subject, starts)
        if _follow(template, name, world)[1] not in (name, _follow(template, name, world)[0])
    ]
    seeded(KIND, seed, template.id, world.seed, starts).shuffle(order)
    return order


def _follow(template: Template, start: str, world: World) -> tuple[str, str]:
    middle = world.facts[template.first.id, start]
    return middle, world.facts[template.second.id, middle]


def _problem(template: Template, start: str, world: World) -> Problem:
    question = _ask(template, start)
    middle, end = _follow(template, start, world)
    solution = _explain(template, start, middle, end)
    return Problem(
        id=question_id(KIND, question),
        question=question,
        answer=solution.answer,
        template=template.id,
        rationale=solution.rationale,
        lookups=solution.lookups,
        aliases=aliases(end),
    )


def aliases(name: str) -> tuple[str, ...]:
    """Other accepted answers: the invented word of "the Orlen Company" alone; none for people and single words."""
    words = title(name).split()
    generic = {"Company", "Institute", "River", "Lake"} & set(words)
    return tuple(word for word in words if generic and word not in generic)


def solve(question: str, world: World) -> Solution | None:
    """The solution of a generated question over `world`; None if no template matches or it names no known entity."""
    recognised = _recognise(question, world)
    if recognised is None:
        return None
    template, start = recognised
    return _explain(template, start, *_follow(template, start, world))


def wrong_solution(question: str, world: World, rng: random.Random) -> Solution:
    """The solution with one fact replaced by an untrue one (and followed from there), so that the answer is wrong.

    Raises ValueError if the question is not a generated one.
    """
    recognised = _recognise(question, world)
    if recognised is None:
        raise ValueError(f"not a generated two-hop question: {question!r}; ask `solve` first")
    template, start = recognised
    middle, end = _follow(template, start, world)
    if rng.random() < 0.5:
        wrong_middles = [
            name
            for name in world.entities[template.first.object]
            if name not in (start, middle) and world.facts[template.second.id, name] != end
        ]
        middle = rng.choice(wrong_middles)
        return _explain(template, start, middle, world.facts[template.second.id, middle])
    wrong_ends = [name for name in world.entities[template.second.object] if name not in (start, middle, end)]
    return _explain(template, start, middle, rng.choice(wrong_ends))


def _recognise(question: str, world: World) -> tuple[Template, str] | None:
    """Template and start of a generated question."""
    question = " ".join(question.split())
    for template, pattern in _patterns():
        match = pattern.fullmatch(question)
        if match and (template.first.id, match["s"]) in world.facts:
            return template, match["s"]
    return None


@cache
def _patterns() -> tuple[tuple[Template, re.Pattern[str]], ...]:
    """Every template with the pattern of its questions; the start entity is the group `s`."""
    mark = "\0"
    return tuple(
        (template, re.compile(re.escape(_ask(template, mark)).replace(re.escape(mark), "(?P<s>.{1,60})")))
        for template in TEMPLATES.values()
    )
