"""The local teacher as the real openai client sees it, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import openai
import pytest

from agentflow.errors import InputError
from agentflow.services.knowledge import read_known
from agentflow.services.server import LocalService
from agentflow.sources import arithmetic, encyclopedia
from agentflow.sources.sentences import sentences

WRONG_RATE = 0.25
KNOWN = {
    "question": "Which  river\nruns through Basel?",
    "rationale": "Basel is a city in Switzerland. It lies on the Rhine.",
    "answer": "the Rhine",
    "lookups": [{"sentence": 1, "query": "Basel river"}],
}
LOOKUPS_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "lookups", "schema": {"type": "object"}, "strict": True},
}

Ask = Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, Any]]


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[LocalService]:
    known = tmp_path_factory.mktemp("known") / "known.jsonl"
    known.write_text(json.dumps(KNOWN) + "\n", encoding="utf-8")
    with LocalService("teacher", wrong_rate=WRONG_RATE, seed=3, known=known, api_key="local") as service:
        yield service


@pytest.fixture
def teacher(running: LocalService) -> LocalService:
    running.reset()
    return running


def with_client(service: LocalService, ask: Ask, **options: Any) -> Any:
    async def run() -> Any:
        settings = {"base_url": service.base_url, "api_key": "local", "max_retries": 0, **options}
        # No certificates for plain HTTP: loading them would be most of a test's time.
        settings.setdefault("http_client", openai.DefaultAsyncHttpxClient(verify=False))
        async with openai.AsyncOpenAI(**settings) as client:
            return await ask(client)

    return asyncio.run(run())


def complete(service: LocalService, content: str, **options: Any) -> Any:
    async def ask(client: openai.AsyncOpenAI) -> Any:
        messages: Any = [{"role": "system", "content": "Think."}, {"role": "user", "content": content}]
        return await client.chat.completions.create(model="any-name", messages=messages, **options)

    return with_client(service, ask)


def questions(n: int) -> list[str]:
    return [problem.question for problem in arithmetic.generate(11, n, arithmetic.TRAINED)]


def two_hop(n: int) -> list[Any]:
    return encyclopedia.generate(11, n, encyclopedia.TRAINED, encyclopedia.World(0))


def answers(service: LocalService, asked: list[str], samples: range) -> dict[tuple[str, int], str]:
    async def ask(client: openai.AsyncOpenAI) -> dict[tuple[str, int], str]:
        async def one(question: str, sample: int) -> tuple[tuple[str, int], str]:
            messages: Any = [{"role": "user", "content": question}]
            answer = await client.chat.completions.create(model="m", messages=messages, seed=sample)
            return (question, sample), answer.choices[0].message.content or ""

        return dict(await asyncio.gather(*(one(question, sample) for question in asked for sample in samples)))

    return with_client(service, ask)


def test_a_generated_arithmetic_question_gets_its_solution() -> None:
    with LocalService("teacher", wrong_rate=0.0) as service:
        for problem in arithmetic.generate(5, 4, arithmetic.TRAINED):
            answer = complete(service, problem.question, seed=0)
            choice = answer.choices[0]
            assert choice.message.content == f"Answer: {problem.answer}"
            assert choice.message.reasoning_content == problem.rationale
            assert (choice.finish_reason, answer.model) == ("stop", "any-name")
            usage = answer.usage
            assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
            assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
        for problem in two_hop(3):
            answer = complete(service, problem.question, seed=0)
            assert answer.choices[0].message.content == f"Answer: {problem.answer}"
            assert answer.choices[0].message.reasoning_content == problem.rationale


def test_wrong_answers_come_at_the_configured_rate_and_are_the_same_on_every_call(teacher: LocalService) -> None:
    asked = questions(30) + [problem.question for problem in two_hop(20)]
    first = answers(teacher, asked, range(4))
    stats = teacher.stats()
    assert answers(teacher, asked, range(4)) == first
    right = {}
    for question in asked:
        solution = arithmetic.solve(question) or encyclopedia.solve(question, encyclopedia.World(0))
        right[question] = f"Answer: {solution.answer}"
    wrong = {key for key, answer in first.items() if answer != right[key[0]]}
    assert 0.15 < len(wrong) / len(first) < 0.35
    assert stats["answers"]["wrong"] == len(wrong)
    assert {sample for _, sample in wrong} == {0, 1, 2, 3}


def test_a_known_question_is_answered_as_recorded_whatever_its_white_space(teacher: LocalService) -> None:
    for sample in range(5):
        message = complete(teacher, " Which river runs through\tBasel? ", seed=sample).choices[0].message
        assert (message.content, message.reasoning_content) == ("Answer: the Rhine", KNOWN["rationale"])


def test_an_unknown_question_gets_a_marked_wrong_answer(teacher: LocalService) -> None:
    message = complete(teacher, "What is love?").choices[0].message
    assert (message.content, message.reasoning_content) == ("Answer: unknown", "I do not know this question.")
    assert teacher.stats()["answers"] == {"unknown": 1}


def lookups(service: LocalService, question: str, given: list[str]) -> Any:
    content = json.dumps({"question": question, "sentences": given})
    return json.loads(complete(service, content, response_format=LOOKUPS_FORMAT).choices[0].message.content)["lookups"]


def test_lookups_name_the_sentences_given_of_a_known_question(teacher: LocalService) -> None:
    own = sentences(KNOWN["rationale"])
    assert lookups(teacher, KNOWN["question"], own) == [{"sentence": 1, "query": "Basel river"}]
    assert lookups(teacher, KNOWN["question"], ["Let me think.", *own]) == [{"sentence": 2, "query": "Basel river"}]
    assert lookups(teacher, KNOWN["question"], ["Something else."]) == []


def test_lookups_name_the_sentences_given_of_a_two_hop_question(teacher: LocalService) -> None:
    for problem in two_hop(4):
        own = sentences(problem.rationale)
        assert lookups(teacher, problem.question, own) == [dict(lookup) for lookup in problem.lookups]
        assert len(problem.lookups) >= 1


@pytest.mark.parametrize("content", ["no JSON", "[1]", '{"question": 1, "sentences": []}', "[" * 100_000])
def test_lookups_of_anything_else_are_none(teacher: LocalService, content: str) -> None:
    answer = complete(teacher, content, response_format=LOOKUPS_FORMAT)
    assert json.loads(answer.choices[0].message.content) == {"lookups": []}
    assert lookups(teacher, questions(1)[0], ["A sentence."]) == []


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_longer_answer_is_cut_at_max_tokens(teacher: LocalService, name: str) -> None:
    whole = complete(teacher, KNOWN["question"])
    n_tokens = whole.usage.completion_tokens
    cut = complete(teacher, KNOWN["question"], **{name: 5})
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage.completion_tokens == 5
    assert KNOWN["rationale"].startswith(cut.choices[0].message.reasoning_content)
    assert cut.choices[0].message.content == ""
    nearly = complete(teacher, KNOWN["question"], **{name: n_tokens - 1}).choices[0]
    assert nearly.finish_reason == "length" and "Answer: the Rhine".startswith(nearly.message.content)
    assert complete(teacher, KNOWN["question"], **{name: n_tokens}).choices[0].finish_reason == "stop"


def test_the_models_are_listed(teacher: LocalService) -> None:
    async def ask(client: openai.AsyncOpenAI) -> list[str]:
        return [model.id async for model in client.models.list()]

    assert with_client(teacher, ask) == ["local-teacher"]


@pytest.mark.parametrize(
    ("options", "named"),
    [({"n": 2}, "n must be 1"), ({"stream": True}, "stream"), ({"max_tokens": 0}, "max_tokens")],
)
def test_a_request_it_cannot_serve_is_a_400_that_names_the_field(
    teacher: LocalService, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=named):
        complete(teacher, "Hello?", **options)
    assert teacher.stats()["paid"] == 0


def test_messages_without_a_user_are_refused(teacher: LocalService) -> None:
    async def ask(client: openai.AsyncOpenAI) -> Any:
        return await client.chat.completions.create(model="m", messages=[{"role": "system", "content": "x"}])

    with pytest.raises(openai.BadRequestError, match="user"):
        with_client(teacher, ask)


def test_an_unknown_path_is_a_404_of_the_same_shape(teacher: LocalService) -> None:
    async def ask(client: openai.AsyncOpenAI) -> Any:
        return await client.embeddings.create(model="m", input="x")

    with pytest.raises(openai.NotFoundError) as caught:
        with_client(teacher, ask)
    assert caught.value.type == "invalid_request_error"


def test_only_the_configured_key_is_accepted(teacher: LocalService) -> None:
    async def ask(client: openai.AsyncOpenAI) -> Any:
        return await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello?"}])

    with pytest.raises(openai.AuthenticationError) as caught:
        with_client(teacher, ask, api_key="other")
    assert caught.value.code == "invalid_api_key"
    assert with_client(teacher, ask, api_key="local").choices[0].message.content == "Answer: unknown"
    assert teacher.stats()["by_status"] == {"401": 1, "200": 1}


def test_five_hundred_calls_in_flight_are_all_answered() -> None:
    async def ask(client: openai.AsyncOpenAI) -> int:
        messages: Any = [{"role": "user", "content": "What is love?"}]
        calls = [client.chat.completions.create(model="m", messages=messages, seed=index) for index in range(500)]
        return len(await asyncio.gather(*calls))

    with LocalService("teacher", latency_ms=600) as service:
        assert with_client(service, ask, http_client=openai.DefaultAioHttpClient()) == 500
        stats = service.stats()
    assert (stats["requests"], stats["paid"], stats["in_flight"]) == (500, 500, 0)
    assert stats["peak_in_flight"] > 50


def test_published_records_of_real_data_sets_are_known_as_they_are(tmp_path):
    hotpot = {
        "_id": "1", "type": "bridge", "question": "Where was the author of Ost born?", "answer": "Karst",
        "supporting_facts": [["Ost", 0], ["Mira Tal", 1]],
        "context": [["Ost", ["Ost is by Mira Tal."]], ["Mira Tal", ["Mira Tal writes.", "She was born in Karst."]]],
    }  # fmt: skip
    gsm8k = {"question": "What is 2+2?", "answer": "It is 2+2 = <<2+2=4>>4.\n#### 4"}
    path = tmp_path / "known.jsonl"
    path.write_text(json.dumps(hotpot) + "\n" + json.dumps(gsm8k) + "\n")
    known = read_known(path)
    assert known["What is 2+2?"].rationale == "It is 2+2 = 4." and known["What is 2+2?"].answer == "4"
    chain = known["Where was the author of Ost born?"]
    assert chain.rationale == "Ost is by Mira Tal.\nShe was born in Karst."
    assert [lookup["query"] for lookup in chain.lookups] == ["Ost", "Mira Tal"]
    path.write_text(json.dumps({**gsm8k, "answer": "#### many"}) + "\n")
    with pytest.raises(InputError, match="known.jsonl:1 is no usable question"):
        read_known(path)
