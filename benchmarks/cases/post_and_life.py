"""`POST /tasks`, then the life with `next` of what was posted, on one gateway: what several benchmarks compare."""

from __future__ import annotations

from benchmarks.bench import Bench

_CONNECTIONS = 64
_TASKS_PER_SECOND = 16_000  # more than it can do


def measure(
    bench: Bench, contender: str, round_number: int, *, job_types: int = 1, token: str = "", **settings: str
) -> tuple[float, float]:
    """Measure both on a fresh gateway. job_types: how many. settings: the gateway's environment.

    Returns requests a second, and tasks a second.
    """
    flags = {"connections": _CONNECTIONS, "queues": job_types, "token": token}
    with bench.redis() as redis, bench.gateway(redis, **settings) as gateway:
        servers = [gateway, redis]
        posted = bench.measure(
            f"post, {contender}", round_number, servers, "post", gateway.url, **flags, **bench.span()
        )  # fmt: skip
        wanted = int(_TASKS_PER_SECOND * (bench.seconds + bench.warmup_seconds))
        missing = wanted - posted["tasks"]
        if missing > 0:
            # An array goes to one queue: so many of them that each queue gets one, or arrays of 1,000.
            bench.fill(
                gateway.url, missing, "bench", token, job_types=job_types, batch=min(-(-missing // job_types), 1000)
            )
        done = bench.measure(
            f"life, {contender}", round_number, servers, "work", gateway.url, next=True, **flags, **bench.span()
        )
        if done["statuses"].get("204"):
            bench.note(f"{contender}, round {round_number}: a queue ran dry, fill it with more")
    return posted["requests_per_second"], done["tasks_per_second"]
