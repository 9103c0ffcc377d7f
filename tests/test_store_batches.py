"""Batches that meet the bound and unique keys: each item those before it, an atomic batch as a whole."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.errors import BatchRefused, QueueFull, UniqueConflict
from gateway.store.calls import Held
from gateway.tasks import Status, Task, TaskSpec, Unique
from tests import lives
from tests.harness import Clock, Store


def _spec(payload: int, on_conflict: Any = None, **members: Any) -> TaskSpec:
    unique = Unique("k", on_conflict=on_conflict) if on_conflict else None
    return TaskSpec("demo", b"%d" % payload, unique=unique, **members)


async def test_a_task_that_came_before_in_the_same_call_is_replaced(store: Store) -> None:
    first, second = await store.tasks.enqueue(lives.QUEUE, [_spec(1, "replace"), _spec(2, "replace")])
    assert isinstance(first, Task)
    assert second == Held(first.id)
    (leased,) = await lives.take(store, max=9)
    assert (leased.task.id, leased.task.spec.payload) == (first.id, b"2")


async def test_an_atomic_batch_whose_items_are_in_conflict_with_each_other_stores_nothing(
    store: Store, redis: Redis
) -> None:
    refused = await store.tasks.enqueue(lives.QUEUE, [_spec(1, "reject"), _spec(2), _spec(3, "reject")], atomic=True)
    assert [type(one) for one in refused] == [BatchRefused, BatchRefused, UniqueConflict]
    assert await lives.keyspace(redis) == {}


async def test_an_atomic_batch_without_room_replaces_nothing(store: Store, redis: Redis) -> None:
    await lives.enqueue(store, payload=b"1", unique=Unique("k"))
    store.tasks.queue_limit = 1
    before = await lives.keyspace(redis)
    refused = await store.tasks.enqueue(lives.QUEUE, [_spec(2, "replace"), _spec(3)], atomic=True)
    assert {type(one) for one in refused} == {QueueFull}
    assert await lives.keyspace(redis) == before


async def test_an_atomic_batch_needs_room_only_for_what_it_stores(store: Store) -> None:
    held = await lives.enqueue(store, unique=Unique("k"))
    store.tasks.queue_limit = 2
    first, second = await store.tasks.enqueue(lives.QUEUE, [_spec(2, "return"), _spec(3)], atomic=True)
    assert first == Held(held.id)
    assert isinstance(second, Task)


@pytest.mark.parametrize("over", [0, 1])
async def test_a_waiting_task_is_replaced_although_the_queue_is_full(store: Store, over: int) -> None:
    held = await lives.enqueue(store, payload=b"1", unique=Unique("k"))
    await lives.enqueue(store)
    store.tasks.queue_limit = 2 - over
    assert await store.tasks.enqueue(lives.QUEUE, [_spec(2, "replace")]) == [Held(held.id)]
    assert (await lives.read(store, held.id)).spec.payload == b"2"


async def test_a_repeated_call_leaves_room_for_others_in_the_same_batch(store: Store) -> None:
    names = store.tasks.make_names(lives.QUEUE, [TaskSpec("demo")] * 3)
    await store.tasks.enqueue(lives.QUEUE, [_spec(1), _spec(2)], names=names[:2])
    store.tasks.queue_limit = 3
    again = await store.tasks.enqueue(lives.QUEUE, [_spec(1), _spec(2), _spec(3)], names=names)
    assert all(isinstance(one, Task) for one in again)
    (full,) = await store.tasks.enqueue(lives.QUEUE, [_spec(4)])
    assert isinstance(full, QueueFull)


async def test_a_repeated_call_finds_its_task_although_another_has_its_key_by_now(store: Store) -> None:
    names = store.tasks.make_names(lives.QUEUE, [TaskSpec("demo")] * 1)
    spec = TaskSpec("demo", unique=Unique("k", until="started", on_conflict="reject"))
    (first,) = await store.tasks.enqueue(lives.QUEUE, [spec], names=names)
    await lives.take_one(store)
    await lives.enqueue(store, unique=Unique("k"))
    (again,) = await store.tasks.enqueue(lives.QUEUE, [spec], names=names)
    assert isinstance(first, Task)
    assert isinstance(again, Task)
    assert again.id == first.id


async def test_a_replaced_task_says_when_it_is_due_now(store: Store, clock: Clock) -> None:
    task = await lives.enqueue(store, unique=Unique("k"), delay_ms=60_000)
    clock.advance(10)
    await store.tasks.enqueue(lives.QUEUE, [_spec(2, "replace", delay_ms=5000)])
    due_ms = clock.now_ms + 5000
    assert (await lives.read(store, task.id)).run_at_ms == due_ms
    clock.advance(5)
    leased = await lives.take_one(store)
    assert leased.task.run_at_ms == due_ms
    assert (await lives.read(store, task.id)).status is Status.PROCESSING
