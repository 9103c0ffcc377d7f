"""Lists of tasks in some states: the same as the whole list without the others, at a bounded cost."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest

from gateway.store.inspector import Filter, Inspector
from gateway.tasks import FINAL, Queue, Status, Task, TaskSpec
from tests import lives
from tests.harness import Clock, LiveGateway, Store

_LIVE = sorted(frozenset(Status) - FINAL)
_SETS = [
    *itertools.combinations(sorted(Status), 1),
    *itertools.combinations(sorted(Status), 2),
    *itertools.combinations(_LIVE, 3),
    tuple(_LIVE),
    tuple(sorted(Status)),
]
# Live tasks looked at in one call: so few that hardly anything is found at once, some, and as many as in earnest.
few_or_many = pytest.mark.parametrize("a_call", [4, 60, 1500])


async def walk(inspector: Inspector, which: Filter, limit: int, *queues: Queue) -> list[Task]:
    """Read all pages."""
    found: list[Task] = []
    cursor = None
    while True:
        page, cursor = await inspector.page(queues or (lives.QUEUE,), which, limit, cursor)
        assert len(page) <= limit
        found += page
        if cursor is None:
            return found


async def add_arq_job(store: Store, job_id: str, made_ms: int, due_ms: int = 0) -> None:
    """Add a job as arq's own producers do."""
    job = {"t": None, "f": "demo", "a": [], "k": {}, "et": made_ms}
    await store.redis.set(f"arq:job:{job_id}", msgspec.msgpack.encode(job), px=86_400_000)
    await store.redis.zadd(lives.ARQ_QUEUE, {job_id: due_ms or made_ms})


async def fill(store: Store, clock: Clock) -> None:
    """Some hundred tasks in every state, in no order of their ages; some are arq's, some held back, some overdue."""
    for turn in range(3):
        for number in range(12):
            await add_arq_job(store, f"arq {turn}-{number}", clock() + number)
        await store.tasks.expire(lives.QUEUE)
        for priority in range(4):
            await lives.enqueue_many(store, 8, priority=priority)
            clock.advance(0.001)
        for number, leased in enumerate(await lives.take(store, 30, lease_ms=3_600_000)):
            clock.advance(0.001)
            if number % 6 == 0:
                await lives.complete(store, leased)
            elif number % 6 == 1:
                await lives.fail(store, leased, retryable=False)
            elif number % 6 == 2:
                await lives.fail(store, leased, retry_in_ms=3_600_000 - number)
            elif number % 6 == 3:
                await lives.release(store, leased, delay_ms=3_000_000 + number)
            elif number % 12 == 4:
                await store.tasks.cancel(lives.QUEUE, leased.task.id)
                await lives.fail(store, leased)
        await lives.enqueue_many(store, 5, delay_ms=3_600_000)
        await lives.enqueue_many(store, 5, delay_ms=500)
    # One of them runs, the others are held back.
    await lives.enqueue_many(store, 8, priority=0, concurrency_key="one at a time")
    await lives.take(store, 2, lease_ms=3_600_000)
    # Not met yet by any script, so it is in no list.
    await add_arq_job(store, "later", clock(), clock() + 3_600_000)
    clock.advance(1)


@few_or_many
async def test_every_filter_on_states_shows_what_the_whole_list_shows(a_call: int, store: Store, clock: Clock) -> None:
    await fill(store, clock)
    inspector = Inspector(store.tasks, a_call=a_call)
    everything = await walk(store.inspector, lives.ANY, 200)
    assert len(everything) == len({task.id for task in everything}) == 170
    assert {task.status for task in everything} == set(Status)
    # Some are held back, and some wait overdue in the due band.
    assert await store.redis.zcount(lives.ARQ_QUEUE, 2**49, 2**49) > 0
    assert await store.redis.zcount(lives.ARQ_QUEUE, 2**40, clock()) > 0
    assert sum("~~" in task.id for task in everything if task.status not in FINAL) > 10
    for statuses in _SETS:
        found = await walk(inspector, Filter(frozenset(statuses)), 7)
        assert [task.id for task in found] == [task.id for task in everything if task.status in statuses], statuses


@few_or_many
async def test_states_and_times_are_asked_for_together(a_call: int, store: Store, clock: Clock) -> None:
    await fill(store, clock)
    inspector = Inspector(store.tasks, a_call=a_call)
    everything = await walk(store.inspector, lives.ANY, 200)
    times = sorted({task.created_at_ms for task in everything})
    after, before = times[len(times) // 4], times[len(times) // 2]
    for statuses in _SETS[:28]:
        which = Filter(frozenset(statuses), created_after_ms=after, created_before_ms=before)
        found = await walk(inspector, which, 7)
        assert [task.id for task in found] == [task.id for task in everything if which.shows(task)], statuses


@few_or_many
async def test_states_are_asked_for_in_several_queues(a_call: int, store: Store, clock: Clock) -> None:
    queues = [Queue("default", name) for name in ("a", "b", "c", "none")]
    for number in range(90):
        queue = queues[(number // 7) % 3]
        delay_ms = 60_000 if number % 3 == 0 else 0
        await store.tasks.enqueue(queue, [TaskSpec(queue.job_type, delay_ms=delay_ms)])
        if number % 5 == 0:
            await lives.take(store, 2, queue=queue)
        clock.advance(0.001)
    everything = await walk(store.inspector, lives.ANY, 200, *queues)
    assert len(everything) == 90
    inspector = Inspector(store.tasks, a_call=a_call)
    for statuses in _SETS:
        found = await walk(inspector, Filter(frozenset(statuses)), 4, *queues)
        assert [task.id for task in found] == [task.id for task in everything if task.status in statuses], statuses


@few_or_many
@pytest.mark.parametrize("status", _LIVE)
async def test_who_stays_in_a_state_is_seen_once_while_others_come_and_go(
    status: Status, a_call: int, store: Store, clock: Clock
) -> None:
    """Leases are kept for longer and for shorter, and waiting tasks change their places, but not their states."""
    keep: list[str] = []
    for number in range(60):
        await lives.enqueue_many(store, 4)
        task = await lives.enqueue(store, delay_ms=60_000 if status is Status.SCHEDULED else 0, priority=0)
        if status in (Status.PROCESSING, Status.RETRYING):
            leased = await lives.take_one(store, worker_id="keeper", lease_ms=600_000)
            assert leased.task.id == task.id
            if status is Status.RETRYING:
                await lives.fail(store, leased, retry_in_ms=60_000 + number)
            else:
                keep.append(leased.token)
        clock.advance(0.001)
    everything = await walk(store.inspector, Filter(frozenset({status})), 200)
    staying = [task.id for task in everything if task.spec.priority == 0]
    assert len(staying) == 60
    walking, turns = True, 0

    async def disturb() -> None:
        nonlocal turns
        while walking:
            turns += 1
            clock.advance(0.001)
            await lives.enqueue_many(store, 3)
            for number, leased in enumerate(await lives.take(store, 3, worker_id="other", lease_ms=600_000)):
                if leased.task.id in staying:
                    await lives.release(store, leased, front=True)
                elif number == 0:
                    await lives.complete(store, leased)
                elif number == 1:
                    await lives.fail(store, leased, retry_in_ms=turns % 50)
            for number, token in enumerate(keep[turns % 7 :: 7]):
                task_id = staying[::-1][keep.index(token)]
                await store.tasks.heartbeat(
                    lives.QUEUE, task_id, token, lease_ms=300_000 + (turns * 7919 + number) % 99_000
                )
            await asyncio.sleep(0)

    disturbing = asyncio.create_task(disturb())
    inspector = Inspector(store.tasks, a_call=a_call)
    for _ in range(3):
        seen = [task.id for task in await walk(inspector, Filter(frozenset({status})), 9)]
        assert len(seen) == len(set(seen))
        if status is not Status.PENDING:
            # Those that wait are handed out for a moment.
            assert [task_id for task_id in seen if task_id in staying] == staying
    walking = False
    await disturbing
    assert turns >= 3


async def test_few_among_many_are_on_the_first_page(gateway: LiveGateway) -> None:
    """7,000 newer ones wait: looking at each of them would take more than one page."""
    leased = [await gateway.enqueue("many", priority="critical") for _ in range(3)]
    assert len(await gateway.poll("many", max=3)) == 3
    due = await gateway.enqueue("many", delay_seconds=3600)
    for _ in range(7):
        await gateway.post("/tasks", [{"job_type": "many"}] * 1000)
    for path, ids in (
        ("/tasks?job_type=many&status=processing", [task["id"] for task in reversed(leased)]),
        ("/tasks?status=processing&limit=2", [task["id"] for task in leased[:0:-1]]),
        ("/tasks?job_type=many&status=scheduled", [due["id"]]),
        ("/tasks?job_type=many&status=retrying,failed", []),
    ):
        page = (await gateway.get(path)).json()
        assert [task["id"] for task in page["tasks"]] == ids
        assert ("next_cursor" in page) == ("limit" in path)


async def test_a_page_looks_at_a_bounded_number_of_tasks(store: Store) -> None:
    """Half of the tasks are leased, the older half: far too many to be read from their band."""
    await lives.enqueue_many(store, 1000)
    taken = await lives.take(store, 500, lease_ms=3_600_000)
    inspector, leased = Inspector(store.tasks, a_call=40), Filter(frozenset({Status.PROCESSING}))
    looks = []
    cursor, seen = None, 0
    while True:
        await store.redis.config_resetstat()
        page, cursor = await inspector.page([lives.QUEUE], leased, 10, cursor)
        seen += len(page)
        stats = await store.redis.info("commandstats")
        # Each task that is shown is looked at once more, to be read.
        looks.append(stats["cmdstat_zscore"]["calls"] - len(page))
        if cursor is None:
            break
    assert seen == len(taken) == 500
    assert max(looks) <= 4 * 40
    assert 160 in looks


async def test_many_plain_arq_jobs_are_looked_for_in_the_list(store: Store, clock: Clock) -> None:
    """To know the age of one its body must be read: a call reads a few, not a band of them."""
    for number in range(100):
        await add_arq_job(store, f"job {number}", clock() + number)
    clock.advance(1)
    await store.tasks.expire(lives.QUEUE)
    await lives.enqueue_many(store, 50, delay_ms=60_000)
    for a_call in (30, 300, 1500):
        inspector = Inspector(store.tasks, a_call=a_call)
        found = await walk(inspector, Filter(frozenset({Status.PENDING})), 9)
        assert [task.created_at_ms for task in found] == [clock() - 1000 + number for number in range(99, -1, -1)]
