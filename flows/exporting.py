"""`agentflow export`: an artifact to Parquet, JSONL or the Hugging Face hub, with a card and its licences checked.

In: an artifact's reference. Out: a new folder, or a repository of the hub (private unless it is there already). The
card is that of the promotion the artifact belongs to; without one, a short card that says so.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError

from agentflow.artifacts.artifact import Artifact
from agentflow.artifacts.store import Store
from agentflow.errors import ConfigError, ConnectionFailed, InputError, MissingKeyError, RequestRejected
from agentflow.export.licences import LicencePolicy
from agentflow.export.writing import CARD, export_table, new_folder
from agentflow.promotion.cards import DATASET_CARD, MODEL_CARD
from agentflow.promotion.history import History
from agentflow.promotion.night import reference
from agentflow.training.jobs import ADAPTER

Target = Literal["parquet", "jsonl", "hub"]
TOKEN = "HF_TOKEN"


def export(ref: str, root: Path, to: Target, destination: str, policy: LicencePolicy) -> list[str]:
    """Export the artifact meant by `ref`; returns what a person wants to read about it.

    Raises InputError for an unknown artifact or a destination that is there, LicenceRefused if the policy forbids the
    rows, MissingKeyError without a token for the hub, CorruptArtifact for damaged files.
    """
    store = Store.existing(root / "artifacts")
    artifact = store.resolve(ref)
    artifact.verify()
    if to == "hub":
        return _to_hub(artifact, store, root, destination, policy)
    licences = export_table(artifact, store, Path(destination), to, policy, _card(artifact, root, DATASET_CARD))
    counts = [f"  {n:8} rows  {name}: {value}" for (name, value), n in sorted(licences.counts.items())]
    return [f"{artifact.manifest.rows} rows of {artifact.ref} in {destination}", *counts]


def load_policy(path: Path | None) -> LicencePolicy:
    """The policy of a YAML file, the default one without a file. Raises ConfigError naming the field."""
    if path is None:
        return LicencePolicy()
    try:
        return LicencePolicy.model_validate(yaml.safe_load(path.read_text()) or {})
    except OSError as error:
        raise ConfigError(f"cannot read the policy {str(path)!r}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the policy {str(path)!r} is not YAML: {error}") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given: {e['input']!r:.120})" for e in error.errors()]
        allowed = ", ".join(LicencePolicy.model_fields)
        raise ConfigError(f"policy {str(path)!r}: {'; '.join(lines)}; it may hold {allowed}") from error


def _to_hub(artifact: Artifact, store: Store, root: Path, repository: str, policy: LicencePolicy) -> list[str]:
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise MissingKeyError(
            f"the environment variable {TOKEN} is not set; set it to a token of the hub that may write {repository!r}"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "export")
        if artifact.is_table:
            export_table(artifact, store, folder, "parquet", policy, _card(artifact, root, DATASET_CARD))
        else:
            _adapter(artifact, root, folder)
        url = _upload(folder, repository, "dataset" if artifact.is_table else "model", token, artifact.ref)
    return [f"{artifact.ref} is at {url}"]


def _adapter(artifact: Artifact, root: Path, folder: Path) -> None:
    """Copy a trained adapter and its card. Rollouts and logs hold text of the run's questions and stay here."""
    files = [entry.path for entry in artifact.manifest.files if entry.path.startswith(f"{ADAPTER}/")]
    if not files:
        raise InputError(
            f"{artifact.ref} holds neither rows nor an adapter; export a data set, sft, cold_start or grpo"
        )
    with new_folder(folder) as attempt:
        for name in files:
            target = attempt / Path(name).relative_to(ADAPTER)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(artifact.file(name).read_bytes())
        (attempt / CARD).write_text(_card(artifact, root, MODEL_CARD))


def _upload(folder: Path, repository: str, kind: Literal["dataset", "model"], token: str, ref: str) -> str:
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hub = HfApi(token=token)
    try:
        hub.create_repo(repository, repo_type=kind, private=True, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository, repo_type=kind, folder_path=folder, commit_message=f"agentflow export of {ref}"
        )
    except HFValidationError as error:
        raise InputError(f"{repository!r} is no name of a repository: {error}; give user/name") from error
    except HfHubHTTPError as error:
        raise RequestRejected(f"the hub refused {repository!r}: {str(error).splitlines()[0]}") from error
    except (httpx2.TransportError, OSError) as error:
        raise ConnectionFailed(f"the hub at {hub.endpoint} cannot be reached: {error}; nothing is lost here") from error
    return str(commit.commit_url)


def _card(artifact: Artifact, root: Path, name: str) -> str:
    """The card of the newest promotion that holds `artifact`, else a short one."""
    mine = reference(artifact)
    promoted = root.absolute() / "promoted"
    for folder in sorted(promoted.iterdir()) if promoted.is_dir() else ():
        history = History(root.absolute(), folder.name)
        for entry in reversed(history.read()):
            if mine in entry.artifacts.values() and name in [file.path for file in entry.files]:
                return (history.folder_of(entry) / name).read_text()
    made = f"{mine.rows} rows, digest {mine.digest}, made by agentflow {artifact.manifest.code_version}"
    return f"# {artifact.ref}\n\n{made}. It belongs to no promotion, so nobody has judged it.\n"
