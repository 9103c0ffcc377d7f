"""The register of queues: which there are, and what it costs to note them."""

from __future__ import annotations

import asyncio

from gateway.tasks import Queue
from tests.harness import Store


async def test_a_crowd_of_first_producers_is_noted_in_a_few_calls(store: Store) -> None:
    """Each call waits for the disk where Redis does: a thousand new queues must not wait one after the other."""
    queues = [Queue("default", f"q{number}") for number in range(200)]
    before = await _notes(store)
    await asyncio.gather(*(store.registry.register({queue}) for queue in queues))
    assert set(await store.registry.queues()) >= set(queues)
    assert all(store.registry.knows(queue) for queue in queues)
    assert await _notes(store) - before <= 3


async def test_a_queue_whose_note_was_refused_is_not_known_and_can_be_noted_again(store: Store) -> None:
    """Those who came while that call was under way are not refused with it."""
    first, second = Queue("default", "first"), Queue("default", "second")
    await store.redis.set(store.keys.queues, "in the way")
    begun = asyncio.gather(store.registry.register({first}), store.registry.register({second}), return_exceptions=True)
    assert all(isinstance(refusal, Exception) for refusal in await begun)
    assert not store.registry.knows(first)
    assert not store.registry.knows(second)
    await store.redis.delete(store.keys.queues)
    await asyncio.gather(store.registry.register({first}), store.registry.register({second}))
    assert await store.registry.queues() == [first, second]


async def _notes(store: Store) -> int:
    stats = await store.redis.info("commandstats")
    return int(stats.get("cmdstat_sadd", {}).get("calls", 0))
