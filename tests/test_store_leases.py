"""Leases: who holds a task, how long, and what a report is worth that comes with the wrong token or too late."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.errors import LeaseLost, TaskNotFound
from gateway.tasks import LeasedTask, Status
from tests import lives
from tests.harness import Clock, Store

Report = Callable[[Store, LeasedTask], Awaitable[object]]


async def heartbeat(store: Store, leased: LeasedTask) -> object:
    return await store.tasks.heartbeat(lives.QUEUE, leased.task.id, leased.token, progress=b"1", lines=["line"])


async def fail_for_good(store: Store, leased: LeasedTask) -> object:
    return await lives.fail(store, leased, retryable=False)


async def fail_with_delay(store: Store, leased: LeasedTask) -> object:
    return await lives.fail(store, leased, retry_in_ms=9000)


async def fail_at_once(store: Store, leased: LeasedTask) -> object:
    return await lives.fail(store, leased, retry_in_ms=0)


async def release_with_delay(store: Store, leased: LeasedTask) -> object:
    return await lives.release(store, leased, delay_ms=9000)


async def release_to_front(store: Store, leased: LeasedTask) -> object:
    return await lives.release(store, leased, front=True)


REPORTS: dict[str, Report] = {
    "heartbeat": heartbeat, "complete": lives.complete, "fail for good": fail_for_good, "fail": fail_with_delay,
    "fail at once": fail_at_once, "release": lives.release, "release later": release_with_delay,
    "hand back": release_to_front,
}  # fmt: skip
REPEATABLE = {name: report for name, report in REPORTS.items() if name not in ("heartbeat", "hand back")}
every_report = pytest.mark.parametrize("report", REPORTS.values(), ids=list(REPORTS))


@every_report
async def test_a_report_with_another_token_changes_nothing(report: Report, store: Store, redis: Redis) -> None:
    task = await lives.enqueue(store)
    leased = await lives.take_one(store)
    before = await lives.keyspace(redis)
    for token in ("", "x", leased.token[:-1], leased.token + "x", leased.token + ".1", leased.token.swapcase()):
        with pytest.raises(LeaseLost):
            await report(store, LeasedTask(task, token, 0))
    assert await lives.keyspace(redis) == before


@every_report
async def test_a_worker_that_lost_its_lease_cannot_touch_the_next_attempt(
    report: Report, store: Store, clock: Clock, redis: Redis
) -> None:
    await lives.enqueue(store)
    stale = await lives.take_one(store)
    clock.advance(31)
    await store.tasks.expire(lives.QUEUE)
    with pytest.raises(LeaseLost):
        await report(store, stale)
    await lives.take_one(store, worker_id="w2")
    before = await lives.keyspace(redis)
    with pytest.raises(LeaseLost):
        await report(store, stale)
    assert await lives.keyspace(redis) == before


@every_report
async def test_a_report_counts_in_the_last_millisecond_of_the_lease(report: Report, store: Store, clock: Clock) -> None:
    await lives.enqueue(store)
    leased = await lives.take_one(store)
    clock.advance(30)
    await store.tasks.expire(lives.QUEUE)
    await report(store, leased)


@every_report
async def test_a_report_after_the_lease_is_refused_even_before_the_sweep_noticed(
    report: Report, store: Store, clock: Clock, redis: Redis
) -> None:
    await lives.enqueue(store)
    leased = await lives.take_one(store)
    clock.advance(30.001)
    before = await lives.keyspace(redis)
    with pytest.raises(LeaseLost):
        await report(store, leased)
    assert await lives.keyspace(redis) == before


@every_report
async def test_a_report_on_a_task_that_never_was_is_not_found(report: Report, store: Store, redis: Redis) -> None:
    task = await lives.enqueue(store)
    leased = await lives.take_one(store)
    before = await lives.keyspace(redis)
    nobody = LeasedTask(msgspec.structs.replace(task, id=task.id[:-1] + "!"), leased.token, 0)
    with pytest.raises(TaskNotFound):
        await report(store, nobody)
    assert await lives.keyspace(redis) == before


@pytest.mark.parametrize("report", REPEATABLE.values(), ids=list(REPEATABLE))
async def test_a_repeated_report_is_answered_the_same_and_changes_nothing(
    report: Report, store: Store, clock: Clock, redis: Redis
) -> None:
    await lives.enqueue(store)
    leased = await lives.take_one(store)
    first = await report(store, leased)
    before = await lives.keyspace(redis)
    clock.advance(2)
    second = await report(store, leased)
    assert (second.status, second.due_ms) == (first.status, first.due_ms)  # type: ignore[attr-defined]
    assert await lives.keyspace(redis) == before


@pytest.mark.parametrize("report", [fail_at_once, lives.release], ids=["fail", "release"])
async def test_a_repeated_report_is_answered_the_same_while_the_next_attempt_runs_and_after_it(
    report: Report, store: Store, redis: Redis
) -> None:
    await lives.enqueue(store)
    leased = await lives.take_one(store)
    first = await report(store, leased)
    following = await lives.take_one(store, worker_id="w2")
    before = await lives.keyspace(redis)
    assert (await report(store, leased)).status == first.status  # type: ignore[attr-defined]
    assert await lives.keyspace(redis) == before
    await lives.complete(store, following)
    before = await lives.keyspace(redis)
    assert (await report(store, leased)).status == first.status  # type: ignore[attr-defined]
    assert await lives.keyspace(redis) == before


@pytest.mark.parametrize("first", REPEATABLE.values(), ids=list(REPEATABLE))
@pytest.mark.parametrize("second", REPORTS.values(), ids=list(REPORTS))
async def test_a_different_report_after_an_accepted_one_is_refused(
    first: Report, second: Report, store: Store, redis: Redis
) -> None:
    await lives.enqueue(store)
    leased = await lives.take_one(store)
    accepted = await first(store, leased)
    before = await lives.keyspace(redis)
    try:
        answer = await second(store, leased)
    except LeaseLost:
        pass
    else:
        # The same verb, asked otherwise: it hears what was decided the first time.
        assert answer == accepted or (answer.status == accepted.status)  # type: ignore[attr-defined]
    assert await lives.keyspace(redis) == before


async def test_a_heartbeat_keeps_the_lease_for_its_length_from_now(store: Store, clock: Clock) -> None:
    task = await lives.enqueue(store, lease_ms=10_000)
    leased = await lives.take_one(store)
    assert leased.lease_ms == 10_000
    for _ in range(5):
        clock.advance(9.9)
        await store.tasks.expire(lives.QUEUE)
        assert (await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token)).lease_ms == 10_000
    clock.advance(10.001)
    await store.tasks.expire(lives.QUEUE)
    assert await lives.status_of(store, task.id) is Status.PENDING


async def test_a_heartbeat_may_change_the_length_which_then_stays(store: Store, clock: Clock) -> None:
    task = await lives.enqueue(store, lease_ms=10_000)
    leased = await lives.take_one(store)
    kept = await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token, lease_ms=100_000)
    assert kept.lease_ms == 100_000
    assert (await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token)).lease_ms == 100_000
    shorter = await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token, lease_ms=1000)
    assert shorter.lease_ms == 1000
    clock.advance(1.001)
    assert (await store.tasks.expire(lives.QUEUE)).lapsed == 1


async def test_a_poll_may_choose_the_length_of_its_leases(store: Store, clock: Clock) -> None:
    await lives.enqueue(store, lease_ms=10_000)
    leased = await lives.take_one(store, lease_ms=2000)
    assert leased.lease_ms == 2000
    (lease,) = await store.tasks.leases(lives.QUEUE)
    assert (lease.task_id, lease.token, lease.worker_id) == (leased.task.id, leased.token, "w1")
    assert (lease.started_at_ms, lease.ends_at_ms) == (clock.now_ms, clock.now_ms + 2000)


async def test_progress_and_log_are_kept_and_read(store: Store, clock: Clock) -> None:
    task = await lives.enqueue(store)
    leased = await lives.take_one(store)
    await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token, progress=b'{"n": 1e400}', lines=["a", "b"])
    clock.advance(1)
    await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token, lines=["c"])
    seen = await lives.read(store, task.id)
    assert seen.progress == b'{"n": 1e400}'
    assert [(line.at_ms - task.created_at_ms, line.attempt, line.line) for line in seen.log] == [
        (0, 1, "a"), (0, 1, "b"), (1000, 1, "c"),
    ]  # fmt: skip


async def test_the_newest_200_log_lines_are_kept(store: Store) -> None:
    task = await lives.enqueue(store)
    leased = await lives.take_one(store)
    for start in range(0, 500, 100):
        lines = [str(number) for number in range(start, start + 100)]
        await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token, lines=lines)
    assert [line.line for line in (await lives.read(store, task.id)).log] == [str(number) for number in range(300, 500)]


async def test_a_lapsed_lease_counts_as_an_attempt_and_the_task_goes_back(store: Store, clock: Clock) -> None:
    task = await lives.enqueue(store)
    await lives.take_one(store)
    clock.advance(30.001)
    swept = await store.tasks.expire(lives.QUEUE)
    assert (swept.lapsed, swept.timed_out) == (1, 0)
    seen = await lives.read(store, task.id)
    assert seen.status is Status.PENDING
    assert seen.attempt == 1
    assert [(one.outcome, one.worker_id) for one in seen.attempts] == [("lapsed", "w1")]
    assert lives.error_type(seen) == "lease_lapsed"
    assert (await lives.take_one(store)).task.attempt == 2


async def test_a_task_that_kills_its_workers_ends_failed_with_its_last_attempt(store: Store, clock: Clock) -> None:
    task = await lives.enqueue(store, max_attempts=3)
    for attempt in (1, 2, 3):
        assert (await lives.take_one(store, worker_id=f"w{attempt}")).task.attempt == attempt
        clock.advance(30.001)
        await store.tasks.expire(lives.QUEUE)
    assert await lives.take(store) == []
    final = await lives.read(store, task.id)
    assert final.status is Status.FAILED
    assert final.attempt == 3
    assert lives.error_type(final) == "lease_lapsed"
    assert [(one.attempt, one.worker_id) for one in final.attempts] == [(1, "w1"), (2, "w2"), (3, "w3")]
    assert [one.outcome for one in final.attempts] == ["lapsed", "lapsed", "lapsed"]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_no_late_report_on_a_task_that_lapsed_for_good_is_answered_as_accepted(
    store: Store, clock: Clock, cancelled: bool
) -> None:
    task = await lives.enqueue(store, max_attempts=1)
    leased = await lives.take_one(store)
    if cancelled:
        await store.tasks.cancel(lives.QUEUE, task.id)
    clock.advance(30.001)
    await store.tasks.expire(lives.QUEUE)
    for report in (
        store.tasks.fail(lives.QUEUE, task.id, leased.token, lives.ERROR, lives.ERROR, "no"),
        store.tasks.release(lives.QUEUE, task.id, leased.token),
        store.tasks.complete(lives.QUEUE, task.id, leased.token, b"1"),
    ):
        with pytest.raises(LeaseLost):
            await report


async def test_another_verb_is_no_repetition_of_an_accepted_report(store: Store) -> None:
    await lives.enqueue(store)
    leased = await lives.take_one(store)
    await fail_with_delay(store, leased)
    await fail_with_delay(store, leased)
    with pytest.raises(LeaseLost):
        await release_with_delay(store, leased)


async def test_the_sweep_says_when_the_next_lease_ends(store: Store, clock: Clock) -> None:
    await lives.enqueue_many(store, 2)
    await lives.take_one(store, lease_ms=5000)
    clock.advance(1)
    await lives.take_one(store, lease_ms=2000)
    swept = await store.tasks.expire(lives.QUEUE)
    assert swept.next_alarm_ms == clock.now_ms + 2001
    clock.now_ms = swept.next_alarm_ms
    assert (await store.tasks.expire(lives.QUEUE)).lapsed == 1


async def test_many_lapsed_leases_go_back_limit_by_limit(store: Store, clock: Clock) -> None:
    await lives.enqueue_many(store, 500)
    await lives.take(store, 500)
    clock.advance(31)
    lapsed = [(await store.tasks.expire(lives.QUEUE)).lapsed for _ in range(4)]
    assert lapsed == [200, 200, 100, 0]


async def test_a_sweep_that_left_something_asks_to_come_again_at_once(store: Store, clock: Clock) -> None:
    await lives.enqueue_many(store, 300)
    await lives.take(store, 300)
    clock.advance(31)
    assert (await store.tasks.expire(lives.QUEUE)).next_alarm_ms <= clock.now_ms


async def test_a_timeout_ends_the_attempt_heartbeats_or_not(store: Store, clock: Clock) -> None:
    task = await lives.enqueue(store, lease_ms=30_000, timeout_ms=50_000)
    leased = await lives.take_one(store)
    clock.advance(29)
    assert (await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token)).lease_ms == 21_000
    clock.advance(20.999)
    assert (await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token)).lease_ms == 1
    clock.advance(0.002)
    with pytest.raises(LeaseLost):
        await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token)
    swept = await store.tasks.expire(lives.QUEUE)
    assert (swept.lapsed, swept.timed_out) == (0, 1)
    seen = await lives.read(store, task.id)
    assert seen.status is Status.PENDING
    assert seen.attempts[0].outcome == "timeout"
    assert lives.error_type(seen) == "timeout"


async def test_a_timeout_shorter_than_the_lease_caps_it_from_the_start(store: Store) -> None:
    await lives.enqueue(store, lease_ms=30_000, timeout_ms=5000)
    assert (await lives.take_one(store)).lease_ms == 5000


async def test_a_silent_worker_lapses_before_its_timeout(store: Store, clock: Clock) -> None:
    await lives.enqueue(store, lease_ms=10_000, timeout_ms=50_000)
    await lives.take_one(store)
    clock.advance(10.001)
    assert (await store.tasks.expire(lives.QUEUE)).lapsed == 1


async def test_each_attempt_has_the_whole_timeout(store: Store, clock: Clock) -> None:
    await lives.enqueue(store, timeout_ms=5000)
    await lives.take_one(store)
    clock.advance(5.001)
    await store.tasks.expire(lives.QUEUE)
    assert (await lives.take_one(store)).lease_ms == 5000


async def test_a_release_does_not_count_the_attempt_and_leaves_no_count(store: Store, redis: Redis) -> None:
    task = await lives.enqueue(store, max_attempts=1)
    for _ in range(5):
        leased = await lives.take_one(store)
        assert leased.task.attempt == 1
        assert (await lives.release(store, leased)).status is Status.PENDING
        assert (await lives.read(store, task.id)).attempt == 0
    assert await redis.exists(f"arq:retry:{lives.TAG}{task.id.partition('~')[2]}") == 0


async def test_a_release_of_a_later_attempt_gives_back_just_that_one(store: Store) -> None:
    task = await lives.enqueue(store)
    await lives.fail(store, await lives.take_one(store), retry_in_ms=0)
    for _ in range(3):
        second = await lives.take_one(store)
        assert second.task.attempt == 2
        await lives.release(store, second)
    assert (await lives.read(store, task.id)).attempt == 1


async def test_a_release_with_a_delay_says_what_the_task_then_reads_as(store: Store, clock: Clock) -> None:
    task = await lives.enqueue(store)
    reported = await lives.release(store, await lives.take_one(store), delay_ms=4000)
    assert (reported.status, reported.due_ms) == (Status.SCHEDULED, clock.now_ms + 4000)
    assert (await lives.read(store, task.id)).status is Status.SCHEDULED
    clock.advance(4)
    await lives.fail(store, await lives.take_one(store), retry_in_ms=0)
    reported = await lives.release(store, await lives.take_one(store), delay_ms=4000)
    assert reported.status is (await lives.read(store, task.id)).status is Status.RETRYING


async def test_a_release_puts_the_task_at_the_end_of_its_priority(store: Store) -> None:
    first, second = await lives.enqueue_many(store, 2)
    await lives.release(store, await lives.take_one(store))
    assert [one.task.id for one in await lives.take(store, 2)] == [second.id, first.id]


async def test_a_hand_back_puts_the_task_where_it_stood(store: Store) -> None:
    tasks = await lives.enqueue_many(store, 4)
    taken = await lives.take(store, 3)
    for one in (taken[1], taken[0], taken[2]):
        await lives.release(store, one, front=True)
    again = await lives.take(store, 4)
    assert [one.task.id for one in again] == [task.id for task in tasks]
    assert [one.task.attempt for one in again] == [1, 1, 1, 1]


async def test_a_hand_back_leaves_no_trace_of_the_claim(store: Store, redis: Redis) -> None:
    await lives.enqueue(store)
    before = await lives.keyspace(redis)
    await lives.release(store, await lives.take_one(store), front=True)
    after = await lives.keyspace(redis)
    totals = f"tg:{lives.TAG}:totals".encode()
    before.pop(totals, None)
    after.pop(totals, None)
    assert after == before


async def test_letting_go_of_a_cancelled_task_cancels_it(store: Store) -> None:
    for let_go in (lives.release, release_with_delay, release_to_front, fail_at_once, fail_with_delay, fail_for_good):
        task = await lives.enqueue(store)
        leased = await lives.take_one(store)
        assert await store.tasks.cancel(lives.QUEUE, task.id) is False
        seen = await lives.read(store, task.id)
        assert seen.status is Status.PROCESSING
        assert seen.cancel_requested
        assert (await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token)).cancel_requested
        reported = await let_go(store, leased)
        assert reported.status is Status.CANCELLED
        assert (await lives.read(store, task.id)).status is Status.CANCELLED
        again = await let_go(store, leased)
        assert again.status is Status.CANCELLED


async def test_a_worker_that_finished_all_the_same_has_completed_the_task(store: Store) -> None:
    task = await lives.enqueue(store)
    leased = await lives.take_one(store)
    await store.tasks.cancel(lives.QUEUE, task.id)
    assert (await lives.complete(store, leased, b"7")).status is Status.COMPLETED
    assert (await lives.read(store, task.id)).result == b"7"


# Polls that are repeated because their reply was lost


async def test_a_repeated_poll_id_gets_the_same_leases_and_tokens(store: Store, clock: Clock, redis: Redis) -> None:
    await lives.enqueue_many(store, 5)
    first = await lives.take(store, 3, poll_id="p1")
    clock.advance(3)
    before = await lives.keyspace(redis, match="arq:*")
    again = await lives.take(store, 3, poll_id="p1")
    assert [(one.task.id, one.token, one.task.attempt) for one in again] == [
        (one.task.id, one.token, one.task.attempt) for one in first
    ]
    assert [one.task.spec.payload for one in again] == [one.task.spec.payload for one in first]
    assert [one.lease_ms for one in again] == [27_000] * 3
    assert await lives.keyspace(redis, match="arq:*") == before
    assert [int(one.task.spec.payload) for one in await lives.take(store, 3, poll_id="p2")] == [3, 4]


async def test_a_poll_id_belongs_to_its_worker(store: Store) -> None:
    await lives.enqueue_many(store, 2)
    mine = await lives.take_one(store, poll_id="p1")
    other = await lives.take_one(store, poll_id="p1", worker_id="w2")
    assert mine.task.id != other.task.id


async def test_a_repeated_poll_id_gets_what_still_lives_and_new_tasks_only_when_nothing_does(
    store: Store, clock: Clock
) -> None:
    await lives.enqueue_many(store, 4)
    one, two = await lives.take(store, 2, poll_id="p1")
    await lives.complete(store, one)
    (left,) = await lives.take(store, 2, poll_id="p1")
    assert (left.task.id, left.token) == (two.task.id, two.token)
    await lives.complete(store, two)
    fresh = await lives.take(store, 2, poll_id="p1")
    assert [int(leased.task.spec.payload) for leased in fresh] == [2, 3]
    clock.advance(31)
    await store.tasks.expire(lives.QUEUE)
    renewed = await lives.take(store, 2, poll_id="p1")
    assert {leased.token for leased in renewed}.isdisjoint(leased.token for leased in fresh)
    assert [leased.task.attempt for leased in renewed] == [2, 2]


async def test_a_recalled_poll_is_not_handed_back(store: Store) -> None:
    """The client hung up, asked again, and then the gateway learns of the hang-up."""
    task = await lives.enqueue(store)
    first = await lives.take_one(store, poll_id="p1")
    again = await lives.take_one(store, poll_id="p1")
    kept = await lives.release(store, first, front=True, poll="w1 p1")
    assert kept.status is Status.PROCESSING
    assert (await lives.complete(store, again)).status is Status.COMPLETED
    assert (await lives.read(store, task.id)).attempt == 1


async def test_a_poll_that_was_not_recalled_is_handed_back(store: Store) -> None:
    task = await lives.enqueue(store)
    first = await lives.take_one(store, poll_id="p1")
    assert (await lives.release(store, first, front=True, poll="w1 p1")).status is Status.PENDING
    again = await lives.take_one(store, poll_id="p1")
    assert again.task.id == task.id
    assert again.token != first.token
    assert again.task.attempt == 1


async def test_what_a_poll_id_got_is_forgotten_a_minute_after_its_lease(store: Store, redis: Redis) -> None:
    await lives.enqueue(store)
    await lives.take_one(store, poll_id="p1", lease_ms=5000)
    ttl_ms = await redis.pttl(f"tg:{lives.TAG}:poll:w1 p1")
    assert 60_000 < ttl_ms <= 65_000


async def test_a_released_task_must_still_be_started_in_time(store: Store, clock: Clock) -> None:
    for front in (True, False):
        task = await lives.enqueue(store, expires_in_ms=5000)
        leased = await lives.take_one(store)
        await lives.release(store, leased, front=front)
        clock.advance(6)
        await store.tasks.expire(lives.QUEUE)
        assert await lives.status_of(store, task.id) is Status.FAILED


async def test_leases_are_listed_to_the_end_although_some_cannot_be_read(store: Store, redis: Redis) -> None:
    await lives.enqueue_many(store, 7)
    taken = [one.task.id for one in await lives.take(store, 7)]
    for task_id in taken[2:4]:
        await redis.set(f"arq:in-progress:{store.tasks.arq_id(lives.QUEUE, task_id).decode()}", b"no lease")
    found = await store.tasks.leases(lives.QUEUE, a_call=2)
    assert sorted(lease.task_id for lease in found) == sorted([*taken[:2], *taken[4:]])
