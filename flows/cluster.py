"""Which Ray a run uses, and what a stage asks for that no node of it has.

A run that was told an address must not end up alone on the machine it was started from.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from agentflow.errors import ConfigError
from tasks.context import Resources, RunContext, TrainingStage

_log = logging.getLogger(__name__)


def configured_address(given: str | None) -> str | None:
    """The cluster a run is told to use: `given`, else RAY_ADDRESS; None is a Ray of its own.

    Raises ConfigError for an address that could not carry a run, or that would start a cluster unasked.
    """
    address = given or os.environ.get("RAY_ADDRESS") or None
    if address is None or address == "auto":
        return address
    if address.startswith("ray://"):
        raise ConfigError(
            f"Ray address {address!r}: Ray Client does not carry trainings. Run this on a node of the cluster "
            "(one with 0 CPUs is enough) with --ray-address auto, or give HOST:PORT of the head"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(
            f"Ray address {address!r} is not of the form HOST:PORT (port 6379 unless it was changed) or 'auto'; "
            "leave it out to have a Ray started here"
        )
    return address


def check_room(where: RunContext, *, own: bool) -> None:
    """Compare what each stage asks for with the nodes there are.

    A cluster of other people may grow: what is missing there is a warning, since the stage itself waits and then fails.
    On a Ray of our own (`own`) nothing will come: raises ConfigError.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    trainings: tuple[TrainingStage, ...] = ("sft", "cold_start", "grpo")
    stages: dict[str, Resources] = {"loss_filter": where.loss_filter, "evaluate": where.evaluate}
    stages.update((name, where.training_of(name)) for name in trainings)
    for name, wanted in stages.items():
        room = places(nodes, wanted)
        if room >= wanted.workers:
            continue
        have = f"{name} asks for {wanted.asks_for()}; {say_nodes(nodes)} room for {room}"
        if own:
            raise ConfigError(f"{have}. Ask for less in the resources file, or give a larger cluster by --ray-address")
        _log.warning("%s. It will wait up to %.0f s for more nodes", have, wanted.wait_s)


def places(nodes: Sequence[Mapping[str, float]], wanted: Resources) -> int:
    """How many workers of that size the nodes can hold when nothing else runs on them."""
    fits = 0
    for node in nodes:
        room = int(node.get("CPU", 0) // wanted.cpus)
        fits += min(room, int(node.get("GPU", 0) / wanted.gpus)) if wanted.gpus else room
    return fits


def say_nodes(nodes: Sequence[Mapping[str, float]]) -> str:
    """`2 nodes (1 CPU, 0 GPU; 1 CPU, 0 GPU) have` for messages."""
    sizes = "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes)
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)} ({sizes}) {'have' if len(nodes) != 1 else 'has'}"
