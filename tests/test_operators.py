"""What probes and operators read: health, readiness, metrics, queues."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.harness import Clock, GatewayProcess, LiveGateway, RedisServer, live_gateway, wait_until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def samples(client: httpx.AsyncClient) -> Samples:
    """GET /metrics, by name and labels."""
    reply = await client.get("/metrics")
    assert reply.status_code == 200
    found = {}
    for family in text_string_to_metric_families(reply.text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} stands there twice"
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    """One sample, 0 where there is none."""
    return found.get((f"tasks_gateway_{name}", tuple(sorted(labels.items()))), 0.0)


async def test_health_counts_what_is_there(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    for members in ({"max_attempts": 1}, {}, {}, {"delay_seconds": 3600}):
        await gateway.enqueue(**members)
    (failed,) = await gateway.poll()
    await gateway.report(failed, "fail")
    await gateway.poll(worker_id="w2")
    clock.advance(7)

    async def counted() -> bool:
        body = (await gateway.get("/health")).json()
        names = ("queue_depth", "processing", "scheduled", "failed", "oldest_pending_seconds", "open_polls", "workers")
        return [body[name] for name in names] == [2, 1, 1, 1, 7, 0, 2]

    await wait_until(counted)
    reply = await gateway.get("/health")
    assert (reply.status_code, reply.json()["status"], reply.json()["redis"]) == (200, "ok", "ok")
    assert reply.json()["version"]


async def test_live_and_ready_answer(gateway: LiveGateway) -> None:
    assert (await gateway.get("/health/live")).json() == {"status": "ok"}
    reply = await gateway.get("/health/ready")
    assert (reply.status_code, reply.json()["status"]) == (200, "ok")
    assert (await gateway.client.head("/health/live")).status_code == 200


async def test_without_redis_it_lives_but_is_neither_healthy_nor_ready(private_redis: RedisServer) -> None:
    async with live_gateway(private_redis.url) as gateway:
        private_redis.kill()
        health = await gateway.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["redis"]) == (503, "unavailable", "away")
        ready = await gateway.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
        assert "retry-after" in health.headers
        assert "retry-after" in ready.headers
        assert (await gateway.get("/health/live")).status_code == 200
        assert (await gateway.get("/metrics")).status_code == 200
        private_redis.start()

        async def back() -> bool:
            answers = [await gateway.get("/health"), await gateway.get("/health/ready")]
            return [answer.status_code for answer in answers] == [200, 200]

        await wait_until(back, 5)


async def test_while_draining_it_lives_but_is_not_ready(gateway: LiveGateway) -> None:
    gateway.app.manager.close()
    for path in ("/health", "/health/ready"):
        reply = await gateway.get(path)
        assert (reply.status_code, reply.json()["status"]) == (503, "draining")
    assert (await gateway.get("/health/live")).status_code == 200


async def test_metrics_move_with_a_tasks_life(gateway: LiveGateway) -> None:
    before = await samples(gateway.client)
    for _ in range(3):
        await gateway.enqueue(retry={"delays_seconds": [0]}, max_attempts=2)
    done, failed, stale = await gateway.poll(max=3)
    await gateway.report(done, "complete")
    await gateway.report(failed, "fail")
    (again,) = await gateway.poll(wait=5)
    await gateway.report(again, "fail")
    await gateway.report({**stale, "lease_token": "A" * 22}, "complete")
    await gateway.client.delete(f"/tasks/{(await gateway.enqueue())['id']}")
    after = await samples(gateway.client)

    def moved(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert moved("tasks_enqueued_total") == 4
    outcomes = {
        name: moved("tasks_outcomes_total", outcome=name) for name in ("completed", "retried", "failed", "cancelled")
    }
    assert outcomes == {"completed": 1, "retried": 1, "failed": 1, "cancelled": 1}
    assert moved("stale_reports_total") == 1
    assert moved("dispatch_latency_seconds_count") == 3
    assert moved("script_seconds_count", script="enqueue") >= 1
    assert moved("http_requests_total", route="/tasks", status="201") == 4
    assert moved("http_requests_total", route="/tasks/{id}/complete", status="409") == 1


async def test_metrics_tell_depths_and_ages(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    for members in ({}, {}, {"delay_seconds": 3600}):
        await gateway.enqueue(**members)
    await gateway.poll()
    clock.advance(9)

    async def told() -> bool:
        found = await samples(gateway.client)
        states = [
            value(found, "queue_depth", queue="demo", state=state) for state in ("pending", "scheduled", "processing")
        ]
        return states == [1, 1, 1] and value(found, "oldest_pending_seconds", queue="demo") == 9

    await wait_until(told)


async def test_a_lapsed_lease_is_counted(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    await gateway.enqueue(lease_seconds=5)
    await gateway.poll()
    clock.advance(5.1)

    async def counted() -> bool:
        return value(await samples(gateway.client), "leases_lapsed_total") == 1

    await wait_until(counted)


async def test_an_open_poll_is_counted(gateway: LiveGateway) -> None:
    poll = asyncio.create_task(gateway.poll(wait=30))
    await wait_until(lambda: gateway.app.manager.open_polls == 1)
    assert value(await samples(gateway.client), "open_polls") == 1
    assert (await gateway.get("/health")).json()["open_polls"] == 1
    await gateway.enqueue()
    await poll


async def test_two_processes_add_their_counters_up(redis_url: str, tmp_path: Path) -> None:
    gateway = GatewayProcess(redis_url, tmp_path, "serve", "--processes", "2")
    await gateway.start()
    for _ in range(40):
        # A connection each, so that both processes get some.
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            assert (await client.post("/tasks", json={"job_type": "demo"})).status_code == 201
            assert value(await samples(client), "tasks_enqueued_total") > 0
    for _ in range(5):
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            found = await samples(client)
            assert value(found, "tasks_enqueued_total") == 40

            async def depth_is_told(client: httpx.AsyncClient = client) -> bool:
                return value(await samples(client), "queue_depth", queue="demo", state="pending") == 40

            await wait_until(depth_is_told)
    assert await gateway.end() == 0


async def test_queues_are_listed_and_read(gateway: LiveGateway) -> None:
    await gateway.enqueue("a")
    await gateway.enqueue("b", delay_seconds=60)
    (task,) = await gateway.poll("a")
    await gateway.report(task, "complete")
    record = (await gateway.get("/queues/a")).json()
    assert (record["job_type"], record["pending"], record["completed"], record["max_pending"]) == ("a", 0, 1, 100_000)
    assert record["totals"]["enqueued"] == 1

    async def listed() -> bool:
        queues = {one["job_type"]: one for one in (await gateway.get("/queues")).json()["queues"]}
        return list(queues) == ["a", "b"] and queues["a"]["completed"] == queues["b"]["scheduled"] == 1

    await wait_until(listed)
    reply = await gateway.get("/queues/nobody")
    assert (reply.status_code, reply.json()["code"]) == (404, "queue_not_found")
