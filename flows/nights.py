"""Which night a run is: the date it was scheduled for, in the schedule's time zone. Never the date of a clock.

In: the flow run that is running. Out: an ISO date, written onto the flow run as a label at its first start, so that a
retry keeps it even where somebody changed the schedule in between.
"""

from __future__ import annotations

from datetime import date
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from prefect.client.orchestration import SyncPrefectClient, get_client

from agentflow.errors import ConfigError

NIGHT_LABEL = "agentflow.night"


def night_of(flow_run_id: UUID | str, chosen: date | None = None) -> str:
    """The night of a flow run; `chosen` is a date a person gave instead.

    Raises ConfigError where neither a schedule nor a person says which night it is.
    """
    if chosen is not None:
        return chosen.isoformat()
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(UUID(str(flow_run_id)))
        kept = flow_run.labels.get(NIGHT_LABEL)
        if isinstance(kept, str):
            return kept
        assert flow_run.expected_start_time is not None, "the server sets it with the first state"
        night = flow_run.expected_start_time.astimezone(_zone(client, flow_run)).date().isoformat()
        client.update_flow_run_labels(flow_run.id, {NIGHT_LABEL: night})
        return night


def _zone(client: SyncPrefectClient, flow_run: Any) -> ZoneInfo:
    """Time zone of the schedule that made `flow_run`; for a run started by hand, of its deployment's schedules."""
    if flow_run.deployment_id is None:
        raise ConfigError("this run belongs to no deployment, so no schedule says which night it is; give `night`")
    schedules = client.read_deployment(flow_run.deployment_id).schedules
    made_by = flow_run.created_by.id if flow_run.created_by is not None else None
    mine = [schedule for schedule in schedules if schedule.id == made_by] or schedules
    zones = {getattr(schedule.schedule, "timezone", None) or "UTC" for schedule in mine}
    if len(zones) != 1:
        found = ", ".join(sorted(zones)) or "no schedule"
        raise ConfigError(f"which night this is cannot be said ({found}); give `night`, as in 2026-01-31")
    return ZoneInfo(zones.pop())
