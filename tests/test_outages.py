"""Redis away, hung, full, without its scripts, or cutting connections: what clients see, and what comes of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.harness import LiveGateway, RedisServer, live_gateway, redis_binaries, wait_until


@pytest.fixture
def durable_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that is the same after kill -9 and a new start."""
    options = ("--appendonly", "yes", "--appendfsync", "always")
    server = RedisServer(tmp_path / "redis", next(iter(redis_binaries().values())), *options)
    server.start()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def over_durable(durable_redis: RedisServer) -> AsyncIterator[LiveGateway]:
    """A live gateway over that Redis."""
    async with live_gateway(durable_redis.url) as one:
        yield one


async def timed(answer: Awaitable[httpx.Response]) -> tuple[httpx.Response, float]:
    """Await an answer and tell how many seconds it took."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    return await answer, loop.time() - started


def is_away(reply: httpx.Response) -> bool:
    """Whether the answer is the documented one for a Redis that does not answer."""
    return reply.status_code == 503 and reply.json()["code"] == "store_unavailable" and "retry-after" in reply.headers


def every_call(gateway: LiveGateway, task: dict[str, Any]) -> list[Awaitable[httpx.Response]]:
    """One request of each kind that needs Redis at once."""
    lease = {"id": task["id"], "lease_token": task["lease_token"]}
    token = {"lease_token": task["lease_token"]}
    return [
        gateway.post("/tasks", {"job_type": "demo"}),
        gateway.post("/tasks", [{"job_type": "demo"}]),
        gateway.post("/tasks", {"job_type": "demo"}, headers={"Prefer": "wait=1"}),
        gateway.get(f"/tasks/{task['id']}"),
        gateway.get(f"/tasks/{task['id']}?wait=1"),
        gateway.get("/tasks"),
        gateway.client.delete(f"/tasks/{task['id']}"),
        gateway.post(f"/tasks/{task['id']}/retry"),
        gateway.post("/poll", {"worker_id": "w9", "task_type": "new", "wait": 0}),
        *(gateway.post(f"/tasks/{task['id']}/{verb}", token) for verb in ("heartbeat", "complete", "fail", "release")),
        gateway.get("/workers"),
        gateway.post("/workers/w1/drain"),
        gateway.client.delete("/workers/w1"),
        gateway.get("/queues/demo"),
        gateway.post("/outcomes", {"worker_id": "w1", "outcomes": [{**lease, "outcome": "complete"}]}),
        gateway.post("/heartbeats", {"worker_id": "w1", "leases": [lease]}),
    ]


async def test_while_redis_is_away_every_call_is_503_soon(private_redis: RedisServer) -> None:
    async with live_gateway(private_redis.url) as gateway:
        await gateway.enqueue()
        (task,) = await gateway.poll()
        private_redis.kill()
        *answers, outcomes, heartbeats = await asyncio.gather(*map(timed, every_call(gateway, task)))
        for reply, seconds in answers:
            assert is_away(reply), (reply.request.url, reply.status_code, reply.text)
            assert seconds < 5
        assert [one["status"] for one in outcomes[0].json()["outcomes"]] == [503]
        assert [one["status"] for one in heartbeats[0].json()["leases"]] == [503]


async def test_when_redis_hangs_no_request_outlives_its_wait_by_5_s(private_redis: RedisServer) -> None:
    async with live_gateway(private_redis.url) as gateway:
        await gateway.enqueue()
        (task,) = await gateway.poll()
        waiting = asyncio.create_task(timed(gateway.get("/poll?worker_id=w1&task_type=demo&wait=2", timeout=30)))
        await wait_until(lambda: gateway.app.manager.open_polls == 1)
        assert private_redis.process is not None
        private_redis.process.send_signal(signal.SIGSTOP)
        answers = await asyncio.gather(*map(timed, every_call(gateway, task)))
        probes = await asyncio.gather(
            *(timed(gateway.get(path)) for path in ("/health", "/health/ready", "/health/live"))
        )
        for reply, seconds in answers:
            assert seconds < 6.5, (reply.request.url, seconds)  # its wait is 1 s at most
            assert reply.status_code in (200, 503), (reply.request.url, reply.text)
        assert [reply.status_code for reply, _ in probes] == [503, 503, 200]
        assert all(seconds < 5 for _, seconds in probes)
        reply, seconds = await asyncio.wait_for(waiting, 10)
        assert reply.status_code in (204, 503)
        assert seconds < 7
        private_redis.process.send_signal(signal.SIGCONT)

        async def works() -> bool:
            return (await gateway.post("/tasks", {"job_type": "other"})).status_code == 201

        await wait_until(works, 10)


async def test_open_polls_survive_a_restart_of_redis_and_get_the_next_task(
    over_durable: LiveGateway, durable_redis: RedisServer
) -> None:
    gateway = over_durable
    polls = [asyncio.create_task(gateway.poll("demo", worker_id=f"w{n}", wait=40)) for n in range(10)]
    await wait_until(lambda: gateway.app.manager.open_polls == 10)
    assert await gateway.poll("demo") == []  # those before it have looked by now, too
    durable_redis.kill()

    async def not_ready() -> bool:
        return (await gateway.get("/health/ready")).status_code == 503

    await wait_until(not_ready)
    durable_redis.start()
    posted = {(await first_201(gateway))["id"] for _ in range(10)}
    answers = await asyncio.wait_for(asyncio.gather(*polls), 5)
    assert {task["id"] for tasks in answers for task in tasks} == posted


async def first_201(gateway: LiveGateway) -> dict[str, Any]:
    """Post a task until it is taken."""

    async def post() -> dict[str, Any] | None:
        reply = await gateway.post("/tasks", {"job_type": "demo"})
        assert reply.status_code == 201 or is_away(reply), reply.text
        return reply.json() if reply.status_code == 201 else None

    task = await wait_until(post)
    assert task is not None
    return task


async def test_what_became_due_meanwhile_is_handed_out_afterwards(
    over_durable: LiveGateway, durable_redis: RedisServer
) -> None:
    gateway = over_durable
    task = await gateway.enqueue(delay_seconds=1)
    poll = asyncio.create_task(gateway.poll(wait=40))
    await wait_until(lambda: gateway.app.manager.open_polls == 1)
    assert await gateway.poll() == []
    durable_redis.kill()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(poll), 1.2)
    durable_redis.start()
    (got,) = await asyncio.wait_for(poll, 5)
    assert (got["id"], got["attempt"]) == (task["id"], 1)


async def test_leases_and_waiting_tasks_survive_a_restart_of_redis(
    over_durable: LiveGateway, durable_redis: RedisServer
) -> None:
    gateway = over_durable
    for number in range(20):
        await gateway.enqueue(payload=number)
    (held,) = await gateway.poll()
    durable_redis.kill()
    durable_redis.start()

    async def report() -> bool:
        reply = await gateway.report(held, "complete", result="kept")
        assert reply.status_code == 200 or is_away(reply), reply.text
        return reply.status_code == 200

    async def poll() -> list[dict[str, Any]]:
        reply = await gateway.get("/poll?worker_id=w1&task_type=demo&wait=0&max=50")
        assert reply.status_code == 200 or is_away(reply), reply.text
        return reply.json()["tasks"] if reply.status_code == 200 else []

    await wait_until(report)
    assert [task["payload"] for task in await wait_until(poll)] == list(range(1, 20))


async def test_who_waits_for_a_tasks_end_hears_of_it_across_a_restart(
    over_durable: LiveGateway, durable_redis: RedisServer
) -> None:
    gateway = over_durable
    await gateway.enqueue()
    (task,) = await gateway.poll()
    reading = asyncio.create_task(gateway.get(f"/tasks/{task['id']}?wait=30", timeout=40))
    await asyncio.wait([reading], timeout=0.1)  # it is held
    durable_redis.kill()
    durable_redis.start()

    async def report() -> bool:
        return (await gateway.report(task, "complete")).status_code == 200

    await wait_until(report)
    reply = await asyncio.wait_for(reading, 5)
    assert reply.json()["status"] == "completed" or is_away(reply)


async def test_when_redis_is_full_enqueue_is_503_while_reports_work(private_redis: RedisServer) -> None:
    async with live_gateway(private_redis.url) as gateway, Redis.from_url(private_redis.url) as redis:
        for number in range(5):
            await gateway.enqueue(payload=number)
        done, failed, released, kept = await gateway.poll(max=4)
        keys = sorted(await redis.keys("*{default:*"))
        await redis.config_set("maxmemory", 1)
        for body in ({"job_type": "demo"}, [{"job_type": "demo"}] * 3, {"job_type": "never-seen"}):
            reply = await gateway.post("/tasks", body)
            assert (reply.status_code, reply.json()["code"]) == (503, "store_full"), reply.text
            assert "retry-after" in reply.headers
        assert sorted(await redis.keys("*{default:*")) == keys, "something was half-written"
        assert (await gateway.report(kept, "heartbeat", progress=0.5)).status_code == 200
        assert (await gateway.report(done, "complete", result=[1])).json()["status"] == "completed"
        assert (await gateway.report(failed, "fail", error="no", retry_in_seconds=60)).json()["status"] == "retrying"
        assert (await gateway.report(released, "release")).json()["status"] == "pending"
        assert len(await gateway.poll(max=5)) == 2, "what waits is still handed out"
        reply = await gateway.client.delete(f"/tasks/{failed['id']}")
        assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")
        await redis.config_set("maxmemory", 0)
        assert (await gateway.post("/tasks", {"job_type": "demo"})).status_code == 201


class Load:
    """Producers and workers that go on until told, and what they were answered."""

    def __init__(self, gateway: LiveGateway) -> None:
        self.gateway = gateway
        self.stopped = False
        self.posted: set[str] = set()
        self.completed: set[str] = set()
        self.odd: list[tuple[int, str]] = []
        self.refused = 0

    async def during(self, disturb: Callable[[], Awaitable[Any]], times: int) -> None:
        """Run it while `disturb` is done so many times, each time after more was completed."""
        runs = [asyncio.create_task(work) for n in range(4) for work in (self._produce(), self._work(f"w{n}"))]
        for _ in range(times):
            before = len(self.completed)
            await disturb()
            await wait_until(lambda before=before: len(self.completed) >= before + 10)
        self.stopped = True
        await asyncio.gather(*runs)

    def _take(self, reply: httpx.Response) -> Any:
        if reply.status_code in (200, 201):
            return reply.json()
        if is_away(reply):
            self.refused += 1
        elif reply.status_code != 204:
            self.odd.append((reply.status_code, reply.text))
        return None

    async def _produce(self) -> None:
        while not self.stopped:
            task = self._take(await self.gateway.post("/tasks", {"job_type": "demo"}))
            if task:
                self.posted.add(task["id"])

    async def _work(self, worker_id: str) -> None:
        poll_number = 0
        while not self.stopped:
            poll_number += 1
            request = {"worker_id": worker_id, "task_type": "demo", "wait": 1, "poll_id": str(poll_number)}
            # A refused poll may have claimed all the same: it is repeated until it is answered.
            while (reply := await self.gateway.post("/poll", request)).status_code == 503:
                self._take(reply)
            for task in (self._take(reply) or {"tasks": []})["tasks"]:
                while (reply := await self.gateway.report(task, "complete")).status_code == 503:
                    self._take(reply)
                if self._take(reply):
                    assert task["id"] not in self.completed, "handed out twice"
                    self.completed.add(task["id"])


async def test_no_request_notices_that_redis_forgot_its_scripts(gateway: LiveGateway, redis: Redis) -> None:
    load = Load(gateway)
    await load.during(redis.script_flush, 20)
    assert load.odd == []
    assert load.refused == 0


async def test_connections_that_are_cut_lose_nothing(gateway: LiveGateway, redis: Redis) -> None:
    load = Load(gateway)

    async def cut() -> None:
        await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    await load.during(cut, 20)
    assert load.odd == []
    rest = {task["id"] for task in await gateway.poll("demo", max=1000)}
    assert load.posted <= load.completed | rest
    assert not load.completed & rest


@pytest.mark.parametrize("options", [{}, {"poll_id": "p1"}, {"wait": 1.5}], ids=["at once", "poll_id", "waiting"])
async def test_hand_outs_that_no_replica_confirmed_cost_no_attempt(redis_url: str, options: dict[str, Any]) -> None:
    asked = {"worker_id": "w1", "task_type": "demo", "wait": 0, **options}
    async with live_gateway(redis_url) as gateway, live_gateway(redis_url, durability="replicated") as strict:
        task = await gateway.enqueue(max_attempts=2)
        for _ in range(2):
            reply = await strict.post("/poll", asked)
            assert (reply.status_code, reply.json()["code"]) == (503, "not_replicated"), reply.text
            seen = (await gateway.get(f"/tasks/{task['id']}")).json()
            assert (seen["status"], seen["attempt"]) == ("pending", 0)
        (given,) = await gateway.poll(**options)
        assert (given["id"], given["attempt"]) == (task["id"], 1)


async def test_what_a_poll_id_got_before_stays_with_it_though_no_replica_confirms(redis_url: str) -> None:
    async with live_gateway(redis_url) as gateway, live_gateway(redis_url, durability="replicated") as strict:
        await gateway.enqueue()
        (task,) = await gateway.poll(poll_id="p1")
        reply = await strict.post("/poll", {"worker_id": "w1", "task_type": "demo", "wait": 0, "poll_id": "p1"})
        assert reply.json()["code"] == "not_replicated"
        assert (await gateway.report(task, "complete")).status_code == 200
