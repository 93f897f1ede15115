"""Ray cluster files: valid as far as that can be told without a cluster, and what they promise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml


def manifests(repository: Path) -> dict[str, dict[str, Any]]:
    folder = repository / "deployments" / "kuberay"
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))}


def pods(content: Any) -> Iterator[dict[str, Any]]:
    """Every pod spec below `content`."""
    if isinstance(content, dict):
        if "containers" in content:
            yield content
        for value in content.values():
            yield from pods(value)
    elif isinstance(content, list):
        for value in content:
            yield from pods(value)


def pinned(repository: Path, package: str) -> str:
    match = re.search(rf"^{package}==(\S+)$", (repository / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert match
    return match[1]


def test_the_virtual_machine_cluster_passes_rays_own_check(repository: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    path = repository / "deployments" / "ray-cluster.yaml"
    config = yaml.safe_load(path.read_text())
    validate_config(prepare_config(config))
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in start for start in starts if "ray start" in start)
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]
    assert "--constraint ~/agentflow/constraints.txt" in config["setup_commands"][-1]


def test_manifests_run_the_pinned_ray_with_token_authentication(repository: Path) -> None:
    found = manifests(repository)
    assert {name: content["kind"] for name, content in found.items()} == {
        "raycluster": "RayCluster",
        "rayjob": "RayJob",
        "prefect-worker": "Deployment",
    }
    for spec in (found["raycluster"]["spec"], found["rayjob"]["spec"]["rayClusterSpec"]):
        assert spec["rayVersion"] == pinned(repository, "ray") and spec["authOptions"] == {"mode": "token"}
    assert found["rayjob"]["spec"]["backoffLimit"] == 0  # only a person asks for paid work again
    assert found["raycluster"]["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "--num-cpus=0" in next(pods(found["prefect-worker"]))["containers"][0]["args"][0]


@pytest.mark.parametrize("name", ["raycluster", "rayjob", "prefect-worker"])
def test_pods_are_ordinary_users_with_shared_runs_and_no_written_secret(repository: Path, name: str) -> None:
    specs = list(pods(manifests(repository)[name]))
    assert specs
    for spec in specs:
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] == 10001
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == "agentflow-runs"
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"name": "runs", "mountPath": "/runs"} in container["volumeMounts"]
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"] and "tmp" in volumes
            assert container["resources"]["limits"]["memory"]
            for variable in container.get("env", []):
                secret = re.search("KEY|PASSWORD|TOKEN|AUTH_STRING", variable["name"])
                assert not (secret and "value" in variable), variable["name"]
            assert {"secretRef": {"name": "agentflow-keys"}} in container["envFrom"]


def test_the_cluster_deployment_names_a_flow_that_exists(repository: Path) -> None:
    import importlib

    from flows.parameters import RunParameters
    from flows.registering import CLUSTER, POOL

    (entry,) = yaml.safe_load((repository / "deployments" / "prefect-cluster.yaml").read_text())["deployments"]
    module, _, name = entry["entrypoint"].rpartition(".")
    assert getattr(importlib.import_module(module), name).name == entry["name"]
    RunParameters.model_validate(entry["parameters"]["run"])
    assert entry["work_pool"]["name"] == POOL and CLUSTER.samefile(repository / "deployments" / "prefect-cluster.yaml")
