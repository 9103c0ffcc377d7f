"""PATCH of a waiting task, and requests about many tasks at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.harness import Clock, LiveGateway, wait_until


async def _patch(gateway: LiveGateway, task: dict[str, Any], **body: Any):  # type: ignore[no-untyped-def]
    return await gateway.client.patch(f"/tasks/{task['id']}", json=body)


async def test_a_waiting_task_takes_new_contents_and_keeps_the_rest(gateway: LiveGateway) -> None:
    task = await gateway.enqueue(payload=1, title="keep me", max_attempts=3, unique_key="k", tags={"a": "b"})
    reply = await _patch(gateway, task, payload={"n": 2}, tags={"c": "d"})
    assert reply.status_code == 200
    patched = reply.json()
    assert (patched["payload"], patched["tags"], patched["title"]) == ({"n": 2}, {"c": "d"}, "keep me")
    assert (patched["created_at"], patched["max_attempts"]) == (task["created_at"], 3)
    assert (await gateway.post("/tasks", {"job_type": "demo", "unique_key": "k"})).json()["id"] == task["id"]
    (claimed,) = await gateway.poll()
    assert claimed["payload"] == {"n": 2}
    await gateway.report(claimed, "complete")
    assert (await gateway.post("/tasks", {"job_type": "demo", "unique_key": "k"})).status_code == 201


async def test_priority_moves_a_task_ahead_and_time_holds_it_back(clocked_gateway: LiveGateway, clock: Clock) -> None:
    first, second, third = [await clocked_gateway.enqueue() for _ in range(3)]
    await _patch(clocked_gateway, third, priority="critical")
    later = await _patch(clocked_gateway, first, delay_seconds=60)
    assert later.json()["status"] == "scheduled"
    assert [task["id"] for task in await clocked_gateway.poll(max=9)] == [third["id"], second["id"]]
    clock.advance(59.9)
    assert await clocked_gateway.poll() == []
    clock.advance(0.1)
    assert [task["id"] for task in await clocked_gateway.poll()] == [first["id"]]


async def test_a_scheduled_task_can_be_made_due_now_and_a_poll_hears_of_it(gateway: LiveGateway) -> None:
    task = await gateway.enqueue(delay_seconds=3600)
    poll = asyncio.create_task(gateway.poll(wait=20))
    assert (await _patch(gateway, task, delay_seconds=0)).json()["status"] in ("pending", "processing")
    assert [one["id"] for one in await asyncio.wait_for(poll, 5)] == [task["id"]]


async def test_a_claimed_or_final_task_is_not_patched(gateway: LiveGateway) -> None:
    task = await gateway.enqueue()
    (claimed,) = await gateway.poll()
    reply = await _patch(gateway, task, payload=2)
    assert (reply.status_code, reply.json()["code"]) == (409, "already_started")
    await gateway.report(claimed, "complete")
    reply = await _patch(gateway, task, payload=2)
    assert (reply.status_code, reply.json()["code"]) == (409, "already_finished")
    assert (await _patch(gateway, {"id": "demo~01aaaaaaaaaaaaaaaaaaaaaaaa"}, payload=2)).status_code == 404


@pytest.mark.parametrize("body", [{"status": "completed"}, {"run_at": "x"}, {"delay_seconds": -1}, {"priority": "max"}])
async def test_a_bad_patch_changes_nothing(gateway: LiveGateway, body: dict[str, Any]) -> None:
    task = await gateway.enqueue()
    assert (await _patch(gateway, task, **body)).status_code == 400
    assert (await gateway.get(f"/tasks/{task['id']}")).json() == task


async def test_concurrent_patches_all_take_effect_one_after_the_other(gateway: LiveGateway) -> None:
    task = await gateway.enqueue()
    replies = await asyncio.gather(_patch(gateway, task, payload=1), _patch(gateway, task, tags={"a": "b"}))
    assert [reply.status_code for reply in replies] == [200, 200]
    final = (await gateway.get(f"/tasks/{task['id']}")).json()
    assert (final["payload"], final["tags"]) == (1, {"a": "b"})


async def test_bulk_cancel_meets_what_the_filter_says(gateway: LiveGateway) -> None:
    batch = [{"job_type": "demo", "tags": {"customer": str(n % 2)}} for n in range(500)]
    await gateway.post("/tasks", batch)
    await gateway.enqueue("other")
    wanted = {"job_type": "demo", "tags": {"customer": "1"}}
    dry = (await gateway.post("/tasks/cancel", {"filter": wanted, "dry_run": True})).json()
    assert dry == {"matched": 250, "changed": 0}
    assert (await gateway.post("/tasks/cancel", {"filter": wanted})).json() == {"matched": 250, "changed": 250}
    counts = (await gateway.get("/queues/demo")).json()
    assert (counts["pending"], counts["cancelled"]) == (250, 250)
    assert (await gateway.get("/queues/other")).json()["pending"] == 1


async def test_bulk_retry_sends_failed_tasks_back_and_delete_leaves_nothing(gateway: LiveGateway) -> None:
    for _ in range(3):
        await gateway.enqueue(max_attempts=1)
    for task in await gateway.poll(max=3):
        await gateway.report(task, "fail", error="no")
    assert (await gateway.post("/tasks/retry", {"filter": {"status": "failed"}})).json()["changed"] == 3
    (claimed, *_) = await gateway.poll()
    assert (await gateway.post("/tasks/delete", {"filter": {}})).json() == {"matched": 2, "changed": 2}
    await gateway.report(claimed, "complete")
    assert (await gateway.post("/tasks/delete", {"filter": {"status": ["completed"]}})).json()["changed"] == 1
    redis = gateway.app.connections.redis
    left = {key.decode() async for key in redis.scan_iter("*")}
    assert {key for key in left if "arq:" in key} == set()
    assert (await gateway.get("/tasks")).json()["tasks"] == []


@pytest.mark.parametrize("body", [{}, {"filter": {"nope": 1}}, {"filter": {"status": "lost"}}, {"filter": {"tags": 1}}])
async def test_a_bad_bulk_request_is_refused(gateway: LiveGateway, body: dict[str, Any]) -> None:
    assert (await gateway.post("/tasks/cancel", body)).status_code == 400


async def test_who_waits_for_a_task_hears_that_it_was_deleted(gateway: LiveGateway) -> None:
    task = await gateway.enqueue()
    waiting = asyncio.create_task(gateway.get(f"/tasks/{task['id']}?wait=30"))
    watching = gateway.app.connections.redis
    await wait_until(lambda: watching.exists("tg:{default:demo}:watch"))
    assert (await gateway.post("/tasks/delete", {"filter": {}})).json()["changed"] == 1
    assert (await asyncio.wait_for(waiting, 5)).json()["status"] == "pending", "the last that was seen of it"


async def test_a_task_that_could_never_start_is_refused(gateway: LiveGateway) -> None:
    body = {"job_type": "demo", "run_at": "2030-01-31T08:00:00Z", "expires_in_seconds": 60}
    reply = await gateway.post("/tasks", body)
    assert (reply.status_code, reply.json()["member"]) == (400, "expires_in_seconds")
