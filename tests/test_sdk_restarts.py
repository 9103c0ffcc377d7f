"""An SDK worker and client while the gateway is killed and started again every few seconds.

SDK_RESTARTS_SECONDS=60 makes it last a minute.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

from tests.harness import GatewayProcess, RedisServer
from workers_sdk import Client, Context, Worker

_SECONDS = float(os.environ.get("SDK_RESTARTS_SECONDS", "10"))
_UP_SECONDS = 2.0
_TASKS_PER_SECOND = 60


def _open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return sorted(one for one in found if one.startswith(("socket:", "/", "pipe:", "anon_inode:")))


async def test_every_task_ends_once_and_nothing_is_left_behind(private_redis: RedisServer, tmp_path: Path) -> None:
    gateway = GatewayProcess(private_redis.url, tmp_path)
    await gateway.start()
    await asyncio.to_thread(int)  # the harness waits for processes in such a thread, which stays
    files, threads = _open_files(), set(threading.enumerate())
    tasks_before = asyncio.all_tasks()
    runs: dict[str, int] = {}
    worker = Worker(gateway.url, worker_id="tried", concurrency=12, lease_seconds=3, interrupt_seconds=1)

    @worker.task("quick")
    async def quick(payload: int, ctx: Context) -> int:
        runs[ctx.task.id] = runs.get(ctx.task.id, 0) + 1
        await asyncio.sleep(0.02)
        return payload

    @worker.task("thread")
    def thread(payload: int, ctx: Context) -> int:
        runs[ctx.task.id] = runs.get(ctx.task.id, 0) + 1
        ctx.sleep(0.1)
        ctx.log("slept")
        return payload

    working = asyncio.create_task(worker.work())
    ids: list[str] = []

    async def produce(client: Client) -> None:
        """Enqueue all the time: each call lasts until it is done, however often the gateway dies under it."""
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            number = len(ids)
            stored = await client.enqueue_many(
                {
                    "job_type": ("quick", "thread")[number % 2],
                    "payload": number + one,
                    "tags": {"number": str(number + one)},
                }
                for one in range(_TASKS_PER_SECOND // 4)
            )
            ids.extend(task.id for task in stored)
            await asyncio.sleep(0.25)

    async with Client(gateway.url, patience_seconds=30) as client:
        producing = asyncio.create_task(produce(client))
        until = time.monotonic() + _SECONDS
        restarts = 0
        while time.monotonic() < until:
            await asyncio.sleep(_UP_SECONDS)
            # Every third time it may say goodbye; the others it dies in the middle of everything.
            await gateway.end(signal.SIGTERM if restarts % 3 == 2 else signal.SIGKILL)
            await gateway.start()
            restarts += 1
        await asyncio.wait_for(producing, 30)
        for number, task_id in enumerate(ids):
            task = await client.wait(task_id, timeout_seconds=30)
            assert (task.status, task.result) == ("completed", number), task
            outcomes = [one.outcome for one in task.attempts or []]
            assert outcomes.count("completed") == 1, outcomes
            assert outcomes[-1] == "completed"
        assert restarts >= 2
        assert set(ids) <= set(runs)
        worker.stop()
        await asyncio.wait_for(working, 20)
    assert asyncio.all_tasks() == tasks_before
    left = set(threading.enumerate()) - threads
    assert not left, left
    # Sockets and pipes are numbered anew; their count must not grow.
    assert len(_open_files()) <= len(files)
    await gateway.end()
