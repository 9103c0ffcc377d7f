"""Who holds a unique key, where a task of the queue is sent back or is no more."""

from __future__ import annotations

from gateway.store.calls import Held
from gateway.tasks import Status, TaskSpec, Unique
from tests import lives
from tests.harness import Store


async def test_a_key_whose_task_was_deleted_keeps_no_task_from_being_sent_back(store: Store) -> None:
    first = await lives.enqueue(store, unique=Unique("k"))
    await store.tasks.cancel(lives.QUEUE, first.id)
    second = await lives.enqueue(store, unique=Unique("k", for_ms=60_000))
    await store.tasks.delete(lives.QUEUE, second.id)
    await store.tasks.retry(lives.QUEUE, first.id)
    assert await lives.status_of(store, first.id) is Status.PENDING
    spec = TaskSpec("demo", unique=Unique("k"))
    assert await store.tasks.enqueue(lives.QUEUE, [spec]) == [Held(first.id)]


async def test_a_call_repeated_after_its_task_ended_holds_the_key_for_nobody(store: Store) -> None:
    spec = TaskSpec("demo", unique=Unique("k"))
    ulids = store.tasks.make_ulids(2)
    await store.tasks.enqueue(lives.QUEUE, [spec], ulids=ulids[:1])
    await lives.complete(store, await lives.take_one(store))
    _, other = await store.tasks.enqueue(lives.QUEUE, [spec, spec], ulids=ulids)
    assert not isinstance(other, Held)
    assert await lives.status_of(store, f"demo~{ulids[1]}") is Status.PENDING
