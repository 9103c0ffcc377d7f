"""Whatever stands under arq's keys, one bad task ends failed and its queue goes on."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.errors import LeaseLost, TaskNotFound
from gateway.tasks import LeasedTask, Queue, Status, public_id
from tests import lives
from tests.harness import Clock, Store

_NOW_MS = 1_800_000_000_000


class Trap:
    """Unpickling it would do something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("/nonexistent/tasks-gateway-was-here", "w"))


def job(**changes: Any) -> bytes:
    """An arq job as msgpack, with some of its pairs changed."""
    return msgspec.msgpack.encode({"t": None, "f": "f", "a": [], "k": {}, "et": _NOW_MS, **changes})


# Nesting that no reader should follow to its end.
_DEEP = b"\x91" * 5000 + b"\xc0"

BODIES: dict[str, bytes] = {
    "an empty text": b"",
    "text": b"hello",
    "a pickle": pickle.dumps({"t": None, "f": "f", "a": (1,), "k": {}, "et": _NOW_MS}),
    "a pickle with a trap": pickle.dumps(Trap()),
    "a msgpack number": b"\x07",
    "a msgpack list": b"\x93\x01\x02\x03",
    "an empty msgpack map": b"\x80",
    "a msgpack map of other things": msgspec.msgpack.encode({"hello": "world"}),
    "a cut msgpack map": job()[:-5],
    "a msgpack map and more": job() + b"\x00",
    "a job without a time": msgspec.msgpack.encode({"t": None, "f": "f", "a": [], "k": {}}),
    "a job with a text for its time": job(et="now"),
    "a job with a negative time": job(et=-5),
    "a job with a number for its arguments": job(a=7),
    "a job with a number for its keywords": job(k=7),
    "a job with keywords that are no names": job(k={1: 2}),
    "a job with bytes that are no text": b"\x85\xa1t\xc0\xa1f\xa2\xff\xfe\xa1a\x90\xa1k\x80\xa2et\x01",
    "a job with options of another make": job(o=b"xyz"),
    "a job with our header cut": b"\x86\xa1o\xc4\x14" + b"\x00" * 5,
    "a job with facts of another make": job(m=7),
    "a job nested too deeply": b"\x85\xa1t\xc0\xa1f\xa1f\xa1a" + _DEEP + b"\xa1k\x80\xa2et\x01",
    "a job with infinity": job(a=[float("inf")]),
    "our job's header around nothing": b"\x81\xa1o\xc4\x14" + b"\x00" * 20,
}
# What is a job all the same, or JSON at least: it is handed out.
HARMLESS = {"a job with infinity", "a job with keywords that are no names", "a job with options of another make"}

every_body = pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in BODIES.items()])
every_bad_body = pytest.mark.parametrize(
    "body", [pytest.param(body, id=name) for name, body in BODIES.items() if name not in HARMLESS]
)
every_id = pytest.mark.parametrize(
    "arq_id", ["foreign", f"{lives.TAG}01mcc5rm000000000000000001"], ids=["foreign", "ours"]
)


async def put(redis: Redis, arq_id: str, body: bytes | None, score: float = _NOW_MS) -> str:
    """Enqueue as arq does, without arq. Returns the public id."""
    if body is not None:
        await redis.set(f"arq:job:{arq_id}", body, px=86_400_000)
    await redis.zadd(lives.ARQ_QUEUE, {arq_id: score})
    return public_id("demo", arq_id, lives.TAG)


async def looks_work(store: Store, task_id: str | None = None) -> None:
    """Lists, counts and single reads answer."""
    listed, _ = await store.inspector.page([lives.QUEUE], lives.ANY, 200, None)
    (stats,) = await store.inspector.stats([lives.QUEUE])
    assert stats.ready >= 0
    for task in listed:
        await lives.read(store, task.id)
    if task_id is not None:
        await lives.status_of(store, task_id)


@every_id
@every_bad_body
async def test_a_bad_body_ends_failed_as_corrupt_and_the_next_task_is_handed_out(
    body: bytes, arq_id: str, store: Store, redis: Redis, clock: Clock
) -> None:
    bad = await put(redis, arq_id, body)
    clock.advance(1)
    good = await lives.enqueue(store)
    await looks_work(store, bad)
    assert [one.task.id for one in await lives.take(store, 5)] == [good.id]
    await looks_work(store, bad)
    final = await lives.read(store, bad)
    assert final.status is Status.FAILED
    assert lives.error_type(final) == "corrupt"
    (stats,) = await store.inspector.stats([lives.QUEUE])
    assert (stats.ready, stats.leased, stats.failed) == (0, 1, 1)
    failed, _ = await store.inspector.page([lives.QUEUE], lives.ANY, 10, None)
    assert {task.id: task.status for task in failed} == {good.id: Status.PROCESSING, bad: Status.FAILED}
    clock.advance(2_592_000)
    await store.tasks.expire(lives.QUEUE)
    assert await lives.status_of(store, bad) is None
    assert [key for key in await redis.keys("*") if arq_id.encode() in key] == []


@every_id
@every_body
async def test_a_poll_for_one_task_passes_a_bad_one(body: bytes, arq_id: str, store: Store, redis: Redis) -> None:
    await put(redis, arq_id, body, score=0)
    good = await lives.enqueue(store)
    found = []
    for _ in range(2):
        found += await lives.take(store, 1)
    assert good.id in [one.task.id for one in found]


@every_id
@every_body
async def test_a_waiting_bad_task_can_be_listed_counted_and_cancelled(
    body: bytes, arq_id: str, store: Store, redis: Redis, clock: Clock
) -> None:
    bad = await put(redis, arq_id, body)
    await store.tasks.expire(lives.QUEUE)
    await looks_work(store, bad)
    assert await store.tasks.cancel(lives.QUEUE, bad) is True
    await looks_work(store, bad)
    assert await lives.status_of(store, bad) is Status.CANCELLED
    assert await lives.take(store, 5) == []


@every_id
async def test_an_id_without_a_body_ends_failed_as_corrupt(arq_id: str, store: Store, redis: Redis) -> None:
    bad = await put(redis, arq_id, None)
    good = await lives.enqueue(store)
    await looks_work(store, bad)
    assert [one.task.id for one in await lives.take(store, 5)] == [good.id]
    assert lives.error_type(await lives.read(store, bad)) == "corrupt"


async def _wrong_type(redis: Redis, key: str) -> None:
    await redis.delete(key)
    await redis.rpush(key, "this is a list")


@every_id
@pytest.mark.parametrize("prefix", ["job", "in-progress", "retry", "result"])
async def test_a_key_of_a_wrong_type_does_not_stop_the_queue(
    prefix: str, arq_id: str, store: Store, redis: Redis, clock: Clock
) -> None:
    bad = await put(redis, arq_id, job())
    await _wrong_type(redis, f"arq:{prefix}:{arq_id}")
    clock.advance(1)
    good = await lives.enqueue(store)
    await looks_work(store, bad)
    await store.tasks.expire(lives.QUEUE)
    taken = {one.task.id: one for one in await lives.take(store, 5)}
    assert good.id in taken
    await looks_work(store, bad)
    for one in taken.values():
        await lives.complete(store, one)
    await looks_work(store, bad)
    final = await lives.read(store, bad)
    assert final.status is (Status.FAILED if prefix == "job" else Status.COMPLETED)


@pytest.mark.parametrize("value", [b"abc", b"", b"9" * 30, b"1.5"])
async def test_a_count_of_attempts_that_is_no_number_starts_anew(value: bytes, store: Store, redis: Redis) -> None:
    await put(redis, "foreign", job())
    await redis.set("arq:retry:foreign", value)
    await looks_work(store)
    assert (await lives.take_one(store)).task.attempt == 1


async def _spoil(redis: Redis, key: str, how: str) -> None:
    if how == "gone":
        await redis.delete(key)
    elif how == "list":
        await _wrong_type(redis, key)
    else:
        await redis.set(key, {"text": b"garbage", "empty": b"", "other": msgspec.msgpack.encode({"a": 1})}[how])


@pytest.mark.parametrize("how", ["gone", "list", "text", "empty", "other"])
async def test_a_lease_record_that_was_destroyed_ends_its_task_as_corrupt_and_no_other(
    how: str, store: Store, redis: Redis, clock: Clock
) -> None:
    bad, good = await lives.enqueue_many(store, 2)
    taken = {one.task.id: one for one in await lives.take(store, 2)}
    await _spoil(redis, f"arq:in-progress:{store.tasks.arq_id(lives.QUEUE, bad.id).decode()}", how)
    await looks_work(store, bad.id)
    assert good.id in [lease.task_id for lease in await store.tasks.leases(lives.QUEUE)]
    for report in (lives.complete, lives.fail, lives.release):
        with pytest.raises(LeaseLost):
            await report(store, taken[bad.id])
    with pytest.raises(LeaseLost):
        await store.tasks.heartbeat(lives.QUEUE, bad.id, taken[bad.id].token)
    await lives.complete(store, taken[good.id])
    clock.advance(31)
    await store.tasks.expire(lives.QUEUE)
    final = await lives.read(store, bad.id)
    assert final.status is Status.FAILED
    assert lives.error_type(final) == "corrupt"
    assert final.spec.payload == b"0"


@pytest.mark.parametrize("how", ["gone", "list", "text", "empty", "other"])
async def test_a_job_body_that_was_destroyed_while_it_ran_stops_nothing(
    how: str, store: Store, redis: Redis, clock: Clock
) -> None:
    await lives.enqueue_many(store, 6)
    taken = await lives.take(store, 6)
    for one in taken[:5]:
        await _spoil(redis, f"arq:job:{store.tasks.arq_id(lives.QUEUE, one.task.id).decode()}", how)
    await looks_work(store)
    done, failing, over, released, lapsing, good = taken
    for report in (
        lives.complete(store, done), lives.fail(store, failing, retry_in_ms=0),
        lives.fail(store, over, retryable=False), lives.release(store, released),
    ):  # fmt: skip
        try:
            await report
        except (LeaseLost, TaskNotFound):
            pass
    await lives.complete(store, good)
    await looks_work(store)
    clock.advance(31)
    await store.tasks.expire(lives.QUEUE)
    clock.advance(1)
    await store.tasks.expire(lives.QUEUE)
    await looks_work(store, lapsing.task.id)
    assert await lives.take(store, 10) == []
    (stats,) = await store.inspector.stats([lives.QUEUE])
    assert (stats.ready, stats.leased) == (0, 0)


async def test_a_job_body_that_was_destroyed_while_it_ran_lets_its_concurrency_key_go(
    store: Store, redis: Redis, clock: Clock
) -> None:
    first, second = [await lives.enqueue(store, concurrency_key="c") for _ in range(2)]
    leased = await lives.take_one(store)
    await redis.delete(f"arq:job:{store.tasks.arq_id(lives.QUEUE, first.id).decode()}")
    clock.advance(31)
    await store.tasks.expire(lives.QUEUE)
    assert leased.task.id == first.id
    assert (await lives.take_one(store)).task.id == second.id


@pytest.mark.parametrize("how", ["list", "text", "empty", "other"])
async def test_a_result_that_was_destroyed_is_gone_and_stops_nothing(
    how: str, store: Store, redis: Redis, clock: Clock
) -> None:
    bad = await lives.enqueue(store, retention_ms=50_000)
    leased = await lives.take_one(store)
    await lives.complete(store, leased)
    good = await lives.enqueue(store)
    await _spoil(redis, f"arq:result:{store.tasks.arq_id(lives.QUEUE, bad.id).decode()}", how)
    await looks_work(store, bad.id)
    nobody = LeasedTask(bad, "another", 0)
    for attempt in (lives.complete(store, leased), lives.fail(store, nobody), lives.release(store, nobody)):
        with pytest.raises((LeaseLost, TaskNotFound)):
            await attempt
    for verb in (store.tasks.cancel, store.tasks.retry):
        with pytest.raises(TaskNotFound):
            await verb(lives.QUEUE, bad.id)
    assert (await lives.take_one(store)).task.id == good.id
    clock.advance(50)
    await store.tasks.expire(lives.QUEUE)
    (stats,) = await store.inspector.stats([lives.QUEUE])
    assert stats.completed == 0


async def test_a_corrupt_task_can_be_sent_back_and_ends_corrupt_again_or_runs(store: Store, redis: Redis) -> None:
    """An operator may try; nothing breaks."""
    bad = await put(redis, "foreign", b"garbage")
    await lives.take(store)
    await store.tasks.retry(lives.QUEUE, bad)
    await looks_work(store, bad)
    for one in await lives.take(store):
        await lives.complete(store, one)
    assert await lives.status_of(store, bad) in (Status.FAILED, Status.COMPLETED)


async def test_foreign_keys_beside_ours_are_left_alone(store: Store, redis: Redis, clock: Clock) -> None:
    await redis.set("arq:job:someone-elses", b"x", px=86_400_000)
    await redis.set("arq:health-check", b"x")
    await redis.zadd("arq:queue", {"someone-elses": 1})
    before = await lives.keyspace(redis)
    task = await lives.enqueue(store, retention_ms=10_000)
    await lives.complete(store, await lives.take_one(store))
    clock.advance(10)
    await store.tasks.expire(lives.QUEUE)
    assert await lives.status_of(store, task.id) is None
    after = await lives.keyspace(redis)
    assert {key: after[key] for key in before} == before


@pytest.mark.parametrize("arq_id", ["order-1", "{default:other}" + "1" * 26])
async def test_an_id_that_another_queue_chose_names_nothing_here(
    arq_id: str, store: Store, redis: Redis, clock: Clock
) -> None:
    """arq's keys do not tell the queue of a job: an id of ours must not open a task of another queue or tenant."""
    other = Queue("tenant2", "other")
    await redis.set(f"arq:job:{arq_id}", job())
    await redis.zadd("arq:queue:{tenant2:other}", {arq_id: _NOW_MS})
    here = public_id("demo", arq_id, lives.TAG)
    clock.advance(1)

    async def nothing_is_known_here() -> None:
        before = await lives.keyspace(redis)
        with pytest.raises(TaskNotFound):
            await lives.read(store, here)
        for verb in (store.tasks.cancel, store.tasks.retry):
            with pytest.raises(TaskNotFound):
                await verb(lives.QUEUE, here)
        assert await lives.keyspace(redis) == before

    await nothing_is_known_here()
    (leased,) = await lives.take(store, queue=other)
    await nothing_is_known_here()
    await store.tasks.fail(other, leased.task.id, leased.token, lives.ERROR, lives.ERROR, "no", retryable=False)
    await nothing_is_known_here()
    assert (await lives.read(store, leased.task.id, other)).status is Status.FAILED
