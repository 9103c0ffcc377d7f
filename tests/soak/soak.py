"""One soak: a Redis that fsyncs every write, gateways, clients of every kind, samples, and the reckoning at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from redis.asyncio import Redis

from gateway.store.keys import Keys
from tests.campaign.servers import GatewayNode, RedisNode
from tests.soak import flat, leftovers
from tests.soak.ledger import Ledger, balance, quantile
from tests.soak.line import Line
from tests.soak.producers import ALL, Producers
from tests.soak.samples import Sample, redis_facts, usage
from tests.soak.workers import Lurker, Worker

log = logging.getLogger(__name__)

_SAMPLES_PER_LINE = 60
_CONTROL_SECONDS = 0.1
_OPERATOR_SECONDS = 1.0
# Until a task that may be delayed, retried and abandoned several times has ended, on a slow machine too.
_LONGEST_LIFE_SECONDS = 60.0
_DRAIN_SECONDS = 120.0
# Idempotency keys are kept for a day, longer than a run: what a run makes would only pile up. Theirs is cut to this.
_IDEMPOTENCY_SECONDS = 30
# What the first use of everything adds for good: scripts and buffers in Redis, connections in a gateway (of its lanes,
# and those that clients still hold).
_REDIS_MORE_BYTES = 4 * 1024 * 1024
_MORE_FILES = 16


class Plan(msgspec.Struct, frozen=True):
    """What to run.

    retention_seconds: how long finished tasks are kept at least; 10 is the least there is. await_expiry: wait at the
    end until what expires by itself is gone, too (records of polls: a minute); otherwise it must only have a TTL.
    """

    seconds: float
    rate: float
    folder: Path
    source: Path
    seed: int = 1
    gateways: int = 2
    workers: int = 24
    lurkers: int = 16
    sample_seconds: float = 5.0
    retention_seconds: float = 12.0
    await_expiry: bool = True


class Outcome(msgspec.Struct):
    """What came of a soak. violations: promises that were broken; empty is what it is for."""

    seconds: float
    violations: list[str]
    counts: dict[str, int]
    samples: list[Sample]
    series: list[flat.Series]
    acknowledged: int
    ended: int
    unseen: int
    drain_seconds: float
    leftover_seconds: float
    named_keys: list[str]
    memory_before_bytes: int
    memory_after_bytes: int
    files_before: list[int]
    files_after: list[int]


class _Run:
    def __init__(self, plan: Plan, redis_node: RedisNode, gateways: list[GatewayNode], redis: Redis) -> None:
        self.plan = plan
        self.redis_node = redis_node
        self.gateways = gateways
        self.redis = redis
        self.ledger = Ledger()
        self.line = Line([gateway.url for gateway in gateways], self.ledger, random.Random(plan.seed))
        self.producers = Producers(self.line, plan.rate, plan.retention_seconds)
        self.samples: list[Sample] = []
        self.started = time.monotonic()
        self._shortened = 0
        self._walked = self.started
        self._blind_until = 0.0

    # Beside the load

    async def sample(self, stop: asyncio.Event) -> None:
        while not await _told(stop, self.plan.sample_seconds):
            for server in (self.redis_node, *self.gateways):
                if not server.running:
                    raise RuntimeError(f"{server.name} ended by itself: {server.log.read_text()[-2000:]}")
            self.samples.append(await self._sample())
            await self._shorten_idempotency()
            if len(self.samples) % _SAMPLES_PER_LINE == 0:
                log.info(
                    "%.0f s: %d acknowledged, %d ended, gateways %s MiB, Redis %.1f MiB, %d violations",
                    self.samples[-1].seconds, self.ledger.acknowledged, self.ledger.ended,
                    [round(one.memory_bytes / 2**20, 1) for one in self.samples[-1].gateways],
                    self.samples[-1].used_memory_bytes / 2**20, len(self.ledger.violations),
                )  # fmt: skip

    async def _sample(self) -> Sample:
        reply = await self.line.call("read", "GET", "/queues")
        queues = reply.body["queues"] if reply.status == 200 else []
        used_memory, keys, clients = await redis_facts(self.redis)
        took = self.ledger.take_seconds()
        latencies = {
            name: tuple(_ms(quantile(took.get(name, []), share)) for share in (0.5, 0.99))
            for name in ("post", "dispatch", "control")
        }
        return Sample(
            seconds=round(time.monotonic() - self.started, 3),
            gateways=[usage(_pid(gateway)) for gateway in self.gateways],
            redis=usage(_pid(self.redis_node)),
            used_memory_bytes=used_memory,
            redis_keys=keys,
            redis_clients=clients,
            client_memory_bytes=usage(os.getpid()).memory_bytes,
            load_average=os.getloadavg()[0],
            acknowledged=self.ledger.acknowledged,
            ended=self.ledger.ended,
            open=len(self.ledger.open),
            pending=sum(queue["pending"] for queue in queues),
            scheduled=sum(queue["scheduled"] for queue in queues),
            processing=sum(queue["processing"] for queue in queues),
            post_ms=latencies["post"],
            dispatch_ms=latencies["dispatch"],
            control_ms=latencies["control"],
        )

    async def _shorten_idempotency(self) -> None:
        keys = self.producers.idempotency_keys
        fresh = keys[self._shortened :]
        self._shortened = len(keys)
        spell = Keys().idempotency
        async with self.redis.pipeline(transaction=False) as pipe:
            for key in fresh:
                # Only ever shorter: a key without an expiry stays, and is found at the end.
                pipe.expire(spell("default", key), _IDEMPOTENCY_SECONDS, lt=True, xx=True)
            await pipe.execute()

    async def control(self, stop: asyncio.Event) -> None:
        while not await _told(stop, _CONTROL_SECONDS):
            started = time.monotonic()
            if (await self.line.call("read", "GET", "/health/live")).status == 200:
                self.ledger.took("control", time.monotonic() - started)

    async def operate(self, stop: asyncio.Event) -> None:
        """Ask what operators ask, and send a failed task back now and then."""
        rng = self.line.rng
        while not await _told(stop, _OPERATOR_SECONDS):
            await self.line.call("read", "GET", rng.choice(("/health", "/workers", "/metrics", "/queues")))
            await self.line.call("read", "GET", "/tasks?tag=run:soak&limit=20")
            bulk = {"filter": {"job_type": rng.choice(ALL)}, "dry_run": True}
            await self.line.call("read", "POST", "/tasks/cancel", bulk)
            failed = await self.line.call("read", "GET", f"/tasks?status=failed&job_type={rng.choice(ALL)}&limit=2")
            for task in failed.body["tasks"] if failed.status == 200 else ():
                again = await self.line.call("task", "POST", f"/tasks/{task['id']}/retry")
                if again.status == 200:
                    self.ledger.reopened(task["id"])

    async def audit(self, stop: asyncio.Event) -> None:
        """Look at the lists for tasks that ended by themselves, and at tasks that should have ended long ago."""
        pause = min(4.0, self.plan.retention_seconds / 4)
        while not await _told(stop, pause):
            await self.walk()
            now = time.monotonic()
            late = [one for one, since in self.ledger.open.items() if now - since > _LONGEST_LIFE_SECONDS]
            for task_id in late:
                await self._ask(task_id)

    async def walk(self) -> None:
        """See every failed and cancelled task that is still kept."""
        started, cursor = time.monotonic(), ""
        while True:
            page = await self.line.call("read", "GET", f"/tasks?status=failed,cancelled&limit=200{cursor}")
            if page.status != 200:
                return
            for task in page.body["tasks"]:
                self.ledger.seen(task["id"], task["status"])
            if not page.body.get("next_cursor"):
                break
            cursor = f"&cursor={page.body['next_cursor']}"
        if time.monotonic() - self._walked > self.plan.retention_seconds * 0.75:
            # What was under way before may have ended, and its retention, too, while nobody looked.
            self._blind_until = started
        self._walked = started

    async def _ask(self, task_id: str) -> None:
        reply = await self.line.insist("task", "GET", f"/tasks/{task_id}")
        since = self.ledger.open.get(task_id)
        if reply.status == 200:
            self.ledger.seen(task_id, reply.body["status"])
        elif reply.status == 404 and since is not None:
            if since < self._blind_until:
                self.ledger.lost_sight(task_id)
            else:
                self.ledger.open.pop(task_id)
                self.ledger.violation(f"{task_id} was acknowledged, never seen to end, and is gone")

    # The end

    async def drained(self) -> float:
        """Wait until every acknowledged task has ended; those that do not are violations. Returns the seconds."""
        started = time.monotonic()
        while self.ledger.open and time.monotonic() - started < _DRAIN_SECONDS:
            await self.walk()
            await asyncio.sleep(0.5)
        for task_id in list(self.ledger.open):
            await self._ask(task_id)
        for task_id in self.ledger.open:
            self.ledger.violation(f"{task_id} was acknowledged and did not end")
        return time.monotonic() - started

    async def balanced(self) -> None:
        """Compare the books with the queues' totals, once the tasks that nobody sees any more have ended, too."""
        started = time.monotonic()
        while True:
            queues = await self.line.insist("read", "GET", "/queues")
            wrong = balance(self.ledger, [queue["totals"] for queue in queues.body["queues"]])
            if not wrong or time.monotonic() - started > _LONGEST_LIFE_SECONDS:
                break
            await asyncio.sleep(1)
        for what in wrong:
            self.ledger.violation(what)

    async def settled(self) -> tuple[float, leftovers.Leftovers]:
        """Wait until only named keys are left. Returns the seconds it took, and what is left."""
        started = time.monotonic()
        limit = self.plan.retention_seconds * 1.3 + _IDEMPOTENCY_SECONDS + 60
        while True:
            await self._shorten_idempotency()
            found = await leftovers.look(self.redis)
            left = [*found.strange, *(found.mortal if self.plan.await_expiry else ())]
            if not left or time.monotonic() - started > limit:
                break
            await asyncio.sleep(0.5)
        for name in left[:20]:
            self.ledger.violation(f"key left behind: {name[:150]}")
        return time.monotonic() - started, found


async def run(plan: Plan) -> Outcome:
    """Run the load for its time, drain, wait for the retentions, and compare."""
    async with _servers(plan) as (redis_node, gateways, redis):
        memory_before, *_ = await redis_facts(redis)
        files_before = [usage(_pid(gateway)).open_files for gateway in gateways]
        one = _Run(plan, redis_node, gateways, redis)
        try:
            drain_seconds = await _load(one)
            leftover_seconds, found = await one.settled()
        finally:
            await one.line.close()
        memory_after, *_ = await redis_facts(redis)
        files_after = await _files_once_closed(gateways, [files + _MORE_FILES for files in files_before])
        if memory_after > memory_before + _REDIS_MORE_BYTES:
            one.ledger.violation(f"used_memory went from {memory_before} to {memory_after} bytes and stayed there")
        if any(after > before + _MORE_FILES for before, after in zip(files_before, files_after, strict=True)):
            one.ledger.violation(
                f"open files of the gateways went from {files_before} to {files_after} and stayed there"
            )
        for gateway in gateways:
            gateway.end(signal.SIGTERM)
            code = gateway.process.returncode if gateway.process is not None else None
            if code != 0:
                one.ledger.violation(f"{gateway.name} ended with {code}")
            for text in gateway.log.read_text().splitlines():
                if "Traceback" in text or '"error"' in text:
                    one.ledger.violation(f"{gateway.name} logged: {text[:300]}")
        return Outcome(
            seconds=plan.seconds, violations=one.ledger.violations, counts=dict(sorted(one.ledger.counts.items())),
            samples=one.samples, series=flat.judge(one.samples), acknowledged=one.ledger.acknowledged,
            ended=one.ledger.ended, unseen=one.ledger.unseen, drain_seconds=drain_seconds,
            leftover_seconds=leftover_seconds, named_keys=sorted(found.named), memory_before_bytes=memory_before,
            memory_after_bytes=memory_after, files_before=files_before, files_after=files_after,
        )  # fmt: skip


async def _load(one: _Run) -> float:
    plan = one.plan
    stop_load, stop_rest, stop_workers = asyncio.Event(), asyncio.Event(), asyncio.Event()
    clients = [
        *(Worker(one.line, f"worker-{number}") for number in range(plan.workers)),
        *(Lurker(one.line, f"lurker-{number}") for number in range(plan.lurkers)),
    ]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(stop_workers))
        for beside in (one.sample, one.control, one.operate, one.audit):
            group.create_task(beside(stop_rest))
        producing = group.create_task(one.producers.run(stop_load))
        one.started = time.monotonic()
        await asyncio.sleep(plan.seconds)
        stop_load.set()
        await producing
        stop_rest.set()
        for client in clients:
            client.steady = True
        drain_seconds = await one.drained()
        await one.balanced()
        stop_workers.set()
    return drain_seconds


@contextlib.asynccontextmanager
async def _servers(plan: Plan) -> AsyncIterator[tuple[RedisNode, list[GatewayNode], Redis]]:
    plan.folder.mkdir(parents=True, exist_ok=True)
    redis_node = RedisNode(plan.folder, plan.folder / "data")
    gateways: list[GatewayNode] = []
    try:
        redis_node.start()
        for number in range(plan.gateways):
            gateways.append(GatewayNode(number, plan.source, plan.folder, redis_node.url, 100_000))
            gateways[-1].start()
        for gateway in gateways:
            await asyncio.to_thread(gateway.wait_ready)
        async with Redis.from_url(redis_node.url) as redis:
            yield redis_node, gateways, redis
    finally:
        for server in (*gateways, redis_node):
            server.end()
        Path(redis_node.socket).unlink(missing_ok=True)


async def _told(stop: asyncio.Event, seconds: float) -> bool:
    """Wait for so long, or until told to stop. Returns whether one was."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


def _pid(server: GatewayNode | RedisNode) -> int:
    assert server.process is not None
    return server.process.pid


async def _files_once_closed(gateways: list[GatewayNode], allowed: list[int]) -> list[int]:
    """Count the gateways' open files, once they have noticed that their clients are gone; after ten seconds anyway."""
    deadline = time.monotonic() + 10
    while True:
        files = [usage(_pid(gateway)).open_files for gateway in gateways]
        if all(now <= most for now, most in zip(files, allowed, strict=True)) or time.monotonic() > deadline:
            return files
        await asyncio.sleep(0.1)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
