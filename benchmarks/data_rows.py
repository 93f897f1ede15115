"""A million rows through the data stages' bookkeeping: reading, splits, duplicates, leaks, filter decisions, commits.

In: made-up questions (26 words on average, a fixed seed) with a known number of twins and leaks among them. Out: rows
for time, memory and what was found, imported by the benchmark `data`. Each part of each size runs in a process of its
own through the real stage functions and the real store, so that its peak memory is its own. No model scores anything
here: the filter's losses are made up, its decisions and counts are not.

CPU seconds and not wall time say whether it is linear: other work on the machine disturbs them less.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentflow.arrow_rows import ArrowRows
from agentflow.artifacts.fingerprint import identity_of
from agentflow.artifacts.store import Store
from agentflow.records import Outcomes, Reject, Segment
from agentflow.schemas import FILTERED, QUESTIONS, STAGES, TOOL_TRACES
from agentflow.sources.file_sources import NqOpenSource
from agentflow.stages.loss_filter import LossFilterConfig, RowScore, Score, decide
from agentflow.stages.questions import QuestionsConfig, cleaned_questions
from benchmarks.row import Row
from benchmarks.sizes import sized

SIZES = sized((200_000, 1_000_000), (2_000, 8_000))
TESTS = 2_000
MOST_MB = 2_000
# 2 GB, in 10^6 bytes, of resident memory; pages of memory-mapped files count.
MOST_RATIO = 1.2
# CPU seconds a row at the largest size over those at the smallest.
PLANTED = {
    "duplicate": 0.02,
    "near_duplicate": 0.02,
    "leak_exact": 0.002,
    "leak_ngram": 0.002,
    "leak_number_swap": 0.002,
}
# Shares of the rows. Found by chance otherwise: nothing, the words are drawn from 20,000.
CHUNK = 10_000


# ---------------------------------------------------------------- the rows
def rows() -> Iterator[Row]:
    """Time, memory and findings at every size; then whether it is linear."""
    measured = []
    with tempfile.TemporaryDirectory(prefix="data-rows-") as folder:
        for size in SIZES:
            measured.append(measure(size, Path(folder)))
            yield from size_rows(size, measured[-1])
    first, last = measured[0], measured[-1]
    for part in ("questions", "filter"):
        grown = (last[part]["cpu_s"] / SIZES[-1]) / (first[part]["cpu_s"] / SIZES[0])
        said = ", ".join(f"{n:,} rows {one[part]['cpu_s']:.0f} s" for n, one in zip(SIZES, measured, strict=True))
        what = f"{part} bookkeeping, CPU time a row at {SIZES[-1]:,} rows over {SIZES[0]:,}"
        yield Row.done(what, f"≤ {MOST_RATIO} (linear)", round(grown, 3), "×", grown <= MOST_RATIO, said)


def measure(size: int, folder: Path) -> dict[str, Any]:
    """What the processes of one size report, by part."""
    planted = make_files(size, folder)
    return {"planted": planted, **{part: in_process(part, size, folder) for part in PARTS}}


def in_process(part: str, size: int, folder: Path) -> dict[str, Any]:
    """One part in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks.data_rows", part, str(size), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    if ran.returncode != 0:
        raise RuntimeError(f"{part}, {size} rows: exit code {ran.returncode}: {ran.stderr[-2000:]}")
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def size_rows(size: int, found: dict[str, Any]) -> Iterator[Row]:
    """The rows of one size."""
    what = f"{size:,} rows: "
    questions, kept = found["questions"], found["filter"]
    said = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in questions["wall_s"].items())
    seconds = sum(questions["wall_s"].values())
    reason = f"{questions['rows_out']:,} out; {said}"
    yield Row.done(what + "splits, dedup, decontamination, artifact", "", round(seconds, 1), "s", True, reason)
    reason = f"{kept['rows_out']:,} out, {kept['dropped']:,} dropped, {kept['quarantined']:,} quarantined"
    yield Row.done(what + "filter decisions, counts, artifact", "", round(kept["wall_s"], 1), "s", True, reason)
    peak = max(questions["peak_mb"], kept["peak_mb"])
    reason = f"questions {questions['peak_mb']:,.0f} MB, filter {kept['peak_mb']:,.0f} MB, a process each"
    yield Row.done(what + "peak memory", f"≤ {MOST_MB:,} MB", round(peak), "MB", peak <= MOST_MB, reason)
    missed = {name: (questions["dropped"].get(name, 0), n) for name, n in found["planted"].items()}
    reason = ", ".join(f"{name} {got:,} of {n:,}" for name, (got, n) in missed.items())
    share = min(got / n for got, n in missed.values())
    other = sum(questions["dropped"].values()) - sum(got for got, _ in missed.values())
    ok = share >= 0.999 and not other
    yield Row.done(what + "planted twins and leaks found, worst class", "≥ 0.999, no others", share, "", ok, reason)


# ---------------------------------------------------------------- one part, in a process of its own
def main(part: str, size: int, folder: Path) -> dict[str, Any]:
    """Run a part on the files that `measure` made, return what it reads."""
    import datasets  # noqa: F401  what is measured later is work and no imports
    import datasketch  # noqa: F401

    found = PARTS[part](size, folder, Store.open(folder / f"store-{size}"))
    return {**found, "peak_mb": peak_mb()}


@dataclass(frozen=True)
class Clock:
    """Seconds since it was made."""

    wall: float
    cpu: float

    @classmethod
    def start(cls) -> Clock:
        return cls(time.perf_counter(), time.process_time())

    def wall_s(self) -> float:
        return time.perf_counter() - self.wall

    def cpu_s(self) -> float:
        return time.process_time() - self.cpu


def peak_mb() -> float:
    """Peak resident memory of this process so far, 10^6 bytes.

    Not `getrusage`: across fork and exec that keeps the peak of the parent, which has trained a model before this.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def questions_config(size: int, folder: Path) -> QuestionsConfig:
    """The made-up files as a source, with the defaults of hygiene."""
    return QuestionsConfig(source=NqOpenSource(path=folder / f"train-{size}.jsonl", test_path=folder / "test.jsonl"))


def run_questions(size: int, folder: Path, store: Store) -> dict[str, Any]:
    """The questions stage as `tasks.simple` runs it."""
    config = questions_config(size, folder)
    clock = Clock.start()
    cleaned = cleaned_questions(config)
    read_s = clock.wall_s()
    identity = identity_of(STAGES["questions"], config, {})
    artifact = store.commit_table(identity, cleaned.outcomes, QUESTIONS, recipe="rows")
    return {
        "wall_s": {"read, split and compare": read_s, "commit": clock.wall_s() - read_s},
        "cpu_s": clock.cpu_s(),
        "rows_out": artifact.manifest.rows,
        "dropped": cleaned.facts["dropped"],
    }


def run_filter(size: int, folder: Path, store: Store) -> dict[str, Any]:
    """The loss filter's decisions over the questions' whole artifact, batch by batch, and their commit."""
    config = LossFilterConfig(losers="drop")
    source = identity_of(STAGES["questions"], questions_config(size, folder), {})
    artifact = store.find(source.stage, source.fingerprint)
    assert artifact is not None
    clock = Clock.start()
    out = ArrowRows(FILTERED)
    rejects: list[Reject] = []
    read = 0
    for batch in artifact.table().to_batches(max_chunksize=1000):
        traces = [trace_row(row) for row in batch.to_pylist()]
        scores = {row["id"]: made_up(row["id"]) for row in traces if row["n_calls"]}
        decided = decide(traces, scores, config)
        for row in decided.rows:
            out.append(row)
        rejects += decided.rejects
        read += decided.keys_in
    identity = identity_of(STAGES["loss_filter"], config, {})
    made = store.commit_table(identity, Outcomes(out, rejects, read, len(out)), FILTERED, recipe="rows")
    ends = Counter(reject.status for reject in rejects)
    return {
        "wall_s": clock.wall_s(),
        "cpu_s": clock.cpu_s(),
        "rows_out": made.manifest.rows,
        "dropped": ends["dropped"],
        "quarantined": ends["quarantined"],
    }


def trace_row(question: dict[str, Any]) -> dict[str, Any]:
    """A question as a trace without a call every tenth time (`schemas.TOOL_TRACES`)."""
    text = Segment("text", "It is known.").to_row()
    call = {
        **text,
        "kind": "call",
        "text": "",
        "tool": "Calculator",
        "arguments": '{"expression":"1+1"}',
        "result": "2",
    }
    with_call = int(question["id"][-2:], 16) % 10 > 0
    row: dict[str, Any] = dict.fromkeys(TOOL_TRACES.names)
    row |= {name: question[name] for name in ("id", "question", "answer", "aliases", "answer_type", "kind", "template")}
    segments = [text, call] if with_call else [text]
    return row | {
        "question_id": row["id"],
        "reasoning": "It is known.",
        "segments": segments,
        "n_calls": int(with_call),
    }


def made_up(row_id: str) -> RowScore:
    """Losses by the row's id: one in fifty loses, one in a thousand is no number."""
    chance = int(row_id[-6:], 16) % 1000
    return RowScore(Score(2.0, float("nan") if chance == 0 else 2.1 if chance < 20 else 1.5, 20))


# ---------------------------------------------------------------- made-up questions
PARTS = {"questions": run_questions, "filter": run_filter}


def make_files(size: int, folder: Path) -> dict[str, int]:
    """`size` training questions and TESTS test questions as JSONL; returns how many of each class are planted."""
    chance = np.random.default_rng(7)
    vocabulary = _vocabulary(chance)
    tests = list(_sentences(chance, vocabulary, TESTS))
    planted = {name: int(size * share) for name, share in PLANTED.items()}
    fresh = size - sum(planted.values())
    with open(folder / f"train-{size}.jsonl", "w") as stream:
        copied: list[list[str]] = []
        for number, text in enumerate(_sentences(chance, vocabulary, fresh)):
            _write(stream, text)
            # Twins are copies of the first ones: in the file they stand up to a million lines behind.
            if number < planted["duplicate"] + planted["near_duplicate"]:
                copied.append(text)
        for text in copied[: planted["duplicate"]]:
            _write(stream, [word.upper() for word in text])
        for text in copied[planted["duplicate"] :]:
            _write(stream, [*text, "altogether"])
        for name in ("leak_exact", "leak_ngram", "leak_number_swap"):
            for number, filler in enumerate(_sentences(chance, vocabulary, planted[name])):
                _write(stream, _leak(name, tests[number % TESTS], filler, number))
    with open(folder / "test.jsonl", "w") as stream:
        for text in tests:
            _write(stream, text)
    return planted


def _leak(name: str, test: list[str], filler: list[str], number: int) -> list[str]:
    if name == "leak_exact":
        # Told apart by marks only, so that each is one of its own and no duplicate of another.
        return [word + "," * (number // TESTS == place) for place, word in enumerate(test)] + ["?" * (1 + number % 7)]
    if name == "leak_ngram":
        return [*filler, *test[2:16]]
    return [str(1000 + number) if word.isdigit() else word for word in test]


def _vocabulary(chance: np.random.Generator) -> list[str]:
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lengths = chance.integers(3, 10, size=20_000)
    return [f"{''.join(chance.choice(letters, size=length))}" for length in lengths]


def _sentences(chance: np.random.Generator, vocabulary: list[str], n: int) -> Iterator[list[str]]:
    """`n` sentences of 20 to 32 words, three or four of them numbers; words by Zipf's law."""
    weights = 1 / np.arange(10, len(vocabulary) + 10)
    weights /= weights.sum()
    for start in range(0, n, CHUNK):
        size = min(CHUNK, n - start)
        drawn = chance.choice(len(vocabulary), size=(size, 32), p=weights)
        lengths, numbers = chance.integers(20, 33, size=size), chance.integers(2, 999, size=(size, 4))
        for words, length, given in zip(drawn.tolist(), lengths.tolist(), numbers.tolist(), strict=True):
            text = [vocabulary[word] for word in words[:length]]
            # Every eighth word a number: with others in their place, no 13 words in a row stay.
            for place, number in zip(range(3, length, 8), given, strict=False):
                text[place] = str(number)
            yield text


def _write(stream: Any, words: list[str]) -> None:
    stream.write(json.dumps({"question": " ".join(words), "answer": [words[0]]}) + "\n")


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
