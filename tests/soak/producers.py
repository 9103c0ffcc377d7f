"""The producers of a soak: every form of enqueue at an even rate, and what producers do to their tasks afterwards."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import msgspec

from tests.soak.ledger import Ledger
from tests.soak.line import Line

QUEUES = ("resize", "mail", "report", "index")
RARE = "rare"
ALL = (*QUEUES, RARE)
_TICK_SECONDS = 0.05
_MOST_UNDER_WAY = 300
_UNIQUE_KEYS = 40
_CONCURRENCY_KEYS = 5


class Producers:
    """Producers that enqueue `rate` tasks a second between them. retention_seconds: of their tasks, at least."""

    def __init__(self, line: Line, rate: float, retention_seconds: float) -> None:
        self._line = line
        self._rng = line.rng
        self._ledger: Ledger = line.ledger
        self._rate = rate
        self._retention_seconds = retention_seconds
        self._numbers = itertools.count()
        self._under_way: set[asyncio.Task[None]] = set()
        self.idempotency_keys: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Enqueue until told to stop; returns when the last request is answered."""
        forms = (
            (self._single, 60, 1.0), (self._batch, 12, 7.0), (self._lines, 8, 7.0), (self._idempotent, 8, 1.0),
            (self._unique, 8, 1.0), (self._waited_for, 4, 1.0),
        )  # fmt: skip
        weights = [weight for _, weight, _ in forms]
        credit, last = 0.0, time.monotonic()
        while not stop.is_set():
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            # After a standstill of the machine nothing is made up for: the rate is a bound.
            credit = min(credit + self._rate * (now - last), self._rate)
            last = now
            while credit >= 1:
                form, _, tasks = self._rng.choices(forms, weights)[0]
                credit -= tasks
                if len(self._under_way) >= _MOST_UNDER_WAY:
                    self._ledger.counts["held back"] += 1
                    continue
                one = asyncio.create_task(form())
                self._under_way.add(one)
                one.add_done_callback(self._under_way.discard)
        if self._under_way:
            await asyncio.gather(*self._under_way)

    def _new_task(self) -> dict[str, Any]:
        rng = self._rng
        task: dict[str, Any] = {
            "job_type": rng.choices(ALL, (30, 25, 25, 18, 2))[0],
            "payload": {"n": next(self._numbers), "text": "x" * rng.choice((10, 100, 400, 2000))},
            "lease_seconds": rng.choice((1, 1.5, 2)),
            "max_attempts": rng.choice((1, 2, 3, 5)),
            "retry": {"backoff": rng.choice(("fixed", "linear")), "base_seconds": rng.uniform(0.05, 0.5)},
            "retention_seconds": self._retention_seconds * rng.uniform(1, 1.3),
        }
        if rng.random() < 0.3:
            task["priority"] = rng.choice(("low", "high", "critical"))
        if rng.random() < 0.25:
            task["delay_seconds"] = rng.uniform(0.05, 3)
        if rng.random() < 0.03:
            task["expires_in_seconds"] = task.get("delay_seconds", 0) + rng.uniform(0.01, 1)
        if rng.random() < 0.1:
            task["tags"] = {"team": rng.choice(("sales", "support")), "run": "soak"}
        if rng.random() < 0.08:
            task["concurrency_key"] = f"c{rng.randrange(_CONCURRENCY_KEYS)}"
        if rng.random() < 0.05:
            task["timeout_seconds"] = rng.choice((1, 2))
        if rng.random() < 0.1:
            task |= {"title": "One of many", "description": "Made by the soak"}
        return task

    def _take(self, tasks: list[dict[str, Any]]) -> None:
        for task in tasks:
            self._ledger.stored(task["id"])

    async def _single(self) -> None:
        rng, task = self._rng, self._new_task()
        # How long a hand-out takes says something only where nothing else holds the task back.
        if not {"delay_seconds", "concurrency_key", "priority"} & task.keys():
            task["payload"]["sent"] = time.monotonic()
        headers = {"traceparent": f"00-{rng.getrandbits(128) | 1:032x}-{rng.getrandbits(64) | 1:016x}-01"}
        started = time.monotonic()
        reply = await self._line.call(
            "enqueue", "POST", "/tasks", task, headers=headers if rng.random() < 0.1 else None
        )
        if reply.status != 201:
            self._ledger.doubtful += 1
            return
        self._ledger.took("post", time.monotonic() - started)
        self._take([reply.body])
        path = f"/tasks/{reply.body['id']}"
        chance = rng.random()
        if chance < 0.05:
            await asyncio.sleep(rng.uniform(0, 0.5))
            cancelled = await self._line.call("task", "DELETE", path)
            if cancelled.status == 200:
                self._ledger.reported(cancelled.body["id"], cancelled.body["status"])
            elif cancelled.status == 202:
                self._ledger.counts["cancelled while processed"] += 1
        elif chance < 0.07:
            await self._line.call("task", "PATCH", path, {"priority": "high", "payload": {"patched": True}})
        elif chance < 0.11:
            await self._line.call("task", "GET", f"{path}?wait={rng.choice((1, 2))}")
        elif chance < 0.12:
            await self._line.call("task", "GET", f"{path}?wait=5", hang_up=rng.uniform(0, 1))
        elif chance < 0.14:
            read = await self._line.call("task", "GET", path)
            if read.status == 200:
                await self._line.call("task", "GET", path, headers={"If-None-Match": read.headers["ETag"]})

    async def _batch(self) -> None:
        tasks = [self._new_task() for _ in range(self._rng.randrange(4, 11))]
        self._count_batch(await self._line.call("enqueue", "POST", "/tasks", tasks), len(tasks))

    async def _lines(self) -> None:
        tasks = [self._new_task() for _ in range(self._rng.randrange(4, 11))]
        raw = b"\n".join(msgspec.json.encode(task) for task in tasks)
        headers = {"Content-Type": "application/x-ndjson"}
        self._count_batch(await self._line.call("enqueue", "POST", "/tasks", raw=raw, headers=headers), len(tasks))

    def _count_batch(self, reply: Any, tasks: int) -> None:
        if reply.status == 201:
            self._take(reply.body["tasks"])
        else:
            self._ledger.doubtful += tasks

    async def _idempotent(self) -> None:
        key = f"soak-{self._rng.getrandbits(96):x}"
        await self._with_key(key)
        # Only now: each request with the key sets its expiry anew, and it is to be shortened.
        self.idempotency_keys.append(key)

    async def _with_key(self, key: str) -> None:
        task, headers = self._new_task(), {"Idempotency-Key": key}
        reply = await self._line.call("enqueue", "POST", "/tasks", task, headers=headers)
        if reply.status != 201:
            self._ledger.doubtful += 1
            return
        self._take([reply.body])
        if self._rng.random() < 0.4:
            again = await self._line.call("enqueue", "POST", "/tasks", task, headers=headers)
            if again.status == 201 and again.body["id"] != reply.body["id"]:
                self._ledger.violation(f"an Idempotency-Key made {reply.body['id']} and {again.body['id']}")

    async def _unique(self) -> None:
        rng = self._rng
        task = self._new_task() | {
            "unique_key": f"u{rng.randrange(_UNIQUE_KEYS)}",
            "unique_until": rng.choice(("started", "finished", 1.5)),
            "on_conflict": rng.choice(("return", "reject", "replace")),
        }
        reply = await self._line.call("enqueue", "POST", "/tasks", task)
        if reply.status == 201:
            self._take([reply.body])
        elif reply.status in (0, 503):
            self._ledger.doubtful += 1

    async def _waited_for(self) -> None:
        reply = await self._line.call("enqueue", "POST", "/tasks", self._new_task(), headers={"Prefer": "wait=2"})
        if reply.status not in (200, 202):
            self._ledger.doubtful += 1
            return
        self._take([reply.body])
        self._ledger.seen(reply.body["id"], reply.body["status"])
