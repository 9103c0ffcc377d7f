"""Unique keys: one live task per key and queue, however many producers ask at once."""

from __future__ import annotations

import asyncio

import pytest

from tests.harness import Clock, LiveGateway


async def test_a_second_task_with_the_key_returns_the_first(gateway: LiveGateway) -> None:
    first = await gateway.enqueue(unique_key="k", payload=1)
    reply = await gateway.post("/tasks", {"job_type": "demo", "unique_key": "k", "payload": 2})
    assert reply.status_code == 200
    assert reply.json()["id"] == first["id"]
    assert reply.json()["payload"] == 1
    assert reply.json()["unique_key"] == "k"
    other = await gateway.enqueue(unique_key="other")
    assert other["id"] != first["id"]


async def test_two_hundred_producers_with_one_key_make_one_task(gateway: LiveGateway) -> None:
    replies = await asyncio.gather(
        *(gateway.post("/tasks", {"job_type": "demo", "unique_key": "k", "payload": n}) for n in range(200))
    )
    assert sorted({reply.status_code for reply in replies}) == [200, 201]
    assert len({reply.json()["id"] for reply in replies}) == 1
    assert [reply.status_code for reply in replies].count(201) == 1
    assert (await gateway.get("/queues/demo")).json()["pending"] == 1


async def test_reject_refuses_and_names_the_holder(gateway: LiveGateway) -> None:
    first = await gateway.enqueue(unique_key="k")
    reply = await gateway.post("/tasks", {"job_type": "demo", "unique_key": "k", "on_conflict": "reject"})
    assert reply.status_code == 409
    assert reply.json()["code"] == "unique_conflict"
    assert reply.json()["id"] == first["id"]


async def test_replace_gives_the_waiting_task_the_new_payload_and_time(gateway: LiveGateway) -> None:
    first = await gateway.enqueue(unique_key="k", payload="old", delay_seconds=3600)
    body = {"job_type": "demo", "unique_key": "k", "payload": "new", "on_conflict": "replace", "priority": "high"}
    reply = await gateway.post("/tasks", body)
    assert reply.status_code == 200
    assert (reply.json()["id"], reply.json()["payload"], reply.json()["status"]) == (first["id"], "new", "pending")
    assert reply.json()["created_at"] == first["created_at"]
    (task,) = await gateway.poll()
    assert (task["id"], task["payload"], task["priority"]) == (first["id"], "new", "high")
    refused = await gateway.post("/tasks", body)
    assert refused.status_code == 409, "a task in a worker's hands is not replaced"


async def test_what_replaces_a_task_has_an_attempt_left_and_never_more_than_its_bound(gateway: LiveGateway) -> None:
    await gateway.enqueue(unique_key="k", max_attempts=5)
    for _ in range(2):
        (task,) = await gateway.poll()
        assert (await gateway.report(task, "fail", retry_in_seconds=0)).status_code == 200
    body = {"job_type": "demo", "unique_key": "k", "on_conflict": "replace", "max_attempts": 1, "payload": "new"}
    assert (await gateway.post("/tasks", body)).status_code == 200
    (task,) = await gateway.poll()
    assert (task["payload"], task["attempt"], task["max_attempts"]) == ("new", 3, 3)


async def test_a_replaced_task_holds_its_key_as_long_as_the_new_one_says(gateway: LiveGateway) -> None:
    redis = gateway.app.connections.redis
    body = {"job_type": "demo", "unique_key": "k", "on_conflict": "replace"}
    for until, low, high in ((3600, 3_500_000, 3_600_000), ("finished", -1, -1), (60, 50_000, 60_000)):
        await gateway.post("/tasks", {**body, "unique_until": until})
        assert low <= await redis.pttl("tg:{default:demo}:unique:k") <= high, until


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
async def test_a_key_is_free_again_when_its_task_is_final(gateway: LiveGateway, end: str) -> None:
    first = await gateway.enqueue(unique_key="k", max_attempts=1)
    if end == "cancel":
        await gateway.client.delete(f"/tasks/{first['id']}")
    else:
        (task,) = await gateway.poll()
        same = await gateway.post("/tasks", {"job_type": "demo", "unique_key": "k"})
        assert same.json()["id"] == first["id"]
        await gateway.report(task, end)
    second = await gateway.enqueue(unique_key="k")
    assert second["id"] != first["id"]


async def test_until_started_frees_the_key_at_the_first_claim(gateway: LiveGateway) -> None:
    first = await gateway.enqueue(unique_key="k", unique_until="started")
    await gateway.poll()
    second = await gateway.enqueue(unique_key="k", unique_until="started")
    assert second["id"] != first["id"]


async def test_until_seconds_outlives_the_task(gateway: LiveGateway) -> None:
    first = await gateway.enqueue(unique_key="k", unique_until=3600)
    (task,) = await gateway.poll()
    await gateway.report(task, "complete", result=7)
    again = await gateway.post("/tasks", {"job_type": "demo", "unique_key": "k", "unique_until": 3600})
    assert (again.status_code, again.json()["id"], again.json()["result"]) == (200, first["id"], 7)


async def test_a_refused_task_leaves_no_lock(clocked_gateway: LiveGateway, clock: Clock) -> None:
    clocked_gateway.app.store.queue_limit = 1
    await clocked_gateway.enqueue()
    full = await clocked_gateway.post("/tasks", {"job_type": "demo", "unique_key": "k"})
    assert full.json()["code"] == "queue_full"
    await clocked_gateway.poll()
    await clocked_gateway.enqueue(unique_key="k")


async def test_a_batch_meets_its_own_keys_and_an_atomic_one_falls_as_a_whole(gateway: LiveGateway) -> None:
    batch = [{"job_type": "demo", "unique_key": "k"}, {"job_type": "demo", "unique_key": "k"}, {"job_type": "demo"}]
    reply = await gateway.post("/tasks", batch)
    results = reply.json()["results"]
    assert [one["status"] for one in results] == [201, 200, 201]
    assert results[0]["task"]["id"] == results[1]["task"]["id"]
    atomic = [{"job_type": "demo"}, {"job_type": "demo", "unique_key": "k", "on_conflict": "reject"}]
    before = (await gateway.get("/queues/demo")).json()["pending"]
    refused = await gateway.post("/tasks?atomic=true", atomic)
    assert (refused.status_code, refused.json()["code"]) == (409, "unique_conflict")
    assert (await gateway.get("/queues/demo")).json()["pending"] == before


async def test_a_retried_task_takes_its_key_back_or_is_refused(gateway: LiveGateway) -> None:
    first = await gateway.enqueue(unique_key="k", max_attempts=1)
    (task,) = await gateway.poll()
    await gateway.report(task, "fail")
    second = await gateway.enqueue(unique_key="k")
    refused = await gateway.post(f"/tasks/{first['id']}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "unique_conflict")
    await gateway.client.delete(f"/tasks/{second['id']}")
    assert (await gateway.post(f"/tasks/{first['id']}/retry")).status_code == 200
    same = await gateway.post("/tasks", {"job_type": "demo", "unique_key": "k"})
    assert same.json()["id"] == first["id"]


async def test_a_holder_deleted_at_the_same_moment_fails_no_request(gateway: LiveGateway) -> None:
    """Its key is free by then: the new task takes it, and the others of a batch are stored once."""
    ended = asyncio.Event()

    async def delete_all() -> None:
        while not ended.is_set():
            for task in (await gateway.get("/tasks", params={"job_type": "demo", "tag": "k:k"})).json()["tasks"]:
                await gateway.post("/tasks/delete", {"filter": {"job_type": "demo", "tags": {"k": "k"}}})
                assert task["job_type"] == "demo"

    deleting = [asyncio.create_task(delete_all()) for _ in range(3)]
    unique = {"job_type": "demo", "unique_key": "k", "tags": {"k": "k"}}
    try:
        for _ in range(40):
            one, many = await asyncio.gather(
                gateway.post("/tasks", unique), gateway.post("/tasks", [unique, {"job_type": "other"}])
            )
            assert one.status_code in (200, 201) or one.json()["code"] == "task_changed"
            assert many.status_code in (200, 201)
    finally:
        ended.set()
        await asyncio.gather(*deleting)
    assert (await gateway.get("/queues/other")).json()["pending"] == 40
