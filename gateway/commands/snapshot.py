"""What `gateway top` shows: two looks at a gateway, and what their difference says."""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

import msgspec

from gateway.commands.client import Answer, Gateway, Unreachable

_BUCKET = re.compile(r'tasks_gateway_dispatch_latency_seconds_bucket\{le="([^"]+)"\} (\S+)')
_DONE = ("completed", "failed", "cancelled")


class Look(msgspec.Struct, frozen=True):
    """A gateway at one moment. buckets: the dispatch histogram, upper bound in seconds to cumulative count."""

    at: float
    health: dict[str, Any]
    queues: dict[str, dict[str, Any]]
    workers: list[dict[str, Any]]
    buckets: dict[float, float]


class QueueRates(msgspec.Struct, frozen=True):
    """Tasks per second between two looks."""

    enqueued: float
    done: float
    failed: float


class Snapshot(msgspec.Struct, frozen=True):
    """The newer of two looks, and rates and latencies between them. p50, p99: seconds; None: nothing dispatched."""

    look: Look
    seconds: float
    rates: dict[str, QueueRates]
    p50: float | None
    p99: float | None

    def total(self) -> QueueRates:
        """The rates of all queues together."""
        rates = self.rates.values()
        return QueueRates(
            sum(one.enqueued for one in rates), sum(one.done for one in rates), sum(one.failed for one in rates)
        )

    def json(self) -> dict[str, Any]:
        """The snapshot as one JSON document."""
        total = self.total()
        return {
            "health": self.look.health,
            "interval_seconds": round(self.seconds, 3),
            "enqueued_per_second": round(total.enqueued, 3),
            "done_per_second": round(total.done, 3),
            "failed_per_second": round(total.failed, 3),
            "dispatch_p50_seconds": self.p50,
            "dispatch_p99_seconds": self.p99,
            "queues": [
                {
                    **queue,
                    "enqueued_per_second": round(self.rates[name].enqueued, 3),
                    "done_per_second": round(self.rates[name].done, 3),
                    "failed_per_second": round(self.rates[name].failed, 3),
                }
                for name, queue in self.look.queues.items()
            ],
            "workers": self.look.workers,
        }


def look(gateway: Gateway) -> Look:
    """Look at a gateway; one whose Redis is away shows its health and nothing else. Raises Unreachable, Refused."""
    health = gateway.request("GET", "/health").json()
    if not isinstance(health, dict) or "status" not in health:
        raise Unreachable(f"what answers at {gateway.url} is no gateway; is the address right?")
    at = time.monotonic()
    queues, workers, metrics = (_seen(gateway.request("GET", path)) for path in ("/queues", "/workers", "/metrics"))
    return Look(
        at,
        health,
        {one["job_type"]: one for one in queues.json()["queues"]} if queues.status == 200 else {},
        sorted(workers.json()["workers"], key=_busiest) if workers.status == 200 else [],
        buckets_of(metrics.raw.decode(errors="replace")) if metrics.status == 200 else {},
    )


def compare(before: Look, now: Look) -> Snapshot:
    """What happened between two looks."""
    seconds = max(now.at - before.at, 0.001)
    rates = {}
    for name, queue in now.queues.items():
        old, new = before.queues.get(name, {}).get("totals", {}), queue.get("totals", {})

        def per_second(*totals: str, old: dict[str, int] = old, new: dict[str, int] = new) -> float:
            return max(sum(new.get(one, 0) - old.get(one, 0) for one in totals), 0) / seconds

        rates[name] = QueueRates(per_second("enqueued"), per_second(*_DONE), per_second("failed"))
    spread = {bound: count - before.buckets.get(bound, 0) for bound, count in now.buckets.items()}
    if any(count < 0 for count in spread.values()):
        spread = now.buckets  # the gateway was restarted meanwhile
    return Snapshot(now, seconds, rates, quantile(spread, 0.5), quantile(spread, 0.99))


def buckets_of(text: str) -> dict[float, float]:
    """Read the dispatch histogram from Prometheus text."""
    return {float(bound): float(count) for bound, count in _BUCKET.findall(text)}


def quantile(buckets: dict[float, float], share: float) -> float | None:
    """Estimate a quantile in seconds from cumulative buckets, evenly spread inside one. None: nothing was counted."""
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    wanted = share * buckets[bounds[-1]]
    low, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (wanted - below) / (buckets[bound] - below)
        low, below = bound, buckets[bound]
    return low


def encode(snapshot: Snapshot) -> bytes:
    """The snapshot as JSON text."""
    return json.dumps(snapshot.json(), ensure_ascii=False).encode()


def _seen(answer: Answer) -> Answer:
    """Raises Refused for what is not a matter of Redis: who asks, and how often."""
    return answer.granted() if answer.status in (401, 403, 429) else answer


def _busiest(worker: dict[str, Any]) -> tuple[int, str]:
    return -worker["leases"], worker["id"]
