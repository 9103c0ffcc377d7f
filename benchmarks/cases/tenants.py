"""What a waiting task takes of Redis's memory when 100,000 of them belong to one tenant, and to a thousand."""

from __future__ import annotations

from benchmarks.bench import PAYLOAD_BYTES, Bench
from benchmarks.figures import Row, at_most, ratios
from benchmarks.tokens import SECRET, token

_TASKS = 100_000
_TENANTS = (1, 1000)


def run(bench: Bench) -> list[Row]:
    """Fill a fresh Redis for each number of tenants. One round: memory is not noisy."""
    tasks = bench.size(_TASKS)
    found = {tenants: [_bytes_of_a_task(bench, tenants, tasks)] for tenants in _TENANTS}
    return [
        *(Row(f"memory of a waiting task, {tenants:,} tenants", "bytes", found[tenants]) for tenants in _TENANTS),
        Row("a thousand tenants against one", "", ratios(found[1000], found[1]), at_most(1)),
    ]


def _bytes_of_a_task(bench: Bench, tenants: int, tasks: int) -> float:
    with bench.redis() as redis, bench.gateway(redis, JWT_SECRET=SECRET) as gateway:
        before = redis.client.info("memory")["used_memory"]
        each = max(tasks // tenants, 1)
        for number in range(tenants):
            bench.load.run(
                "post", gateway.url, tasks=each, batch=min(each, 1000), connections=1, duration="10m",
                payload_bytes=PAYLOAD_BYTES, token=token(f"tenant-{number:04}"),
            )  # fmt: skip
        return float((redis.client.info("memory")["used_memory"] - before) / (each * tenants))
