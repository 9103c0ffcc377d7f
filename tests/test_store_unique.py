"""Who holds a unique key, where a task of the queue is sent back or is no more."""

from __future__ import annotations

from gateway.store.calls import Held, Nobody
from gateway.tasks import Queue, Status, TaskSpec, Unique
from tests import lives
from tests.harness import Clock, Store


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
    names = store.tasks.make_names(lives.QUEUE, [TaskSpec("demo")] * 2)
    await store.tasks.enqueue(lives.QUEUE, [spec], names=names[:1])
    await lives.complete(store, await lives.take_one(store))
    _, other = await store.tasks.enqueue(lives.QUEUE, [spec, spec], names=names)
    assert not isinstance(other, Held)
    assert await lives.status_of(store, f"demo~{names[1]}") is Status.PENDING


class _Alarms(Nobody):
    def __init__(self) -> None:
        self.at_ms: list[int] = []

    def alarm(self, queue: Queue, at_ms: int) -> None:
        self.at_ms.append(at_ms)


async def test_an_alarm_is_set_for_the_end_of_a_replaced_task(store: Store, clock: Clock) -> None:
    await lives.enqueue(store, unique=Unique("k"))
    alarms = store.tasks.listener = _Alarms()
    spec = TaskSpec("demo", unique=Unique("k", on_conflict="replace"), delay_ms=5000, expires_in_ms=9000)
    await store.tasks.enqueue(lives.QUEUE, [spec])
    assert sorted(alarms.at_ms) == [clock.now_ms + 5000, clock.now_ms + 9000]
