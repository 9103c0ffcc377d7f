"""Measures what one Redis spends on each script: its CPU for calls that carry 1 task, and 100.

The first tells the cost of a call, the difference the cost of a task more. CPU and not time: it holds reading and
answering, and little of what else the machine does.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.redis_server import RedisServer, find_binary
from benchmarks.simulation.real import RealGateway
from gateway.store.calls import Claim
from gateway.tasks import LeasedTask, Queue, TaskSpec

_QUEUE = Queue("default", "demo")
_PAYLOAD = b'"' + b"x" * 98 + b'"'


async def measure(appendfsync: str = "no", rounds: int = 5) -> dict[str, dict[int, float]]:
    """Return microseconds of Redis's CPU per call: by script, and by tasks in the call. Best of `rounds`."""
    found: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        server = await asyncio.to_thread(RedisServer, find_binary(), Path(directory), appendfsync)
        gateway = RealGateway(server.url)
        try:
            await gateway.registry.register({_QUEUE})
            for _ in range(rounds):
                for batch, calls in ((1, 1500), (100, 60)):
                    for name, cost_us in (await _round(server, gateway, batch, calls)).items():
                        of_script = found.setdefault(name, {})
                        of_script[batch] = min(cost_us, of_script.get(batch, cost_us))
        finally:
            await gateway.close()
            await asyncio.to_thread(server.stop)
    return found


async def _round(server: RedisServer, gateway: RealGateway, batch: int, calls: int) -> dict[str, float]:
    store, leased = gateway.store, []

    async def timed(call: Callable[[], Awaitable[object]]) -> float:
        before = _cpu_us(server)
        for _ in range(calls):
            await call()
        return (_cpu_us(server) - before) / calls

    async def claim() -> None:
        claimed = await store.claim(_QUEUE, [Claim("w", batch)], stays=True, others=0, waited_ms=0)
        leased.append(claimed.tasks[0])

    async def complete() -> None:
        tasks: list[LeasedTask] = leased.pop()
        await asyncio.gather(*(store.complete(_QUEUE, one.task.id, one.token, b"null") for one in tasks))

    specs = [TaskSpec("demo", payload=_PAYLOAD)] * batch
    costs = {"enqueue": await timed(lambda: store.enqueue(_QUEUE, specs)), "claim": await timed(claim)}
    costs["complete"] = await timed(complete)
    if batch == 1:
        costs["claim of an empty queue"] = await timed(
            lambda: store.claim(_QUEUE, [Claim("w", 1)], stays=True, others=9, waited_ms=0)
        )
        costs["sweep"] = await timed(lambda: store.expire(_QUEUE))
        numbers = itertools.count()

        def noted(most: int) -> dict[Queue, int]:
            at_ms = store.now_ms() + 3_600_000
            return {Queue("default", f"q{next(numbers) % 10_000}"): at_ms for _ in range(most)}

        costs["look at the index"] = await timed(lambda: store.take_alarms({}, {}, 650, 700, 500))
        costs["look and note one"] = await timed(lambda: store.take_alarms(noted(1), {}, 650, 700, 500))
        costs["pass a ring on"] = await timed(lambda: store.pass_ring_on(_QUEUE))
    return costs


def _cpu_us(server: RedisServer) -> float:
    cpu = server.client.info("cpu")
    return (float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])) * 1e6
