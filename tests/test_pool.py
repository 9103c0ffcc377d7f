"""The bundled pool: workers inside the gateway for the `default` queue."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx

from tests.harness import GatewayProcess, LiveGateway, live_gateway, wait_until


async def processing(gateway: LiveGateway) -> int:
    """Count the tasks that are being processed."""
    found: int = (await gateway.get("/queues/default")).json()["processing"]
    return found


async def test_a_task_with_a_title_only_is_completed_in_one_to_five_seconds(redis_url: str) -> None:
    async with live_gateway(redis_url, pool_size=1) as gateway:
        reply = await gateway.post("/tasks", {"title": "My first task"}, headers={"Prefer": "wait=15"})
        assert reply.status_code == 200
        task = reply.json()
        assert (task["job_type"], task["status"]) == ("default", "completed")
        assert 1 <= task["result"]["planned_seconds"] <= 5
        assert task["result"]["planned_seconds"] <= task["result"]["actual_seconds"] < 6
        assert task["worker_id"].startswith("pool-")


async def test_as_many_tasks_run_at_once_as_the_pool_has_workers(redis_url: str) -> None:
    async with live_gateway(redis_url, pool_size=3) as gateway:
        await gateway.post("/tasks", [{"title": f"task {number}"} for number in range(10)])

        async def three_run() -> bool:
            return await processing(gateway) == 3

        await wait_until(three_run, 2)
        workers = (await gateway.get("/tasks?status=processing")).json()["tasks"]
        assert len({task["worker_id"] for task in workers}) == 3


async def test_other_queues_are_left_alone(redis_url: str) -> None:
    async with live_gateway(redis_url, pool_size=1) as gateway:
        task = await gateway.enqueue("demo", title="not the pool's")
        await gateway.post("/tasks", {"title": "the pool's"}, headers={"Prefer": "wait=15"})
        assert (await gateway.get(f"/tasks/{task['id']}")).json()["status"] == "pending"


async def test_stopping_finishes_what_runs_and_leaves_the_rest(redis_url: str) -> None:
    async with live_gateway(redis_url, pool_size=2) as gateway:
        await gateway.post("/tasks", [{"title": f"task {number}"} for number in range(4)])

        async def two_run() -> bool:
            return await processing(gateway) == 2

        await wait_until(two_run, 2)
        running = [task["id"] for task in (await gateway.get("/tasks?status=processing")).json()["tasks"]]
    async with live_gateway(redis_url) as after:
        tasks = {task["id"]: task for task in (await after.get("/tasks")).json()["tasks"]}
        assert {tasks[id]["status"] for id in running} == {"completed"}
        rest = [task for id, task in tasks.items() if id not in running]
        assert [(task["status"], task["attempt"]) for task in rest] == [("pending", 0)] * 2


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


async def test_the_log_has_the_start_and_the_end_of_each_task(redis_url: str, tmp_path: Path) -> None:
    gateway = GatewayProcess(redis_url, tmp_path, "run", TASK_WORKERS="3")
    await gateway.start()
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        posts = [
            client.post("/tasks", json={"title": "work"}, headers={"Prefer": "wait=20"}, timeout=30) for _ in range(3)
        ]
        ids = {reply.json()["id"] for reply in await asyncio.gather(*posts)}
    assert await gateway.end() == 0
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines() if line.startswith("{")]
    told: dict[str, list[dict[str, float]]] = {}
    for line in lines:
        if "task_id" in line:
            told.setdefault(line["task_id"], []).append(line)
    assert told.keys() == ids
    for started, finished in told.values():
        assert (started["message"], finished["message"]) == ("started a task", "finished a task")
        assert 1 <= started["planned_seconds"] <= finished["actual_seconds"] < 6
