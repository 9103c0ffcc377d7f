"""The end of a task: one outcome, readable for its retention, and nothing left afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from gateway.errors import AlreadyFinished, NotFinished, TaskNotFound
from gateway.retries import RetryPolicy
from gateway.tasks import Status
from tests import lives
from tests.harness import Clock, Store

# Keys of a queue, not of a task: they stay.
_QUEUE_KEYS = {f"tg:{lives.TAG}:seq".encode(), f"tg:{lives.TAG}:totals".encode()}
_INDEXES = (b":completed", b":failed", b":cancelled", b":expiry")

Ending = Callable[[Store, Clock, str], Awaitable[None]]


async def completed(store: Store, clock: Clock, task_id: str) -> None:
    await lives.complete(store, await lives.take_one(store), b'{"n": 1}')


async def failed(store: Store, clock: Clock, task_id: str) -> None:
    await lives.fail(store, await lives.take_one(store), retryable=False)


async def failed_after_retries(store: Store, clock: Clock, task_id: str) -> None:
    for _ in range(25):
        clock.advance(1)
        leased = await lives.take_one(store)
        await store.tasks.heartbeat(lives.QUEUE, task_id, leased.token, progress=b"1", lines=["line"])
        await lives.fail(store, leased, retry_in_ms=1000)


async def completed_after_a_release(store: Store, clock: Clock, task_id: str) -> None:
    leased = await lives.take_one(store)
    await store.tasks.heartbeat(lives.QUEUE, task_id, leased.token, progress=b"1", lines=["line"])
    await lives.release(store, leased)
    await lives.complete(store, await lives.take_one(store))


async def completed_after_a_hand_back(store: Store, clock: Clock, task_id: str) -> None:
    await lives.release(store, await lives.take_one(store), front=True)
    await lives.complete(store, await lives.take_one(store))


async def completed_with_progress(store: Store, clock: Clock, task_id: str) -> None:
    leased = await lives.take_one(store)
    await store.tasks.heartbeat(lives.QUEUE, task_id, leased.token, progress=b"1", lines=["line"])
    await lives.complete(store, leased)


async def completed_after_an_operators_retry(store: Store, clock: Clock, task_id: str) -> None:
    leased = await lives.take_one(store)
    await store.tasks.heartbeat(lives.QUEUE, task_id, leased.token, lines=["line"])
    await lives.fail(store, leased, retryable=False)
    await store.tasks.retry(lives.QUEUE, task_id)
    await lives.complete(store, await lives.take_one(store))


async def completed_after_a_lapse(store: Store, clock: Clock, task_id: str) -> None:
    await lives.take_one(store)
    clock.advance(31)
    await store.tasks.expire(lives.QUEUE)
    await lives.complete(store, await lives.take_one(store))


async def cancelled(store: Store, clock: Clock, task_id: str) -> None:
    await store.tasks.cancel(lives.QUEUE, task_id)


async def cancelled_while_it_waits_again(store: Store, clock: Clock, task_id: str) -> None:
    await lives.fail(store, await lives.take_one(store), retry_in_ms=1000)
    await store.tasks.cancel(lives.QUEUE, task_id)


async def cancelled_while_processing(store: Store, clock: Clock, task_id: str) -> None:
    leased = await lives.take_one(store)
    await store.tasks.cancel(lives.QUEUE, task_id)
    await lives.release(store, leased)


async def lapsed_for_good(store: Store, clock: Clock, task_id: str) -> None:
    for _ in range(25):
        await lives.take_one(store)
        clock.advance(31)
        await store.tasks.expire(lives.QUEUE)


async def expired(store: Store, clock: Clock, task_id: str) -> None:
    clock.advance(7200)
    await store.tasks.expire(lives.QUEUE)


ENDINGS: list[Ending] = [
    completed, failed, failed_after_retries, completed_after_a_release, completed_after_a_hand_back,
    completed_with_progress, completed_after_an_operators_retry, completed_after_a_lapse, cancelled,
    cancelled_while_it_waits_again, cancelled_while_processing, lapsed_for_good, expired,
]  # fmt: skip
every_ending = pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)


@every_ending
async def test_every_key_of_a_finished_task_has_a_ttl_and_is_gone_after_its_retention(
    ending: Ending, store: Store, clock: Clock, redis: Redis
) -> None:
    before = await lives.keyspace(redis)
    task = await lives.enqueue(
        store, tags={"a": "b"}, expires_in_ms=7_200_000, retention_ms=50_000, failed_retention_ms=50_000
    )
    await ending(store, clock, task.id)
    assert (await lives.read(store, task.id)).status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)
    after = await lives.keyspace(redis)
    lasting = {key for key, (_, _, has_ttl) in after.items() if not has_ttl} - _QUEUE_KEYS
    assert {key for key in lasting if not key.endswith(_INDEXES)} == set()
    clock.advance(49.999)
    await store.tasks.expire(lives.QUEUE)
    assert await lives.status_of(store, task.id) is not None
    clock.advance(0.001)
    assert (await store.tasks.expire(lives.QUEUE)).purged == 1
    left = {key: facts for key, facts in (await lives.keyspace(redis)).items() if key not in _QUEUE_KEYS}
    assert left == before


@every_ending
async def test_a_finished_task_is_listed_once_under_its_final_state(
    ending: Ending, store: Store, clock: Clock, redis: Redis
) -> None:
    task = await lives.enqueue(store, expires_in_ms=7_200_000)
    await ending(store, clock, task.id)
    final = await lives.read(store, task.id)
    (stats,) = await store.inspector.stats([lives.QUEUE])
    assert (stats.ready, stats.due, stats.leased) == (0, 0, 0)
    assert (stats.completed, stats.failed, stats.cancelled) == tuple(
        int(final.status is status) for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)
    )
    assert await redis.zcard(f"tg:{lives.TAG}:live") == 0
    assert await redis.zcard(f"tg:{lives.TAG}:expires") == 0
    assert stats.totals[final.status.value] == stats.totals["enqueued"] + stats.totals.get("redriven", 0) - (
        stats.totals.get("failed", 0) if final.status is Status.COMPLETED else 0
    )


async def test_a_completed_task_reads_as_what_the_worker_sent(store: Store, clock: Clock) -> None:
    spec = {
        "payload": b'{"n": 12345678901234567890, "e": 1e400, "f": 1.0}',
        "title": "t",
        "description": "d",
        "tags": {"k": "v"},
        "priority": 1,
        "max_attempts": 7,
        "retry": RetryPolicy("fixed", 3.0),
        "lease_ms": 11_000,
        "timeout_ms": 12_000,
        "traceparent": "00-a-b-01",
        "tracestate": "x=y",
    }
    task = await lives.enqueue(store, **spec)
    clock.advance(1)
    leased = await lives.take_one(store, worker_id="w7")
    clock.advance(2)
    await lives.complete(store, leased, b'[1e400, 12345678901234567890, "\xc3\xbc"]')
    final = await lives.read(store, task.id)
    assert final.status is Status.COMPLETED
    assert final.result == b'[1e400, 12345678901234567890, "\xc3\xbc"]'
    assert final.error is None
    assert final.spec == task.spec
    assert (final.created_at_ms, final.started_at_ms, final.finished_at_ms) == (
        task.created_at_ms, task.created_at_ms + 1000, task.created_at_ms + 3000,
    )  # fmt: skip
    assert (final.attempt, final.worker_id) == (1, "w7")
    assert final.gone_at_ms == final.finished_at_ms + 86_400_000


@pytest.mark.parametrize("size", [0, 1, 13, 29, 30, 31, 253, 254, 255, 65_533, 65_534, 65_535, 1_048_000])
async def test_payload_and_result_of_any_size_come_back_byte_for_byte(size: int, store: Store) -> None:
    text = b'"' + b"x" * size + b'"'
    task = await lives.enqueue(store, payload=text)
    leased = await lives.take_one(store)
    assert leased.task.spec.payload == text
    await lives.complete(store, leased, text)
    final = await lives.read(store, task.id)
    assert final.result == text
    assert final.spec.payload == text


async def test_a_failed_task_keeps_its_error_and_history(store: Store, clock: Clock) -> None:
    task = await lives.enqueue(store, max_attempts=2, failed_retention_ms=99_000)
    await lives.fail(store, await lives.take_one(store, worker_id="a"), retry_in_ms=0)
    clock.advance(1)
    leased = await lives.take_one(store, worker_id="b")
    assert leased.task.error == lives.ERROR
    assert [(one.attempt, one.worker_id, one.outcome) for one in leased.task.attempts] == [(1, "a", "failed")]
    big = b'{"type":"Boom","message":"full","stack":"..."}'
    await store.tasks.fail(lives.QUEUE, task.id, leased.token, big, lives.ERROR, "Boom: full")
    final = await lives.read(store, task.id)
    assert final.status is Status.FAILED
    assert final.error == big
    assert [(one.attempt, one.worker_id, one.outcome) for one in final.attempts] == [
        (1, "a", "failed"), (2, "b", "failed"),
    ]  # fmt: skip
    assert final.gone_at_ms == final.finished_at_ms + 99_000


async def test_attempts_never_exceed_max_attempts(store: Store) -> None:
    task = await lives.enqueue(store, max_attempts=3)
    for _ in range(2):
        assert (await lives.fail(store, await lives.take_one(store), retry_in_ms=0)).status is Status.RETRYING
    assert (await lives.fail(store, await lives.take_one(store), retry_in_ms=0)).status is Status.FAILED
    assert await lives.take(store) == []
    assert (await lives.read(store, task.id)).attempt == 3


async def test_a_short_retention_still_lets_the_worker_hear_its_answer_again(store: Store, redis: Redis) -> None:
    task = await lives.enqueue(store, retention_ms=0)
    leased = await lives.take_one(store)
    await lives.complete(store, leased)
    assert (await lives.complete(store, leased)).status is Status.COMPLETED
    with pytest.raises(TaskNotFound):
        await lives.read(store, task.id)
    assert 0 < await redis.pttl(f"arq:result:{lives.TAG}{task.id.partition('~')[2]}") <= 10_000


async def test_an_operators_retry_gives_fresh_attempts_and_keeps_the_history(store: Store, clock: Clock) -> None:
    task = await lives.enqueue(store, max_attempts=1, payload=b'{"keep": "me"}', tags={"a": "b"})
    leased = await lives.take_one(store, worker_id="a")
    await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token, progress=b"1")
    await lives.fail(store, leased)
    clock.advance(5)
    await store.tasks.retry(lives.QUEUE, task.id)
    waiting = await lives.read(store, task.id)
    assert (waiting.status, waiting.attempt, waiting.error, waiting.progress) == (Status.PENDING, 0, None, None)
    assert waiting.spec == task.spec
    assert waiting.created_at_ms == task.created_at_ms
    assert [(one.worker_id, one.outcome) for one in waiting.attempts] == [("a", "failed")]
    again = await lives.take_one(store, worker_id="b")
    assert again.task.attempt == 1
    await lives.complete(store, again, b"1")
    final = await lives.read(store, task.id)
    assert final.status is Status.COMPLETED
    assert [(one.worker_id, one.outcome) for one in final.attempts] == [("a", "failed"), ("b", "completed")]


async def test_a_retry_is_refused_unless_the_task_failed_or_was_cancelled(store: Store) -> None:
    task = await lives.enqueue(store)
    with pytest.raises(NotFinished):
        await store.tasks.retry(lives.QUEUE, task.id)
    leased = await lives.take_one(store)
    with pytest.raises(NotFinished):
        await store.tasks.retry(lives.QUEUE, task.id)
    await lives.complete(store, leased)
    with pytest.raises(AlreadyFinished):
        await store.tasks.retry(lives.QUEUE, task.id)
    with pytest.raises(TaskNotFound):
        await store.tasks.retry(lives.QUEUE, task.id + "0")


async def test_a_cancel_says_what_the_task_already_is(store: Store, clock: Clock) -> None:
    for ending in (completed, failed, cancelled):
        task = await lives.enqueue(store)
        await ending(store, clock, task.id)
        with pytest.raises(AlreadyFinished) as refused:
            await store.tasks.cancel(lives.QUEUE, task.id)
        assert refused.value.members["task_status"] == ending.__name__


async def test_a_patch_says_how_the_task_ended(store: Store, clock: Clock) -> None:
    for ending in (completed, failed, cancelled):
        task = await lives.enqueue(store)
        await ending(store, clock, task.id)
        with pytest.raises(AlreadyFinished) as refused:
            await store.tasks.patch(lives.QUEUE, task.id, lambda spec: spec, None)
        assert refused.value.members["task_status"] == ending.__name__


async def test_a_thousand_finished_tasks_are_purged_without_a_rest(store: Store, clock: Clock, redis: Redis) -> None:
    await lives.enqueue_many(store, 1000, retention_ms=20_000)
    for leased in await lives.take(store, 1000, poll_id="p"):
        await lives.complete(store, leased)
    clock.advance(20)
    while (await store.tasks.expire(lives.QUEUE)).purged:
        pass
    left = {key for key in await lives.keyspace(redis) if key not in _QUEUE_KEYS}
    # What a poll_id got is forgotten by its TTL.
    assert left == {f"tg:{lives.TAG}:poll:w1 p".encode()}
