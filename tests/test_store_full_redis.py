"""Redis is full (maxmemory, noeviction): new tasks are refused whole, running work still ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.errors import QueueFull, StoreFull, StoreUnavailable
from gateway.store.idempotency import Idempotency, Made
from gateway.tasks import Status, TaskSpec
from tests import lives
from tests.harness import Clock, RedisServer, Store, live_gateway


class FullStore(Store):
    """A store whose Redis can be filled."""

    async def fill(self) -> None:
        """Let Redis take no more."""
        await self.redis.config_set("maxmemory-policy", "noeviction")
        await self.redis.config_set("maxmemory", 1)

    async def empty(self) -> None:
        """Let Redis take more again."""
        await self.redis.config_set("maxmemory", 0)


@pytest_asyncio.fixture
async def full(private_redis: RedisServer, clock: Clock) -> AsyncIterator[FullStore]:
    one = FullStore(private_redis.url, clock, queue_limit=10)
    yield one
    await one.close()


async def keys_of(redis: Redis) -> dict[bytes, tuple[str, object, bool]]:
    return await lives.keyspace(redis)


async def test_enqueue_is_refused_and_nothing_is_half_written(full: FullStore) -> None:
    await lives.enqueue(full)
    await full.fill()
    before = await keys_of(full.redis)
    for specs in ([TaskSpec("demo")], [TaskSpec("demo", delay_ms=5, expires_in_ms=9, tags={"a": "b"})] * 5):
        with pytest.raises(StoreFull):
            await full.tasks.enqueue(lives.QUEUE, specs)
    assert await keys_of(full.redis) == before


async def test_enqueue_is_refused_also_where_other_tasks_come_due(full: FullStore, clock: Clock) -> None:
    await lives.enqueue(full, delay_ms=1000)
    await full.redis.set("arq:job:foreign", b"\x85", px=86_400_000)
    await full.redis.zadd(lives.ARQ_QUEUE, {"foreign": clock.now_ms + 500})
    clock.advance(1)
    await full.fill()
    before = await keys_of(full.redis)
    with pytest.raises(StoreFull):
        await full.tasks.enqueue(lives.QUEUE, [TaskSpec("demo")])
    assert await keys_of(full.redis) == before


async def test_a_repeated_call_does_not_deny_what_its_first_try_stored(full: FullStore) -> None:
    """The reply of the first try is lost, and when the gateway sends it again Redis is full."""
    cut = asyncio.Event()
    passed: list[asyncio.Task[None]] = []

    async def requests(reader: asyncio.StreamReader, forth: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            forth.write(piece)
        forth.close()

    async def replies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_unix_connection(full.redis.connection_pool.connection_kwargs["path"])
        asking = asyncio.create_task(requests(reader, forth))
        while piece := await back.read(1 << 16):
            if cut.is_set():
                cut.clear()
                await full.fill()
                break
            writer.write(piece)
        writer.close()
        await asking
        await asyncio.gather(writer.wait_closed(), forth.wait_closed())

    place = f"/tmp/tg-relay-{os.getpid()}.sock"
    server = await asyncio.start_unix_server(
        lambda *streams: passed.append(asyncio.ensure_future(replies(*streams))), place
    )
    async with server:
        behind = Store(f"unix://{place}", queue_limit=10)
        await lives.enqueue(behind)
        cut.set()
        with pytest.raises(StoreUnavailable) as refused:
            await behind.tasks.enqueue(lives.QUEUE, [TaskSpec("demo")])
        await behind.close()
        await asyncio.gather(*passed)
    os.unlink(place)
    assert not isinstance(refused.value, StoreFull)
    assert await full.redis.zcard(lives.ARQ_QUEUE) == 2


async def test_a_queue_at_its_bound_says_so_even_then(full: FullStore) -> None:
    await lives.enqueue_many(full, 10)
    await full.fill()
    (refused,) = await full.tasks.enqueue(lives.QUEUE, [TaskSpec("demo")])
    assert isinstance(refused, QueueFull)


async def test_a_new_queue_is_refused(full: FullStore) -> None:
    await full.fill()
    with pytest.raises(StoreFull):
        await full.registry.register({lives.QUEUE})
    await full.empty()
    await full.registry.register({lives.QUEUE})
    assert await full.registry.queues() == [lives.QUEUE]


async def test_claims_and_reports_still_work(full: FullStore, clock: Clock) -> None:
    tasks = await lives.enqueue_many(full, 6)
    done, failing, over, released, cancelled, lapsing = tasks
    await full.fill()
    taken = {one.task.id: one for one in await lives.take(full, 6, poll_id="p")}
    assert len(taken) == 6
    await full.tasks.heartbeat(lives.QUEUE, done.id, taken[done.id].token, progress=b"1", lines=["x" * 1000])
    assert (await lives.complete(full, taken[done.id], b'"%s"' % (b"x" * 100_000))).status is Status.COMPLETED
    assert (await lives.fail(full, taken[failing.id], retry_in_ms=1000)).status is Status.RETRYING
    assert (await lives.fail(full, taken[over.id], retryable=False)).status is Status.FAILED
    assert (await lives.release(full, taken[released.id])).status is Status.PENDING
    assert await full.tasks.cancel(lives.QUEUE, cancelled.id) is False
    assert (await lives.release(full, taken[cancelled.id])).status is Status.CANCELLED
    assert await full.tasks.cancel(lives.QUEUE, released.id) is True
    clock.advance(31)
    swept = await full.tasks.expire(lives.QUEUE)
    assert (swept.lapsed, swept.promoted) == (1, 1)
    for task, status in (
        (done, Status.COMPLETED), (failing, Status.PENDING), (over, Status.FAILED), (released, Status.CANCELLED),
        (cancelled, Status.CANCELLED), (lapsing, Status.PENDING),
    ):  # fmt: skip
        assert await lives.status_of(full, task.id) is status
    assert await full.tasks.watch(lives.QUEUE, lapsing.id, 1000) == 0
    (stats,) = await full.inspector.stats([lives.QUEUE])
    assert (stats.ready, stats.completed, stats.failed, stats.cancelled) == (2, 1, 1, 2)


async def test_an_operators_retry_is_refused_whole_or_done_whole(full: FullStore) -> None:
    task = await lives.enqueue(full)
    await full.tasks.cancel(lives.QUEUE, task.id)
    await full.fill()
    before = await keys_of(full.redis)
    with pytest.raises(StoreFull):
        await full.tasks.retry(lives.QUEUE, task.id)
    assert await keys_of(full.redis) == before
    await full.empty()
    await full.tasks.retry(lives.QUEUE, task.id)
    assert await lives.status_of(full, task.id) is Status.PENDING


async def test_finished_tasks_are_purged_and_make_room(full: FullStore, clock: Clock) -> None:
    task = await lives.enqueue(full, retention_ms=10_000)
    await lives.complete(full, await lives.take_one(full))
    await full.fill()
    clock.advance(10)
    assert (await full.tasks.expire(lives.QUEUE)).purged == 1
    assert await lives.status_of(full, task.id) is None


async def test_a_poll_that_finds_nothing_still_registers(full: FullStore) -> None:
    from gateway.store.calls import Claim

    await full.fill()
    claimed = await full.tasks.claim(lives.QUEUE, [Claim("w1", 1)], stays=True, others=0, waited_ms=0)
    assert claimed.registered


@pytest.mark.parametrize("known", [False, True])
async def test_a_gateway_starts_over_a_full_redis_and_reports_work(private_redis: RedisServer, known: bool) -> None:
    async with Redis(unix_socket_path=str(private_redis.socket)) as redis:
        if known:
            async with live_gateway(private_redis.url) as gateway:
                await gateway.enqueue()
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.config_set("maxmemory", 1)
        async with live_gateway(private_redis.url) as gateway:
            assert (await gateway.get("/health/ready")).status_code == 200
            assert (await gateway.post("/tasks", {"job_type": "demo"})).json()["code"] == "store_full"
            if known:
                (task,) = await gateway.poll()
                assert (await gateway.report(task, "complete")).status_code == 200


async def test_an_idempotency_key_of_what_was_made_before_redis_filled_up_is_finished(full: FullStore) -> None:
    keys = Idempotency(full.redis, full.keys, None)
    await keys.begin("default", "key", [b"request"], ["one"])
    await full.fill()
    await keys.finish("default", "key", Made(("one",), 201, "demo~one", b"{}"))
    done, made = await keys.begin("default", "key", [b"request"], ["two"])
    assert (done, made.task_id, made.body) == (True, "demo~one", b"{}")
    assert await full.redis.pttl(full.keys.idempotency("default", "key")) > 0


async def test_a_request_that_met_a_full_redis_is_repeated_with_the_ids_of_its_first_try(full: FullStore) -> None:
    keys = Idempotency(full.redis, full.keys, None)
    await keys.begin("default", "key", [b"request"], ["one"])
    await full.fill()
    await keys.pause("default", "key")
    await full.empty()
    assert await keys.begin("default", "key", [b"request"], ["two"]) == (False, Made(("one",)))
    assert await full.redis.pttl(full.keys.idempotency("default", "key")) > 0
