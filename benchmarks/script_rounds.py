"""One round of tasks through a tree's scripts, told on stdin and answered on stdout; `script_costs.py` starts it.

Run by its path with the tree to measure first in PYTHONPATH, so it imports nothing of the benchmarks.
A line `<tasks> <batch>` is answered with a line of JSON: per step [script calls, commands inside them, microseconds in
the scripts, microseconds of Redis's CPU in all], and the bytes of a waiting and of a leased task. Everything that the
Redis at the URL holds is thrown away.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import gateway
from gateway.store import scripts
from gateway.store.batching import Lane
from gateway.store.calls import Claim
from gateway.store.connect import Connections
from gateway.store.keys import Keys
from gateway.store.task_store import TaskStore
from gateway.tasks import Queue, TaskSpec

_QUEUE = Queue("default", "demo")
_PAYLOAD = b'{"to":"someone@example.com","subject":"hello","body":"' + b"x" * 150 + b'"}'
_ERROR = b'{"message":"no"}'
# What is called beside the scripts.
_OUTSIDE = {"evalsha", "info", "flushall", "script|load", "memory|stats", "ping", "hello", "client|setinfo"}


class Rounds:
    """A tree's store over one Redis, and what its calls cost there."""

    def __init__(self, url: str) -> None:
        self._connections = Connections(url)
        self._redis = self._connections.redis
        keys = Keys()
        loaded = scripts.load(keys)
        self._scripts = list(loaded.values())
        self._store = TaskStore(
            keys, _Shared(Lane(self._connections.link(), loaded, lambda *_: None)), "gw1", 1_000_000
        )
        self._costs: dict[str, list[int]] = {}
        self._pid = 0

    async def round(self, tasks: int, batch: int) -> dict[str, Any]:
        """Lead so many tasks through each step, `batch` of them a call."""
        self._costs = {}
        self._pid = (await self._redis.info("server"))["process_id"]
        await self._redis.flushall()
        for script in self._scripts:
            await self._redis.script_load(script.source)
        # Tables of dictionaries grow by doubling: a first task makes those that every queue has.
        await self._store.enqueue(_QUEUE, [TaskSpec("demo", _PAYLOAD, priority=3)])
        empty = await self._used_bytes()
        specs = [TaskSpec("demo", _PAYLOAD)] * batch
        await self._step("settings", [lambda: self._store.settings(_QUEUE)] * (tasks // batch))
        await self._step("enqueue", [lambda: self._store.enqueue(_QUEUE, specs)] * (tasks // batch))
        waiting = await self._used_bytes()
        leases = await self._claim("claim", tasks, batch, "")
        leased = await self._used_bytes()
        await self._step("heartbeat", [
            lambda some=some: asyncio.gather(*(self._store.heartbeat(_QUEUE, *lease) for lease in some))
            for some in _parts(leases, batch)
        ])  # fmt: skip
        await self._step("release", [
            lambda some=some: asyncio.gather(*(self._store.release(_QUEUE, *lease) for lease in some))
            for some in _parts(leases, batch)
        ])  # fmt: skip
        leases = await self._claim("claim again", tasks, batch, "")
        await self._step("fail", [
            lambda some=some: asyncio.gather(*(
                self._store.fail(_QUEUE, *lease, _ERROR, _ERROR, "no", retry_in_ms=0) for lease in some
            )) for some in _parts(leases, batch)
        ])  # fmt: skip
        leases = await self._claim("claim a third time", tasks, batch, "")
        await self._complete("complete with a past", leases, batch)
        await self._redis.flushall()
        for script in self._scripts:
            await self._redis.script_load(script.source)
        for _ in range(tasks // batch):
            await self._store.enqueue(_QUEUE, specs)
        leases = await self._claim("claim by poll_id", tasks, batch, "0123456789abcdef01234567")
        await self._complete("complete", leases, batch)
        return {
            "steps": self._costs, "waiting_bytes": (waiting - empty) / tasks, "leased_bytes": (leased - empty) / tasks
        }  # fmt: skip

    async def _claim(self, step: str, tasks: int, batch: int, poll_id: str) -> list[tuple[str, str]]:
        polls = [
            [Claim(f"worker-{part}-{number}", 1, poll_id=poll_id and f"{poll_id}{number}") for number in range(batch)]
            for part in range(tasks // batch)
        ]
        replies = await self._step(step, [
            lambda some=some: self._store.claim(_QUEUE, some, stays=True, others=0, waited_ms=0) for some in polls
        ])  # fmt: skip
        leases = [(one.task.id, one.token) for reply in replies for poll in reply.tasks for one in poll]
        if len(leases) != tasks:
            raise AssertionError(f"{step}: {len(leases)} tasks of {tasks} were handed out")
        return leases

    async def _complete(self, step: str, leases: list[tuple[str, str]], batch: int) -> None:
        await self._step(step, [
            lambda some=some: asyncio.gather(*(
                self._store.complete(_QUEUE, *lease, b'{"sent":true}') for lease in some
            )) for some in _parts(leases, batch)
        ])  # fmt: skip

    async def _step(self, name: str, calls: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
        before = await self._used()
        replies = [await call() for call in calls]
        after = await self._used()
        costs = [now - then for now, then in zip(after, before, strict=True)]
        if costs[0] != len(calls):
            raise AssertionError(f"{name}: {costs[0]} script calls where {len(calls)} were meant")
        self._costs[name] = costs
        return replies

    async def _used(self) -> list[int]:
        stats = await self._redis.info("commandstats")
        script = stats.get("cmdstat_evalsha", {"calls": 0, "usec": 0})
        inside = sum(row["calls"] for name, row in stats.items() if name.removeprefix("cmdstat_") not in _OUTSIDE)
        # Nanoseconds on a CPU: what other processes take of it is not in it.
        cpu_us = int(Path(f"/proc/{self._pid}/schedstat").read_text().split()[0]) // 1000
        return [script["calls"], inside, script["usec"], cpu_us]

    async def _used_bytes(self) -> int:
        # A dictionary that grows has two tables until it is done.
        for _ in range(20):
            await self._redis.ping()
            await asyncio.sleep(0.01)
        stats = await self._redis.memory_stats()
        return int(stats["total.allocated"] - stats["clients.normal"])


class _Shared(dict[str, Lane]):
    """Every lane is this one."""

    def __init__(self, lane: Lane) -> None:
        super().__init__()
        self._lane = lane

    def __missing__(self, name: str) -> Lane:
        return self._lane


def _parts(leases: list[tuple[str, str]], batch: int) -> list[list[tuple[str, str]]]:
    return [leases[at : at + batch] for at in range(0, len(leases), batch)]


async def main() -> None:
    """Answer lines until there are no more."""
    rounds = Rounds(sys.argv[1])
    print(gateway.__file__, flush=True)
    for line in sys.stdin:
        tasks, batch = map(int, line.split())
        print(json.dumps(await rounds.round(tasks, batch)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
