"""The same worlds with the gateway's own parts over a real Redis, to see how near the simulation is.

Each gateway has its own TaskManager, store, lanes and wake-up connection, as a process of it has; they share one
event loop, and nothing speaks HTTP. Tasks that the workers pretend to do take the same times.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from pathlib import Path

import msgspec

from benchmarks.redis_server import RedisServer
from benchmarks.simulation.findings import Findings, jain, percentile
from benchmarks.simulation.world import Setting
from gateway.background import Sweeper
from gateway.store import scripts
from gateway.store.connect import Connections
from gateway.store.keys import Keys
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.task_manager import PollRequest, TaskManager
from gateway.tasks import Queue, TaskSpec

_LANES = ("enqueue", "claim", "report", "chore", "limit", "read")
_QUEUE = Queue("default", "demo")


class RealGateway:
    """A gateway's parts below HTTP. counts: script calls by verb; sweeps: whether it does the chore, too."""

    def __init__(self, url: str, *, sweeps: bool = False) -> None:
        self.counts: Counter[str] = Counter()
        self.tasks_given = 0
        self.connections = Connections(url)
        keys, name = Keys("tg"), secrets.token_hex(6)
        loaded = scripts.load(keys)
        lanes = {lane: self.connections.lane(loaded, self._observe) for lane in _LANES}
        self.store = TaskStore(keys, lanes, name, 1_000_000)
        self.registry = Registry(self.connections.redis, keys)
        self.manager = TaskManager(self.store, self.registry, 100_000)
        self.store.listener = self.manager
        self.wakeups = self.connections.wakeups(keys, name, self.manager)
        self.chores = [asyncio.create_task(self.wakeups.run()), asyncio.create_task(self.manager.run())]
        if sweeps:
            sweeper = Sweeper(self.store, self.registry)
            self.manager.on_alarm = sweeper.alarm
            self.chores.append(asyncio.create_task(sweeper.run()))

    def _observe(self, verb: str, seconds: float, requests: int) -> None:
        self.counts[verb] += 1

    async def close(self) -> None:
        """Stop it."""
        self.manager.close()
        await self.manager.settle()
        for chore in self.chores:
            chore.cancel()
        await asyncio.gather(*self.chores, return_exceptions=True)
        await self.store.close()
        await self.connections.close()


class _Life:
    """Workers and producers of one run."""

    def __init__(self, setting: Setting, gateways: list[RealGateway]) -> None:
        self.setting = setting
        self.gateways = gateways
        self.rng = random.Random(setting.seed)
        self.latencies_ms: list[float] = []
        self.waits_ms: dict[int, list[float]] = {number: [] for number in range(len(gateways))}
        self.counting = False
        workers = setting.workers * setting.gateways
        self.task_s = setting.busy * workers / setting.tasks_per_second

    async def work(self, number: int, worker_id: str) -> None:
        gateway = self.gateways[number]
        request = PollRequest("default", worker_id, (_QUEUE,), self.setting.most, self.setting.wait_s)
        request = msgspec.structs.replace(request, wait_seconds=self.rng.random() * self.setting.wait_s)
        while not gateway.manager.closed:
            tasks = await gateway.manager.poll(request).tasks()
            request = msgspec.structs.replace(request, wait_seconds=self.setting.wait_s)
            now_s = time.monotonic()
            for leased in tasks:
                gateway.tasks_given += 1
                if self.counting:
                    wait_ms = (now_s - float(leased.task.spec.payload)) * 1000
                    self.latencies_ms.append(wait_ms)
                    self.waits_ms[number].append(wait_ms)
                await asyncio.sleep(self.rng.expovariate(1 / self.task_s))
                await gateway.store.complete(_QUEUE, leased.task.id, leased.token, b"null")
            if not tasks:
                await asyncio.sleep(0)

    async def post(self) -> None:
        setting, due_s = self.setting, time.monotonic()
        posts: set[asyncio.Task[object]] = set()
        while True:
            due_s += self.rng.expovariate(setting.tasks_per_second / setting.burst)
            await asyncio.sleep(max(due_s - time.monotonic(), 0))
            spec = TaskSpec("demo", payload=str(time.monotonic()).encode())
            gateway = self.rng.choice(self.gateways)
            post = asyncio.create_task(gateway.store.enqueue(_QUEUE, [spec] * setting.burst))
            posts.add(post)
            post.add_done_callback(posts.discard)


async def run(setting: Setting, binary: str, directory: Path) -> Findings:
    """Run a setting for real: one queue, one Redis; nobody dies and no ring is lost."""
    server = await asyncio.to_thread(RedisServer, binary, directory, "no")
    gateways = [RealGateway(server.url) for _ in range(setting.gateways)]
    life = _Life(setting, gateways)
    try:
        await gateways[0].registry.register({_QUEUE})
        work = [
            asyncio.create_task(life.work(number, f"w{number}-{worker}"))
            for number in range(setting.gateways)
            for worker in range(setting.workers)
        ]
        await asyncio.sleep(1)
        post = asyncio.create_task(life.post())
        await asyncio.sleep(setting.warm_s - 1)
        calls, counts = _calls(server), _counted(gateways)
        given = [gateway.tasks_given for gateway in gateways]
        life.counting = True
        await asyncio.sleep(setting.seconds)
        life.counting = False
        calls, counts = _calls(server) - calls, _counted(gateways) - counts
        given = [gateway.tasks_given - was for gateway, was in zip(gateways, given, strict=True)]
        post.cancel()
        for task in work:
            task.cancel()
        await asyncio.gather(post, *work, return_exceptions=True)
    finally:
        for gateway in gateways:
            await gateway.close()
        await asyncio.to_thread(server.stop)
    ordered, tasks, nan = sorted(life.latencies_ms), sum(given), float("nan")
    rechecks = setting.seconds * setting.gateways
    return Findings(
        gateways=setting.gateways,
        tasks=tasks,
        claims_per_task=counts["claim"] / tasks,
        dispatch_claims_per_task=max(counts["claim"] - rechecks, 0) / tasks,
        empty_share=nan,
        rings_per_task=calls["publish"] / tasks,
        wasted_rings_share=nan,
        pass_ons_per_task=counts["ring"] / tasks,
        p50_ms=percentile(ordered, 0.5),
        p99_ms=percentile(ordered, 0.99),
        p999_ms=percentile(ordered, 0.999),
        worst_ms=ordered[-1],
        fairness=jain(given),
        fairness_of_waits=jain([sum(waits) / len(waits) for waits in life.waits_ms.values() if waits]),
        redis_share=nan,
    )


def _calls(server: RedisServer) -> Counter[str]:
    return Counter(server.calls())


def _counted(gateways: list[RealGateway]) -> Counter[str]:
    total: Counter[str] = Counter()
    for gateway in gateways:
        total.update(gateway.counts)
    return total
