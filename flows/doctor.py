"""`agentflow doctor`: what a recipe needs on this machine, whether it is there, and how to mend what is not.

In: a recipe and a root. Out: one finding per thing. Asks nobody outside this machine unless `call` is set, writes
nothing but a probe file below the root, and never shows a key.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from agentflow.artifacts.store import Store
from agentflow.clients.search import SearchClient, SearchConfig
from agentflow.clients.teacher import TeacherClient, TeacherConfig
from agentflow.errors import AgentflowError, CutAnswer, UserError
from agentflow.ledger import Ledger
from agentflow.models.sources import HubModel, PackagedGguf
from flows.cluster import configured_address
from flows.local import FILE_LEASES, LEASE_STORAGE, check_prefect, check_ray
from flows.recipes import Recipe

Verdict = Literal["ok", "note", "missing"]
MARKS: dict[Verdict, str] = {"ok": "ok     ", "note": "note   ", "missing": "MISSING"}
FREE_GB = 5.0
# Below this a run of the demo recipe may fill the disk.
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    what: str
    verdict: Verdict
    # "note": a run works, but differently from what may be expected.
    found: str
    mend: str = ""

    def line(self) -> str:
        """One line for a terminal."""
        return f"{MARKS[self.verdict]} {self.what}: {self.found}" + (f"; {self.mend}" if self.mend else "")


def examine(recipe: Recipe, root: Path, *, call: bool = False) -> list[Finding]:
    """All findings, in the order in which they are best mended. `call` also asks the configured endpoints once."""
    found = [
        python(),
        packages(CONSTRAINTS),
        bytecode(),
        base_model(recipe),
        gpu(),
        disk(root),
        prefect_api(),
        ray_address(),
    ]
    return [*found, *keys(recipe, call)]


def python() -> Finding:
    """The interpreter."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("Python", "ok", version)
    return Finding("Python", "missing", version, "use 3.11 to 3.13: make PYTHON=/path/to/python3.11 setup")


def packages(constraints: Path) -> Finding:
    """Installed packages against the tested versions; a package that is pinned and absent is an extra."""
    if not constraints.is_file():
        return Finding("packages", "note", "no constraints.txt beside the code", "compare with the one of the checkout")
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", constraints.read_text(), re.MULTILINE)
    other, absent = [], []
    for name, version in pins:
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
            continue
        if installed.partition("+")[0] != version.partition("+")[0]:
            other.append(f"{name} {installed} (tested: {version})")
    needed = sorted(set(absent) & _needed())
    if needed:
        return Finding("packages", "missing", f"not installed: {', '.join(needed)}", "run make setup")
    if other:
        return Finding("packages", "note", "; ".join(other[:8]), "run make setup for the tested versions")
    return Finding("packages", "ok", f"{len(pins) - len(absent)} as tested")


def bytecode() -> Finding:
    """Whether the heavy packages are compiled; each of a run's many processes imports them."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return Finding("bytecode", "note", "torch is not installed", "run make setup")
    source = Path(spec.origin)
    if Path(importlib.util.cache_from_source(source)).is_file():
        return Finding("bytecode", "ok", "packages are compiled")
    if not sys.dont_write_bytecode and os.access(source.parent, os.W_OK):
        return Finding("bytecode", "ok", "packages are compiled when they are first imported")
    return Finding(
        "bytecode",
        "note",
        "packages are not compiled and no process may do it (PYTHONDONTWRITEBYTECODE, or a folder that is not "
        "writable): every worker starts about 10 s later",
        f"run once, as who may write there: {sys.executable} -m compileall -q {source.parent.parent}",
    )


def _needed() -> set[str]:
    """Names of the packages agentflow itself asks for, without its extras."""
    wanted = importlib.metadata.requires("agentflow") or []
    return {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower() for line in wanted if "extra ==" not in line}


def base_model(recipe: Recipe) -> Finding:
    """The package that carries the recipe's model, if one does; the commit of a hub model."""
    source = recipe.base_model.source
    if isinstance(source, HubModel) and source.revision is None:
        why = f"no commit given for {source.id}"
        return Finding("base model", "missing", why, "--set base_model.source.revision=COMMIT")
    if not isinstance(source, PackagedGguf):
        return Finding("base model", "ok", f"kind {source.kind}")
    if importlib.util.find_spec(source.package) is not None:
        return Finding("base model", "ok", f"package {source.package}")
    return Finding("base model", "missing", f"package {source.package} is not installed", "run make setup")


def gpu() -> Finding:
    """GPUs as the driver names them; a CPU is enough for the demo."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return Finding("GPU", "note", "none (no nvidia-smi)", "trains on the CPU; enough for demo and smoke")
    try:
        listed = subprocess.run([command, "--list-gpus"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("GPU", "note", f"nvidia-smi does not answer ({error})", "reload the driver, or use the CPU")
    names = [re.sub(r" \(UUID.*", "", line) for line in listed.stdout.splitlines() if line.startswith("GPU")]
    if listed.returncode != 0 or not names:
        said = (listed.stdout + listed.stderr).strip()[:200]
        return Finding("GPU", "note", f"none usable ({said})", "check the driver, or use the CPU")
    torch = importlib.metadata.version("torch")
    if torch.endswith("+cpu"):
        return Finding(
            "GPU", "note", f"{'; '.join(names)}, but torch {torch} has no CUDA", "install PyTorch's CUDA build"
        )
    return Finding("GPU", "ok", "; ".join(names))


def disk(root: Path) -> Finding:
    """Whether the root can be written, and how much is free there."""
    try:
        Store.open(root / "artifacts")
        with tempfile.TemporaryFile(dir=root) as probe:
            probe.write(b"probe")
        free = shutil.disk_usage(root).free / 1e9
    except (OSError, AgentflowError) as error:
        return Finding("disk", "missing", f"{root} cannot be written ({error})", "give another folder with --root")
    if free < FREE_GB:
        return Finding(
            "disk", "missing", f"{free:.1f} GB free at {root}", f"free {FREE_GB:g} GB, or give another --root"
        )
    return Finding("disk", "ok", f"{free:.0f} GB free at {root}")


def prefect_api() -> Finding:
    """The configured Prefect server and its version."""
    import prefect
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        return Finding("Prefect", "ok", f"{prefect.__version__}, no server configured: runs start their own")
    try:
        server = check_prefect(url)
    except UserError as error:
        return Finding("Prefect", "missing", str(error))
    if server.split(".")[:2] != prefect.__version__.split(".")[:2]:
        return Finding(
            "Prefect", "note", f"client {prefect.__version__}, server {server} at {url}", "bring both to one version"
        )
    if _forgets_leases():
        return Finding(
            "Prefect",
            "note",
            f"{prefect.__version__}, server at {url}, which forgets the leases of taken slots when it is restarted: "
            "paid batches may then wait for ever",
            f"start it with {LEASE_STORAGE}={FILE_LEASES}",
        )
    return Finding("Prefect", "ok", f"{prefect.__version__}, server at {url}")


def _forgets_leases() -> bool:
    """Whether the configured server says that it keeps leases in memory."""
    from prefect.client.base import ServerType
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True, httpx_settings={"timeout": 10}) as client:
        if client.server_type is ServerType.CLOUD:
            return False
        try:
            said = client.request("GET", "/admin/settings").json()
        except (httpx.HTTPError, ValueError):  # a proxy may keep administration to itself
            return False
    concurrency = said.get("server", {}).get("concurrency", {}) if isinstance(said, dict) else {}
    return str(concurrency.get("lease_storage", "")).endswith(".memory")


def ray_address() -> Finding:
    """The configured Ray cluster."""
    try:
        address = configured_address(None)
        if address is None:
            return Finding("Ray", "ok", f"{importlib.metadata.version('ray')}, no RAY_ADDRESS: runs start a local one")
        check_ray(address)
    except UserError as error:
        return Finding("Ray", "missing", str(error))
    return Finding("Ray", "ok", f"{importlib.metadata.version('ray')}, cluster at {address}")


def keys(recipe: Recipe, call: bool) -> Iterator[Finding]:
    """Keys by presence; with `call` also one cheap question to each configured endpoint."""
    for name, config in (("teacher", recipe.teacher), ("search", recipe.search)):
        if config.base_url is None:
            yield Finding(name, "ok", "local stand-in, no key needed")
            continue
        try:
            asyncio.run(_ask(config, call))
        except CutAnswer:
            yield Finding(name, "ok", f"{config.base_url} answers")  # cut after a few tokens, as asked
        except AgentflowError as error:
            mend = f"put the key into {config.key_env}" if isinstance(error, UserError) else "check key and address"
            yield Finding(name, "missing", str(error), mend)
        else:
            yield Finding(name, "ok", f"{config.base_url} answers" if call else f"{config.key_env or 'no key'} set")


async def _ask(config: TeacherConfig | SearchConfig, call: bool) -> None:
    """Open the client, which looks for its key; with `call` ask one question, in a ledger that is thrown away."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="doctor-"))
        ledger = stack.enter_context(Ledger.open(f"sqlite:///{Path(folder) / 'ledger.db'}", run_id="doctor"))
        if isinstance(config, TeacherConfig):
            cheap = config.model_copy(update={"max_tokens": 16, "max_attempts": 1})
            teacher = await stack.enter_async_context(TeacherClient.open(cheap, ledger))
            if call:
                await teacher.complete([{"role": "user", "content": "Say: ok"}])
        else:
            single = config.model_copy(update={"max_results": 1, "max_attempts": 1})
            search = await stack.enter_async_context(SearchClient.open(single, ledger))
            if call:
                await search.search("test")
