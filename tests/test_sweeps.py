"""The sweeper, where more is due at once than one sweep takes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

from gateway.background import Sweeper
from gateway.store.batching import Verb
from gateway.store.keys import QueueKeys
from gateway.store.task_store import TaskStore
from gateway.tasks import Queue
from tests import lives
from tests.harness import LiveGateway, RedisServer, Store, wait_until

_BATCH = 1000
_BATCHES = 3  # fifteen sweeps' worth: one a second, as without alarms, would take longer than this test waits


async def test_leases_that_end_at_one_moment_all_go_back_at_once(gateway: LiveGateway) -> None:
    """Each sweep leaves some behind, and the next follows by itself."""
    tasks = [{"job_type": "demo", "payload": number} for number in range(_BATCH)]
    poll = {"worker_id": "w", "task_type": "demo", "max": _BATCH, "lease_seconds": 1, "wait": 0}
    for _ in range(_BATCHES):
        assert (await gateway.post("/tasks", tasks)).status_code == 201
        assert len((await gateway.post("/poll", poll)).json()["tasks"]) == _BATCH

    async def all_pending() -> bool:
        return bool((await gateway.get("/queues/demo")).json()["pending"] == _BATCH * _BATCHES)

    await wait_until(all_pending, seconds=8.0)


class TwoNodes:
    """A lane that sends one queue's requests to another server, as a cluster's does."""

    def __init__(self, lane: Any, other: Any, queue: QueueKeys) -> None:
        self._lane, self._other, self._queue = lane, other, queue
        self.sweeps: list[str] = []

    def submit(self, verb: Verb, keys: QueueKeys, item: Any) -> asyncio.Future[Any]:
        lane, name = (self._other, "away") if keys == self._queue else (self._lane, "healthy")
        future: asyncio.Future[Any] = lane.submit(verb, keys, item)
        if verb.name == "expire":
            future.add_done_callback(lambda _: self.sweeps.append(name))
        return future

    async def close(self) -> None:
        await self._lane.close()
        await self._other.close()


async def test_queues_of_a_node_that_is_away_hold_up_no_other_ones_sweeps(
    redis_url: str, private_redis: RedisServer
) -> None:
    healthy, away = Queue("default", "healthy"), Queue("default", "away")
    here, there = Store(redis_url), Store(private_redis.url)
    lane = TwoNodes(here.tasks._lanes["chore"], there.tasks._lanes["chore"], here.keys.of(away))
    lanes: dict[str, Any] = {**here.tasks._lanes, "chore": lane}
    tasks = TaskStore(here.keys, lanes, "gw1", 1000)
    await here.registry.register({healthy, away})
    await lives.enqueue(there, away)
    sweeper = Sweeper(tasks, here.registry)
    os.kill(private_redis.process.pid, signal.SIGSTOP)
    running = asyncio.create_task(sweeper.run())
    try:
        sweeper.alarm(away, tasks.now_ms())
        for swept in range(1, 6):
            sweeper.alarm(healthy, tasks.now_ms())
            await wait_until(lambda enough=swept: lane.sweeps.count("healthy") >= enough)
        # A call gives up after more than two seconds: none had to, until now.
        assert "away" not in lane.sweeps
    finally:
        os.kill(private_redis.process.pid, signal.SIGCONT)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await here.close()
        await there.close()
