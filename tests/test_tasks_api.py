"""A task's whole life over HTTP."""

from __future__ import annotations

from tests.harness import LiveGateway


async def test_a_task_is_enqueued_claimed_completed_and_read(gateway: LiveGateway) -> None:
    task = await gateway.enqueue(payload={"hello": "world"})
    assert task["status"] == "pending"
    (claimed,) = await gateway.poll()
    assert claimed["id"] == task["id"]
    assert claimed["payload"] == {"hello": "world"}
    reply = await gateway.report(claimed, "complete", result={"answer": 42})
    assert reply.status_code == 200
    assert reply.json()["status"] == "completed"
    final = (await gateway.get(f"/tasks/{task['id']}")).json()
    assert final["status"] == "completed"
    assert final["result"] == {"answer": 42}
    assert [one["outcome"] for one in final["attempts"]] == ["completed"]


async def test_an_attempt_that_failed_waits_and_runs_again(gateway: LiveGateway) -> None:
    task = await gateway.enqueue(retry={"delays_seconds": [0]})
    (first,) = await gateway.poll()
    reply = await gateway.report(first, "fail", error={"type": "Boom", "message": "no"})
    assert reply.json()["status"] == "retrying"
    (second,) = await gateway.poll(wait=5)
    assert second["id"] == task["id"]
    assert second["attempt"] == 2
    assert second["error"] == {"type": "Boom", "message": "no"}
    assert (await gateway.report(first, "complete")).status_code == 409
    assert (await gateway.report(second, "complete")).status_code == 200


async def test_a_waiting_poll_gets_a_task_as_soon_as_it_is_posted(gateway: LiveGateway) -> None:
    import asyncio

    poll = asyncio.create_task(gateway.poll(wait=20))
    from tests.harness import wait_until

    await wait_until(lambda: gateway.app.manager.open_polls == 1)
    task = await gateway.enqueue()
    (claimed,) = await asyncio.wait_for(poll, 5)
    assert claimed["id"] == task["id"]
