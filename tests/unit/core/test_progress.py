"""Progress files: written whole, read whatever state they are in."""

from agentflow.progress import Progress, read_progress


def test_the_last_state_is_read_and_nothing_else_is_left(tmp_path):
    progress = Progress(tmp_path / "deep" / "sft.json", "steps")
    progress.update(1, 10)
    progress.update(2, 10, "loss 1.5")
    assert read_progress(tmp_path / "deep" / "sft.json") == {
        "done": 2,
        "total": 10,
        "unit": "steps",
        "note": "loss 1.5",
    }
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["sft.json"]


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Progress(None, "rows").update(1, 2)
    assert list(tmp_path.iterdir()) == []


def test_no_file_half_a_file_and_another_kind_of_file_are_no_progress(tmp_path):
    path = tmp_path / "progress.json"
    assert read_progress(path) is None
    for content in ("", '{"done": 1', "[1, 2]"):
        path.write_text(content)
        assert read_progress(path) is None
