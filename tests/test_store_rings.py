"""The registry of waiting gateways: a task rings one of them, and nobody when nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from gateway.store.calls import Claim
from gateway.store.calls import Nobody as Silence
from gateway.tasks import Queue, TaskSpec
from tests import lives
from tests.harness import Clock, Store, wait_until


class Heard(Silence):
    """Notes what a store's own replies told of ready tasks."""

    def __init__(self) -> None:
        self.ready_tasks: list[int] = []

    def ready(self, queue: Queue, tasks: int) -> None:
        self.ready_tasks.append(tasks)


class Bells:
    """Hears every ring of every gateway."""

    def __init__(self, pubsub: PubSub, redis: Redis) -> None:
        self._pubsub = pubsub
        self._redis = redis

    async def rung(self) -> list[tuple[str, str]]:
        """What was rung since the last look: gateway, words. A message of our own marks the end."""
        await self._redis.publish("tg:ring:", "end")
        found = []
        while True:
            message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=5)
            if message is None:
                continue
            if message["data"] == b"end":
                return found
            found.append((message["channel"].decode().removeprefix("tg:ring:"), message["data"].decode()))


@pytest_asyncio.fixture
async def bells(redis: Redis) -> AsyncIterator[Bells]:
    async with redis.pubsub() as pubsub:
        await pubsub.psubscribe("tg:ring:*")
        yield Bells(pubsub, redis)


@pytest_asyncio.fixture
async def stores(redis_url: str, clock: Clock) -> AsyncIterator[dict[str, Store]]:
    """Three gateways, and one that only enqueues."""
    async with contextlib.AsyncExitStack() as stack:
        found = {}
        for name in ("a", "b", "c", "producer"):
            found[name] = Store(redis_url, clock, gateway=name)
            stack.push_async_callback(found[name].close)
        yield found


async def wait(store: Store, polls: int = 1, waited_ms: int = 0, queue: Queue = lives.QUEUE) -> bool:
    """Let a gateway look for so many polls that find nothing and wait on."""
    claims = [Claim(f"w{number}", 1) for number in range(polls)]
    claimed = await store.tasks.claim(queue, claims, stays=True, others=0, waited_ms=waited_ms)
    return claimed.registered


def ready(tasks: int, tag: str = lives.TAG) -> str:
    return f"ready {tasks} {tag}"


async def test_nobody_is_rung_when_nobody_waits(stores: dict[str, Store], bells: Bells) -> None:
    await lives.enqueue(stores["producer"])
    assert await bells.rung() == []


async def test_one_waiting_gateway_is_rung_and_its_registration_used_up(
    stores: dict[str, Store], bells: Bells, redis: Redis
) -> None:
    assert await wait(stores["a"])
    await lives.enqueue(stores["producer"])
    assert await bells.rung() == [("a", ready(1))]
    assert await redis.exists(f"tg:{lives.TAG}:waiting", f"tg:{lives.TAG}:wants") == 0
    await lives.enqueue(stores["producer"])
    assert await bells.rung() == []


async def test_the_gateway_whose_poll_waits_longest_is_rung_first(
    stores: dict[str, Store], bells: Bells, clock: Clock
) -> None:
    await wait(stores["a"], waited_ms=100)
    await wait(stores["b"], waited_ms=5000)
    clock.advance(1)
    await wait(stores["c"], waited_ms=3000)
    for _ in range(4):
        await lives.enqueue(stores["producer"])
    assert [gateway for gateway, _ in await bells.rung()] == ["b", "c", "a"]


async def test_a_batch_rings_as_many_gateways_as_it_takes(stores: dict[str, Store], bells: Bells) -> None:
    await wait(stores["a"], polls=3, waited_ms=300)
    await wait(stores["b"], polls=2, waited_ms=200)
    await wait(stores["c"], polls=2, waited_ms=100)
    await lives.enqueue_many(stores["producer"], 4)
    assert await bells.rung() == [("a", ready(3)), ("b", ready(1))]
    await lives.enqueue(stores["producer"])
    assert await bells.rung() == [("c", ready(1))]


async def test_a_gateway_that_waits_itself_is_told_in_the_reply(stores: dict[str, Store], bells: Bells) -> None:
    heard = stores["a"].tasks.listener = Heard()
    await wait(stores["a"], polls=2)
    await lives.enqueue_many(stores["a"], 3)
    assert heard.ready_tasks == [2]
    assert await bells.rung() == []


async def test_a_scheduled_task_rings_when_it_is_due_not_when_it_is_made(
    stores: dict[str, Store], bells: Bells, clock: Clock
) -> None:
    await wait(stores["a"])
    await lives.enqueue(stores["producer"], delay_ms=1000)
    assert await bells.rung() == []
    clock.advance(1)
    await stores["producer"].tasks.expire(lives.QUEUE)
    assert await bells.rung() == [("a", ready(1))]


@pytest.mark.parametrize("how", ["release", "fail", "lapse", "retry"])
async def test_a_task_that_comes_back_rings(how: str, stores: dict[str, Store], bells: Bells, clock: Clock) -> None:
    store = stores["producer"]
    task = await lives.enqueue(store)
    leased = await lives.take_one(store)
    await wait(stores["a"])
    if how == "release":
        await lives.release(store, leased)
    elif how == "fail":
        await lives.fail(store, leased, retry_in_ms=0)
    elif how == "lapse":
        clock.advance(31)
        await store.tasks.expire(lives.QUEUE)
    else:
        await lives.fail(store, leased, retryable=False)
        assert await bells.rung() == []
        await store.tasks.retry(lives.QUEUE, task.id)
    assert await bells.rung() == [("a", ready(1))]


async def test_a_registration_of_long_ago_is_not_rung(stores: dict[str, Store], bells: Bells, clock: Clock) -> None:
    await wait(stores["a"])
    clock.advance(600)
    await wait(stores["b"])
    await lives.enqueue(stores["producer"])
    assert await bells.rung() == [("b", ready(1))]


async def test_a_gateway_that_got_a_task_does_not_stand_registered(stores: dict[str, Store], redis: Redis) -> None:
    await lives.enqueue_many(stores["producer"], 3)
    assert not await wait(stores["a"])
    assert await redis.exists(f"tg:{lives.TAG}:waiting") == 0


async def test_a_poll_that_does_not_wait_does_not_register(stores: dict[str, Store], redis: Redis) -> None:
    await lives.take(stores["a"])
    assert await redis.keys("*") == []


async def test_a_gateway_whose_polls_left_passes_the_ring_on(stores: dict[str, Store], bells: Bells) -> None:
    await wait(stores["a"], waited_ms=500)
    await wait(stores["b"], waited_ms=100)
    await lives.enqueue(stores["producer"])
    assert await bells.rung() == [("a", ready(1))]
    await stores["a"].tasks.pass_ring_on(lives.QUEUE)
    assert await bells.rung() == [("b", ready(1))]


async def test_rings_name_their_queue(stores: dict[str, Store], bells: Bells) -> None:
    other = Queue("default", "other.type:x")
    await wait(stores["a"], queue=other)
    await wait(stores["b"])
    await stores["producer"].tasks.enqueue(other, [TaskSpec("other.type:x")])
    assert await bells.rung() == [("a", ready(1, "{default:other.type:x}"))]


async def test_the_end_of_a_watched_task_is_told_once_to_each_who_waits(
    stores: dict[str, Store], bells: Bells, redis: Redis
) -> None:
    first, second = await lives.enqueue_many(stores["producer"], 2)
    for name in ("a", "b"):
        assert await stores[name].tasks.watch(lives.QUEUE, first.id, 5000) == 0
    one, two = await lives.take(stores["c"], 2)
    await lives.complete(stores["c"], two)
    assert await bells.rung() == []
    await lives.complete(stores["c"], one)
    arq_id = stores["a"].tasks.arq_id(lives.QUEUE, first.id).decode()
    assert sorted(await bells.rung()) == [("a", f"final {arq_id}"), ("b", f"final {arq_id}")]
    assert await redis.exists(f"tg:{lives.TAG}:watch") == 0
    assert await stores["a"].tasks.watch(lives.QUEUE, first.id, 5000) == 1
    assert await stores["a"].tasks.watch(lives.QUEUE, second.id, 5000) == 1


async def test_a_watch_does_not_outlive_its_time(stores: dict[str, Store], redis: Redis) -> None:
    task = await lives.enqueue(stores["producer"])
    await stores["a"].tasks.watch(lives.QUEUE, task.id, 5000)
    assert 0 < await redis.pttl(f"tg:{lives.TAG}:watch") <= 5000


async def test_rings_reach_the_right_gateway_through_its_one_subscription(stores: dict[str, Store]) -> None:
    from gateway.store.wakeups import Wakeups

    heard: list[tuple[str, object]] = []

    class Manager:
        def ready(self, queue: Queue, tasks: int) -> None:
            heard.append(("ready", (queue, tasks)))

        def final(self, arq_id: str) -> None:
            heard.append(("final", arq_id))

        def directives_changed(self) -> None:
            heard.append(("directives", None))

        def resumed(self) -> None:
            heard.append(("resumed", None))

    store = stores["a"]
    listening = asyncio.create_task(Wakeups(store.redis, store.keys, "a", Manager()).run())
    try:
        await wait_until(lambda: heard == [("resumed", None)])
        await wait(store)
        task = await lives.enqueue(stores["producer"])
        await wait_until(lambda: heard[1:] == [("ready", (lives.QUEUE, 1))])
        await store.tasks.watch(lives.QUEUE, task.id, 5000)
        await stores["b"].tasks.cancel(lives.QUEUE, task.id)
        await wait_until(lambda: heard[2:] == [("final", store.tasks.arq_id(lives.QUEUE, task.id))])
        await stores["b"].registry.direct("default", "w1", "drain")
        await wait_until(lambda: heard[3:] == [("directives", None)])
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
