"""What a Prefect server must know before anything can be started on it: pool, batch limit, automations, deployments.

In: a server that answers. Out: the same however often it is called; a schedule that a person switched on stays on.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import DeploymentSchedule, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

from agentflow.errors import ConfigError, InputError
from flows.local import HEARTBEAT_S

_log = logging.getLogger(__name__)
POOL = "agentflow"
BATCH_LIMIT = "agentflow-batches"
NOTIFICATION_BLOCKS = ("slack-webhook", "ms-teams-webhook", "discord-webhook", "pager-duty-webhook", "custom-webhook")
NOTIFICATION = "agentflow"
# Name of the notification block that automations use; without one they only show in the UI's event feed.
ZOMBIE_AFTER = timedelta(seconds=3 * HEARTBEAT_S)
DEPLOYMENTS = Path(__file__).resolve().parent.parent / "deployments" / "prefect.yaml"
CLUSTER = DEPLOYMENTS.with_name("prefect-cluster.yaml")


def register(prefect_file: Path, batch_limit: int, workdir: Path, *, alone: bool = False) -> list[str]:
    """Put everything on the configured server; returns the names of the deployments: those of the file and, where this
    process knows a cluster's job server, `train-on-cluster`. `alone`: nobody else is connected to the server, so no run
    is at work, whatever its history says.

    Raises ConfigError or InputError for a deployments file with a wrong schedule, or which Prefect refuses.
    """
    files = [prefect_file, *([CLUSTER] if os.environ.get("AGENTFLOW_JOBS") else [])]
    entries = [entry for file in files for entry in check_deployments(file)]
    with get_client(sync_client=True) as client:
        client.create_work_pool(_pool(workdir), overwrite=True)
        limit_batches(client, batch_limit, alone=alone)
        automate(client)
        switched_on = {key for key, (_, schedule) in _schedules(client, entries).items() if schedule.active}
        for file in files:
            _deploy(file, workdir)
        # Deploying sets every schedule to what the file says; what a person switched on is theirs.
        for key, (deployment, schedule) in _schedules(client, entries).items():
            if key in switched_on and not schedule.active:
                client.update_deployment_schedule(deployment, schedule.id, active=True)
    return [str(entry["name"]) for entry in entries]


def check_deployments(prefect_file: Path) -> list[dict[str, Any]]:
    """The entries of a deployments file whose schedules are real. Raises InputError and ConfigError."""
    try:
        content = yaml.safe_load(prefect_file.read_text())
    except OSError as error:
        raise InputError(f"cannot read deployments file {str(prefect_file)!r}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"deployments file {str(prefect_file)!r} is not YAML: {error}") from error
    entries = content.get("deployments") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and entry.get("name") for entry in entries):
        raise ConfigError(f"deployments file {str(prefect_file)!r} must hold a list `deployments`, each with a `name`")
    for entry in entries:
        for schedule in entry.get("schedules") or []:
            _check_schedule(f"deployment {entry['name']!r}", schedule)
    return entries


def _check_schedule(where: str, schedule: dict[str, Any]) -> None:
    if "cron" not in schedule:
        return  # intervals and rules are Prefect's to judge
    zone = schedule.get("timezone")
    if not zone:
        raise ConfigError(f'{where}: its schedule has no timezone; give one such as timezone: "Europe/Berlin"')
    try:
        CronSchedule(cron=schedule["cron"], timezone=zone)
    except ValidationError as error:
        wrong = {problem["loc"][0] for problem in error.errors() if problem["loc"]}
        if "timezone" in wrong:
            raise ConfigError(
                f"{where}: timezone {zone!r} is unknown; give a name of the IANA list, such as Europe/Berlin or UTC"
            ) from error
        raise ConfigError(
            f"{where}: cron {schedule['cron']!r} is no schedule; give minute, hour, day, month and weekday, as in "
            '"0 2 * * *" (02:00 every day)'
        ) from error


def limit_batches(client: SyncPrefectClient, slots: int, *, alone: bool = False) -> None:
    """Put the limit of paid batches on the server. Slots that are taken while no run of ours is at work (`alone`: it is
    known that none is) are given back: a server that was killed has lost their leases, and nobody else ever would.
    """
    if alone or not _at_work(client):
        _give_back_lost_slots(client)
    client.upsert_global_concurrency_limit_by_name(BATCH_LIMIT, slots)


def _at_work(client: SyncPrefectClient) -> bool:
    """Whether a run may hold a slot."""
    states = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    at_work = FlowRunFilter(tags=FlowRunFilterTags(all_=["agentflow"]), state=FlowRunFilterState(type=states))
    return bool(client.read_flow_runs(flow_run_filter=at_work, limit=1))


def _give_back_lost_slots(client: SyncPrefectClient) -> None:
    """Make the limit anew where slots are taken. Set to 0 instead, it would count wrong: a lease that is still known
    belongs to the old limit, and its end must not give back the slot of a run that came since.

    (Deployments' limits need none of this: a run that ends gives its slot back, lease or not.)
    """
    try:
        limit = client.read_global_concurrency_limit_by_name(BATCH_LIMIT)
    except ObjectNotFound:
        return
    if not limit.active_slots:
        return
    client.delete_global_concurrency_limit_by_name(BATCH_LIMIT)
    client.create_global_concurrency_limit(
        GlobalConcurrencyLimitCreate(name=BATCH_LIMIT, limit=limit.limit, active=limit.active)
    )
    _log.warning("%d slots of %s were taken and no run holds them; given back", limit.active_slots, BATCH_LIMIT)


def automate(client: SyncPrefectClient) -> None:
    """Put the automations on the server, or bring them up to date; one that a person switched off stays off."""
    for automation in automations(_notification_block(client)):
        known = client.read_automations_by_name(automation.name)
        if known:
            client.update_automation(known[0].id, automation.model_copy(update={"enabled": known[0].enabled}))
        else:
            client.create_automation(automation)


def automations(notify: UUID | None) -> list[AutomationCore]:
    """Failure, late night, and zombies (a run whose process is gone and told nobody)."""
    run = {"prefect.resource.id": "prefect.flow-run.*"}
    tagged = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.agentflow"}
    nightly = {"prefect.resource.role": "deployment", "prefect.resource.name": "nightly-data"}
    zombie = ChangeFlowRunState(
        state=StateType.CRASHED,
        message=f"No sign of life for {ZOMBIE_AFTER.seconds} s: its process or machine is gone. Retry makes what is "
        "missing; everything paid is kept.",
    )
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled")}
    return [
        AutomationCore(
            name="agentflow: a run failed",
            description="Says which run failed or crashed.",
            trigger=_on({"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}, run, tagged),
            actions=_tell(notify, "{{ flow_run.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}"),
        ),
        AutomationCore(
            name="agentflow: a night is late",
            description="Says that a night was not started at its time (no worker, or the one before still runs).",
            trigger=_on({"prefect.flow-run.Late"}, run, nightly),
            actions=_tell(notify, "{{ flow_run.name }} should have started at {{ flow_run.expected_start_time }}"),
        ),
        AutomationCore(
            name="agentflow: zombie runs",
            description="Marks a run as Crashed whose heartbeats ended without a final state.",
            trigger=EventTrigger(
                posture=Posture.Proactive,
                match=run,
                match_related=tagged,  # how often other people's runs give a sign of life is theirs to say
                after={"prefect.flow-run.heartbeat"},
                expect={"prefect.flow-run.heartbeat", *ends},
                for_each={"prefect.resource.id"},
                threshold=1,
                within=ZOMBIE_AFTER,
            ),
            actions=[zombie],
        ),
    ]


def _on(events: set[str], match: dict[str, Any], related: dict[str, Any]) -> EventTrigger:
    return EventTrigger(
        posture=Posture.Reactive, expect=events, match=match, match_related=related, for_each={"prefect.resource.id"}
    )


def _tell(block: UUID | None, body: str) -> list[ActionTypes]:
    if block is None:
        return [DoNothing()]
    return [SendNotification(block_document_id=block, subject="agentflow", body=body)]


def _notification_block(client: SyncPrefectClient) -> UUID | None:
    """The notification block called "agentflow", if somebody made one in the UI."""
    for kind in NOTIFICATION_BLOCKS:
        try:
            return client.read_block_document_by_name(NOTIFICATION, kind).id
        except ObjectNotFound:
            continue
    return None


def _pool(workdir: Path) -> WorkPoolCreate:
    template = ProcessWorker.get_default_base_job_template()
    # Relative paths in settings mean the folder in which `agentflow up` was started.
    template["variables"]["properties"]["working_dir"]["default"] = str(workdir)
    return WorkPoolCreate(
        name=POOL, type="process", base_job_template=template, description="Runs flows as processes on this machine."
    )


def _schedules(
    client: SyncPrefectClient, entries: list[dict[str, Any]]
) -> dict[tuple[UUID, str], tuple[UUID, DeploymentSchedule]]:
    """The schedules of our deployments, by deployment and slug (without one, by what they say); the server may hold
    deployments of other people, also of the same name.
    """
    entrypoints = {str(entry["name"]): entry.get("entrypoint") for entry in entries}
    named = DeploymentFilter(name=DeploymentFilterName(any_=[*entrypoints]))
    return {
        (deployment.id, schedule.slug or schedule.schedule.model_dump_json()): (deployment.id, schedule)
        for deployment in client.read_deployments(deployment_filter=named, limit=200)
        if deployment.entrypoint == entrypoints[deployment.name]
        for schedule in deployment.schedules
    }


def _deploy(prefect_file: Path, workdir: Path) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(prefect_file)]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=workdir, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())
        raise ConfigError(f"prefect deploy refused {str(prefect_file)!r}: {said[-800:]}")
