"""The bundled pool: workers inside the gateway for the `default` queue."""

from __future__ import annotations

import asyncio

from tests.harness import LiveGateway, live_gateway, wait_until


async def processing(gateway: LiveGateway) -> int:
    """Count the tasks that are being processed."""
    found: int = (await gateway.get("/queues/default")).json()["processing"]
    return found


async def test_a_task_with_a_title_only_is_completed_in_one_to_five_seconds(redis_url: str) -> None:
    async with live_gateway(redis_url, pool_size=1) as gateway:
        other = await gateway.enqueue("demo", title="not the pool's")
        reply = await gateway.post("/tasks", {"title": "My first task"}, headers={"Prefer": "wait=15"})
        assert reply.status_code == 200
        task = reply.json()
        assert (task["job_type"], task["status"]) == ("default", "completed")
        assert 1 <= task["result"]["planned_seconds"] <= 5
        assert task["result"]["planned_seconds"] <= task["result"]["actual_seconds"] < 6
        assert task["worker_id"].startswith("pool-")
        assert (await gateway.get(f"/tasks/{other['id']}")).json()["status"] == "pending"


async def test_as_many_tasks_run_at_once_as_the_pool_has_workers(redis_url: str) -> None:
    async with live_gateway(redis_url, pool_size=3, shutdown_timeout_seconds=1.2) as gateway:
        await gateway.post("/tasks", [{"title": f"task {number}"} for number in range(10)])

        async def three_run() -> bool:
            return await processing(gateway) == 3

        await wait_until(three_run, 2)
        workers = (await gateway.get("/tasks?status=processing")).json()["tasks"]
        assert len({task["worker_id"] for task in workers}) == 3


async def test_what_cannot_be_finished_in_time_goes_back_uncounted(redis_url: str) -> None:
    async with live_gateway(redis_url, pool_size=8, shutdown_timeout_seconds=1.2) as gateway:
        await gateway.post("/tasks", [{"title": f"task {number}"} for number in range(8)])

        async def all_run() -> bool:
            return await processing(gateway) == 8

        await wait_until(all_run, 2)
        started = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - started < 3
    async with live_gateway(redis_url) as after:
        tasks = (await after.get("/tasks")).json()["tasks"]
        assert {(task["status"], task["attempt"]) for task in tasks} <= {("pending", 0), ("completed", 1)}
        assert "pending" in {task["status"] for task in tasks}


async def test_a_cancelled_task_is_let_go(redis_url: str) -> None:
    async with live_gateway(redis_url, pool_size=1) as gateway:
        # Its worker hears of it in a heartbeat, a third of the lease from now at the latest.
        task = (await gateway.post("/tasks", {"title": "unwanted", "lease_seconds": 1.5})).json()

        async def runs() -> bool:
            return await processing(gateway) == 1

        await wait_until(runs, 2)
        assert (await gateway.client.delete(f"/tasks/{task['id']}")).status_code == 202
        final = (await gateway.get(f"/tasks/{task['id']}?wait=5")).json()
        assert final["status"] == "cancelled"


async def test_the_pool_signs_off_when_it_stops(redis_url: str) -> None:
    async with live_gateway(redis_url) as other:
        async with live_gateway(redis_url, pool_size=3):

            async def listed(number: int) -> bool:
                return len((await other.get("/workers")).json()["workers"]) == number

            await wait_until(lambda: listed(3))
        await wait_until(lambda: listed(0))
