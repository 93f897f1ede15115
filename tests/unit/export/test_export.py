"""Exports: whole or not at all, every row with its origin, refused where the policy says so."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from datasets import load_dataset
from made_night import recipe

from agentflow.artifacts.store import Store
from agentflow.errors import (
    ConfigError,
    ConnectionFailed,
    InputError,
    LicenceRefused,
    MissingKeyError,
    RequestRejected,
    StoreError,
)
from agentflow.export.licences import COLUMNS, KNOWN, LicencePolicy, Licences, Provenance, provenance
from agentflow.export.writing import export_table
from flows.cli import main
from flows.exporting import export, load_policy
from flows.plan import plan

POLICY = LicencePolicy()


def artifact(root: Path, stage: str = "loss_filter"):
    store, identity = Store.open(root / "artifacts"), plan(recipe())[stage].identity
    found = store.find(identity.stage, identity.fingerprint)
    assert found is not None
    return found, store


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_rows_come_back_equal_with_their_origin_beside_them(made, tmp_path, form):
    table, store = artifact(made)
    export_table(table, store, tmp_path / "out", form, POLICY, card="# card\n")
    back = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")).to_list()
    own = [{name: row[name] for name in row if name not in COLUMNS} for row in back]
    for mine, theirs in zip(table.rows(), own, strict=True):
        assert {k: v for k, v in mine.items() if k != "call_scores"} == {
            k: v for k, v in theirs.items() if k != "call_scores"
        }
    assert {tuple(row[name] for name in ("teacher_provider", "source", "source_licence")) for row in back} == {
        ("recorded", "generated", "Apache-2.0")
    }
    about = yaml.safe_load((tmp_path / "out" / "export.yaml").read_text())
    assert about["digest"] == table.manifest.digest and about["rows"] == 40
    assert (tmp_path / "out" / "README.md").read_text() == "# card\n"


@pytest.mark.parametrize("stage", ["questions", "traces", "tool_insertion"])
def test_every_table_of_the_pipeline_can_be_exported(made, tmp_path, stage):
    table, store = artifact(made, stage)
    export_table(table, store, tmp_path / "out", "jsonl", POLICY)
    rows = [json.loads(line) for line in (tmp_path / "out" / "data" / f"{stage}.jsonl").read_text().splitlines()]
    assert len(rows) == table.manifest.rows and {row["source_licence"] for row in rows} == {"Apache-2.0"}


def test_a_refused_export_leaves_nothing_and_names_licence_and_rows(made, tmp_path):
    table, store = artifact(made)
    with pytest.raises(LicenceRefused, match=r"source_licence 'Apache-2.0' is refused \(40 rows, e.g. \['arithmetic-"):
        export_table(table, store, tmp_path / "out", "parquet", LicencePolicy(refused=("Apache-2.0",)))
    assert list(tmp_path.iterdir()) == []


def test_a_destination_that_is_there_is_not_touched(made, tmp_path):
    table, store = artifact(made)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="is there already"):
        export_table(table, store, tmp_path / "out", "jsonl", POLICY)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_checkpoint_holds_no_rows_and_a_lost_ancestor_no_licence(made, tmp_path):
    base, store = artifact(made, "base_model")
    with pytest.raises(InputError, match="holds files and no rows"):
        export_table(base, store, tmp_path / "out", "jsonl", POLICY)
    table, _ = artifact(made)
    with pytest.raises(StoreError, match="nobody can say under which licences"):
        provenance(table, Store.open(tmp_path / "empty"), POLICY)


# ---------------------------------------------------------------- policy
def row(row_id: str = "q1#0", teacher: str | None = "https://api.example/m/1", search: bool = False) -> dict:
    segments = [{"kind": "call", "tool": "Search" if search else "Calculator"}]
    return {"id": row_id, "question_id": row_id.partition("#")[0], "teacher": teacher, "segments": segments}


def origin(policy: LicencePolicy = POLICY, **questions: str) -> Provenance:
    asked = {name: ("file.jsonl", licence) for name, licence in questions.items()}
    return Provenance(policy, ("https://api.example", "m/1"), "https://api.search", "unknown", asked)


def test_a_row_says_teacher_model_terms_source_and_search():
    policy = LicencePolicy(terms={"https://api.example": "example-terms-2026"})
    found = origin(policy, q1="MIT").columns(row(search=True))
    assert found == {
        "teacher_provider": "https://api.example", "teacher_model": "m/1", "terms": "example-terms-2026",
        "source": "file.jsonl", "source_licence": "MIT",
        "search_provider": "https://api.search", "search_licence": "unknown",
    }  # fmt: skip
    assert origin(q1="MIT").columns(row())["search_licence"] is None, "no search, no licence of one"
    assert origin(q1="MIT").columns(row())["terms"] == "unknown", "a provider's terms are never guessed"
    assert origin(q1="MIT").columns(row(teacher="another"))["terms"] == "unknown"
    with pytest.raises(StoreError, match="its question 'q2' is not among"):
        origin(q1="MIT").columns(row("q2#0"))


def judge(policy: LicencePolicy, *licences: str, teacher: str | None = "recorded") -> None:
    asked = {f"q{i}": licence for i, licence in enumerate(licences)}
    counted = Licences(policy)
    for name in asked:
        counted.add(f"{name}#0", origin(policy, **asked).columns(row(f"{name}#0", teacher)))
    counted.check("data set")


def test_unknown_licences_and_terms_are_refused_until_somebody_says_what_is_true():
    with pytest.raises(LicenceRefused, match=r"source_licence is unknown \(1 rows, e.g. \['q0#0'\]\)"):
        judge(POLICY, "unknown")
    judge(LicencePolicy(allow_unknown=True), "unknown")
    with pytest.raises(LicenceRefused, match="terms is unknown"):
        judge(POLICY, "MIT", teacher="https://api.example/m/1")
    judge(LicencePolicy(terms={"https://api.example": "ours"}), "MIT", teacher="https://api.example/m/1")


def test_a_mix_is_refused_naming_both_licences_and_their_rows():
    judge(POLICY, "CC-BY-SA-4.0", "MIT")
    judge(POLICY, "CC-BY-NC-4.0", "MIT")
    with pytest.raises(
        LicenceRefused, match=r"CC-BY-NC-4.0 \['q1#0'\] and CC-BY-SA-4.0 \['q0#0'\] may not stand together"
    ):
        judge(POLICY, "CC-BY-SA-4.0", "CC-BY-NC-4.0")
    judge(LicencePolicy(refuse_together=()), "CC-BY-SA-4.0", "CC-BY-NC-4.0")


def test_only_what_is_allowed_may_occur():
    judge(LicencePolicy(allowed=("MIT",)), "MIT")
    with pytest.raises(LicenceRefused, match=r"'CC-BY-4.0' is not among the allowed \['MIT'\]"):
        judge(LicencePolicy(allowed=("MIT",)), "MIT", "CC-BY-4.0")


def test_every_known_licence_is_an_spdx_identifier_of_the_sets_we_read():
    assert set(KNOWN.values()) <= {"Apache-2.0", "MIT", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0"}


def test_a_policy_file_is_read_and_its_mistakes_are_named(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("allowed: [MIT]\nterms: {'https://api.example': ours}\n")
    assert load_policy(path) == LicencePolicy(allowed=("MIT",), terms={"https://api.example": "ours"})
    for text, words in (("allow: [MIT]", "allow: Extra inputs"), ("allowed: MIT", "allowed"), ("{", "is not YAML")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            load_policy(path)
    with pytest.raises(ConfigError, match="No such file"):
        load_policy(tmp_path / "none.yaml")


# ---------------------------------------------------------------- the command line
def agentflow(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    return result


def test_the_command_exports_and_says_under_which_licences(made, tmp_path):
    table, _ = artifact(made)
    done = agentflow("export", table.ref, "--to", "parquet", tmp_path / "out", "--root", made)
    assert done.exit_code == 0 and "source_licence: Apache-2.0" in done.output
    assert "belongs to no promotion" in (tmp_path / "out" / "README.md").read_text()
    again = agentflow("export", table.ref, "--to", "parquet", tmp_path / "out", "--root", made)
    assert again.exit_code == 2 and "is there already" in again.output
    unknown = agentflow("export", "nothing/0", "--to", "jsonl", tmp_path / "other", "--root", made)
    assert unknown.exit_code == 2 and "is no artifact" in unknown.output


class Refusing(BaseHTTPRequestHandler):
    """A hub that knows nobody."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(401)
        self.end_headers()

    do_GET = do_POST = do_HEAD = answer

    def log_message(self, *_: object) -> None:
        pass


def test_a_hub_that_refuses_or_is_not_there_is_one_message_without_the_token(made, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    ref = artifact(made)[0].ref
    with pytest.raises(InputError, match="'a/b/c' is no name of a repository"):
        export(ref, made, "hub", "a/b/c", POLICY)
    with pytest.raises(RequestRejected, match="the hub refused 'me/data': .*401") as refused:
        export(ref, made, "hub", "me/data", POLICY)
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionFailed, match="cannot be reached") as unreachable:
        export(ref, made, "hub", "me/data", POLICY)
    assert "hf_canary" not in f"{refused.value}{unreachable.value}"
    thread.join()


def test_the_hub_wants_a_token_before_anything_else(made, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(MissingKeyError, match="HF_TOKEN is not set"):
        export(artifact(made)[0].ref, made, "hub", "me/data", POLICY)
