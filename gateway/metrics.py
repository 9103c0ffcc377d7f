"""What the gateway counts, in Prometheus form. Counters add up over the processes of one `gateway serve`.

Depths and ages are read from Redis when somebody asks, so every process tells the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.store.inspector import QueueStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MOST_QUEUE_LABELS = 100
_LATENCY_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600)
_SCRIPT_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
_OUTCOMES = ("completed", "failed", "retried", "cancelled", "expired", "timeout")


class Metrics:
    """One process's metrics. Names start with `tasks_gateway_`."""

    def __init__(self) -> None:
        self._several = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._registry = CollectorRegistry()
        start = "tasks_gateway_"
        own = None if self._several else self._registry
        self._enqueued = Counter(f"{start}tasks_enqueued", "Tasks stored.", registry=own)
        outcomes = Counter(f"{start}tasks_outcomes", "Attempts and tasks by how they ended.", ["outcome"], registry=own)
        self._outcomes = {name: outcomes.labels(name) for name in _OUTCOMES}
        self._lapsed = Counter(f"{start}leases_lapsed", "Leases that ended without a report.", registry=own)
        self._stale = Counter(
            f"{start}stale_reports", "Reports refused because their token held no lease.", registry=own
        )
        self._dispatch = Histogram(
            f"{start}dispatch_latency_seconds", "From ready to handed out (first attempts).", buckets=_LATENCY_SECONDS,
            registry=own,
        )  # fmt: skip
        self._scripts = Histogram(
            f"{start}script_seconds", "Calls of scripts, seen from the gateway.", ["script"], buckets=_SCRIPT_SECONDS,
            registry=own,
        )  # fmt: skip
        self._requests = Counter(
            f"{start}http_requests", "Requests by route and status.", ["route", "status"], registry=own
        )
        self._open_polls = Gauge(
            f"{start}open_polls", "Long polls open now.", multiprocess_mode="livesum", registry=own
        )
        self._of_script: dict[str, Histogram] = {}
        self._of_request: dict[tuple[str, int], Counter] = {}

    def count(self, name: str, number: int) -> None:
        """Add to an outcome, by the store's name for it."""
        if not number:
            return
        if name == "enqueued":
            self._enqueued.inc(number)
        elif name == "stale_report":
            self._stale.inc(number)
        elif name == "lapsed":
            self._lapsed.inc(number)
        elif name in self._outcomes:
            self._outcomes[name].inc(number)

    def dispatched(self, waited_ms: int) -> None:
        """A task was handed out so long after it became ready."""
        self._dispatch.observe(waited_ms / 1000)

    def script(self, verb: str, seconds: float, requests: int) -> None:
        """A call of a script came back."""
        found = self._of_script.get(verb)
        if found is None:
            found = self._of_script[verb] = self._scripts.labels(verb)
        found.observe(seconds)

    def request(self, route: str, status: int) -> None:
        """A request was answered."""
        found = self._of_request.get((route, status))
        if found is None:
            found = self._of_request[route, status] = self._requests.labels(route, str(status))
        found.inc()

    def open_polls(self, number: int) -> None:
        """So many polls are open in this process."""
        self._open_polls.set(number)

    def render(self, queues: Sequence[tuple[str, QueueStats]], *, process: bool = True) -> bytes:
        """Write the counts of the given queues (name, counts), and what the process counted."""
        depths = CollectorRegistry()
        depths.register(_Depths(queues))
        if not process:
            return bytes(generate_latest(depths))
        counters = self._registry
        if self._several:
            counters = CollectorRegistry()
            multiprocess.MultiProcessCollector(counters)  # type: ignore[no-untyped-call]  # prometheus-client
        return bytes(generate_latest(counters)) + bytes(generate_latest(depths))


class _Depths(Collector):
    def __init__(self, queues: Sequence[tuple[str, QueueStats]]) -> None:
        self._queues = queues

    def collect(self) -> Iterable[Metric]:
        depth = GaugeMetricFamily("tasks_gateway_queue_depth", "Tasks by queue and state.", labels=["queue", "state"])
        age = GaugeMetricFamily(
            "tasks_gateway_oldest_pending_seconds", "How long the oldest ready task has waited.", labels=["queue"]
        )
        sums: dict[str, dict[str, int]] = {}
        ages: dict[str, int] = {}
        # Queue names come from clients: beyond a bound they share one label.
        for number, (name, stats) in enumerate(self._queues):
            label = name if number < _MOST_QUEUE_LABELS else "other"
            states = sums.setdefault(label, {})
            for state, value in (
                ("pending", stats.ready), ("scheduled", stats.due), ("processing", stats.leased),
                ("completed", stats.completed), ("failed", stats.failed), ("cancelled", stats.cancelled),
            ):  # fmt: skip
                states[state] = states.get(state, 0) + value
            ages[label] = max(ages.get(label, 0), stats.oldest_ms)
        for label, states in sums.items():
            for state, value in states.items():
                depth.add_metric([label, state], value)
            age.add_metric([label], ages[label] / 1000)
        yield depth
        yield age
