"""What docker/ promises, read from the files: there is no Docker engine in the tests."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import PREFECT_HOME, temporary_settings

OURS = ("prefect-server", "ray-head", "ray-worker", "worker")


@pytest.fixture(scope="session")
def compose(repository: Path) -> dict[str, Any]:
    return yaml.safe_load((repository / "docker" / "compose.yaml").read_text())


@pytest.fixture(scope="session")
def dockerfile(repository: Path) -> str:
    return re.sub(r"\\\n", " ", (repository / "docker" / "Dockerfile").read_text())


def stages(dockerfile: str) -> dict[str, str]:
    """Text of each build stage by name."""
    parts = re.split(r"^FROM (\S+) AS (\S+)\n", dockerfile, flags=re.MULTILINE)[1:]
    return {parts[i + 1]: parts[i + 2] for i in range(0, len(parts), 3)}


# ---------------------------------------------------------------- image
def test_there_is_a_cpu_and_a_gpu_image_that_run_as_an_ordinary_user(dockerfile: str) -> None:
    found = stages(dockerfile)
    assert {"cpu", "gpu"} <= found.keys()
    users = re.findall(r"^USER (\S+)$", dockerfile, flags=re.MULTILINE)
    assert users == ["10001"] and "USER 10001" in found["runtime"]  # a number: Kubernetes can tell that it is not root
    for target in ("cpu", "gpu"):
        assert re.search(rf"^FROM runtime AS {target}$", dockerfile, flags=re.MULTILINE)
        assert f"COPY --from=packages-{target}" in found[target]


def test_every_package_is_installed_under_the_constraints(dockerfile: str) -> None:
    installs = re.findall(r"(?:uv )?pip install ([^&\n]*)", dockerfile)
    assert len(installs) == 5
    assert all("--constraint constraints.txt" in install for install in installs), installs


def test_the_image_has_a_health_check_and_takes_nothing_secret_in(dockerfile: str, repository: Path) -> None:
    assert "HEALTHCHECK" in stages(dockerfile)["runtime"]
    copied = set(re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, flags=re.MULTILINE))
    allowed = set((repository / "docker" / "Dockerfile.dockerignore").read_text().splitlines())
    for name in " ".join(copied).split():
        assert (repository / name).exists(), name
        assert f"!{name.split('/')[0]}" in allowed, name
    assert "*" in allowed and "**/.env" in allowed
    assert not re.search(r"(?i)(api_key|token|password)\s*=", dockerfile)


# ---------------------------------------------------------------- compose
def test_the_whole_system_is_there_and_starts_in_order(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"postgres", *OURS}
    for name, service in services.items():
        assert "healthcheck" in service, name
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services and how == {"condition": "service_healthy"}, name
    assert "0" in "".join(part for part in services["worker"]["entrypoint"] if "--num-cpus=0" in part)


def test_no_port_listens_outside_this_machine(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports and all(str(port).startswith("127.0.0.1:") for port in ports)


def test_containers_are_locked_down(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["tmpfs"], name
        assert "privileged" not in service and service.get("user") != "root", name
    assert compose["services"]["postgres"]["user"] == "postgres"


def test_a_page_of_another_site_can_do_nothing_with_the_server(compose: dict[str, Any]) -> None:
    environment = compose["services"]["prefect-server"]["environment"]
    assert environment["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    origins = environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert origins == ["http://127.0.0.1:4200", "http://localhost:4200"], "where its UI is, and nowhere else"


def test_leases_of_taken_slots_outlive_the_servers_container(compose: dict[str, Any], dockerfile: str) -> None:
    server = compose["services"]["prefect-server"]
    home = server["environment"]["PREFECT_HOME"]
    module = importlib.import_module(server["environment"]["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"])
    with temporary_settings({PREFECT_HOME: home}):
        leases = module.ConcurrencyLeaseStorage().storage_path
    assert leases.is_relative_to(home) and f"rm -f {leases}/expirations.lock" in server["entrypoint"][-1]
    assert server["volumes"] == [f"prefect:{home}"] and "prefect" in compose["volumes"]
    # A new volume takes its owner from the image.
    assert re.search(rf"install -d -o agentflow -g agentflow \S+ {home}$", stages(dockerfile)["runtime"], re.MULTILINE)


def test_a_database_is_ready_when_it_can_be_reached_from_outside(compose: dict[str, Any]) -> None:
    assert "--host=127.0.0.1" in compose["services"]["postgres"]["healthcheck"]["test"]


def test_authentication_is_on_and_its_secrets_must_be_given(compose: dict[str, Any], repository: Path) -> None:
    services = compose["services"]
    required = re.compile(r"\$\{([A-Z_]+):\?[^}]+\}")
    assert required.search(services["prefect-server"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"])
    for name in ("ray-head", "ray-worker", "worker"):
        environment = services[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token" and required.search(environment["RAY_AUTH_TOKEN"]), name
        assert required.search(environment["PREFECT_API_AUTH_STRING"]), name
    assert required.search(services["postgres"]["environment"]["POSTGRES_PASSWORD"])

    text = (repository / "docker" / "compose.yaml").read_text()
    used = set(re.findall(r"\$\{([A-Z_]+)", text))
    example = dict(
        line.split("=", 1)
        for line in (repository / "docker" / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert used == set(example), "docker/.env.example names what compose.yaml reads"
    assert not any(example.values()), "the example holds names only"
    assert ".env" in (repository / ".gitignore").read_text().split()
    # Nothing that looks like a value stands where a secret belongs.
    for name in ("KEY", "TOKEN", "PASSWORD", "AUTH_STRING"):
        for value in re.findall(rf"^\s+\w*{name}: (.*)$", text, flags=re.MULTILINE):
            assert value.startswith('"${'), value
