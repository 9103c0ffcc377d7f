"""What producers send: enqueueing, waiting, reading, listing, cancelling, retrying, and what the task's members do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from gateway.tasks import ID_RULE, JOB_TYPE_RULE, TENANT_RULE, WORKER_ID_RULE
from tests.harness import Clock, LiveGateway, live_gateway, wait_until

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def post_lines(gateway: LiveGateway, *lines: str, query: str = "") -> httpx.Response:
    """POST /tasks as NDJSON."""
    headers = {"Content-Type": "application/x-ndjson"}
    return await gateway.client.post(f"/tasks{query}", content="\n".join(lines), headers=headers)


async def read(gateway: LiveGateway, task: dict[str, Any]) -> dict[str, Any]:
    """GET /tasks/{id}."""
    reply = await gateway.get(f"/tasks/{task['id']}")
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def becomes(gateway: LiveGateway, task: dict[str, Any], status: str) -> dict[str, Any]:
    """Wait until a task has a status."""

    async def look() -> dict[str, Any] | None:
        found = await read(gateway, task)
        return found if found["status"] == status else None

    found = await wait_until(look, 5, f"it never became {status}")
    assert found is not None
    return found


# One task


async def test_a_posted_task_is_found_where_its_location_says(gateway: LiveGateway) -> None:
    reply = await gateway.post("/tasks", {"job_type": "demo", "tags": {"team": "a"}, "title": "T", "description": "D"})
    assert reply.status_code == 201
    found = await gateway.get(reply.headers["location"])
    assert found.json() == reply.json()
    assert found.json()["tags"] == {"team": "a"}


@pytest.mark.parametrize(
    "payload",
    [
        "null",
        "1e400",
        "12345678901234567890",
        "1.0",
        '"\\u0000\\ud83d\\ude00"',
        "[]",
        "{}",
        '{"a":{"b":[1.50,null]}}',
        "-0",
    ],
)
async def test_payload_and_result_come_back_byte_for_byte(gateway: LiveGateway, payload: str) -> None:
    headers = {"Content-Type": "application/json"}
    body = f'{{"job_type":"demo","payload":  {payload} }}'
    id = (await gateway.client.post("/tasks", content=body, headers=headers)).headers["location"]
    polled = await gateway.get("/poll?worker_id=w1&task_type=demo&wait=0")
    assert f'"payload":{payload},' in polled.text
    # `1e400` makes Python's reader lose the number, not the token.
    token = polled.json()["tasks"][0]["lease_token"]
    body = f'{{"lease_token":"{token}","result":{payload}}}'
    assert (await gateway.client.post(f"{id}/complete", content=body, headers=headers)).status_code == 200
    text = (await gateway.get(id)).text
    assert f'"payload":{payload},' in text
    assert f'"result":{payload}' in text


async def test_a_request_id_is_taken_over_and_otherwise_made(gateway: LiveGateway) -> None:
    reply = await gateway.post("/tasks", {"job_type": "demo"}, headers={"X-Request-Id": "mine-1"})
    assert reply.headers["x-request-id"] == "mine-1"
    assert (await gateway.post("/tasks", {"job_type": "demo"})).headers["x-request-id"]


async def test_traceparent_is_carried_to_the_worker(gateway: LiveGateway) -> None:
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
    await gateway.post("/tasks", {"job_type": "demo"}, headers=headers)
    (task,) = await gateway.poll()
    assert (task["traceparent"], task["tracestate"]) == (TRACEPARENT, "vendor=1")
    await gateway.post("/tasks", {"job_type": "demo"}, headers={"traceparent": "nonsense"})
    (task,) = await gateway.poll()
    assert "traceparent" not in task


# Batches


async def test_an_array_is_stored_in_order(gateway: LiveGateway) -> None:
    reply = await gateway.post("/tasks", [{"job_type": "demo", "payload": number} for number in range(1000)])
    assert reply.status_code == 201
    assert [task["payload"] for task in reply.json()["tasks"]] == list(range(1000))
    assert [task["payload"] for task in await gateway.poll(max=1000)] == list(range(1000))


async def test_lines_are_stored_in_order_and_empty_ones_passed_over(gateway: LiveGateway) -> None:
    reply = await post_lines(gateway, '{"job_type": "a"}', "", '{"title": "no type"}', '{"type": "c"}', "")
    assert reply.status_code == 201
    assert [task["job_type"] for task in reply.json()["tasks"]] == ["a", "default", "c"]


@pytest.mark.parametrize("lines", [False, True])
async def test_a_batch_in_parts_answers_for_each_item(gateway: LiveGateway, lines: bool) -> None:
    items = [
        {"job_type": "a"},
        {"job_type": "not a name"},
        {"payload": 1},
        {"job_type": "b"},
        {"job_type": "a", "x": 1},
    ]
    if lines:
        reply = await post_lines(gateway, *map(json.dumps, items))
    else:
        reply = await gateway.post("/tasks", items)
    assert reply.status_code == 200
    results = reply.json()["results"]
    assert [entry["status"] for entry in results] == [201, 400, 400, 201, 400]
    assert [entry["task"]["job_type"] for entry in results if "task" in entry] == ["a", "b"]
    assert [entry["error"]["member"] for entry in results if "error" in entry] == [
        "[1].job_type",
        "[2].job_type",
        "[4].x",
    ]
    assert len((await gateway.get("/tasks")).json()["tasks"]) == 2


async def test_an_atomic_batch_is_stored_as_a_whole_or_not_at_all(gateway: LiveGateway) -> None:
    good, bad = {"job_type": "demo"}, {"job_type": "demo", "max_attempts": 0}
    refused = await gateway.post("/tasks?atomic=true", [good, bad, good])
    assert (refused.status_code, refused.json()["code"]) == (422, "batch_refused")
    assert [error["index"] for error in refused.json()["errors"]] == [1]
    assert (await gateway.get("/tasks")).json()["tasks"] == []
    reply = await gateway.post("/tasks?atomic=true", [good, good])
    assert reply.status_code == 201
    assert len((await gateway.get("/tasks")).json()["tasks"]) == 2


async def test_a_batch_beyond_1000_or_of_nothing_is_refused(gateway: LiveGateway) -> None:
    reply = await gateway.post("/tasks", [{"job_type": "demo"}] * 1001)
    assert (reply.status_code, reply.json()["code"]) == (413, "batch_too_large")
    assert (await gateway.post("/tasks", [])).status_code == 400
    assert (await gateway.get("/tasks")).json()["tasks"] == []


# The bound


async def test_a_full_queue_refuses_with_its_depth_and_stores_nothing(redis_url: str) -> None:
    async with live_gateway(redis_url, task_queue_size=3) as gateway:
        replies = await asyncio.gather(*(gateway.post("/tasks", {"job_type": "demo"}) for _ in range(10)))
        assert sorted(reply.status_code for reply in replies) == [201] * 3 + [503] * 7
        problem = next(reply for reply in replies if reply.status_code == 503)
        assert int(problem.headers["retry-after"]) >= 1
        body = problem.json()
        assert (body["code"], body["queue"], body["depth"], body["limit"]) == ("queue_full", "demo", 3, 3)
        assert "task pool is full" in body["detail"]
        assert body["retryable"] is True
        assert len((await gateway.get("/tasks")).json()["tasks"]) == 3
        assert (await gateway.post("/tasks", {"job_type": "other"})).status_code == 201
        (task,) = await gateway.poll()
        assert (await gateway.post("/tasks", {"job_type": "demo"})).status_code == 201
        assert (await gateway.report(task, "release")).status_code == 200, "what was accepted always has room"


async def test_a_batch_fills_what_is_left_and_an_atomic_one_does_not(redis_url: str) -> None:
    async with live_gateway(redis_url, task_queue_size=3) as gateway:
        reply = await gateway.post("/tasks?atomic=true", [{"job_type": "demo"}] * 4)
        assert (reply.status_code, reply.json()["code"]) == (413, "batch_too_large"), "no empty queue would hold it"
        await gateway.enqueue()
        reply = await gateway.post("/tasks?atomic=true", [{"job_type": "demo"}] * 3)
        assert (reply.status_code, reply.json()["code"]) == (503, "queue_full")
        assert len((await gateway.get("/tasks")).json()["tasks"]) == 1
        reply = await gateway.post("/tasks", [{"job_type": "demo"}] * 4)
        assert [entry["status"] for entry in reply.json()["results"]] == [201, 201, 503, 503]


@pytest.mark.parametrize(
    ("method", "path", "rule"),
    [
        ("GET", "/tasks/a%20b", ID_RULE),
        ("GET", "/queues/a~b", JOB_TYPE_RULE),
        ("GET", "/queues/a~b/settings", JOB_TYPE_RULE),
        ("DELETE", "/workers/a~b", WORKER_ID_RULE),
        ("GET", "/tenants/a:b", TENANT_RULE),
        ("DELETE", "/keys/a%20b", ID_RULE),
    ],
)
async def test_a_malformed_name_is_told_the_rule_of_such_names(
    gateway: LiveGateway, method: str, path: str, rule: str
) -> None:
    reply = await gateway.client.request(method, path)
    assert (reply.status_code, reply.json()["code"], reply.json()["detail"]) == (400, "invalid_id", rule)


# Waiting for the end


async def test_prefer_wait_answers_200_when_the_task_is_final(gateway: LiveGateway) -> None:
    posting = asyncio.create_task(gateway.post("/tasks", {"job_type": "demo"}, headers={"Prefer": "wait=20"}))
    (task,) = await gateway.poll(wait=10)
    await gateway.report(task, "complete", result=42)
    reply = await asyncio.wait_for(posting, 2)
    assert reply.status_code == 200
    assert (reply.json()["status"], reply.json()["result"]) == ("completed", 42)
    assert reply.headers["preference-applied"] == "wait=20"


async def test_prefer_wait_answers_202_when_the_time_is_over(gateway: LiveGateway) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    reply = await gateway.post("/tasks", {"job_type": "demo"}, headers={"Prefer": "respond-async, wait=1"})
    assert reply.status_code == 202
    assert reply.headers["preference-applied"] == "wait=1"
    assert reply.headers["location"] == f"/tasks/{reply.json()['id']}"
    assert 1 <= loop.time() - started < 2


@pytest.mark.parametrize("verb", ["complete", "fail", "cancel"])
async def test_a_read_with_wait_holds_until_the_task_is_final(gateway: LiveGateway, verb: str) -> None:
    task = await gateway.enqueue(max_attempts=1)
    reading = asyncio.create_task(gateway.get(f"/tasks/{task['id']}?wait=20"))
    if verb == "cancel":
        await gateway.client.delete(f"/tasks/{task['id']}")
    else:
        (leased,) = await gateway.poll()
        await gateway.report(leased, verb)
    final = (await asyncio.wait_for(reading, 2)).json()["status"]
    assert final == {"complete": "completed", "fail": "failed", "cancel": "cancelled"}[verb]


async def test_a_read_with_prefer_wait_says_so_and_gives_up_in_time(gateway: LiveGateway) -> None:
    task = await gateway.enqueue()
    reply = await gateway.get(f"/tasks/{task['id']}", headers={"Prefer": "wait=1"})
    assert (reply.status_code, reply.json()["status"]) == (200, "pending")
    assert reply.headers["preference-applied"] == "wait=1"


async def test_an_etag_answers_304_until_the_task_changes(gateway: LiveGateway) -> None:
    task = await gateway.enqueue()
    first = await gateway.get(f"/tasks/{task['id']}")
    known = {"If-None-Match": first.headers["etag"]}
    unchanged = await gateway.get(f"/tasks/{task['id']}", headers=known)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["etag"] == first.headers["etag"]
    await gateway.poll()
    changed = await gateway.get(f"/tasks/{task['id']}", headers=known)
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]


# Lists


async def ids(gateway: LiveGateway, **params: Any) -> list[str]:
    """Names of a list's tasks, which stand in their payloads."""
    reply = await gateway.get("/tasks", params=params)
    assert reply.status_code == 200, reply.text
    return [task["payload"] for task in reply.json()["tasks"]]


async def test_lists_filter_by_each_fact(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    times = {}
    for name, members in {
        "done": {"tags": {"team": "a", "env": "x"}},
        "failed": {"tags": {"team": "a"}, "max_attempts": 1},
        "held": {"job_type": "other"},
        "later": {"delay_seconds": 60},
        "ready": {"tags": {"team": "b:c"}},
    }.items():
        task = await gateway.enqueue(**{"job_type": "demo", "payload": name, **members})
        times[name] = task["created_at"]
        if name in ("done", "failed", "held"):
            (leased,) = await gateway.poll(task["job_type"], worker_id=f"w-{name}")
            if name != "held":
                await gateway.report(leased, "complete" if name == "done" else "fail")
        clock.advance(10)
    assert await ids(gateway) == ["ready", "later", "held", "failed", "done"]
    assert await ids(gateway, status="pending") == ["ready"]
    assert await ids(gateway, status="completed,failed,scheduled") == ["later", "failed", "done"]
    assert await ids(gateway, job_type="other") == ["held"]
    assert await ids(gateway, type="other") == ["held"]
    assert await ids(gateway, tag="team:a") == ["failed", "done"]
    assert await ids(gateway, tag=["team:a", "env:x"]) == ["done"]
    assert await ids(gateway, tag="team:b:c") == ["ready"]
    assert await ids(gateway, worker_id="w-held") == ["held"]
    assert await ids(gateway, worker_id="w-done") == ["done"]
    assert await ids(gateway, created_after=times["later"]) == ["ready", "later"]
    assert await ids(gateway, created_before=times["failed"]) == ["done"]
    assert await ids(gateway, created_after=times["failed"], created_before=times["later"]) == ["held", "failed"]


async def test_a_walk_over_pages_sees_each_task_once_whatever_happens_meanwhile(gateway: LiveGateway) -> None:
    batch = [{"job_type": f"q{number % 3}", "payload": number} for number in range(25)]
    await gateway.post("/tasks", batch)
    seen: list[int] = []
    address: str | None = "/tasks?limit=4"
    while address:
        reply = await gateway.get(address)
        page = reply.json()
        seen += [task["payload"] for task in page["tasks"]]
        assert ("next_cursor" in page) == ("link" in reply.headers)
        address = None
        if "link" in reply.headers:
            link, rel = reply.headers["link"].split(">; ")
            assert rel == 'rel="next"'
            address = link.removeprefix("<")
            assert f"cursor={page['next_cursor']}" in address
        for task in await gateway.poll("q0", "q1", "q2", max=2):
            await gateway.report(task, "complete")
        await gateway.enqueue("q0", payload=1000)
    assert sorted(seen) == list(range(25))


# Cancel and retry


async def test_waiting_tasks_are_cancelled_at_once(gateway: LiveGateway) -> None:
    pending, scheduled = await gateway.enqueue(), await gateway.enqueue(delay_seconds=60)
    await gateway.enqueue("other")
    (leased,) = await gateway.poll("other")
    await gateway.report(leased, "fail", retry_in_seconds=60)  # retrying
    for task in (pending, scheduled, leased):
        reply = await gateway.client.delete(f"/tasks/{task['id']}")
        assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")
        assert "finished_at" in reply.json()
    assert await gateway.poll("demo", "other") == []


async def test_a_processing_task_is_cancelled_by_asking_its_worker(gateway: LiveGateway) -> None:
    task = await gateway.enqueue()
    (leased,) = await gateway.poll()
    reply = await gateway.client.delete(f"/tasks/{task['id']}")
    assert (reply.status_code, reply.json()["status"]) == (202, "processing")
    assert reply.json()["cancel_requested"] is True
    again = await gateway.client.delete(f"/tasks/{task['id']}")
    assert again.status_code == 202
    assert (await gateway.report(leased, "heartbeat")).json()["cancel_requested"] is True


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
async def test_a_final_task_cannot_be_cancelled(gateway: LiveGateway, end: str) -> None:
    task = await gateway.enqueue(max_attempts=1)
    if end == "cancel":
        await gateway.client.delete(f"/tasks/{task['id']}")
    else:
        (leased,) = await gateway.poll()
        await gateway.report(leased, end)
    reply = await gateway.client.delete(f"/tasks/{task['id']}")
    assert (reply.status_code, reply.json()["code"]) == (409, "already_finished")
    assert (await gateway.client.delete("/tasks/demo~nobody")).status_code == 404


async def test_a_failed_or_cancelled_task_is_sent_back_with_fresh_attempts(gateway: LiveGateway) -> None:
    failed, cancelled = await gateway.enqueue(max_attempts=1, payload=1), await gateway.enqueue(payload=2)
    (leased,) = await gateway.poll()
    await gateway.report(leased, "fail", error="no luck")
    await gateway.client.delete(f"/tasks/{cancelled['id']}")
    for task in (failed, cancelled):
        reply = await gateway.post(f"/tasks/{task['id']}/retry")
        assert (reply.status_code, reply.json()["status"], reply.json()["attempt"]) == (200, "pending", 0)
        (leased,) = await gateway.poll()
        assert (leased["id"], leased["attempt"], leased["payload"]) == (task["id"], 1, task["payload"])
        await gateway.report(leased, "complete")
    history = (await read(gateway, failed))["attempts"]
    assert [one["outcome"] for one in history] == ["failed", "completed"]


async def test_only_failed_and_cancelled_tasks_are_retried(gateway: LiveGateway) -> None:
    task = await gateway.enqueue()
    reply = await gateway.post(f"/tasks/{task['id']}/retry")
    assert (reply.status_code, reply.json()["code"]) == (409, "not_finished")
    (leased,) = await gateway.poll()
    assert (await gateway.post(f"/tasks/{task['id']}/retry")).status_code == 409
    await gateway.report(leased, "complete")
    reply = await gateway.post(f"/tasks/{task['id']}/retry")
    assert (reply.status_code, reply.json()["code"]) == (409, "already_finished")
    assert (await gateway.post("/tasks/demo~nobody/retry")).status_code == 404


# Time


async def test_nothing_is_handed_out_before_its_time(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    task = await gateway.enqueue(delay_seconds=10)
    assert task["status"] == "scheduled"
    clock.advance(9.9)
    assert await gateway.poll() == []
    clock.advance(0.2)
    assert [one["id"] for one in await gateway.poll()] == [task["id"]]


async def test_run_at_is_a_time_of_any_zone(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    task = await gateway.enqueue(run_at="2027-01-15T10:00:10.500+02:00")  # the clock stands at 08:00:00Z
    assert task["run_at"] == "2027-01-15T08:00:10.500Z"
    clock.advance(10.4)
    assert await gateway.poll() == []
    clock.advance(0.2)
    assert len(await gateway.poll()) == 1
    past = await gateway.enqueue(run_at="2020-01-01T00:00:00Z")
    assert past["status"] in ("pending", "scheduled")
    assert [one["id"] for one in await gateway.poll()] == [past["id"]]


async def test_who_is_not_started_in_time_is_expired(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    late, started = await gateway.enqueue("a", expires_in_seconds=5), await gateway.enqueue("b", expires_in_seconds=5)
    (leased,) = await gateway.poll("b")
    clock.advance(5.1)
    assert await gateway.poll("a") == []
    final = await becomes(gateway, late, "failed")
    assert final["error"]["type"] == "expired"
    assert (await gateway.report(leased, "complete")).status_code == 200
    assert (await read(gateway, started))["status"] == "completed"


async def test_an_attempt_ends_at_its_timeout_heartbeats_or_not(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    task = await gateway.enqueue(timeout_seconds=50, max_attempts=2)
    (leased,) = await gateway.poll()
    for _ in range(2):
        clock.advance(20)
        assert (await gateway.report(leased, "heartbeat")).status_code == 200
    clock.advance(10.1)
    assert (await gateway.report(leased, "heartbeat")).json()["code"] == "lease_lost"
    (second,) = await gateway.poll(wait=5)
    assert second["attempt"] == 2
    clock.advance(50.1)
    final = await becomes(gateway, task, "failed")
    assert [one["outcome"] for one in final["attempts"]] == ["timeout", "timeout"]


async def test_a_lease_that_lapses_counts_as_an_attempt(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    task = await gateway.enqueue(max_attempts=2, lease_seconds=5)
    for attempt in (1, 2):
        (leased,) = await gateway.poll(wait=5)
        assert leased["attempt"] == attempt
        clock.advance(5.1)
    final = await becomes(gateway, task, "failed")
    assert [one["outcome"] for one in final["attempts"]] == ["lapsed", "lapsed"]
    assert final["error"]["message"]


async def test_a_finished_task_stays_for_its_retention(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    short, long = await gateway.enqueue(retention_seconds=5), await gateway.enqueue()
    for leased in await gateway.poll(max=2):
        await gateway.report(leased, "complete")
    clock.advance(4.9)
    assert (await gateway.get(f"/tasks/{short['id']}")).status_code == 200
    clock.advance(0.2)
    assert (await gateway.get(f"/tasks/{short['id']}")).status_code == 404
    assert [task["id"] for task in (await gateway.get("/tasks")).json()["tasks"]] == [long["id"]]
    clock.advance(86_400)
    assert (await gateway.get(f"/tasks/{long['id']}")).status_code == 404
    assert (await gateway.get("/tasks")).json()["tasks"] == []


async def test_a_failed_task_stays_thirty_days(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    task = await gateway.enqueue(max_attempts=1)
    (leased,) = await gateway.poll()
    await gateway.report(leased, "fail")
    clock.advance(29 * 86_400)
    assert (await gateway.get(f"/tasks/{task['id']}")).status_code == 200
    clock.advance(86_401)
    assert (await gateway.get(f"/tasks/{task['id']}")).status_code == 404


async def test_without_retention_a_task_is_gone_when_it_ends_but_its_waiter_is_told(gateway: LiveGateway) -> None:
    posting = asyncio.create_task(
        gateway.post("/tasks", {"job_type": "demo", "retention_seconds": 0}, headers={"Prefer": "wait=20"})
    )
    (leased,) = await gateway.poll(wait=10)
    assert (await gateway.report(leased, "complete", result=1)).status_code == 200
    reply = await asyncio.wait_for(posting, 3)
    assert reply.status_code in (200, 202)

    async def gone() -> bool:
        return (await gateway.get(f"/tasks/{leased['id']}")).status_code == 404

    await wait_until(gone)


@pytest.mark.parametrize(
    ("retry", "waits"),
    [
        ({"backoff": "exponential", "base_seconds": 2, "factor": 3, "jitter": False}, [2, 6, 18]),
        ({"backoff": "linear", "base_seconds": 2, "jitter": False}, [2, 4, 6]),
        ({"backoff": "fixed", "base_seconds": 2, "jitter": False}, [2, 2, 2]),
        ({"backoff": "exponential", "base_seconds": 10, "max_seconds": 15, "jitter": False}, [10, 15, 15]),
        ({"delays_seconds": [1, 5]}, [1, 5, 5]),
    ],
)
async def test_attempts_wait_as_the_retry_rule_says(
    clocked_gateway: LiveGateway, clock: Clock, retry: dict[str, Any], waits: list[float]
) -> None:
    gateway = clocked_gateway
    task = await gateway.enqueue(retry=retry)
    for number, wait_seconds in enumerate(waits, 1):
        (leased,) = await gateway.poll()
        assert leased["attempt"] == number
        assert (await gateway.report(leased, "fail")).json()["status"] == "retrying"
        clock.advance(wait_seconds - 0.1)
        assert await gateway.poll() == []
        assert (await read(gateway, task))["status"] == "retrying"
        clock.advance(0.2)


async def test_jitter_waits_at_most_as_long(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    await gateway.post("/tasks", [{"job_type": "demo", "retry": {"base_seconds": 100}}] * 20)
    due = set()
    for leased in await gateway.poll(max=20):
        due.add((await gateway.report(leased, "fail")).json()["run_at"])
    assert len(due) > 10
    clock.advance(100.1)
    assert len(await gateway.poll(max=20)) == 20


# What is told of a task


async def test_the_history_has_every_attempt(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    task = await gateway.enqueue(retry={"delays_seconds": [0]}, lease_seconds=5)
    (first,) = await gateway.poll(worker_id="w1")
    clock.advance(1)
    await gateway.report(first, "fail", error={"type": "Boom", "message": "no", "stack": "line 1", "details": {"k": 1}})
    assert (await read(gateway, task))["error"] == {
        "type": "Boom",
        "message": "no",
        "stack": "line 1",
        "details": {"k": 1},
    }
    assert len(await gateway.poll(worker_id="w2")) == 1
    clock.advance(5.1)
    (third,) = await gateway.poll(worker_id="w3", wait=5)
    clock.advance(1)
    await gateway.report(third, "complete")
    history = (await read(gateway, task))["attempts"]
    facts = [(one["attempt"], one["worker_id"], one["outcome"]) for one in history]
    assert facts == [(1, "w1", "failed"), (2, "w2", "lapsed"), (3, "w3", "completed")]
    assert history[0]["error"] == {"type": "Boom", "message": "no"}
    assert all(one["started_at"] < one["finished_at"] for one in history)


async def test_progress_and_log_lines_are_read_beside_the_task(gateway: LiveGateway) -> None:
    task = await gateway.enqueue()
    (leased,) = await gateway.poll()
    await gateway.report(leased, "heartbeat", progress={"done": 1, "of": 2}, log=["opened", "read"])
    await gateway.report(leased, "heartbeat", log=["closed"])
    found = await read(gateway, task)
    assert found["progress"] == {"done": 1, "of": 2}
    assert [(line["attempt"], line["line"]) for line in found["log"]] == [(1, "opened"), (1, "read"), (1, "closed")]
    await gateway.report(leased, "complete")
    assert len((await read(gateway, task))["log"]) == 3


async def test_a_log_keeps_its_last_200_lines(gateway: LiveGateway) -> None:
    task = await gateway.enqueue()
    (leased,) = await gateway.poll()
    for start in (0, 100, 200):
        await gateway.report(leased, "heartbeat", log=[str(start + number) for number in range(100)])
    assert [line["line"] for line in (await read(gateway, task))["log"]] == [str(number) for number in range(100, 300)]


async def test_members_of_later_versions_are_refused(gateway: LiveGateway) -> None:
    for member in ("on_parent_failure", "depends_on", "callback_url", "schedule", "idempotency_key"):
        reply = await gateway.post("/tasks", {"job_type": "demo", member: "x"})
        assert (reply.status_code, reply.json()["code"], reply.json()["member"]) == (400, "unknown_member", member)


async def test_a_refusal_is_a_problem_document(gateway: LiveGateway) -> None:
    reply = await gateway.post("/tasks", {"job_type": "demo", "priority": "urgent"}, headers={"X-Request-Id": "r1"})
    assert reply.status_code == 400
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem.keys() >= {"type", "title", "status", "detail", "code", "request_id", "retryable"}
    assert (problem["status"], problem["code"], problem["request_id"]) == (400, "invalid_member", "r1")
    assert (problem["member"], problem["retryable"]) == ("priority", False)


async def test_replies_are_not_held_back(gateway: LiveGateway) -> None:
    """Without TCP_NODELAY the body of each reply on a kept-open connection waits 40 ms for an ACK."""
    loop = asyncio.get_running_loop()
    await gateway.enqueue()
    started = loop.time()
    for _ in range(20):
        await gateway.enqueue()
    assert loop.time() - started < 0.4


async def test_a_retried_task_is_due_when_it_was_sent_back(gateway: LiveGateway) -> None:
    task = await gateway.enqueue(delay_seconds=3600)
    await gateway.client.delete(f"/tasks/{task['id']}")
    retried = (await gateway.post(f"/tasks/{task['id']}/retry")).json()
    assert retried["status"] == "pending"
    assert task["created_at"] <= retried["run_at"] < task["run_at"]
    (claimed,) = await gateway.poll()
    assert claimed["run_at"] == retried["run_at"]
