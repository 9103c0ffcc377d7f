"""The bound of a queue: never overshot, however many push at once; what is refused leaves no trace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.errors import QueueFull
from gateway.tasks import Task, TaskSpec
from tests import lives
from tests.harness import Clock, Store

_LIMIT = 100


@pytest_asyncio.fixture
async def stores(redis_url: str, clock: Clock) -> AsyncIterator[list[Store]]:
    """Three gateways' stores over one Redis, with a bound of 100 waiting tasks a queue."""
    three = [Store(redis_url, clock, queue_limit=_LIMIT, gateway=f"gw{number}") for number in range(3)]
    yield three
    for one in three:
        await one.close()


async def test_fifty_producers_on_three_gateways_never_overshoot(stores: list[Store], redis: Redis) -> None:
    deepest = 0
    done = asyncio.Event()

    async def watch() -> None:
        nonlocal deepest
        while not done.is_set():
            deepest = max(deepest, await redis.zcard(lives.ARQ_QUEUE))

    async def produce(number: int) -> list[Task | QueueFull]:
        outcomes: list[Task | QueueFull] = []
        for turn in range(6):
            spec = TaskSpec("demo", delay_ms=60_000 if (number + turn) % 3 == 0 else 0)
            outcomes += await stores[number % 3].tasks.enqueue(lives.QUEUE, [spec] * (1 + turn % 3))
        return outcomes

    watching = asyncio.create_task(watch())
    outcomes = [one for part in await asyncio.gather(*(produce(number) for number in range(50))) for one in part]
    done.set()
    await watching
    stored = [one for one in outcomes if isinstance(one, Task)]
    refused = [one for one in outcomes if isinstance(one, QueueFull)]
    assert len(stored) == _LIMIT
    assert len(refused) == 50 * 12 - _LIMIT
    assert deepest <= _LIMIT
    assert len(await redis.keys("arq:job:*")) == _LIMIT
    assert await redis.zcard(lives.ARQ_QUEUE) == _LIMIT
    for task in stored:
        await lives.read(stores[0], task.id)


async def test_a_refused_task_leaves_no_trace(stores: list[Store], redis: Redis) -> None:
    await stores[0].tasks.enqueue(lives.QUEUE, [TaskSpec("demo")] * _LIMIT)
    before = await lives.keyspace(redis)
    (refused,) = await stores[1].tasks.enqueue(lives.QUEUE, [TaskSpec("demo", expires_in_ms=5, delay_ms=5)])
    assert isinstance(refused, QueueFull)
    assert (refused.members["queue"], refused.members["depth"], refused.members["limit"]) == ("demo", _LIMIT, _LIMIT)
    assert "task pool is full" in refused.detail
    assert await lives.keyspace(redis) == before


async def test_a_batch_is_stored_as_far_as_it_fits(stores: list[Store]) -> None:
    await stores[0].tasks.enqueue(lives.QUEUE, [TaskSpec("demo")] * 95)
    outcomes = await stores[1].tasks.enqueue(lives.QUEUE, [TaskSpec("demo")] * 10)
    assert [isinstance(one, Task) for one in outcomes] == [True] * 5 + [False] * 5


async def test_an_atomic_batch_is_stored_whole_or_not_at_all(stores: list[Store], redis: Redis) -> None:
    await stores[0].tasks.enqueue(lives.QUEUE, [TaskSpec("demo")] * 95)
    before = await lives.keyspace(redis)
    outcomes = await stores[0].tasks.enqueue(lives.QUEUE, [TaskSpec("demo")] * 6, atomic=True)
    assert all(isinstance(one, QueueFull) for one in outcomes)
    assert await lives.keyspace(redis) == before
    outcomes = await stores[0].tasks.enqueue(lives.QUEUE, [TaskSpec("demo")] * 5, atomic=True)
    assert all(isinstance(one, Task) for one in outcomes)


async def test_atomic_batches_that_share_a_call_stand_or_fall_each_by_itself(stores: list[Store]) -> None:
    tasks = stores[0].tasks
    sizes = (60, 50, 30, 20, 10, 1)
    outcomes = await asyncio.gather(
        *(tasks.enqueue(lives.QUEUE, [TaskSpec("demo")] * size, atomic=True) for size in sizes)
    )
    assert [{type(one) for one in part} for part in outcomes] == [
        {Task}, {QueueFull}, {Task}, {QueueFull}, {Task}, {QueueFull},
    ]  # fmt: skip


async def test_running_and_finished_tasks_do_not_count(stores: list[Store]) -> None:
    store = stores[0]
    await store.tasks.enqueue(lives.QUEUE, [TaskSpec("demo")] * _LIMIT)
    taken = await lives.take(store, 10)
    outcomes = await store.tasks.enqueue(lives.QUEUE, [TaskSpec("demo")] * 11)
    assert [isinstance(one, Task) for one in outcomes] == [True] * 10 + [False]
    for one in taken:
        await lives.complete(store, one)
    (refused,) = await store.tasks.enqueue(lives.QUEUE, [TaskSpec("demo")])
    assert isinstance(refused, QueueFull)


async def test_each_queue_has_the_bound_for_itself(stores: list[Store]) -> None:
    from gateway.tasks import Queue

    for job_type in ("a", "b"):
        outcomes = await stores[0].tasks.enqueue(Queue("default", job_type), [TaskSpec(job_type)] * _LIMIT)
        assert all(isinstance(one, Task) for one in outcomes)


async def test_an_operators_retry_respects_the_bound(stores: list[Store], redis: Redis) -> None:
    store = stores[0]
    task = await lives.enqueue(store)
    await lives.fail(store, await lives.take_one(store), retryable=False)
    await store.tasks.enqueue(lives.QUEUE, [TaskSpec("demo")] * _LIMIT)
    before = await lives.keyspace(redis)
    with pytest.raises(QueueFull):
        await store.tasks.retry(lives.QUEUE, task.id)
    assert await lives.keyspace(redis) == before
    await lives.take(store)
    await store.tasks.retry(lives.QUEUE, task.id)


async def test_what_comes_back_by_itself_is_never_refused(stores: list[Store], clock: Clock) -> None:
    """A lapse or a retry adds to a full queue: an accepted task is not lost to the bound."""
    store = stores[0]
    await store.tasks.enqueue(lives.QUEUE, [TaskSpec("demo")] * 3)
    failing, released, _ = await lives.take(store, 3)
    await store.tasks.enqueue(lives.QUEUE, [TaskSpec("demo")] * _LIMIT)
    await lives.fail(store, failing, retry_in_ms=0)
    await lives.release(store, released)
    clock.advance(31)
    assert (await store.tasks.expire(lives.QUEUE)).lapsed == 1
    (stats,) = await store.inspector.stats([lives.QUEUE])
    assert stats.ready == _LIMIT + 3
