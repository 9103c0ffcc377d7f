"""A rolling restart of three gateways under load, and gateways beside data that older ones stored."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from redis.asyncio import Redis

from gateway.store.keys import SCHEMA
from tests.harness import GatewayProcess, LiveGateway, live_gateway, wait_until

_PRODUCERS, _WORKERS, _PAUSE_SECONDS = 4, 8, 0.05
# Far below the lease, and what somebody who waits would notice; a busy machine takes half a second at most.
_LEASE_SECONDS, _VISIBLE_SECONDS = 60, 3
_PATIENCE_SECONDS = 30.0
_BROKEN = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


class Blind:
    """A client with a list of addresses that repeats what may be repeated blindly at the next one, and nothing else.

    That is: no connection, a connection that broke before the answer, and 503 with Retry-After. Every other answer is
    handed back as it is.
    """

    def __init__(self, urls: list[str], answers: Counter[str]) -> None:
        self._urls = itertools.cycle(urls)
        self._url = next(self._urls)
        self._answers = answers
        self._http = httpx.AsyncClient(timeout=_PATIENCE_SECONDS)

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """Send one request until it is answered. Raises AssertionError when it never is."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until:
            try:
                reply = await self._http.request(method, self._url + path, json=body, headers=headers)
            except _BROKEN as error:
                self._answers[type(error).__name__] += 1
            else:
                self._answers[f"{method} {path.split('/')[1].split('?')[0]}: {reply.status_code}"] += 1
                if not (reply.status_code == 503 and "Retry-After" in reply.headers):
                    return reply
            self._url = next(self._urls)
            await asyncio.sleep(0.02)
        raise AssertionError(f"{method} {path} found nobody")

    async def __aenter__(self) -> Blind:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()


class Load:
    """Producers and workers, each with a client of its own, and what they saw."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self.stop = asyncio.Event()
        self.all_ended = asyncio.Event()
        self.answers: Counter[str] = Counter()
        self.sent: dict[str, float] = {}
        self.taken: dict[str, list[float]] = {}
        self.attempts: Counter[int] = Counter()
        self.completed: Counter[str] = Counter()
        self.read_back: dict[str, Any] = {}

    def client(self) -> Blind:
        """Make a client. Each begins at another address."""
        self._urls = [*self._urls[1:], self._urls[0]]
        return Blind(self._urls, self.answers)

    async def produce(self, name: str) -> None:
        """Enqueue a task, wait for its end, and again."""
        async with self.client() as client:
            for number in itertools.count():
                if self.stop.is_set():
                    return
                key, started = f"{name}-{number}", time.monotonic()
                body = {"job_type": "demo", "payload": key, "lease_seconds": _LEASE_SECONDS}
                reply = await client.send("POST", "/tasks", body, **{"Idempotency-Key": key})
                assert reply.status_code == 201, reply.text
                task = reply.json()
                assert task["payload"] == key
                self.sent[task["id"]] = started
                while True:
                    seen = await client.send("GET", f"/tasks/{task['id']}?wait=5")
                    assert seen.status_code == 200, seen.text
                    if seen.json()["status"] == "completed":
                        break
                self.read_back[task["id"]] = seen.json()
                # An even load, not as much as the machine can bear: starts of gateways need their share.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stop.wait(), _PAUSE_SECONDS)

    async def work(self, name: str) -> None:
        """Poll, hold the task for a moment with a heartbeat, complete."""
        async with self.client() as client:
            for number in itertools.count():
                if self.all_ended.is_set():
                    return
                body = {"worker_id": name, "task_type": "demo", "wait": 2, "poll_id": f"p{number}"}
                reply = await client.send("POST", "/poll", body)
                assert reply.status_code in (200, 204), reply.text
                if reply.status_code == 204:
                    continue
                (task,) = reply.json()["tasks"]
                self.taken.setdefault(task["id"], []).append(time.monotonic())
                self.attempts[task["attempt"]] += 1
                token, path = {"lease_token": task["lease_token"]}, f"/tasks/{task['id']}"
                beat = await client.send("POST", f"{path}/heartbeat", token)
                assert beat.status_code == 200, beat.text
                done = await client.send("POST", f"{path}/complete", {**token, "result": task["payload"]})
                assert done.status_code == 200, done.text
                self.completed[task["id"]] += 1


async def test_a_rolling_restart_under_load_shows_nobody_anything(redis_url: str, tmp_path: Path) -> None:
    gateways = [GatewayProcess(redis_url, tmp_path) for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for gateway in gateways:
            stack.push_async_callback(gateway.end, signal.SIGKILL)
        await asyncio.gather(*(gateway.start() for gateway in gateways))
        load = Load([gateway.url for gateway in gateways])
        async with asyncio.TaskGroup() as group:
            for number in range(_WORKERS):
                group.create_task(load.work(f"w{number}"))
            producing = [group.create_task(load.produce(f"p{number}")) for number in range(_PRODUCERS)]
            for gateway in gateways:
                before = len(load.completed)
                await wait_until(lambda before=before: len(load.completed) > before + 10, 30, "no load")
                started = time.monotonic()
                assert await gateway.end(signal.SIGTERM, 20) == 0
                # Polls of 2 s are not waited for, let alone the 20 s of SHUTDOWN_TIMEOUT_SECONDS.
                assert time.monotonic() - started < 10
                before = len(load.completed)
                await wait_until(lambda before=before: len(load.completed) > before + 10, 30, "the others stood still")
                await gateway.start()
            load.stop.set()
            await asyncio.gather(*producing)
            load.all_ended.set()
    # Somebody was in the way of each stop, or this showed nothing.
    assert sum(load.answers[error.__name__] for error in _BROKEN) + sum(
        number for name, number in load.answers.items() if name.endswith("503")
    ) >= len(gateways)
    assert set(load.sent) == set(load.completed) == set(load.read_back)
    assert set(load.completed.values()) == {1}
    # No lease was left behind by a gateway that went: each task was handed out once, and soon.
    assert set(load.attempts) == {1}
    assert all(task["result"] == task["payload"] and task["attempt"] == 1 for task in load.read_back.values())
    delays = sorted(load.taken[task_id][0] - sent for task_id, sent in load.sent.items())
    assert delays[-1] < _VISIBLE_SECONDS, f"median {delays[len(delays) // 2]:.3f} s, longest {delays[-1]:.3f} s"


async def test_a_gateway_takes_over_data_of_no_version_beside_the_one_that_stored_it(
    redis_url: str, redis: Redis
) -> None:
    async with live_gateway(redis_url) as older:
        ready, scheduled = await older.enqueue(payload=1), await older.enqueue("later", delay_seconds=1)
        done, broken = await older.enqueue("done"), await older.enqueue("broken", max_attempts=1)
        held, failing = await older.enqueue("held"), await older.enqueue("failing", retry={"delays_seconds": [0.5]})
        leases = {}
        for task in (done, broken, held, failing):
            (leases[task["id"]],) = await older.poll(task["job_type"])
        assert (await older.report(leases[done["id"]], "complete", result="ok")).status_code == 200
        assert (await older.report(leases[broken["id"]], "fail", error="no")).status_code == 200
        assert (await older.report(leases[failing["id"]], "fail", error="not yet")).status_code == 200
        # Gateways from before there were versions wrote none.
        await redis.delete("tg:{schema}")
        async with live_gateway(redis_url) as newer:
            assert await redis.get("tg:{schema}") == b"%d" % SCHEMA
            assert [one["payload"] for one in await newer.poll()] == [1]
            assert (await newer.report(leases[held["id"]], "complete")).status_code == 200
            assert (await newer.get(f"/tasks/{done['id']}")).json()["result"] == "ok"
            assert (await newer.post(f"/tasks/{broken['id']}/retry")).status_code == 200
            await _serve_each_other(older, newer, ready)
            (again,) = await newer.poll("failing", wait=10)
            assert (again["id"], again["attempt"]) == (failing["id"], 2)
            (due,) = await newer.poll("later", wait=10)
            assert due["id"] == scheduled["id"]
            (retried,) = await older.poll("broken", wait=10)
            assert (retried["id"], retried["attempt"]) == (broken["id"], 1)


async def _serve_each_other(one: LiveGateway, two: LiveGateway, first: dict[str, Any]) -> None:
    """What one takes in wakes the other's poll, both ways."""
    for producer, consumer in ((one, two), (two, one)):
        waiting = asyncio.create_task(consumer.poll("shared", wait=20))
        await wait_until(lambda consumer=consumer: consumer.app.manager.open_polls == 1)
        task = await producer.enqueue("shared")
        (got,) = await waiting
        assert got["id"] == task["id"] != first["id"]
        assert (await producer.report(got, "complete")).status_code == 200
