"""A ring that is passed on: what it takes from this gateway's registration, its polls get back."""

from __future__ import annotations

import asyncio
import contextlib

from gateway.store.calls import Claim
from gateway.task_manager import PollRequest, TaskManager
from gateway.tasks import Queue, TaskSpec
from tests.harness import Store, wait_until

_QUEUE = Queue("default", "demo")


async def test_a_poll_that_opens_while_a_ring_is_passed_on_still_hears_the_next_task(redis_url: str) -> None:
    """No rechecks run here: a poll that Redis does not know of would wait for ever."""
    here, there = Store(redis_url, gateway="here"), Store(redis_url, gateway="there")
    manager = TaskManager(here.tasks, here.registry, 10)
    here.tasks.listener = manager
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(here.close)
        stack.push_async_callback(there.close)
        async with here.redis.pubsub() as pubsub:
            await pubsub.subscribe("tg:ring:here")
            for _ in range(10):
                polls = [
                    asyncio.create_task(manager.poll(PollRequest("default", f"w{n}", (_QUEUE,))).tasks())
                    for n in range(2)
                ]
                # A ring from before, for a poll that has left: nobody waits yet when it comes.
                manager.ready(_QUEUE, 1)
                await manager.settle()
                # Behind the polls' own looks in the same lane: when it is answered, so are they.
                await here.tasks.claim(_QUEUE, [Claim("probe", 1)], stays=False, others=0, waited_ms=0)
                await manager.settle()
                await there.tasks.enqueue(_QUEUE, [TaskSpec("demo"), TaskSpec("demo")])
                async with asyncio.timeout(5):
                    while not all(poll.done() for poll in polls):
                        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=0.05)
                        if message is not None:
                            manager.ready(_QUEUE, int(message["data"].split()[1]))
                assert [len(poll.result()) for poll in polls] == [1, 1]
    manager.close()


async def test_a_ring_for_a_poll_that_another_queue_served_meanwhile_is_passed_on(redis_url: str) -> None:
    other = Queue("default", "other")
    here, there = Store(redis_url, gateway="here"), Store(redis_url, gateway="there")
    manager = TaskManager(here.tasks, here.registry, 10)
    here.tasks.listener = manager
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(here.close)
        stack.push_async_callback(there.close)
        async with here.redis.pubsub() as pubsub:
            await pubsub.subscribe("tg:ring:here", "tg:ring:there")
            poll = asyncio.create_task(manager.poll(PollRequest("default", "w", (other, _QUEUE))).tasks())

            async def waits_for(queue: Queue) -> bool:
                return bool(await here.redis.zscore(f"tg:{{default:{queue.job_type}}}:waiting", "here"))

            await wait_until(lambda: waits_for(_QUEUE))
            await there.tasks.claim(_QUEUE, [Claim("w2", 1)], stays=True, others=0, waited_ms=0)
            for queue in (other, _QUEUE):
                await there.tasks.enqueue(queue, [TaskSpec(queue.job_type)])
            # Both ring here, at one moment: the poll is served from the other queue, and busy when this one rings.
            manager.ready(other, 1)
            manager.ready(_QUEUE, 1)
            assert [leased.task.spec.job_type for leased in await poll] == ["other"]
            async with asyncio.timeout(5):
                heard = ""
                while heard != "tg:ring:there":
                    message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=0.05)
                    heard = message["channel"].decode() if message is not None else ""
    manager.close()
    await manager.settle()


async def test_who_signs_off_waits_for_the_claims_under_way_and_not_for_later_ones(redis_url: str) -> None:
    """On a busy gateway there is always a claim under way."""
    store = Store(redis_url)
    manager = TaskManager(store.tasks, store.registry, 10)
    done: list[int] = []

    async def claims(number: int) -> None:
        await store.tasks.claim(_QUEUE, [Claim("w", 1)], stays=False, others=0, waited_ms=0)
        done.append(number)
        if not manager.closed:
            manager._spawn(claims(number + 1))

    manager._spawn(claims(0))
    async with asyncio.timeout(5):
        await manager.settle()
    assert 0 in done
    manager.close()
    await manager.settle()
    assert not manager._tasks
    await store.close()
