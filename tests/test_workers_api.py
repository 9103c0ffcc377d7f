"""What workers send besides polls: heartbeats, reports, batches of them, and their comings and goings."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.harness import Clock, LiveGateway, live_gateway, wait_until

REPORTS = ("heartbeat", "complete", "fail", "release")


async def claimed(gateway: LiveGateway, **members: Any) -> dict[str, Any]:
    """Enqueue a task and claim it."""
    await gateway.enqueue(**members)
    (task,) = await gateway.poll()
    return task


async def status_of(gateway: LiveGateway, task: dict[str, Any]) -> str:
    """Read a task's status."""
    found: str = (await gateway.get(f"/tasks/{task['id']}")).json()["status"]
    return found


# Heartbeats


async def test_a_heartbeat_keeps_the_lease(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    task = await claimed(gateway, lease_seconds=10)
    for _ in range(3):
        clock.advance(9)
        reply = await gateway.report(task, "heartbeat")
        assert reply.json() == {"lease_seconds": 10, "cancel_requested": False, "directive": "run"}
    assert (await gateway.report(task, "complete")).status_code == 200


async def test_a_heartbeat_may_change_the_length_of_the_lease(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    task = await claimed(gateway, lease_seconds=10)
    assert (await gateway.report(task, "heartbeat", lease_seconds=100)).json()["lease_seconds"] == 100
    clock.advance(99)
    assert (await gateway.report(task, "heartbeat")).json()["lease_seconds"] == 100


async def test_a_heartbeat_tells_no_more_lease_than_the_timeout_leaves(
    clocked_gateway: LiveGateway, clock: Clock
) -> None:
    gateway = clocked_gateway
    task = await claimed(gateway, lease_seconds=30, timeout_seconds=40)
    clock.advance(25)
    assert (await gateway.report(task, "heartbeat")).json()["lease_seconds"] == 15


async def test_a_silent_worker_loses_its_lease_and_another_gets_the_task(
    clocked_gateway: LiveGateway, clock: Clock
) -> None:
    gateway = clocked_gateway
    task = await claimed(gateway, lease_seconds=10)
    clock.advance(10.1)
    (second,) = await gateway.poll(worker_id="w2", wait=5)
    assert (second["id"], second["attempt"]) == (task["id"], 2)
    for verb in REPORTS:
        reply = await gateway.report(task, verb)
        assert (reply.status_code, reply.json()["code"]) == (409, "lease_lost")
    assert await status_of(gateway, task) == "processing"
    assert (await gateway.report(second, "complete")).status_code == 200


# Reports


@pytest.mark.parametrize("verb", REPORTS)
async def test_a_wrong_token_is_409_and_changes_nothing(gateway: LiveGateway, verb: str) -> None:
    task = await claimed(gateway)
    before = (await gateway.get(f"/tasks/{task['id']}")).json()
    reply = await gateway.report({**task, "lease_token": "A" * 22}, verb)
    assert (reply.status_code, reply.json()["code"]) == (409, "lease_lost")
    assert (await gateway.get(f"/tasks/{task['id']}")).json() == before


@pytest.mark.parametrize("verb", REPORTS)
async def test_an_unknown_task_is_404(gateway: LiveGateway, verb: str) -> None:
    task = await claimed(gateway)
    for id in ("demo~nobody", "nobody", "other~" + task["id"].split("~")[1]):
        reply = await gateway.report({**task, "id": id}, verb)
        assert (reply.status_code, reply.json()["code"]) == (404, "task_not_found")


async def test_a_repeated_complete_is_answered_the_same(gateway: LiveGateway) -> None:
    task = await claimed(gateway)
    first = await gateway.report(task, "complete", result=1)
    again = await gateway.report(task, "complete", result=2)
    assert (again.status_code, again.json()) == (200, first.json())
    assert (await gateway.get(f"/tasks/{task['id']}")).json()["result"] == 1
    assert (await gateway.report(task, "fail")).status_code == 409
    assert (await gateway.report(task, "release")).status_code == 409
    assert (await gateway.report(task, "heartbeat")).status_code == 409


@pytest.mark.parametrize("members", [{"retry_in_seconds": 60}, {"retryable": False}])
async def test_a_repeated_fail_is_answered_the_same(gateway: LiveGateway, members: dict[str, Any]) -> None:
    task = await claimed(gateway)
    first = await gateway.report(task, "fail", error="no", **members)
    again = await gateway.report(task, "fail", error="no", **members)
    assert (again.status_code, again.json()) == (200, first.json())
    found = (await gateway.get(f"/tasks/{task['id']}")).json()
    assert len(found["attempts"]) == 1
    assert (await gateway.report(task, "complete")).status_code == 409


async def test_a_repeated_release_is_answered_the_same(gateway: LiveGateway) -> None:
    task = await claimed(gateway)
    first = await gateway.report(task, "release")
    again = await gateway.report(task, "release")
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()
    assert first.json()["status"] == "pending"
    assert len(await gateway.poll(max=5)) == 1


async def test_of_many_reports_at_once_one_is_accepted(gateway: LiveGateway) -> None:
    task = await claimed(gateway, max_attempts=1)
    replies = await asyncio.gather(*(gateway.report(task, verb) for verb in ("complete", "fail", "release") * 10))
    statuses = {
        verb: reply.status_code for verb, reply in zip(("complete", "fail", "release") * 10, replies, strict=True)
    }
    assert sorted(statuses.values()) == [200, 409, 409]


async def test_a_failure_says_when_it_runs_again(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    task = await claimed(gateway)
    reply = await gateway.report(task, "fail", error="no", retry_in_seconds=90)
    assert reply.json()["status"] == "retrying"
    assert reply.json()["run_at"] == "2027-01-15T08:01:30.000Z"
    clock.advance(90.1)
    assert len(await gateway.poll()) == 1


async def test_a_failure_that_is_not_retryable_or_the_last_is_final(gateway: LiveGateway) -> None:
    for members, report in (({}, {"retryable": False}), ({"max_attempts": 1}, {})):
        task = await claimed(gateway, **members)
        reply = await gateway.report(task, "fail", error={"message": "no"}, **report)
        assert (reply.json()["status"], "run_at" in reply.json()) == ("failed", False)
        assert (await gateway.get(f"/tasks/{task['id']}")).json()["error"] == {"message": "no"}


async def test_a_release_leaves_the_attempt_uncounted_and_may_wait(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    task = await claimed(gateway, max_attempts=1)
    for _ in range(3):
        reply = await gateway.report(task, "release", delay_seconds=10)
        assert reply.json()["status"] == "scheduled"
        assert await gateway.poll() == []
        clock.advance(10.1)
        (task,) = await gateway.poll()
        assert task["attempt"] == 1
    assert "attempts" not in (await gateway.get(f"/tasks/{task['id']}")).json()


# Cancelling


@pytest.mark.parametrize("verb", ["fail", "release"])
async def test_a_cancelled_task_ends_cancelled_when_its_worker_lets_go(gateway: LiveGateway, verb: str) -> None:
    task = await claimed(gateway)
    await gateway.client.delete(f"/tasks/{task['id']}")
    for _ in range(2):
        assert (await gateway.report(task, "heartbeat")).json()["cancel_requested"] is True
    reply = await gateway.report(task, verb)
    assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")
    assert await status_of(gateway, task) == "cancelled"


async def test_a_cancelled_task_that_was_done_already_is_completed(gateway: LiveGateway) -> None:
    task = await claimed(gateway)
    await gateway.client.delete(f"/tasks/{task['id']}")
    assert (await gateway.report(task, "complete")).json()["status"] == "completed"


async def test_a_cancelled_task_whose_worker_died_is_cancelled(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    task = await claimed(gateway)
    await gateway.client.delete(f"/tasks/{task['id']}")
    clock.advance(30.1)

    async def ended() -> bool:
        return await status_of(gateway, task) == "cancelled"

    await wait_until(ended, 3)


# Batches


async def test_outcomes_are_answered_one_by_one_in_order(gateway: LiveGateway) -> None:
    for _ in range(4):
        await gateway.enqueue()
    done, failed, released, stale = await gateway.poll(max=4)
    body = {
        "worker_id": "w1",
        "outcomes": [
            {"id": done["id"], "lease_token": done["lease_token"], "outcome": "complete", "result": {"n": 1}},
            {"id": failed["id"], "lease_token": failed["lease_token"], "outcome": "fail", "retry_in_seconds": 60},
            {"id": released["id"], "lease_token": released["lease_token"], "outcome": "release"},
            {"id": stale["id"], "lease_token": "A" * 22, "outcome": "complete"},
            {"id": "demo~nobody", "lease_token": "A" * 22, "outcome": "complete"},
        ],
        "next": {"max": 5},
    }  # fmt: skip
    reply = (await gateway.post("/outcomes", body)).json()
    assert [one["id"] for one in reply["outcomes"]] == [one["id"] for one in body["outcomes"]]
    assert [one["status"] for one in reply["outcomes"]] == [200, 200, 200, 409, 404]
    assert [one.get("task_status") for one in reply["outcomes"][:3]] == ["completed", "retrying", "pending"]
    assert [one["error"]["code"] for one in reply["outcomes"][3:]] == ["lease_lost", "task_not_found"]
    assert [task["id"] for task in reply["tasks"]] == [released["id"]]
    assert (await gateway.get(f"/tasks/{done['id']}")).json()["result"] == {"n": 1}


async def test_a_thousand_outcomes_fit_in_one_request(gateway: LiveGateway) -> None:
    await gateway.post("/tasks", [{"job_type": "demo"}] * 1000)
    tasks = await gateway.poll(max=1000)
    outcomes = [{"id": task["id"], "lease_token": task["lease_token"], "outcome": "complete"} for task in tasks]
    reply = await gateway.post("/outcomes", {"worker_id": "w1", "outcomes": outcomes})
    assert [one["status"] for one in reply.json()["outcomes"]] == [200] * 1000
    assert "tasks" not in reply.json()
    again = await gateway.post("/outcomes", {"worker_id": "w1", "outcomes": outcomes})
    assert again.json() == reply.json()


async def test_heartbeats_keep_many_leases(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    for _ in range(2):
        await gateway.enqueue()
    first, second = await gateway.poll(max=2)
    await gateway.client.delete(f"/tasks/{second['id']}")
    clock.advance(29)
    leases = [
        {"id": first["id"], "lease_token": first["lease_token"], "progress": 0.5},
        {"id": second["id"], "lease_token": second["lease_token"]},
        {"id": first["id"], "lease_token": "A" * 22},
    ]
    reply = (await gateway.post("/heartbeats", {"worker_id": "w1", "leases": leases})).json()
    assert [one["status"] for one in reply["leases"]] == [200, 200, 409]
    assert [one.get("cancel_requested") for one in reply["leases"]] == [False, True, None]
    assert reply["directive"] == "run"
    clock.advance(29)
    assert (await gateway.report(first, "complete")).status_code == 200
    assert (await gateway.get(f"/tasks/{first['id']}")).json()["progress"] == 0.5


# Workers come and go


async def test_workers_are_listed_with_their_types_and_leases(gateway: LiveGateway) -> None:
    await gateway.enqueue("a")
    await gateway.poll("a", "b", worker_id="busy")
    await gateway.poll("c", worker_id="idle")

    async def listed() -> dict[str, dict[str, Any]] | None:
        workers = {one["id"]: one for one in (await gateway.get("/workers")).json()["workers"]}
        return workers if {"busy", "idle"} <= {name for name, one in workers.items() if one["task_types"]} else None

    workers = await wait_until(listed)
    assert workers is not None
    assert (workers["busy"]["task_types"], workers["busy"]["leases"]) == (["a", "b"], 1)
    assert (workers["idle"]["task_types"], workers["idle"]["leases"]) == (["c"], 0)
    assert workers["idle"]["directive"] == "run"
    assert workers["idle"]["last_seen_seconds"] < 10


@pytest.mark.parametrize("directive", ["drain", "stop"])
async def test_a_directive_sends_open_polls_home_on_every_gateway(redis_url: str, directive: str) -> None:
    async with live_gateway(redis_url) as one, live_gateway(redis_url) as two:
        polls = [
            asyncio.create_task(gateway.get("/poll?worker_id=w1&task_type=demo&wait=30", timeout=40))
            for gateway in (one, two)
        ]
        other = asyncio.create_task(two.get("/poll?worker_id=w2&task_type=demo&wait=30", timeout=40))
        await wait_until(lambda: one.app.manager.open_polls == 1 and two.app.manager.open_polls == 2)
        reply = await one.post(f"/workers/w1/{directive}")
        assert (reply.status_code, reply.json()) == (200, {"id": "w1", "directive": directive})
        answers = await asyncio.wait_for(asyncio.gather(*polls), 2)
        assert [(answer.status_code, answer.headers["x-directive"]) for answer in answers] == [(204, directive)] * 2
        assert not other.done()
        task = await claimed_by(one, "w2", other)
        heartbeat = await two.report(task, "heartbeat")
        assert heartbeat.json()["directive"] == "run"
        assert (await two.post("/workers/w1/run")).status_code == 200

        async def taken_back() -> bool:
            answer = await one.get("/poll?worker_id=w1&task_type=demo&wait=0")
            return answer.headers["x-directive"] == "run"

        await wait_until(taken_back, 2)


async def claimed_by(gateway: LiveGateway, worker_id: str, poll: asyncio.Task[Any]) -> dict[str, Any]:
    """Enqueue a task and see that an open poll gets it."""
    await gateway.enqueue()
    (task,) = (await asyncio.wait_for(poll, 2)).json()["tasks"]
    assert task["worker_id"] == worker_id
    found: dict[str, Any] = task
    return found


async def test_a_directive_is_heard_in_heartbeats(gateway: LiveGateway) -> None:
    task = await claimed(gateway)
    await gateway.post("/workers/w1/stop")

    async def heard() -> bool:
        return (await gateway.report(task, "heartbeat")).json()["directive"] == "stop"

    await wait_until(heard, 2)


async def test_who_signs_off_gives_its_leases_back_at_once(gateway: LiveGateway) -> None:
    for _ in range(3):
        await gateway.enqueue(max_attempts=1)
    mine = await gateway.poll(max=2, worker_id="leaving")
    (other,) = await gateway.poll(worker_id="staying")
    reply = await gateway.client.delete("/workers/leaving")
    assert (reply.status_code, reply.json()) == (200, {"id": "leaving", "released": 2})
    back = await gateway.poll(max=5)
    assert sorted((task["id"], task["attempt"]) for task in back) == sorted((task["id"], 1) for task in mine)
    assert (await gateway.report(mine[0], "complete")).status_code == 409
    assert (await gateway.report(other, "complete")).status_code == 200


async def test_who_signs_off_is_no_longer_listed_and_its_polls_go_home(gateway: LiveGateway) -> None:
    poll = asyncio.create_task(gateway.get("/poll?worker_id=leaving&task_type=demo&wait=30", timeout=40))

    async def listed() -> bool:
        return "leaving" in {one["id"] for one in (await gateway.get("/workers")).json()["workers"]}

    await wait_until(listed)
    assert (await gateway.client.delete("/workers/leaving")).status_code == 200
    assert (await asyncio.wait_for(poll, 2)).status_code == 204
    assert not await listed()


async def test_an_unknown_worker_cannot_sign_off(gateway: LiveGateway) -> None:
    reply = await gateway.client.delete("/workers/nobody")
    assert (reply.status_code, reply.json()["code"]) == (404, "worker_not_found")


async def test_a_worker_that_signs_off_at_once_stops_no_chore(
    gateway: LiveGateway, caplog: pytest.LogCaptureFixture
) -> None:
    begun = time.monotonic()
    while time.monotonic() - begun < 2.5:
        await gateway.poll("idle", worker_id="w1")
        await gateway.client.delete("/workers/w1")
    assert "restarted a chore that failed" not in caplog.text
