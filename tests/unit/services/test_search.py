"""The local search service as the real tavily client sees it, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tavily
from tavily.errors import BadRequestError, InvalidAPIKeyError

from agentflow.errors import InputError
from agentflow.services.search import PassageIndex, SearchOptions, load_corpus
from agentflow.services.server import LocalService
from agentflow.sources import encyclopedia
from agentflow.sources.encyclopedia import World
from agentflow.sources.sentences import sentences

DATA = Path(__file__).parents[4] / "shared" / "data" / "search_corpus"


@pytest.fixture(scope="module")
def running() -> Iterator[LocalService]:
    with LocalService("search", world_seed=0, api_key="local") as service:
        yield service


@pytest.fixture
def service(running: LocalService) -> LocalService:
    running.reset()
    return running


def search(service: LocalService, query: str, api_key: str = "local", **options: Any) -> Any:
    async def run() -> Any:
        async with tavily.AsyncTavilyClient(api_key=api_key, api_base_url=service.base_url) as client:
            return await client.search(query, **options)

    return asyncio.run(run())


def test_the_lookups_of_two_hop_questions_find_their_facts_first(service: LocalService) -> None:
    for problem in encyclopedia.generate(4, 4, encyclopedia.TRAINED, World(0)):
        for lookup in problem.lookups:
            results = search(service, lookup["query"], search_depth="basic", max_results=3)["results"]
            assert results[0]["content"] == sentences(problem.rationale)[lookup["sentence"]]
            assert results[0]["url"].startswith("local://passages/")
            assert set(results[0]) == {"url", "title", "content", "score", "raw_content"}


def test_results_are_limited_and_sorted_and_the_same_every_time(service: LocalService) -> None:
    query = " ".join(passage["title"] for passage in World(0).passages()[:5])
    answer = search(service, query, max_results=4)
    scores = [result["score"] for result in answer["results"]]
    assert len(scores) == 4 and scores == sorted(scores, reverse=True) and 0 < scores[-1] <= scores[0] < 1
    assert search(service, query, max_results=4) == answer
    assert search(service, query, max_results=0)["results"] == []


def test_a_query_without_a_known_word_has_no_results(service: LocalService) -> None:
    assert search(service, "zzqx qqzz")["results"] == []
    assert search(service, "of the and")["results"] == []
    assert service.stats()["answers"] == {"no_hits": 2}


def test_raw_content_and_usage_come_when_asked_for(service: LocalService) -> None:
    title = World(0).passages()[0]["title"]
    answer = search(service, title, include_raw_content=True, include_usage=True, search_depth="advanced")
    assert answer["results"][0]["raw_content"] == answer["results"][0]["content"]
    assert answer["usage"] == {"credits": 2}
    assert search(service, title)["results"][0]["raw_content"] is None


@pytest.mark.parametrize(
    ("query", "options", "named"),
    [(" ", {}, "missing"), ("x" * 401, {}, "too long"), ("x", {"max_results": 21}, "max_results")],
)
def test_a_bad_request_is_refused_with_its_reason(
    service: LocalService, query: str, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(BadRequestError, match=named):
        search(service, query, **options)
    assert service.stats()["paid"] == 0


def test_only_the_configured_key_is_accepted(service: LocalService) -> None:
    with pytest.raises(InvalidAPIKeyError):
        search(service, "anything", api_key="other")
    assert search(service, "anything", api_key="local")["query"] == "anything"
    assert service.stats()["by_status"] == {"401": 1, "200": 1}


def test_equal_scores_are_ordered_by_id_whatever_the_order_of_the_corpus() -> None:
    passages: Any = [{"id": id_, "title": "Twin", "text": "the same words here"} for id_ in ("b", "c", "a")]
    passages += [{"id": "z", "title": "Other", "text": "nothing in common"}]
    for order in (passages, passages[::-1]):
        found = PassageIndex(order).search("twin words", 10)
        assert [passage["id"] for passage, _ in found] == ["a", "b", "c"]
    assert [passage["id"] for passage, _ in PassageIndex(passages).search("words TWIN", 2)] == ["a", "b"]


def test_a_corpus_is_a_file_or_a_folder_of_files(tmp_path: Path) -> None:
    rows = [{"id": str(n), "title": f"Title {n}", "text": "Text", "source": ["made"]} for n in range(3)]
    for row in rows:
        (tmp_path / f"{row['id']}.jsonl").write_text(json.dumps(row) + "\n\n", encoding="utf-8")
    assert [p["id"] for p in load_corpus(SearchOptions(corpus=tmp_path))] == ["0", "1", "2"]
    assert [p["title"] for p in load_corpus(SearchOptions(corpus=tmp_path / "1.jsonl"))] == ["Title 1"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"id": "1", "title": "T", "text": "x"}\n{"id": "2", "title"', r"corpus\.jsonl:2 is not JSON"),
        ('{"id": "1", "title": "T"}', r"corpus\.jsonl:1 is not a passage"),
        ('{"id": "1", "title": "T", "text": "x"}\n{"id": "1", "title": "T", "text": "y"}', "ids are unique"),
    ],
)
def test_a_wrong_corpus_is_refused_with_its_line(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=named):
        load_corpus(SearchOptions(corpus=path))


def test_missing_and_empty_corpora_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read corpus"):
        load_corpus(SearchOptions(corpus=tmp_path / "no.jsonl"))
    with pytest.raises(InputError, match=r"no \*\.jsonl"):
        load_corpus(SearchOptions(corpus=tmp_path))
    with pytest.raises(InputError, match="no passage"):
        PassageIndex([])


def test_the_real_corpus_is_indexed_and_its_paragraphs_found() -> None:
    if not DATA.is_dir():
        pytest.skip("the real search corpus (../shared/data/search_corpus) is not on this machine")
    with LocalService("search", corpus=DATA) as service:
        titles = [result["title"] for result in search(service, "Lothair II king of Lotharingia")["results"]]
        assert "Lothair II" in titles
