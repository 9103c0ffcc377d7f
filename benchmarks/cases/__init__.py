"""The benchmarks, by name. Each is a function that takes a Bench, measures its rounds and returns its rows."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.cases import (
    batch,
    claim,
    heartbeats,
    hold,
    idle,
    job_types,
    latency,
    life,
    loaded,
    million,
    neighbours,
    post,
    processes,
    recovery,
    secured,
    servers,
    start,
    tenants,
)
from benchmarks.figures import Row

CASES: dict[str, Callable[[Bench], list[Row]]] = {
    "post": post.run,
    "life": life.run,
    "latency": latency.run,
    "loaded": loaded.run,
    "claim": claim.run,
    "batch": batch.run,
    "million": million.run,
    "job-types": job_types.run,
    "processes": processes.run,
    "heartbeats": heartbeats.run,
    "recovery": recovery.run,
    "hold": hold.run,
    "idle": idle.run,
    "servers": servers.run,
    "start": start.run,
    "secured": secured.run,
    "neighbours": neighbours.run,
    "tenants": tenants.run,
}
