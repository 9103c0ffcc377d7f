"""What a claim costs in a queue that is nearly empty, and in one with 100,000 tasks waiting and 10,000 running.

Measured twice: as a poll over HTTP on one connection, each followed by its completion, and as the time that Redis
itself counts for the script (INFO commandstats), in a run that only claims.
"""

from __future__ import annotations

from benchmarks.bench import Bench, interleaved
from benchmarks.figures import Row, at_most, ratios
from benchmarks.http_server import HttpServer
from benchmarks.redis_server import RedisServer

_WAITING = 100_000
_RUNNING = 10_000
_CLAIMS = 1_000
_LEASE_SECONDS = 3_600  # nothing lapses meanwhile


def run(bench: Bench) -> list[Row]:
    """Measure both queues side by side on one gateway, round by round."""
    polls_ms: dict[str, list[float]] = {"small": [], "large": []}
    script_us: dict[str, list[float]] = {"small": [], "large": []}
    claims = bench.size(_CLAIMS)
    with bench.redis() as redis, bench.gateway(redis) as gateway:
        bench.fill(gateway.url, bench.size(_RUNNING), "large")
        _claim_only(bench, gateway, "large", bench.size(_RUNNING), batch=1000)
        bench.fill(gateway.url, bench.size(_WAITING), "large")
        for round_number in range(bench.rounds):
            for queue in interleaved(round_number, list(polls_ms)):
                # The small queue is another one each round, so that its leases do not add up.
                job_type = queue if queue == "large" else f"small-{round_number}"
                bench.fill(gateway.url, 2 * claims + 10, job_type)
                report = bench.measure(
                    queue,
                    round_number,
                    [gateway, redis],
                    "work",
                    gateway.url,
                    job_type=job_type,
                    connections=1,
                    next=False,
                    tasks=claims,
                    duration="60s",
                )
                polls_ms[queue].append(report["latency_ms"]["poll"]["p50"])
                script_us[queue].append(_script_us(bench, gateway, redis, job_type, claims))
    return [
        *(Row(f"poll, {queue} queue, p50", "ms", found) for queue, found in polls_ms.items()),
        Row("poll, large against small", "", ratios(polls_ms["large"], polls_ms["small"]), at_most(1.3)),
        *(Row(f"claim script, {queue} queue", "us", found) for queue, found in script_us.items()),
        Row("claim script, large against small", "", ratios(script_us["large"], script_us["small"]), at_most(1.3)),
    ]


def _claim_only(bench: Bench, gateway: HttpServer, job_type: str, tasks: int, batch: int) -> None:
    bench.load.run(
        "work",
        gateway.url,
        job_type=job_type,
        connections=1,
        keep=True,
        max=batch,
        tasks=tasks,
        lease_seconds=_LEASE_SECONDS,
        duration="60s",
    )


def _script_us(bench: Bench, gateway: HttpServer, redis: RedisServer, job_type: str, claims: int) -> float:
    calls, usec = redis.script_cost()
    _claim_only(bench, gateway, job_type, claims, batch=1)
    calls_after, usec_after = redis.script_cost()
    return (usec_after - usec) / (calls_after - calls)
