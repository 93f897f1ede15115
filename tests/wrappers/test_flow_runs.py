"""What Prefect knows of a run: which night it is, kept on a retry, and that no task outlives a run that was killed."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from prefect import Flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Running, Scheduled

from agentflow.errors import ConfigError
from flows.deployed import close_ghosts
from flows.nights import NIGHT_LABEL, night_of

UTC_EVENING = datetime(2026, 1, 30, 23, 30, tzinfo=UTC)


@task(name="a-task")
def a_task() -> None:
    """Only its runs are looked at."""


def scheduled_run(night: Flow[[], None], *zones: str) -> Any:
    """A run of a new deployment of `night` with schedules in `zones`, scheduled for the evening of 30 January, UTC."""
    schedules = [
        DeploymentScheduleCreate(schedule=CronSchedule(cron="0 2 * * *", timezone=zone), active=False) for zone in zones
    ]
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(night)
        deployment = client.create_deployment(flow_id=flow_id, name=f"in-{len(zones)}-zones", schedules=schedules)
        return client.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=UTC_EVENING))


def test_the_night_is_the_scheduled_date_in_the_schedules_time_zone_and_a_retry_keeps_it(
    prefect_api: str, a_night: Flow[[], None]
) -> None:
    run = scheduled_run(a_night, "Europe/Berlin")
    assert night_of(run.id) == "2026-01-31"
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run.id).labels[NIGHT_LABEL] == "2026-01-31"
        (schedule,) = client.read_deployment(run.deployment_id).schedules
        moved = CronSchedule(cron="0 2 * * *", timezone="America/New_York")
        client.update_deployment_schedule(run.deployment_id, schedule.id, schedule=moved)
        client.set_flow_run_state(run.id, Scheduled(message="retried on another day"), force=True)
    assert night_of(run.id) == "2026-01-31"


def test_a_night_nobody_can_know_has_to_be_given(prefect_api: str, a_night: Flow[[], None]) -> None:
    for zones in ((), ("Europe/Berlin", "Asia/Tokyo")):
        run = scheduled_run(a_night, *zones)
        with pytest.raises(ConfigError, match="give `night`"):
            night_of(run.id)
        assert night_of(run.id, date(2026, 2, 1)) == "2026-02-01"


def test_every_task_that_a_killed_run_left_behind_is_closed(prefect_api: str, a_night: Flow[[], None]) -> None:
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(a_night, state=Running())
        for i in range(205):  # more than the server tells at once
            client.create_task_run(a_task, run.id, dynamic_key=str(i), state=Running())
        mine = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        running = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING])))
        assert len(client.read_task_runs(flow_run_filter=mine, task_run_filter=running)) == 200
        close_ghosts(str(run.id))
        assert client.read_task_runs(flow_run_filter=mine, task_run_filter=running) == []
