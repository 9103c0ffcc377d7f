"""Several gateways over one Redis, and gateways and workers that die."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio

from tests.harness import GatewayProcess, LiveGateway, live_gateway, wait_until


@pytest_asyncio.fixture
async def pair(redis_url: str) -> AsyncIterator[tuple[LiveGateway, LiveGateway]]:
    """Two live gateways over one Redis."""
    async with live_gateway(redis_url) as one, live_gateway(redis_url) as two:
        yield one, two


@contextlib.asynccontextmanager
async def running(*gateways: GatewayProcess) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Start gateways as processes; a client for each."""
    async with contextlib.AsyncExitStack() as stack:
        for gateway in gateways:
            stack.push_async_callback(gateway.end, signal.SIGKILL)
            await gateway.start()
        yield [
            await stack.enter_async_context(httpx.AsyncClient(base_url=gateway.url, timeout=40)) for gateway in gateways
        ]


async def poll(client: httpx.AsyncClient, worker_id: str, wait: float, **members: Any) -> list[dict[str, Any]]:
    """Poll for `demo`; no tasks for 204."""
    body = {"worker_id": worker_id, "task_type": "demo", "wait": wait, **members}
    reply = await client.post("/poll", json=body)
    assert reply.status_code in (200, 204), reply.text
    tasks: list[dict[str, Any]] = reply.json()["tasks"] if reply.status_code == 200 else []
    return tasks


async def enqueue(client: httpx.AsyncClient, **members: Any) -> dict[str, Any]:
    """Enqueue a `demo` task."""
    reply = await client.post("/tasks", json={"job_type": "demo", **members})
    assert reply.status_code == 201, reply.text
    task: dict[str, Any] = reply.json()
    return task


async def complete(client: httpx.AsyncClient, task: dict[str, Any]) -> int:
    """Complete a task; returns the status."""
    reply = await client.post(f"/tasks/{task['id']}/complete", json={"lease_token": task["lease_token"]})
    return reply.status_code


async def polls_open(client: httpx.AsyncClient, number: int) -> None:
    """Wait until a gateway holds so many polls."""

    async def open_() -> bool:
        return (await client.get("/health")).json()["open_polls"] == number

    await wait_until(open_)


async def test_a_post_to_one_wakes_a_poll_on_the_other(pair: tuple[LiveGateway, LiveGateway]) -> None:
    one, two = pair
    took_seconds = []
    for number in range(30):
        here, there = (one, two) if number % 2 else (two, one)
        open_poll = asyncio.create_task(here.poll(wait=30))
        await wait_until(lambda here=here: here.app.manager.open_polls == 1)
        started = time.monotonic()
        task = await there.enqueue()
        (got,) = await asyncio.wait_for(open_poll, 5)
        took_seconds.append(time.monotonic() - started)
        assert got["id"] == task["id"]
        assert (await there.report(got, "complete")).status_code == 200, "any gateway takes the report"
    assert statistics.median(took_seconds) < 0.05


async def test_a_poll_repeated_at_another_gateway_gets_the_same_leases(pair: tuple[LiveGateway, LiveGateway]) -> None:
    one, two = pair
    await one.enqueue()
    (first,) = await one.poll(poll_id="p1")
    (again,) = await two.poll(poll_id="p1")
    assert again["lease_token"] == first["lease_token"]


async def test_who_waits_for_an_end_hears_of_it_from_the_other(pair: tuple[LiveGateway, LiveGateway]) -> None:
    one, two = pair
    posting = asyncio.create_task(one.post("/tasks", {"job_type": "demo"}, headers={"Prefer": "wait=20"}))
    (task,) = await two.poll(wait=10)
    await two.report(task, "complete")
    reply = await asyncio.wait_for(posting, 2)
    assert reply.json()["status"] == "completed"


async def test_many_workers_on_two_gateways_never_hold_a_task_twice(pair: tuple[LiveGateway, LiveGateway]) -> None:
    number_of_tasks, seen = 400, []
    held: set[str] = set()
    done = asyncio.Event()

    async def produce() -> None:
        for start in range(0, number_of_tasks, 20):
            batch = [{"job_type": "demo", "payload": start + number} for number in range(20)]
            assert (await pair[start // 20 % 2].post("/tasks", batch)).status_code == 201

    async def work(gateway: LiveGateway, worker_id: str, max_: int) -> None:
        while not done.is_set():
            tasks = await gateway.poll(worker_id=worker_id, max=max_, wait=1)
            for task in tasks:
                assert task["id"] not in held, "held twice"
                held.add(task["id"])
            await asyncio.sleep(0)
            for task in tasks:
                held.discard(task["id"])
                assert (await gateway.report(task, "complete")).status_code == 200
                seen.append(task["payload"])
            if len(seen) >= number_of_tasks:
                done.set()

    workers = [work(pair[number % 2], f"w{number}", 1 + number % 3) for number in range(40)]
    await asyncio.wait_for(asyncio.gather(produce(), *workers), 30)
    assert sorted(seen) == list(range(number_of_tasks))


async def test_killing_a_gateway_loses_nothing(redis_url: str, tmp_path: Path) -> None:
    doomed, other = GatewayProcess(redis_url, tmp_path), GatewayProcess(redis_url, tmp_path)
    async with running(doomed, other) as (first, second):
        held_task = await enqueue(first, lease_seconds=3)
        claimed = time.monotonic()
        (held,) = await poll(first, "w1", 0)
        lost_poll = asyncio.create_task(poll(first, "w2", 30))
        await polls_open(first, 1)
        open_poll = asyncio.create_task(poll(second, "w3", 30))
        await polls_open(second, 1)
        await doomed.end(signal.SIGKILL)
        (outcome,) = await asyncio.gather(lost_poll, return_exceptions=True)
        assert isinstance(outcome, httpx.HTTPError)
        started = time.monotonic()
        task = await enqueue(second)
        (got,) = await asyncio.wait_for(open_poll, 5)
        assert got["id"] == task["id"]
        assert time.monotonic() - started < 0.5, "the ring went to the dead gateway"
        assert (await second.get(f"/tasks/{held_task['id']}")).json()["status"] == "processing"
        # The worker of the dead gateway never comes back: its lease lapses on time.
        (again,) = await poll(second, "w4", 10)
        assert 3 <= time.monotonic() - claimed < 4.2
        assert (again["id"], again["attempt"]) == (held["id"], 2)
        assert await complete(second, held) == 409
        assert await complete(second, again) == 200
        assert await complete(second, got) == 200


async def test_a_worker_goes_on_with_another_gateway_when_its_own_was_killed(redis_url: str, tmp_path: Path) -> None:
    doomed, other = GatewayProcess(redis_url, tmp_path), GatewayProcess(redis_url, tmp_path)
    async with running(doomed, other) as (first, second):
        await enqueue(first)
        (held,) = await poll(first, "w1", 0)
        await doomed.end(signal.SIGKILL)
        beat = await second.post(f"/tasks/{held['id']}/heartbeat", json={"lease_token": held["lease_token"]})
        assert beat.status_code == 200
        assert await complete(second, held) == 200


async def test_a_rolling_restart_loses_nothing_and_sends_polls_home(redis_url: str, tmp_path: Path) -> None:
    leaving, staying = GatewayProcess(redis_url, tmp_path), GatewayProcess(redis_url, tmp_path)
    async with running(leaving, staying) as (first, second):
        await enqueue(first)
        (held,) = await poll(first, "w1", 0)
        open_poll = asyncio.create_task(poll(first, "w2", 30))
        await polls_open(first, 1)
        started = time.monotonic()
        assert await leaving.end(signal.SIGTERM, 5) == 0
        assert time.monotonic() - started < 2
        assert await open_poll == []
        task = await enqueue(second)
        assert [one["id"] for one in await poll(second, "w2", 5)] == [task["id"]]
        assert await complete(second, held) == 200


async def test_a_task_whose_worker_died_is_redelivered_within_a_second_of_its_lease(gateway: LiveGateway) -> None:
    task = await gateway.enqueue(lease_seconds=1)
    await gateway.poll(worker_id="dies")
    claimed = time.monotonic()
    (again,) = await gateway.poll(worker_id="lives", wait=10)
    assert 0.95 <= time.monotonic() - claimed < 2
    assert (again["id"], again["attempt"]) == (task["id"], 2)
