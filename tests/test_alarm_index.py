"""The index of alarms that gateways share: what one knew of, another meets when the first is dead."""

from __future__ import annotations

import asyncio
import datetime
import signal
from pathlib import Path

import httpx
from redis.asyncio import Redis

from gateway.background import Sweeper
from gateway.tasks import Queue
from tests.harness import Clock, GatewayProcess, Store, wait_until

_A, _B = Queue("default", "a"), Queue("default", "b")
_AHEAD_MS, _LEFT_MS = 500, 700


async def look(
    store: Store, noted: dict[Queue, int] | None = None, settled: dict[Queue, tuple[int, int]] | None = None
) -> list[tuple[Queue, int, int]]:
    """Note and settle alarms, and take what is due."""
    return await store.tasks.take_alarms(noted or {}, settled or {}, _AHEAD_MS, _LEFT_MS, 100)


async def test_an_alarm_is_taken_by_one_when_it_is_nearly_due(store: Store, clock: Clock) -> None:
    at_ms = clock() + 2000
    assert await look(store, {_A: at_ms, _B: at_ms + 60_000}) == []
    clock.advance(1.4)
    assert await look(store) == []
    clock.advance(0.1)
    assert await look(store) == [(_A, at_ms, at_ms + _LEFT_MS)]
    assert await look(store) == [], "it is left to who took it"


async def test_an_alarm_whose_taker_says_nothing_more_is_taken_again(store: Store, clock: Clock) -> None:
    at_ms = clock()
    await look(store, {_A: at_ms})
    clock.advance(_LEFT_MS / 1000)
    assert await look(store) == [(_A, clock(), clock() + _LEFT_MS)], "to be swept at once"


async def test_what_the_taker_says_of_the_next_alarm_counts(store: Store, clock: Clock) -> None:
    ((_, _, left_until_ms),) = await look(store, {_A: clock()})
    next_ms = clock() + 5000
    await look(store, settled={_A: (left_until_ms, next_ms)})
    clock.advance(4)
    assert await look(store) == []
    clock.advance(1)
    ((_, at_ms, left_until_ms),) = await look(store)
    assert at_ms == next_ms
    await look(store, settled={_A: (left_until_ms, 0)})
    clock.advance(3600)
    assert await look(store) == [], "there is none any more"


async def test_an_alarm_noted_while_a_taker_sweeps_is_not_forgotten_for_what_the_taker_saw(
    store: Store, clock: Clock
) -> None:
    """The sweep may have come before the lease that the note tells of."""
    ((_, _, left_until_ms),) = await look(store, {_A: clock()})
    await look(store, {_A: clock() + 30_000})
    await look(store, settled={_A: (left_until_ms, 0)})
    clock.advance(_LEFT_MS / 1000)
    assert [queue for queue, *_ in await look(store)] == [_A]


async def test_an_alarm_noted_while_a_taker_sweeps_makes_no_other_gateway_sweep_beside_it(
    store: Store, clock: Clock
) -> None:
    ((_, _, left_until_ms),) = await look(store, {_A: clock()})
    assert await look(store, {_A: clock() + 50}) == []
    assert await look(store, settled={_A: (left_until_ms, clock() + 20)}) != [], "its taker goes on"


async def test_only_a_sooner_alarm_takes_the_place_of_one(store: Store, clock: Clock) -> None:
    await look(store, {_A: clock() + 3000})
    await look(store, {_A: clock() + 9000})
    await look(store, {_A: clock() + 2000})
    clock.advance(1.5)
    ((_, at_ms, _),) = await look(store)
    assert at_ms == clock() + 500


async def test_leases_of_many_queues_lapse_on_time_when_gateway_and_worker_died_together(
    redis_url: str, redis: Redis, tmp_path: Path
) -> None:
    queues = 200  # the round of sweeps alone would need eight seconds for them
    first = GatewayProcess(redis_url, tmp_path)
    second = GatewayProcess(redis_url, tmp_path)
    try:
        await first.start()
        async with httpx.AsyncClient(base_url=first.url, timeout=30) as client:
            names = [f"q{number}" for number in range(queues)]
            made = await client.post("/tasks", json=[{"job_type": name, "lease_seconds": 6} for name in names])
            assert made.status_code == 201
            for name in names:
                got = await client.post("/poll", json={"worker_id": "w", "task_type": name, "wait": 0})
                assert len(got.json()["tasks"]) == 1

            async def noted() -> bool:
                return bool(await redis.zcard("tg:{alarms}:next") == queues)

            await wait_until(noted)
        await second.start()
        await first.end(signal.SIGKILL)
        async with httpx.AsyncClient(base_url=second.url, timeout=30) as client:

            async def all_back() -> bool:
                listed = (await client.get("/queues")).json()["queues"]
                return sum(queue["pending"] for queue in listed) == queues

            await wait_until(all_back, seconds=20)
            lates = [await _late_seconds(client, task["id"]) for task in made.json()["tasks"]]
        # A second is promised; the rest is for a busy machine, and far below what sweeps by turns take.
        assert max(lates) < 3.0, max(lates)
    finally:
        for gateway in (first, second):
            if gateway.process is not None:
                await gateway.end(signal.SIGKILL)


async def _late_seconds(client: httpx.AsyncClient, task_id: str) -> float:
    """How long after its end a lease of six seconds was noticed to have lapsed."""
    (attempt,) = (await client.get(f"/tasks/{task_id}")).json()["attempts"]
    assert attempt["outcome"] == "lapsed"
    started, ended = (datetime.datetime.fromisoformat(attempt[name]) for name in ("started_at", "finished_at"))
    return (ended - started).total_seconds() - 6


async def test_each_new_lease_is_noted_whatever_was_noted_before(store: Store, clock: Clock) -> None:
    """Another gateway may have settled the queue's alarm meanwhile, after this one's earlier leases were completed."""
    sweeper = Sweeper(store.tasks, store.registry)

    async def note(seconds: int) -> None:
        running = asyncio.create_task(sweeper._keep_index())
        sweeper.alarm(_A, clock() + seconds * 1000)

        async def noted() -> bool:
            return bool(await store.redis.zcard("tg:{alarms}:next") == 1)

        await wait_until(noted)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    await note(30)
    clock.advance(30)
    ((_, _, left_until_ms),) = await look(store)
    assert await look(store, settled={_A: (left_until_ms, 0)}) == []
    await note(60)
