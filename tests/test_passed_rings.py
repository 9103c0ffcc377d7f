"""A ring that is passed on: what it takes from this gateway's registration, its polls get back."""

from __future__ import annotations

import asyncio
import contextlib

from gateway.store.calls import Claim
from gateway.task_manager import PollRequest, TaskManager
from gateway.tasks import Queue, TaskSpec
from tests.harness import Store

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
