"""A reply can be lost after the work was done: every script that changes something may be sent twice."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.store import arq_format, scripts
from gateway.store.keys import Keys
from gateway.tasks import LeasedTask, Status, TaskSpec, Unique
from tests import lives
from tests.harness import Clock, Store

_ULID = "01mcc5rm00" + "0" * 16
_ID = f"{lives.TAG}{_ULID}"
_PUBLIC_ID = f"demo~{_ULID}"
_SEED = "token-of-128-bits"


class Calls:
    """Sends scripts by hand, as a gateway does whose connection broke before the reply came."""

    def __init__(self, redis: Redis, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self._scripts = scripts.load(Keys())

    async def once(self, verb: str, *args: Any) -> list[Any]:
        return await self._redis.eval(self._scripts[verb].source, 1, lives.ARQ_QUEUE, self._clock.now_ms, *args)

    async def twice(self, verb: str, *args: Any) -> tuple[list[Any], list[Any]]:
        """Send the same call twice. The second must leave everything as the first left it."""
        first = await self.once(verb, *args)
        before = await _state(self._redis)
        second = await self.once(verb, *args)
        assert await _state(self._redis) == before
        return first, second

    async def enqueue(self, limit: int = 10, **members: Any) -> list[Any]:
        return await self.once("enqueue", *_enqueue(limit, **members))

    async def claim(self) -> list[Any]:
        return await self.once("claim", *_claim("p1"))


@pytest.fixture
def calls(redis: Redis, clock: Clock) -> Calls:
    return Calls(redis, clock)


async def _state(redis: Redis) -> dict[bytes, Any]:
    """Everything but the counter that only orders (gaps in it mean nothing) and whether a poll was recalled."""
    found = await lives.keyspace(redis)
    return {key: facts for key, facts in found.items() if not key.endswith(b":seq") and b":poll:" not in key}


def _enqueue(limit: int = 10, due: str = "", **members: Any) -> list[Any]:
    body = arq_format.encode_job(TaskSpec("demo", **members))
    return ["gw1", limit, 0, 1, _ID, 2, due, members.get("expires_in_ms", 0), 1, body, ""]


def _claim(poll_id: str) -> list[Any]:
    return ["gw1", 0, 0, 1, "w1", poll_id, 1, 0, _SEED, 0]


def _fail(delay_ms: int, retryable: int = 1) -> list[Any]:
    pairs, count = arq_format.failed_pairs("no", lives.ERROR)
    return ["gw1", 1, _ID, _SEED, retryable, delay_ms, lives.ERROR, lives.ERROR, 0, pairs, count]


def _complete() -> list[Any]:
    return ["gw1", 1, _ID, _SEED, *arq_format.completed_pairs(b"7")]


@pytest.mark.parametrize("due", ["", "+60000"])
async def test_enqueue(due: str, calls: Calls, store: Store) -> None:
    first, second = await calls.twice("enqueue", *_enqueue(due=due, expires_in_ms=90_000))
    assert first[4:] == second[4:]
    (stats,) = await store.inspector.stats([lives.QUEUE])
    assert stats.ready + stats.due == 1
    assert stats.totals == {"enqueued": 1}


async def test_enqueue_into_a_queue_that_it_filled_itself(calls: Calls) -> None:
    first, second = await calls.twice("enqueue", *_enqueue(limit=1))
    assert first[4:] == second[4:] == [0]


async def test_enqueue_of_a_task_that_was_claimed_meanwhile(calls: Calls, redis: Redis) -> None:
    await calls.enqueue()
    await calls.claim()
    before = await _state(redis)
    assert (await calls.enqueue())[4:] == [0]
    assert await _state(redis) == before


@pytest.mark.parametrize("limit", [10, 0])
async def test_enqueue_of_a_task_that_is_final_already_does_not_run_it_again(
    limit: int, calls: Calls, redis: Redis, store: Store
) -> None:
    await calls.enqueue()
    await calls.claim()
    await calls.once("complete", *_complete())
    before = await _state(redis)
    assert (await calls.enqueue(limit))[4:] == [0]
    assert await _state(redis) == before
    assert await lives.take(store) == []
    assert await lives.status_of(store, _PUBLIC_ID) is Status.COMPLETED


async def test_claim_with_a_poll_id(calls: Calls) -> None:
    await calls.enqueue()
    first, second = await calls.twice("claim", *_claim("p1"))
    assert first[7][0][:4] == second[7][0][:4]
    assert second[7][0][4] == _SEED.encode()


async def test_heartbeat(calls: Calls) -> None:
    await calls.enqueue()
    await calls.claim()
    first, second = await calls.twice("heartbeat", 1, _ID, _SEED, 5000, "1", 0)
    assert first[2] == second[2] == [b"ok", 5000, 0, b"w1"]


async def test_complete(calls: Calls, store: Store) -> None:
    await calls.enqueue()
    await calls.claim()
    first, second = await calls.twice("complete", *_complete())
    assert first[3][0] == second[3][0] == b"completed"
    (stats,) = await store.inspector.stats([lives.QUEUE])
    assert stats.totals == {"enqueued": 1, "completed": 1}


@pytest.mark.parametrize(
    ("delay_ms", "retryable", "word"), [(0, 1, "retrying"), (9000, 1, "retrying"), (0, 0, "failed")]
)
async def test_fail(delay_ms: int, retryable: int, word: str, calls: Calls) -> None:
    await calls.enqueue()
    await calls.claim()
    first, second = await calls.twice("fail", *_fail(delay_ms, retryable))
    assert first[3][:2] == second[3][:2]
    assert first[3][0] == word.encode()


@pytest.mark.parametrize("delay_ms", [0, 9000])
async def test_release(delay_ms: int, calls: Calls) -> None:
    await calls.enqueue()
    await calls.claim()
    first, second = await calls.twice("release", "gw1", 1, _ID, _SEED, delay_ms, "end", "")
    assert first[3] == second[3]


async def test_hand_back(calls: Calls) -> None:
    await calls.enqueue()
    await calls.claim()
    await calls.twice("release", "gw1", 1, _ID, _SEED, 0, "front", "w1 p1")


async def test_expire(calls: Calls, clock: Clock, store: Store) -> None:
    await calls.enqueue()
    await calls.claim()
    clock.advance(31)
    first, second = await calls.twice("expire", "gw1", 100)
    assert first[4] == 1
    assert second[4:] == [0] * len(second[4:])
    assert (await lives.read(store, _PUBLIC_ID)).attempt == 1


async def test_cancel(calls: Calls) -> None:
    await calls.enqueue()
    first, second = await calls.twice("cancel", 1, _ID)
    assert (first[2], second[2]) == (b"cancelled", b"was_cancelled")


async def test_cancel_of_a_running_task(calls: Calls) -> None:
    await calls.enqueue()
    await calls.claim()
    first, second = await calls.twice("cancel", 1, _ID)
    assert first[2] == second[2] == b"requested"


async def test_retry(calls: Calls) -> None:
    await calls.enqueue()
    await calls.once("cancel", 1, _ID)
    first, second = await calls.twice("retry", "gw1", 10, 1, _ID, 0)
    assert (first[3], second[3]) == (b"pending", b"live")


async def test_watch(calls: Calls) -> None:
    await calls.enqueue()
    await calls.twice("watch", "gw1", 5000, 1, _ID)


async def test_ring(calls: Calls) -> None:
    await calls.once("claim", "gw1", 0, 0, 1, "w1", "", 1, 0, _SEED, 1)
    await calls.twice("ring", "gw1")


# What a gateway does when it notices


async def test_an_idle_connection_that_broke_is_no_error(store: Store, redis: Redis) -> None:
    task = await lives.enqueue(store)
    leased = await lives.take_one(store)
    await redis.client_kill_filter(_type="normal", skipme=True)
    await lives.complete(store, leased)
    await redis.client_kill_filter(_type="normal", skipme=True)
    assert (await lives.read(store, task.id)).status is Status.COMPLETED
    await redis.client_kill_filter(_type="normal", skipme=True)
    await lives.enqueue(store)


async def test_scripts_that_redis_forgot_are_loaded_again(store: Store, redis: Redis, clock: Clock) -> None:
    async def forget() -> None:
        await redis.script_flush()

    await forget()
    task = await lives.enqueue(store)
    await forget()
    leased = await lives.take_one(store)
    await forget()
    await store.tasks.heartbeat(lives.QUEUE, task.id, leased.token)
    await forget()
    await lives.fail(store, leased, retry_in_ms=1000)
    await forget()
    clock.advance(1)
    await store.tasks.expire(lives.QUEUE)
    await forget()
    assert await lives.status_of(store, task.id) is Status.PENDING
    leased = await lives.take_one(store)
    await forget()
    await lives.release(store, leased)
    await forget()
    await store.tasks.cancel(lives.QUEUE, task.id)
    await forget()
    await store.tasks.retry(lives.QUEUE, task.id)
    await forget()
    assert len((await store.inspector.page([lives.QUEUE], lives.ANY, 10, None))[0]) == 1
    await forget()
    assert (await store.inspector.stats([lives.QUEUE]))[0].ready == 1
    await forget()
    assert await store.tasks.watch(lives.QUEUE, task.id, 1000) == 0
    await forget()
    await store.tasks.pass_ring_on(lives.QUEUE)
    leased = await lives.take_one(store)
    await forget()
    assert len(await store.tasks.leases(lives.QUEUE)) == 1
    await lives.complete(store, leased)


async def test_a_flood_of_calls_survives_script_flushes_and_does_each_once(store: Store, redis: Redis) -> None:
    done = asyncio.Event()

    async def flush() -> int:
        flushes = 0
        while not done.is_set():
            await redis.script_flush()
            flushes += 1
        return flushes

    async def live(number: int) -> LeasedTask:
        await lives.enqueue(store, payload=b"%d" % number)
        leased = await lives.take_one(store, worker_id=f"w{number}")
        await lives.complete(store, leased)
        return leased

    flushing = asyncio.create_task(flush())
    taken = await asyncio.gather(*(live(number) for number in range(300)))
    done.set()
    assert await flushing > 3
    assert sorted(int(one.task.spec.payload) for one in taken) == list(range(300))
    (stats,) = await store.inspector.stats([lives.QUEUE])
    assert stats.totals == {"enqueued": 300, "completed": 300}


async def test_a_repeated_enqueue_tells_when_the_task_is_due_as_the_first_did(calls: Calls, clock: Clock) -> None:
    first = await calls.enqueue(due="+5000")
    clock.advance(2)
    assert (await calls.enqueue(due="+5000"))[4:] == first[4:] == [clock.now_ms + 3000]
    clock.advance(4)
    await calls.claim()
    assert (await calls.enqueue(due="+5000"))[4:] == [0]
    await calls.once("complete", *_complete())
    assert (await calls.enqueue(due="+5000"))[4:] == [0]


async def test_a_record_of_a_job_is_what_arq_would_write_and_two_pairs_more(calls: Calls, redis: Redis) -> None:
    await calls.enqueue(payload=b'{"a": [1.0]}', title="t")
    job = msgspec.msgpack.decode(await redis.get(f"arq:job:{_ID}"))
    assert set(job) == {"t", "f", "a", "k", "et", "o", "m"}
    assert (job["t"], job["f"], job["a"], job["k"]) == (None, "demo", ['{"a": [1.0]}'], {})


async def test_a_replacement_is_known_again_when_a_worker_took_the_task_meanwhile(calls: Calls, store: Store) -> None:
    held = await lives.enqueue(store, payload=b"1", unique=Unique("k"))
    spec = TaskSpec("demo", b"2", unique=Unique("k", on_conflict="replace"))
    body, unique = arq_format.encode_job(spec), arq_format.encode_unique(spec.unique)
    given = ["gw1", 10, 0, 1, _ID, 2, "", 0, 1, body, unique]
    first = await calls.once("enqueue", *given)
    assert first[4].startswith(b"replaced ")
    leased = await lives.take_one(store)
    assert (leased.task.id, leased.task.spec.payload) == (held.id, b"2")
    second = await calls.once("enqueue", *given)
    assert second[4] == b"existing " + first[4].removeprefix(b"replaced ")
    other = [*given[:4], f"{lives.TAG}{_ULID[:-1]}1", *given[5:]]
    assert (await calls.once("enqueue", *other))[4].startswith(b"conflict "), "which is another request's"
