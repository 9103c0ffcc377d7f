"""The gateway's chore: sweeps on time. Every gateway does them; each sweep is one idempotent script.

A queue is swept when its next alarm is due (the end of a lease, the time of a scheduled task, ..). Who gives out a
lease knows of its end, and notes it in an index that all gateways share, so that the alarms of one that died are taken
by another. Each known queue is swept now and then besides: a gateway may have died before it noted an alarm.
"""

from __future__ import annotations

import asyncio
import functools
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
# A sweep that takes longer, as where a node of a cluster is away, is not waited for.
_PATIENCE_SECONDS = 0.1
# The index is looked at this often, and sooner where there is something to note.
_LOOK_SECONDS = 0.5
_GATHER_SECONDS = 0.1
# Alarms are taken this long before they are due, so that they are met on time.
_AHEAD_MS = 650
# A gateway that took an alarm and died: for so long nobody else looks at it.
_LEFT_TO_TAKER_MS = 900
_MOST_TAKEN = 500


class Sweeper:
    """Sweeps queues when their alarms are due, and each known queue now and then."""

    def __init__(self, store: TaskStore, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._alarms: dict[Queue, int] = {}
        self._woken = asyncio.Event()
        self._sweeps = asyncio.TaskGroup()
        self._slow: set[Queue] = set()
        # The shared index: what is to be noted in it, what was taken from it and until when, and what came of that.
        self._to_note: dict[Queue, int] = {}
        self._taken: dict[Queue, int] = {}
        self._settled: dict[Queue, tuple[int, int]] = {}
        self._has_news = asyncio.Event()

    def alarm(self, queue: Queue, at_ms: int) -> None:
        """Note that a queue needs a sweep then (unix ms, the store's clock)."""
        known = self._alarms.get(queue)
        if known is None or at_ms < known:
            self._alarms[queue] = at_ms
            self._woken.set()
        self._share(queue, at_ms)
        self._has_news.set()

    async def run(self) -> None:
        """Sweep for ever. Cancel it to stop."""
        async with asyncio.TaskGroup() as self._sweeps:
            self._sweeps.create_task(self._on_alarm())
            self._sweeps.create_task(self._keep_index())
            self._sweeps.create_task(self._now_and_then())

    async def _on_alarm(self) -> None:
        while True:
            self._woken.clear()
            now_ms = self._store.now_ms()
            alarms = {queue: at_ms for queue, at_ms in self._alarms.items() if queue not in self._slow}
            due = [queue for queue, at_ms in alarms.items() if at_ms <= now_ms]
            if due:
                for queue in due:
                    del self._alarms[queue]
                started = time.monotonic()
                left = await self._sweep_all(due)
                # Where more was due than a sweep takes, the next follows when others had Redis for as long as this one.
                rest = max(time.monotonic() - started, _SHORTEST_REST_SECONDS)
                await asyncio.sleep(min(rest, _SHORTEST_GAP_SECONDS) if left else _SHORTEST_GAP_SECONDS)
                continue
            next_ms = min(alarms.values(), default=now_ms + 3_600_000)
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
                self._store.heard_noted(queues)
            except StoreUnavailable:
                queues = []
            await self._forget_older_partitions(queues)
            random.shuffle(queues)
            for queue in queues:
                await self._sweep_all([queue])
                if len(queues) > _SWEEPS_PER_SECOND:
                    await asyncio.sleep(1 / _SWEEPS_PER_SECOND)
            took = asyncio.get_running_loop().time() - started
            await asyncio.sleep(max(0.1, _SWEEP_SECONDS * random.uniform(0.7, 1.0) - took))

    async def _forget_older_partitions(self, queues: list[Queue]) -> None:
        for queue in {queue.whole for queue in queues if queue.partition}:
            try:
                await self._store.forget_older(queue)
            except Refusal:
                pass  # the next round looks again

    async def _sweep_all(self, queues: list[Queue]) -> bool:
        """Sweep queues at once, and go on without those that are slow. Returns whether something is still due."""
        sweeps = {self._sweeps.create_task(self._sweep(queue)): queue for queue in queues if queue not in self._slow}
        if not sweeps:
            return False
        done, slow = await asyncio.wait(sweeps, timeout=_PATIENCE_SECONDS)
        for sweep in slow:
            self._slow.add(sweeps[sweep])
            sweep.add_done_callback(functools.partial(self._caught_up, sweeps[sweep]))
        return any(sweep.result() for sweep in done)

    def _caught_up(self, queue: Queue, sweep: asyncio.Task[bool]) -> None:
        self._slow.discard(queue)
        self._woken.set()

    async def _sweep(self, queue: Queue) -> bool:
        """Sweep a queue once. Returns whether something is still due."""
        left_until_ms = self._taken.get(queue, 0)
        try:
            swept = await self._store.expire(queue)
        except Refusal:
            self._alarms.setdefault(queue, self._store.now_ms() + 250)
            return False
        next_ms = swept.next_alarm_ms
        if left_until_ms:
            self._settled[queue] = (left_until_ms, next_ms)
            self._has_news.set()
        elif next_ms:
            self._share(queue, next_ms)
        now_ms = self._store.now_ms()
        if next_ms and (next_ms <= now_ms or (left_until_ms and next_ms <= now_ms + _AHEAD_MS)):
            # Too soon to leave it to the index. Who swept without having taken it leaves it to who has, unless the
            # sweep left something behind.
            known = self._alarms.get(queue)
            self._alarms[queue] = next_ms if known is None else min(known, next_ms)
            self._woken.set()
        if swept.lapsed or swept.timed_out or swept.expired:
            facts = {"lapsed": swept.lapsed, "timed_out": swept.timed_out, "expired": swept.expired}
            log.info("swept a queue", extra={"queue": queue.job_type, **facts})
        return 0 < next_ms <= now_ms

    # The shared index

    def _share(self, queue: Queue, at_ms: int) -> None:
        """Note an alarm in the index with the next look at it."""
        known = self._to_note.get(queue)
        if known is None or at_ms < known:
            self._to_note[queue] = at_ms

    async def _keep_index(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._has_news.wait()
                    await asyncio.sleep(_GATHER_SECONDS)
            except TimeoutError:
                pass
            self._has_news.clear()
            to_note, self._to_note = self._to_note, {}
            settled, self._settled = self._settled, {}
            for queue in settled:
                self._taken.pop(queue, None)
            try:
                taken = await self._store.take_alarms(to_note, settled, _AHEAD_MS, _LEFT_TO_TAKER_MS, _MOST_TAKEN)
            except Refusal:
                for queue, at_ms in to_note.items():
                    self._to_note[queue] = min(at_ms, self._to_note.get(queue, at_ms))
                continue
            for queue, at_ms, left_until_ms in taken:
                self._taken[queue] = left_until_ms
                known = self._alarms.get(queue)
                self._alarms[queue] = at_ms if known is None else min(known, at_ms)
                self._woken.set()
            if len(taken) == _MOST_TAKEN:
                self._has_news.set()
