"""What the teacher benchmarks measure, each in a process of its own: `python -m benchmarks.teacher_jobs JOB URL ...`.

bare URL REQUESTS CONCURRENCY            the openai client with its aiohttp transport, nothing kept
stage URL REQUESTS CONCURRENCY FOLDER    the traces stage: ledger, answer check, committed artifact
limited URL SECONDS LEDGER LIMIT FIRST   the teacher client under a limit of requests a minute, until the time is over

Prints one line of JSON. Clocks start behind the imports; opening and closing ledger, client and artifact is inside.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import datasets  # noqa: F401 (what the artifact store would load within the clock)
import openai

from agentflow.access import Access
from agentflow.artifacts.fingerprint import identity_of
from agentflow.artifacts.store import Store
from agentflow.clients.connections import allow_connections
from agentflow.clients.teacher import TeacherConfig
from agentflow.schemas import STAGES, TRACES
from agentflow.sources.source import GeneratedSource
from agentflow.stages.questions import QuestionsConfig
from agentflow.stages.traces import SYSTEM, TracesConfig, trace_batch


def question(number: int) -> str:
    """The one question the paced service answers rightly."""
    return f"What is {number} + 25?"


def question_row(number: int) -> dict[str, Any]:
    """Its row in QUESTIONS columns."""
    texts = {"question": question(number), "answer": str(number + 25), "rationale": "", "source": "", "meta": "{}"}
    kinds = {"answer_type": "number", "kind": "arithmetic", "split": "train", "template": ""}
    return {"id": f"sum-{number}", "aliases": [], **texts, **kinds}


async def bare(url: str, requests: int, concurrency: int) -> dict[str, Any]:
    """The floor: the same requests with nothing around them but a semaphore."""
    slots = asyncio.Semaphore(concurrency)
    allow_connections(concurrency, service="bare")
    started = time.monotonic()
    http_client = openai.DefaultAioHttpClient()
    async with openai.AsyncOpenAI(
        api_key="local", base_url=f"{url}/v1", max_retries=0, http_client=http_client
    ) as client:

        async def one(number: int) -> str | None:
            async with slots:
                reply = await client.chat.completions.create(
                    model="paced",
                    max_tokens=2048,
                    temperature=0.6,
                    messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": question(number)}],
                )
            return reply.choices[0].message.content

        answers = await asyncio.gather(*(one(number) for number in range(requests)))
    wall_s = time.monotonic() - started
    assert answers == [f"Answer: {number + 25}" for number in range(requests)]
    return {"wall_s": wall_s}


async def stage(url: str, requests: int, concurrency: int, folder: Path) -> dict[str, Any]:
    """The stage function on one batch, then its artifact."""
    rows = [question_row(number) for number in range(requests)]
    config = TracesConfig(teacher=TeacherConfig(model="paced", concurrency=concurrency))
    access = Access(ledger_url=f"sqlite:///{folder / 'ledger.db'}", run_id="bench", teacher_url=f"{url}/v1")
    questions = identity_of(STAGES["questions"], QuestionsConfig(source=GeneratedSource(arithmetic_train=requests)), {})
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    with access.open_ledger() as ledger:
        async with access.open_teacher(config.teacher, ledger, config.edition) as teacher:
            outcomes = await trace_batch(rows, config, teacher)
    identity = identity_of(STAGES["traces"], config, {"questions": questions})
    artifact = Store.open(folder / "artifacts").commit_table(identity, outcomes, TRACES, recipe="bench")
    wall_s = time.monotonic() - started
    extra_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    with access.open_ledger() as ledger:
        paid = ledger.usage("bench")["teacher"]["paid"]
    assert artifact.manifest.rows == requests == paid, (artifact.manifest.rows, paid)
    return {"wall_s": wall_s, "extra_mib": extra_kib / 1024}


async def limited(url: str, seconds: float, ledger_path: str, limit: int, first: int) -> dict[str, Any]:
    """Ask as much as the limit allows for so long."""
    config = TeacherConfig(model="paced", concurrency=64, requests_per_minute=limit)
    access = Access(ledger_url=f"sqlite:///{ledger_path}", run_id=f"bench-{first}", teacher_url=f"{url}/v1")
    done = 0
    with access.open_ledger() as ledger:
        async with access.open_teacher(config, ledger, "1") as teacher:

            async def worker(start: int) -> None:
                nonlocal done
                for number in range(start, start + 1_000_000, config.concurrency):
                    await teacher.complete([{"role": "user", "content": question(number)}])
                    done += 1

            workers = [asyncio.create_task(worker(first + at)) for at in range(config.concurrency)]
            await asyncio.wait(workers, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            for one in workers:
                one.cancel()
            ended = await asyncio.gather(*workers, return_exceptions=True)
            failures = [one for one in ended if not isinstance(one, asyncio.CancelledError)]
            assert not failures, f"a worker ended before the time was over: {failures[0]!r}"
    return {"asked": done}


def main(job: str, url: str, *given: str) -> None:
    """Run one job and print what it measured."""
    if job == "bare":
        result = asyncio.run(bare(url, int(given[0]), int(given[1])))
    elif job == "stage":
        result = asyncio.run(stage(url, int(given[0]), int(given[1]), Path(given[2])))
    else:
        result = asyncio.run(limited(url, float(given[0]), given[1], int(given[2]), int(given[3])))
    print(json.dumps({**result, "cpu_s": time.process_time()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
