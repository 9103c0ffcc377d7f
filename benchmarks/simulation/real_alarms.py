"""Alarms and the shared index with the gateway's own sweepers over a real Redis, to hold the model against.

Gateways are those of `real`: their parts in one event loop. One is killed by ending its sweeper and its connections.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.redis_server import RedisServer, find_binary
from benchmarks.simulation.real import RealGateway
from gateway.store.calls import Claim
from gateway.store.inspector import Inspector
from gateway.store.task_store import TaskStore
from gateway.tasks import Queue, Task, TaskSpec

_WARM_S = 3.0
_AHEAD_MS = 5000
_LEASE_MS = 10_000
_AT_ONCE = 50
_NOTED_S = 0.3


async def calls_per_second(gateways: int, queues: int, due_per_second: float, seconds: float) -> dict[str, float]:
    """Count script calls, and commands inside and outside of scripts, while tasks come due in queues drawn at random.

    Enqueued at gateways drawn at random, five seconds before. Nobody polls. 0 a second: the gateways are idle.
    """
    rng = random.Random(1)
    names = [Queue("default", f"q{number}") for number in range(queues)]
    async with _running(gateways) as (server, running):
        await running[0].registry.register(set(names))

        async def post() -> None:
            loop = asyncio.get_running_loop()
            at_s = loop.time()
            while due_per_second:
                at_s += rng.expovariate(due_per_second)
                await asyncio.sleep(max(at_s - loop.time(), 0))
                store = rng.choice(running).store
                await store.enqueue(rng.choice(names), [TaskSpec("demo", delay_ms=_AHEAD_MS)])

        posting = asyncio.create_task(post())
        await asyncio.sleep(_WARM_S + (_AHEAD_MS / 1000 if due_per_second else 0))
        before, commands = _counted(running), Counter(server.calls())
        await asyncio.sleep(seconds)
        found, commands = _counted(running) - before, Counter(server.calls()) - commands
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
    commands["info"] -= 1  # our own
    return {"sweeps": found["expire"] / seconds, "looks": found["alarms"] / seconds,
            "commands": sum(commands.values()) / seconds}  # fmt: skip


async def lapses_late_s(queues: int, gateways_left: int, *, noted: bool) -> list[float]:
    """Return how late lapses are seen whose gateway died with the worker, one lease a queue; ascending.

    noted: it dies when its alarms are in the index; otherwise before it has noted any.
    """
    names = [Queue("default", f"q{number}") for number in range(queues)]
    async with _running(gateways_left) as (server, left):
        dying = RealGateway(server.url, sweeps=noted)
        store = dying.store
        await dying.registry.register(set(names))
        made: list[Task] = []
        for first in range(0, queues, _AT_ONCE):
            made += await asyncio.gather(*(_lease(store, name) for name in names[first : first + _AT_ONCE]))
        if noted:
            await asyncio.sleep(_NOTED_S)
        await dying.close()
        read = Inspector(left[0].store)
        late_s = []
        for name, task in zip(names, made, strict=True):
            while not (attempts := (await read.get(name, task.id)).attempts):
                await asyncio.sleep(0.2)
            late_s.append((attempts[0].finished_at_ms - attempts[0].started_at_ms - _LEASE_MS) / 1000)
        return sorted(late_s)


async def _lease(store: TaskStore, name: Queue) -> Task:
    await store.enqueue(name, [TaskSpec("demo", lease_ms=_LEASE_MS)])
    claimed = await store.claim(name, [Claim("w", 1)], stays=False, others=0, waited_ms=0)
    return claimed.tasks[0][0].task


@asynccontextmanager
async def _running(gateways: int) -> AsyncIterator[tuple[RedisServer, list[RealGateway]]]:
    with tempfile.TemporaryDirectory() as directory:
        server = await asyncio.to_thread(RedisServer, find_binary(), Path(directory), "no")
        running = [RealGateway(server.url, sweeps=True) for _ in range(gateways)]
        try:
            yield server, running
        finally:
            for gateway in running:
                await gateway.close()
            await asyncio.to_thread(server.stop)


def _counted(gateways: list[RealGateway]) -> Counter[str]:
    total: Counter[str] = Counter()
    for gateway in gateways:
        total.update(gateway.counts)
    return total
