"""A task's log goes with the task, whatever became of the attempt that wrote it."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from tests import lives
from tests.harness import Store


@pytest.mark.parametrize("end", ["complete", "cancel"])
async def test_the_log_of_a_released_attempt_ends_with_the_task(store: Store, redis: Redis, end: str) -> None:
    task = await lives.enqueue(store)
    leased = await lives.take_one(store)
    await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token, lines=["line"])
    await lives.release(store, leased, front=True)
    if end == "complete":
        await lives.complete(store, await lives.take_one(store))
    else:
        await store.tasks.cancel(lives.QUEUE, task.id)
    logs = await lives.keyspace(redis, "tg:*:log:*")
    assert [ends for _, _, ends in logs.values()] == [True]
