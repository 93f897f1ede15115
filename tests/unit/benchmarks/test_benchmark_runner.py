"""The benchmark runner: result file, README and exit code say the same."""

import json
import sys

import pytest

from benchmarks.row import Row
from benchmarks.run import main
from benchmarks.sizes import marked, sized

MODULE = """
from benchmarks.row import Row

def rows():
{body}
"""


@pytest.fixture
def run_fake(tmp_path, monkeypatch):
    """Runs a benchmark module with the given body of `rows`; returns (exit code, result, README)."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(body):
        (tmp_path / "fake_benchmark.py").write_text(MODULE.format(body="    " + body.replace("\n", "\n    ")))
        sys.modules.pop("fake_benchmark", None)
        folder = tmp_path / "out"
        code = main(["fake"], {"fake": "fake_benchmark"}, folder)
        sys.modules.pop("fake_benchmark", None)
        return code, json.loads((folder / "results" / "fake.json").read_text()), (folder / "README.md").read_text()

    return run


def test_rows_that_are_ok_give_zero_and_a_result_with_the_promised_keys(run_fake, capsys):
    code, result, readme = run_fake("yield Row.done('accuracy', '>= 0.75', 0.8125, 'share', True)")
    assert code == 0
    assert set(result) == {"name", "commit", "machine", "rows"}
    assert result["rows"] == [
        {
            "what": "accuracy",
            "target": ">= 0.75",
            "measured": 0.8125,
            "unit": "share",
            "ran": True,
            "ok": True,
            "reason": "",
        }
    ]
    assert {"cpu", "cores", "memory_gib", "os", "python", "torch"} <= set(result["machine"])
    assert "| accuracy | >= 0.75 | 0.8125 share | ok |" in readme
    assert "accuracy" in capsys.readouterr().out


def test_one_row_that_is_not_ok_gives_one(run_fake):
    code, result, readme = run_fake("yield Row.done('a', '', 1, '', True)\nyield Row.done('b', '', 2, '', False)")
    assert code == 1
    assert [row["ok"] for row in result["rows"]] == [True, False]
    assert "NOT OK" in readme


def test_a_row_that_did_not_run_is_no_failure_and_gives_its_reason(run_fake):
    code, result, readme = run_fake("yield Row.not_run('on a GPU', '', 's', 'no GPU here')")
    assert code == 0
    assert (result["rows"][0]["ran"], result["rows"][0]["ok"]) == (False, None)
    assert "| not run | no GPU here |" in readme


def test_a_benchmark_that_raises_keeps_its_rows_and_fails(run_fake):
    code, result, _ = run_fake("yield Row.done('a', '', 1, '', True)\nraise OSError('disk full')")
    assert code == 1
    assert [row["ok"] for row in result["rows"]] == [True, False]
    assert "disk full" in result["rows"][1]["reason"]


def test_a_benchmark_without_rows_fails(run_fake):
    code, result, _ = run_fake("yield from ()")
    assert code == 1
    assert "no row" in result["rows"][0]["reason"]


def test_a_number_that_is_not_finite_becomes_null(run_fake):
    _, result, _ = run_fake("yield Row.done('a', '', float('nan'), '', False)")
    assert result["rows"][0]["measured"] is None


def test_a_pipe_in_a_text_does_not_break_the_readme(run_fake):
    _, _, readme = run_fake("yield Row.done('a | b\\nc', '', 1, '', True)")
    assert "| a \\| b c |" in readme


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["main_job", "data"]])
def test_an_unknown_name_is_refused_with_the_known_ones(arguments, tmp_path, capsys):
    assert main(arguments, folder=tmp_path) == 2
    assert "main_job" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_planned_name_without_a_module_is_refused(tmp_path, capsys):
    assert main(["later"], {"later": "benchmarks.no_such_module"}, tmp_path) == 2
    assert "not written yet" in capsys.readouterr().err


def test_a_row_cannot_be_ok_without_having_run():
    with pytest.raises(ValueError, match="ok is null"):
        Row("a", "", 1, "", ran=False, ok=True)
    with pytest.raises(ValueError, match="no reason"):
        Row.not_run("a", "", "", "")


def test_at_reduced_sizes_no_row_counts_as_measured_and_no_result_is_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("AGENTFLOW_BENCH_QUICK", "1")
    ran = [Row.done("speed", "≥ 3", 3.1, "x", True, "30 s"), Row.not_run("peer", "≥ 2", "x", "not installed")]
    tried, missing = marked(ran)
    assert sized(200, 6) == 6 and not tried.ran and tried.ok is None and tried.measured is None
    assert "not measured" in tried.reason and "3.1 x" in tried.reason and missing == ran[1]
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "quick_benchmark.py").write_text(MODULE.format(body="    yield Row.not_run('a', '', '', 'tried')"))
    assert main(["quick"], {"quick": "quick_benchmark"}, tmp_path / "out") == 0
    assert not (tmp_path / "out").exists() and "nothing was measured" in capsys.readouterr().out


def test_at_full_size_rows_stay_as_they_are(monkeypatch):
    monkeypatch.delenv("AGENTFLOW_BENCH_QUICK", raising=False)
    row = Row.done("speed", "≥ 3", 3.1, "x", True)
    assert list(marked([row])) == [row] and sized(200, 6) == 200


def test_an_interrupted_benchmark_keeps_what_it_measured_and_is_not_ok(run_fake):
    code, result, _ = run_fake("yield Row.done('a', '', 1, '', True)\nraise KeyboardInterrupt")
    assert code == 1 and [row["what"] for row in result["rows"]] == ["a", "the benchmark runs to its end"]
