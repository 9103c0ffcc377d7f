"""Who is handed out next, and when not yet."""

from __future__ import annotations

import random

import pytest
from redis.asyncio import Redis

from gateway.store.calls import Claim
from gateway.tasks import LeasedTask, Queue, Status, TaskSpec
from tests import lives
from tests.harness import Clock, Store

CRITICAL, HIGH, NORMAL, LOW = range(4)


def payloads(leased: list[LeasedTask]) -> list[int]:
    return [int(one.task.spec.payload) for one in leased]


async def test_a_higher_priority_goes_first_whenever_it_came(store: Store) -> None:
    for number, priority in enumerate((LOW, NORMAL, HIGH, CRITICAL, LOW, NORMAL, HIGH, CRITICAL)):
        await lives.enqueue(store, payload=b"%d" % number, priority=priority)
    assert payloads(await lives.take(store, 8)) == [3, 7, 2, 6, 1, 5, 0, 4]


async def test_one_priority_is_first_in_first_out_over_single_tasks_and_batches(store: Store) -> None:
    expected = []
    for start in range(0, 300, 30):
        specs = [TaskSpec("demo", b"%d" % number) for number in range(start, start + 29)]
        await store.tasks.enqueue(lives.QUEUE, specs)
        await lives.enqueue(store, payload=b"%d" % (start + 29))
        expected += range(start, start + 30)
    taken: list[int] = []
    while more := await lives.take(store, 7):
        taken += payloads(more)
    assert taken == expected


async def test_priorities_and_order_hold_for_a_random_mix(store: Store) -> None:
    rand = random.Random(7)
    specs = [TaskSpec("demo", b"%d" % number, priority=rand.randrange(4)) for number in range(1000)]
    await store.tasks.enqueue(lives.QUEUE, specs)
    expected = sorted(range(1000), key=lambda number: (specs[number].priority, number))
    assert payloads(await lives.take(store, 1000)) == expected


async def test_an_attempt_that_failed_stands_behind_those_that_were_ready_before_it(store: Store, clock: Clock) -> None:
    await lives.enqueue(store, payload=b"1")
    first = await lives.take_one(store)
    await lives.enqueue(store, payload=b"2")
    await lives.fail(store, first, retry_in_ms=1000)
    await lives.enqueue(store, payload=b"3")
    clock.advance(1)
    await store.tasks.expire(lives.QUEUE)
    await lives.enqueue(store, payload=b"4")
    assert payloads(await lives.take(store, 10)) == [2, 3, 1, 4]


async def test_due_tasks_join_in_the_order_of_their_times_not_of_their_making(store: Store, clock: Clock) -> None:
    for number, delay_ms in ((1, 3000), (2, 1000), (3, 2000)):
        await lives.enqueue(store, payload=b"%d" % number, delay_ms=delay_ms)
    clock.advance(10)
    assert payloads(await lives.take(store, 10)) == [2, 3, 1]


async def test_a_task_that_came_due_goes_before_one_enqueued_later(store: Store, clock: Clock) -> None:
    await lives.enqueue(store, payload=b"1", delay_ms=1000)
    clock.advance(5)
    await lives.enqueue(store, payload=b"2")
    assert payloads(await lives.take(store, 10)) == [1, 2]


@pytest.mark.parametrize("priority", [CRITICAL, HIGH, NORMAL, LOW])
async def test_a_delayed_task_keeps_its_priority(priority: int, store: Store, clock: Clock) -> None:
    await lives.enqueue(store, payload=b"9", priority=priority, delay_ms=1234)
    clock.advance(1.234)
    for other in range(4):
        await lives.enqueue(store, payload=b"%d" % other, priority=other)
    order = payloads(await lives.take(store, 10))
    assert order.index(9) == priority


@pytest.mark.parametrize("members", [{"delay_ms": 60_000}, {"run_at_ms": 1_800_000_060_000}])
async def test_nothing_is_handed_out_one_millisecond_early(members: dict[str, int], store: Store, clock: Clock) -> None:
    task = await lives.enqueue(store, **members)
    assert task.status is Status.SCHEDULED
    assert task.run_at_ms == clock.now_ms + 60_000
    clock.advance(59.999)
    await store.tasks.expire(lives.QUEUE)
    assert await lives.take(store) == []
    assert await lives.status_of(store, task.id) is Status.SCHEDULED
    clock.advance(0.001)
    assert await lives.status_of(store, task.id) is Status.PENDING
    assert (await lives.take_one(store)).task.id == task.id


async def test_a_time_in_the_past_means_at_once(store: Store, clock: Clock) -> None:
    task = await lives.enqueue(store, run_at_ms=clock.now_ms - 1)
    assert task.status is Status.PENDING
    assert (await lives.take_one(store)).task.id == task.id


async def test_a_retry_is_not_handed_out_one_millisecond_early(store: Store, clock: Clock) -> None:
    await lives.enqueue(store)
    await lives.fail(store, await lives.take_one(store), retry_in_ms=5000)
    clock.advance(4.999)
    await store.tasks.expire(lives.QUEUE)
    assert await lives.take(store) == []
    clock.advance(0.001)
    assert (await lives.take_one(store)).task.attempt == 2


async def test_the_far_end_of_times_is_kept_to_the_millisecond(store: Store, clock: Clock) -> None:
    far = 253_402_300_799_999  # the end of the year 9999
    task = await lives.enqueue(store, run_at_ms=far, priority=LOW)
    assert (await lives.read(store, task.id)).run_at_ms == far
    clock.now_ms = far - 1
    assert await lives.take(store) == []
    clock.now_ms = far
    assert (await lives.take_one(store)).task.spec.priority == LOW


async def test_a_task_not_started_in_time_fails_as_expired_at_that_time_and_not_before(
    store: Store, clock: Clock
) -> None:
    swept = await lives.enqueue(store, expires_in_ms=1000)
    clock.advance(0.999)
    await store.tasks.expire(lives.QUEUE)
    assert await lives.status_of(store, swept.id) is Status.PENDING
    clock.advance(0.001)
    assert (await store.tasks.expire(lives.QUEUE)).expired == 1
    final = await lives.read(store, swept.id)
    assert final.status is Status.FAILED
    assert lives.error_type(final) == "expired"
    assert final.attempt == 0


async def test_a_claim_does_not_hand_out_what_expired_before_the_sweep_came(store: Store, clock: Clock) -> None:
    late = await lives.enqueue(store, expires_in_ms=1000)
    fresh = await lives.enqueue(store)
    clock.advance(1)
    assert [one.task.id for one in await lives.take(store, 2)] == [fresh.id]
    assert lives.error_type(await lives.read(store, late.id)) == "expired"


async def test_a_task_that_started_in_time_does_not_expire_afterwards(store: Store, clock: Clock) -> None:
    task = await lives.enqueue(store, expires_in_ms=1000)
    leased = await lives.take_one(store)
    clock.advance(5)
    await store.tasks.expire(lives.QUEUE)
    await lives.fail(store, leased, retry_in_ms=1000)
    clock.advance(5)
    await store.tasks.expire(lives.QUEUE)
    assert await lives.status_of(store, task.id) is Status.PENDING
    assert (await lives.take_one(store)).task.attempt == 2


async def test_polls_of_one_call_are_served_in_order_and_each_up_to_its_max(store: Store) -> None:
    await lives.enqueue_many(store, 6)
    claims = [Claim("a", 1), Claim("b", 3), Claim("c", 5), Claim("d", 1)]
    claimed = await store.tasks.claim(lives.QUEUE, claims, stays=False, others=0, waited_ms=0)
    assert [payloads(tasks) for tasks in claimed.tasks] == [[0], [1, 2, 3], [4, 5], []]
    assert [[one.task.worker_id for one in tasks] for tasks in claimed.tasks] == [["a"], ["b"] * 3, ["c"] * 2, []]
    assert claimed.ready_left == 0


async def test_a_claim_says_how_many_are_left(store: Store) -> None:
    await lives.enqueue_many(store, 6)
    claimed = await store.tasks.claim(lives.QUEUE, [Claim("a", 2)], stays=False, others=0, waited_ms=0)
    assert claimed.ready_left == 4


async def test_no_task_is_handed_out_twice_to_many_polls_at_once(store: Store, redis_url: str, clock: Clock) -> None:
    import asyncio

    await lives.enqueue_many(store, 500)
    others = [Store(redis_url, clock, gateway=f"gw{number}") for number in range(3)]
    try:
        taken = await asyncio.gather(
            *(lives.take(others[number % 3], 1 + number % 4, worker_id=f"w{number}") for number in range(300))
        )
    finally:
        for one in others:
            await one.close()
    ids = [one.task.id for tasks in taken for one in tasks]
    assert len(ids) == len(set(ids)) == 500
    tokens = {one.token for tasks in taken for one in tasks}
    assert len(tokens) == 500


async def test_a_token_has_128_random_bits_and_is_never_used_twice(store: Store) -> None:
    await lives.enqueue_many(store, 10)
    seeds = {(await lives.take_one(store)).token.split(".")[0] for _ in range(10)}
    assert len(seeds) == 10
    assert all(len(seed) >= 22 for seed in seeds)


async def test_queues_do_not_mix(store: Store) -> None:
    other = Queue("default", "other")
    alien = Queue("tenant2", "demo")
    for queue in (lives.QUEUE, other, alien):
        await lives.enqueue(store, queue, payload=b'"%s"' % f"{queue.tenant}/{queue.job_type}".encode())
    for queue in (alien, other, lives.QUEUE):
        (leased,) = await lives.take(store, 5, queue=queue)
        assert leased.task.spec.payload == b'"%s"' % f"{queue.tenant}/{queue.job_type}".encode()
        assert leased.task.id.startswith(f"{queue.job_type}~")


async def test_a_claim_touches_no_key_of_those_that_wait_behind(store: Store, redis: Redis) -> None:
    """The cost of a claim does not grow with the queue: count the commands that it runs."""

    async def commands_of_a_claim() -> int:
        await redis.config_resetstat()
        await lives.take(store)
        stats = await redis.info("commandstats")
        return sum(one["calls"] for name, one in stats.items() if not name.endswith(("info", "resetstat")))

    await lives.enqueue_many(store, 3)
    await lives.take(store)
    few = await commands_of_a_claim()
    for _ in range(5):
        await lives.enqueue_many(store, 1000)
    await lives.take(store, 1000)
    assert await commands_of_a_claim() == few
