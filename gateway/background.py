"""The gateway's chore: sweeps on time. Every gateway does them; each sweep is one idempotent script.

A queue is swept when its next alarm is due (the end of a lease, the time of a scheduled task, ..), as far as this
gateway knows it, and now and then besides: another gateway may have set an earlier alarm and died.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time

from gateway.errors import Refusal, StoreUnavailable
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.tasks import Queue

log = logging.getLogger("gateway.chores")
_SWEEPS_PER_SECOND = 25.0
_SWEEP_SECONDS = 1.0
_SHORTEST_GAP_SECONDS = 0.02
_SHORTEST_REST_SECONDS = 0.005


class Sweeper:
    """Sweeps queues when their alarms are due, and each known queue now and then."""

    def __init__(self, store: TaskStore, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._alarms: dict[Queue, int] = {}
        self._woken = asyncio.Event()

    def alarm(self, queue: Queue, at_ms: int) -> None:
        """Note that a queue needs a sweep then (unix ms, the store's clock)."""
        known = self._alarms.get(queue)
        if known is None or at_ms < known:
            self._alarms[queue] = at_ms
            self._woken.set()

    async def run(self) -> None:
        """Sweep for ever. Cancel it to stop."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._on_alarm())
            group.create_task(self._now_and_then())

    async def _on_alarm(self) -> None:
        while True:
            self._woken.clear()
            now_ms = self._store.now_ms()
            due = [queue for queue, at_ms in self._alarms.items() if at_ms <= now_ms]
            if due:
                for queue in due:
                    del self._alarms[queue]
                started = time.monotonic()
                left = await asyncio.gather(*(self._sweep(queue) for queue in due))
                # Where more was due than a sweep takes, the next follows when others had Redis for as long as this one.
                rest = max(time.monotonic() - started, _SHORTEST_REST_SECONDS)
                await asyncio.sleep(min(rest, _SHORTEST_GAP_SECONDS) if any(left) else _SHORTEST_GAP_SECONDS)
                continue
            next_ms = min(self._alarms.values(), default=now_ms + 3_600_000)
            try:
                async with asyncio.timeout(max((next_ms - now_ms) / 1000, 0.001)):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _now_and_then(self) -> None:
        while True:
            started = asyncio.get_running_loop().time()
            try:
                queues = await self._registry.queues()
            except StoreUnavailable:
                queues = []
            random.shuffle(queues)
            for queue in queues:
                await self._sweep(queue)
                if len(queues) > _SWEEPS_PER_SECOND:
                    await asyncio.sleep(1 / _SWEEPS_PER_SECOND)
            took = asyncio.get_running_loop().time() - started
            await asyncio.sleep(max(0.1, _SWEEP_SECONDS * random.uniform(0.7, 1.0) - took))

    async def _sweep(self, queue: Queue) -> bool:
        """Sweep a queue once. Returns whether something is still due."""
        try:
            swept = await self._store.expire(queue)
        except Refusal:
            self._alarms.setdefault(queue, self._store.now_ms() + 250)
            return False
        if swept.next_alarm_ms:
            self.alarm(queue, swept.next_alarm_ms)
        if swept.lapsed or swept.timed_out or swept.expired:
            facts = {"lapsed": swept.lapsed, "timed_out": swept.timed_out, "expired": swept.expired}
            log.info("swept a queue", extra={"queue": queue.job_type, **facts})
        return 0 < swept.next_alarm_ms <= self._store.now_ms()
