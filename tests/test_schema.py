"""What is stored carries a version: a gateway that does not know it touches nothing and says so."""

from __future__ import annotations

from redis.asyncio import Redis

from gateway.store.keys import SCHEMA
from tests.harness import LiveGateway, live_gateway, wait_until


async def test_a_new_store_gets_the_version_of_its_gateway(gateway: LiveGateway, redis: Redis) -> None:
    assert await redis.get("tg:{schema}") == b"%d" % SCHEMA


async def test_a_store_without_a_version_is_taken_over(redis_url: str, redis: Redis) -> None:
    async with live_gateway(redis_url) as before:
        task = await before.enqueue()
    await redis.delete("tg:{schema}")
    async with live_gateway(redis_url) as gateway:
        assert [one["id"] for one in await gateway.poll()] == [task["id"]]
        assert await redis.get("tg:{schema}") == b"1"


async def test_data_of_another_version_is_neither_read_nor_written(redis_url: str, redis: Redis) -> None:
    for stored in (b"%d" % (SCHEMA + 1), b"0", b"nonsense", b""):
        await redis.flushall()
        await redis.set("tg:{schema}", stored)
        async with live_gateway(redis_url) as gateway:
            ready = await gateway.get("/health/ready")
            assert ready.status_code == 503
            assert f"this gateway knows version {SCHEMA}" in ready.json()["reason"]
            refused = await gateway.post("/tasks", {"job_type": "demo"})
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            assert f"knows version {SCHEMA}" in refused.json()["detail"]
            assert "Retry-After" in refused.headers
            polled = await gateway.post("/poll", {"worker_id": "w", "task_type": "demo"})
            assert polled.status_code == 503
        assert await redis.keys("*demo*") == []


async def test_a_gateway_that_met_another_version_serves_once_it_is_its_own(redis_url: str, redis: Redis) -> None:
    await redis.set("tg:{schema}", b"99")
    async with live_gateway(redis_url) as gateway:
        assert (await gateway.post("/tasks", {"job_type": "demo"})).status_code == 503
        await redis.set("tg:{schema}", b"%d" % SCHEMA)

        async def serves() -> bool:
            return (await gateway.post("/tasks", {"job_type": "demo"})).status_code == 201

        await wait_until(serves, 10)
