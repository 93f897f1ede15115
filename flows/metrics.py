"""A run's numbers for Prometheus, while it goes on: http://127.0.0.1:PORT/metrics.

In: the run's ledger, what it has made, and its workers' times (agentflow.clock). Out: gauges that only grow within a
run; all carry the labels recipe and run. Ours; names follow Prometheus' conventions (base units, `_total`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agentflow.clock import GENERATED, read_times
from flows.reporting import ledger_use
from tasks.context import RunContext
from tasks.making import Made

LABELS = ("recipe", "run")


class RunCollector(Collector):
    """Reads everything anew whenever it is asked; holds no numbers of its own."""

    def __init__(self, where: RunContext, made: Mapping[str, Made]) -> None:
        self._where, self._made = where, made
        self._labels = [where.recipe, where.access.run_id]
        self._started = time.time()

    def collect(self) -> Iterator[Metric]:
        yield from self._calls()
        yield from self._rows()
        yield from self._times()

    def _calls(self) -> Iterator[Metric]:
        use = ledger_use(self._where)
        calls = CounterMetricFamily(
            "agentflow_calls", "Calls to paid services.", labels=[*LABELS, "service", "outcome"]
        )
        for service, kind in (("teacher", use.teacher), ("search", use.search)):
            for outcome in ("paid", "replayed", "failed", "lost"):
                calls.add_metric([*self._labels, service, outcome], getattr(kind, outcome))
        yield calls
        tokens = CounterMetricFamily("agentflow_tokens", "Tokens of paid calls.", labels=[*LABELS, "direction"])
        tokens.add_metric([*self._labels, "in"], use.tokens_in)
        tokens.add_metric([*self._labels, "out"], use.tokens_out)
        yield tokens
        usd = CounterMetricFamily("agentflow_cost_usd", "Money spent on paid calls.", labels=LABELS)
        usd.add_metric(self._labels, use.usd)
        yield usd
        assumed = CounterMetricFamily(
            "agentflow_cost_usd_assumed",
            "The part of it that was assumed: calls at their worst.",
            labels=LABELS,
        )
        assumed.add_metric(self._labels, use.usd_assumed)
        yield assumed
        credits = CounterMetricFamily("agentflow_search_credits", "Search credits spent.", labels=LABELS)
        credits.add_metric(self._labels, use.credits)
        yield credits

    def _rows(self) -> Iterator[Metric]:
        rows = GaugeMetricFamily(
            "agentflow_rows", "Input rows of a stage by how they ended.", labels=[*LABELS, "stage", "end"]
        )
        seconds = GaugeMetricFamily(
            "agentflow_stage_seconds", "Wall time of a stage.", labels=[*LABELS, "stage", "status"]
        )
        for name, one in list(self._made.items()):
            counts = one.artifact.manifest.counts
            seconds.add_metric([*self._labels, name, one.status], one.wall_s)
            if counts is None:
                continue
            rows.add_metric([*self._labels, name, "out"], counts.out)
            for end, reasons in (
                ("dropped", counts.dropped),
                ("quarantined", counts.quarantined),
                ("failed", counts.failed),
            ):
                rows.add_metric([*self._labels, name, end], sum(reasons.values()))
        yield rows
        yield seconds

    def _times(self) -> Iterator[Metric]:
        causes = CounterMetricFamily(
            "agentflow_worker_seconds",
            "Time of workers by cause: generate, tool_wait, limit_wait, train, sync.",
            labels=[*LABELS, "stage", "cause"],
        )
        generated = CounterMetricFamily(
            "agentflow_tokens_generated", "Tokens written by models of ours.", labels=[*LABELS, "stage"]
        )
        for stage, times in read_times(self._where.folder, self._started).items():
            for cause, value in times["seconds"].items():
                causes.add_metric([*self._labels, stage, cause], value)
            generated.add_metric([*self._labels, stage], times["counts"].get(GENERATED, 0))
        yield causes
        yield generated


@contextmanager
def serve_metrics(
    port: int | None, where: RunContext, made: Mapping[str, Made], say: Callable[[str], object]
) -> Iterator[None]:
    """Serve the run's numbers on 127.0.0.1 inside the block; None serves nothing.

    A port in use is said and stops nothing: several runs of one worker share the setting, and the work matters more.
    """
    if port is None:
        yield
        return
    registry = CollectorRegistry()
    registry.register(RunCollector(where, made))
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        say(f"no metrics of this run: port {port} of 127.0.0.1 is in use ({error}); give another --metrics-port")
        yield
        return
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
