"""Lists with cursors, filters and counts."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import BadCursor
from gateway.store.inspector import Filter
from gateway.tasks import Queue, Status, Task, TaskSpec
from tests import lives
from tests.harness import Clock, Store


async def walk(store: Store, which: Filter = lives.ANY, limit: int = 100, *queues: Queue) -> list[Task]:
    """Read all pages."""
    found: list[Task] = []
    cursor = None
    while True:
        page, cursor = await store.inspector.page(queues or (lives.QUEUE,), which, limit, cursor)
        assert len(page) <= limit
        found += page
        if cursor is None:
            return found


async def test_every_task_that_exists_throughout_a_walk_is_seen_exactly_once(store: Store, clock: Clock) -> None:
    """5,000 tasks, of which some are claimed, finished, failed, cancelled and sent back while they are listed."""
    tasks = []
    for _ in range(5):
        tasks += await lives.enqueue_many(store, 1000)
        clock.advance(0.001)
    walking = True
    changes = 0

    async def disturb() -> None:
        nonlocal changes
        while walking:
            clock.advance(0.001)
            await lives.enqueue_many(store, 5)
            for number, leased in enumerate(await lives.take(store, 20)):
                if number % 4 == 0:
                    await lives.complete(store, leased)
                elif number % 4 == 1:
                    await lives.fail(store, leased, retryable=False)
                    if number % 8 == 1:
                        await store.tasks.retry(lives.QUEUE, leased.task.id)
                elif number % 4 == 2:
                    await store.tasks.cancel(lives.QUEUE, leased.task.id)
                    await lives.release(store, leased)
                changes += 1

    disturbing = asyncio.create_task(disturb())
    seen = await walk(store, limit=37)
    walking = False
    await disturbing
    assert changes >= 100
    ids = [task.id for task in seen]
    assert len(ids) == len(set(ids))
    existed = {task.id for task in tasks}
    assert [task_id for task_id in ids if task_id in existed] == [task.id for task in reversed(tasks)]


async def test_tasks_that_vanish_during_a_walk_take_no_other_with_them(store: Store, clock: Clock) -> None:
    tasks = await lives.enqueue_many(store, 300, retention_ms=10_000)
    for number, leased in enumerate(await lives.take(store, 300)):
        if number % 2:
            await lives.complete(store, leased)
    first, cursor = await store.inspector.page([lives.QUEUE], lives.ANY, 50, None)
    clock.advance(10)
    await store.tasks.expire(lives.QUEUE)
    rest: list[Task] = []
    while cursor is not None:
        page, cursor = await store.inspector.page([lives.QUEUE], lives.ANY, 50, cursor)
        rest += page
    seen = {task.id for task in [*first, *rest]}
    assert {task.id for task in tasks[::2]} <= seen
    assert len(seen) == len(first) + len(rest)


async def test_the_newest_come_first_and_a_batch_keeps_its_order(store: Store, clock: Clock) -> None:
    made = []
    for _ in range(3):
        made += await lives.enqueue_many(store, 5)
        clock.advance(1)
    assert [task.id for task in await walk(store, limit=4)] == [task.id for task in reversed(made)]


@pytest.mark.parametrize(("number", "limit", "pages"), [(0, 10, 1), (10, 10, 1), (11, 10, 2), (20, 10, 2), (1, 1, 1)])
async def test_the_last_page_has_no_cursor(number: int, limit: int, pages: int, store: Store) -> None:
    await lives.enqueue_many(store, number)
    cursor, seen = None, 0
    for _ in range(pages):
        page, cursor = await store.inspector.page([lives.QUEUE], lives.ANY, limit, cursor)
        seen += len(page)
    assert cursor is None
    assert seen == number


async def test_several_queues_merge_into_one_list(store: Store, clock: Clock) -> None:
    queues = [Queue("default", name) for name in ("a", "b", "c")]
    made = []
    for number in range(60):
        queue = queues[number % 3]
        made += await store.tasks.enqueue(queue, [TaskSpec(queue.job_type)])
        if number % 7 == 0:
            clock.advance(0.001)
    seen = await walk(store, lives.ANY, 7, *queues)
    assert [task.id for task in seen] == [task.id for task in reversed(made) if isinstance(task, Task)]
    assert {task.spec.job_type for task in seen} == {"a", "b", "c"}


async def every_state(store: Store) -> dict[Status, str]:
    """One task in each state."""
    ids = {}
    ids[Status.COMPLETED] = (await lives.enqueue(store)).id
    await lives.complete(store, await lives.take_one(store, worker_id="done"))
    ids[Status.FAILED] = (await lives.enqueue(store)).id
    await lives.fail(store, await lives.take_one(store, worker_id="broken"), retryable=False)
    ids[Status.CANCELLED] = (await lives.enqueue(store)).id
    await store.tasks.cancel(lives.QUEUE, ids[Status.CANCELLED])
    ids[Status.RETRYING] = (await lives.enqueue(store)).id
    await lives.fail(store, await lives.take_one(store, worker_id="broken"), retry_in_ms=9000)
    ids[Status.PROCESSING] = (await lives.enqueue(store)).id
    await lives.take_one(store, worker_id="busy")
    ids[Status.SCHEDULED] = (await lives.enqueue(store, delay_ms=9000)).id
    ids[Status.PENDING] = (await lives.enqueue(store)).id
    return ids


async def test_lists_show_the_states_that_were_asked_for(store: Store) -> None:
    ids = await every_state(store)
    for status in Status:
        (task,) = await walk(store, Filter(frozenset({status})))
        assert (task.id, task.status) == (ids[status], status)
    both = await walk(store, Filter(frozenset({Status.FAILED, Status.PENDING})))
    assert {task.id for task in both} == {ids[Status.FAILED], ids[Status.PENDING]}
    assert len(await walk(store)) == len(Status)
    assert await walk(store, Filter(frozenset())) == []


async def test_lists_show_the_worker_that_was_asked_for(store: Store) -> None:
    ids = await every_state(store)
    for worker, states in (
        ("done", {Status.COMPLETED}), ("busy", {Status.PROCESSING}), ("broken", {Status.FAILED, Status.RETRYING}),
        ("nobody", set()),
    ):  # fmt: skip
        assert {task.id for task in await walk(store, Filter(worker_id=worker))} == {ids[state] for state in states}


async def test_lists_show_the_tags_that_were_asked_for(store: Store) -> None:
    both = await lives.enqueue(store, tags={"a": "1", "b": "2"})
    one = await lives.enqueue(store, tags={"a": "1"})
    await lives.enqueue(store)
    assert [task.id for task in await walk(store, Filter(tags=(("a", "1"),)))] == [one.id, both.id]
    assert [task.id for task in await walk(store, Filter(tags=(("a", "1"), ("b", "2"))))] == [both.id]
    assert await walk(store, Filter(tags=(("a", "2"),))) == []


async def test_lists_show_the_time_that_was_asked_for_to_the_millisecond(store: Store, clock: Clock) -> None:
    tasks = []
    for _ in range(20):
        tasks.append(await lives.enqueue(store))
        clock.advance(0.5)
    start, end = tasks[5].created_at_ms, tasks[12].created_at_ms
    seen = await walk(store, Filter(created_after_ms=start, created_before_ms=end), 3)
    assert [task.id for task in seen] == [task.id for task in reversed(tasks[5:12])]
    assert await walk(store, Filter(created_after_ms=end + 100_000)) == []
    assert await walk(store, Filter(created_before_ms=0)) == []
    assert len(await walk(store, Filter(created_before_ms=2**60, created_after_ms=-5))) == 20


async def test_a_rare_match_is_found_behind_many_others(store: Store) -> None:
    rare = await lives.enqueue(store, tags={"rare": "yes"})
    for _ in range(6):
        await lives.enqueue_many(store, 1000)
    assert [task.id for task in await walk(store, Filter(tags=(("rare", "yes"),)))] == [rare.id]


@pytest.mark.parametrize("cursor", ["x", "====", "MDEyMw", "ä", "AAAA", "\n", "a" * 5000])
async def test_a_cursor_that_is_none_of_ours_is_refused(cursor: str, store: Store) -> None:
    with pytest.raises(BadCursor):
        await store.inspector.page([lives.QUEUE], lives.ANY, 10, cursor)


async def test_counts_add_up(store: Store, clock: Clock) -> None:
    assert (await store.inspector.stats([lives.QUEUE]))[0] == lives.NOTHING
    await every_state(store)
    clock.advance(2)
    (stats,) = await store.inspector.stats([lives.QUEUE])
    assert (stats.ready, stats.due, stats.leased) == (1, 2, 1)
    assert (stats.completed, stats.failed, stats.cancelled) == (1, 1, 1)
    assert stats.oldest_ms == 2000
    assert stats.totals == {"enqueued": 7, "completed": 1, "failed": 1, "cancelled": 1, "retried": 1}
    clock.advance(7)
    (stats,) = await store.inspector.stats([lives.QUEUE])
    assert (stats.ready, stats.due) == (3, 0)
    assert stats.oldest_ms == 9000


async def test_the_oldest_waiting_task_is_found_in_any_priority(store: Store, clock: Clock) -> None:
    for priority in (3, 1, 0, 2):
        await lives.enqueue(store, priority=priority)
        clock.advance(1)
    assert (await store.inspector.stats([lives.QUEUE]))[0].oldest_ms == 4000
    for oldest_ms in (4000, 4000, 4000):
        await lives.take(store)
        assert (await store.inspector.stats([lives.QUEUE]))[0].oldest_ms == oldest_ms
    await lives.take(store)
    assert (await store.inspector.stats([lives.QUEUE]))[0].oldest_ms == 0


async def test_leases_are_listed_by_their_end(store: Store) -> None:
    await lives.enqueue_many(store, 5)
    ends = [9000, 1000, 5000, 7000, 3000]
    taken = [await lives.take_one(store, lease_ms=end, worker_id=f"w{end}") for end in ends]
    leases = await store.tasks.leases(lives.QUEUE)
    assert [lease.worker_id for lease in leases] == ["w1000", "w3000", "w5000", "w7000", "w9000"]
    assert {lease.token for lease in leases} == {leased.token for leased in taken}
    assert await store.tasks.leases(lives.QUEUE, a_call=2) == leases
