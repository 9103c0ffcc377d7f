"""The benchmarks, by name. Each is a function that takes a Bench, measures its rounds and returns its rows."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.cases import batch, claim, hold, latency, life, neighbours, post, secured, start, tenants
from benchmarks.figures import Row

CASES: dict[str, Callable[[Bench], list[Row]]] = {
    "post": post.run,
    "life": life.run,
    "latency": latency.run,
    "claim": claim.run,
    "batch": batch.run,
    "hold": hold.run,
    "start": start.run,
    "secured": secured.run,
    "neighbours": neighbours.run,
    "tenants": tenants.run,
}
