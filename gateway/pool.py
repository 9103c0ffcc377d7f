"""The bundled pool: a fixed number of workers inside the gateway, for the `default` queue.

It simulates work of one to five seconds a task, so that a fresh installation does something at once. It goes through
the same claims, heartbeats and reports as every other worker.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time

import msgspec

from gateway.errors import LeaseLost, Refusal, ShuttingDown, TaskNotFound
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.task_manager import PollRequest, TaskManager
from gateway.tasks import DEFAULT_JOB_TYPE, DEFAULT_TENANT, LeasedTask, Queue

log = logging.getLogger("gateway.pool")
_QUEUE = Queue(DEFAULT_TENANT, DEFAULT_JOB_TYPE)
_RETRY_SECONDS = 0.5
_POLL_SECONDS = 55.0
_SIGN_OFF_SECONDS = 1.0
_SHORTEST_SECONDS, _LONGEST_SECONDS = 1.0, 5.0


class Pool:
    """`size` workers that poll the `default` queue. drain_seconds: how long running tasks may take when it stops."""

    def __init__(
        self, store: TaskStore, registry: Registry, manager: TaskManager, size: int, drain_seconds: float
    ) -> None:
        self._store = store
        self._registry = registry
        self._manager = manager
        self._size = size
        self._drain_seconds = drain_seconds
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work for ever. Cancel it to stop; `drain` first to finish what runs."""
        if self._size == 0:
            return
        log.info("started the pool", extra={"workers": self._size, "queue": DEFAULT_JOB_TYPE})
        async with asyncio.TaskGroup() as group:
            for number in range(self._size):
                group.create_task(self._work(_name(number)))

    async def drain(self) -> None:
        """Let running tasks finish, at most for drain_seconds; the rest goes back to the queue. Then sign off."""
        if self._running:
            await self._finish()
        try:
            async with asyncio.timeout(_SIGN_OFF_SECONDS):
                await asyncio.gather(*(self._sign_off(_name(number)) for number in range(self._size)))
        except (Refusal, TimeoutError):
            pass  # they are listed for a while yet

    async def _sign_off(self, worker_id: str) -> None:
        self._manager.forget_worker(DEFAULT_TENANT, worker_id)
        await self._registry.forget_worker(DEFAULT_TENANT, worker_id)

    async def _finish(self) -> None:
        log.info("draining the pool", extra={"tasks": len(self._running)})
        # A second for the hand-back and the connections.
        _, left = await asyncio.wait(self._running, timeout=max(0.0, self._drain_seconds - 1.0))
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _work(self, worker_id: str) -> None:
        request = PollRequest(DEFAULT_TENANT, worker_id, (_QUEUE,), wait_seconds=_POLL_SECONDS)
        while True:
            try:
                tasks = await self._manager.poll(request).tasks()
            except ShuttingDown:
                return
            except Refusal:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            for leased in tasks:
                run = asyncio.get_running_loop().create_task(self._run(leased, worker_id))
                self._running.add(run)
                run.add_done_callback(self._running.discard)
                await asyncio.wait([run])

    async def _run(self, leased: LeasedTask, worker_id: str) -> None:
        task = leased.task
        planned_seconds = round(random.uniform(_SHORTEST_SECONDS, _LONGEST_SECONDS), 3)
        facts = {"task_id": task.id, "worker_id": worker_id, "planned_seconds": planned_seconds}
        log.info("started a task", extra=facts)
        started = time.monotonic()
        try:
            await self._simulate(leased, planned_seconds)
            actual_seconds = round(time.monotonic() - started, 3)
            result = msgspec.json.encode({"planned_seconds": planned_seconds, "actual_seconds": actual_seconds})
            await self._store.complete(self._queue_of(leased), task.id, leased.token, result)
            log.info("finished a task", extra={**facts, "actual_seconds": actual_seconds})
        except (LeaseLost, TaskNotFound, _Cancelled) as refusal:
            log.info("let a task go", extra={**facts, "reason": type(refusal).__name__})
            if isinstance(refusal, _Cancelled):
                await self._give_back(leased)
        except asyncio.CancelledError:
            await self._give_back(leased)
            log.info("gave a task back", extra=facts)
        except Refusal as refusal:
            # Its lease lapses and it runs again.
            log.warning("could not report a task", extra={**facts, "code": refusal.code})

    async def _simulate(self, leased: LeasedTask, seconds: float) -> None:
        until = time.monotonic() + seconds
        beat_seconds = leased.lease_ms / 3000
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, beat_seconds))
            if time.monotonic() < until:
                kept = await self._store.heartbeat(self._queue_of(leased), leased.task.id, leased.token)
                if kept.cancel_requested:
                    raise _Cancelled()

    def _queue_of(self, leased: LeasedTask) -> Queue:
        return self._store.queue_of(DEFAULT_TENANT, leased.task.id)

    async def _give_back(self, leased: LeasedTask) -> None:
        try:
            await self._store.release(self._queue_of(leased), leased.task.id, leased.token)
        except Refusal:
            pass  # its lease lapses


def _name(number: int) -> str:
    return f"pool-{os.getpid()}-{number}"


class _Cancelled(Exception):
    """The task was cancelled while it ran."""
