"""Idempotency-Key: repeat a POST as often as you like, and it happened once."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from gateway.tasks import TaskSpec
from tests import lives
from tests.harness import Clock, LiveGateway, live_gateway


async def _post(gateway: LiveGateway, key: str, body: object, path: str = "/tasks", **headers: str):  # type: ignore[no-untyped-def]
    return await gateway.post(path, body, headers={"Idempotency-Key": key, **headers})


async def _pending(gateway: LiveGateway) -> int:
    return (await gateway.get("/queues/demo")).json()["pending"]


async def test_the_same_key_and_body_replay_the_first_reply(gateway: LiveGateway) -> None:
    body = {"job_type": "demo", "payload": {"n": 1.0}}
    first = await _post(gateway, "a", body)
    assert first.status_code == 201
    assert "Idempotent-Replayed" not in first.headers
    await gateway.poll()
    again = await _post(gateway, "a", body)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert (await gateway.get("/queues/demo")).json()["totals"]["enqueued"] == 1


async def test_quoted_and_bare_keys_are_the_same_key(gateway: LiveGateway) -> None:
    first = await _post(gateway, "8e03978e", {"job_type": "demo"})
    again = await _post(gateway, '"8e03978e"', {"job_type": "demo"})
    assert again.json()["id"] == first.json()["id"]


async def test_another_body_under_the_key_is_refused(gateway: LiveGateway) -> None:
    await _post(gateway, "a", {"job_type": "demo", "payload": 1})
    for body in ({"job_type": "demo", "payload": 2}, {"job_type": "other", "payload": 1}, [{"job_type": "demo"}]):
        reply = await _post(gateway, "a", body)
        assert (reply.status_code, reply.json()["code"]) == (422, "idempotency_mismatch")
    assert await _pending(gateway) == 1


async def test_fifty_at_once_make_one_task(gateway: LiveGateway) -> None:
    replies = await asyncio.gather(*(_post(gateway, "a", {"job_type": "demo"}) for _ in range(50)))
    assert await _pending(gateway) == 1
    for reply in replies:
        if reply.status_code == 409:
            assert reply.json()["code"] == "request_running"
            assert int(reply.headers["Retry-After"]) >= 1
        else:
            assert reply.status_code == 201
    again = await _post(gateway, "a", {"job_type": "demo"})
    assert again.status_code == 201


async def test_a_refused_request_frees_its_key(gateway: LiveGateway) -> None:
    gateway.app.store.queue_limit = 1
    await gateway.enqueue()
    body = {"job_type": "demo"}
    assert (await _post(gateway, "a", body)).json()["code"] == "queue_full"
    assert (await _post(gateway, "b", {"job_type": "demo", "nope": 1})).status_code == 400
    await gateway.poll()
    assert (await _post(gateway, "a", body)).status_code == 201
    await gateway.poll()
    assert (await _post(gateway, "b", body)).status_code == 201


async def test_when_the_first_asker_died_the_next_one_makes_the_same_task(
    clocked_gateway: LiveGateway, clock: Clock
) -> None:
    gateway = clocked_gateway
    idempotency, store = gateway.app.idempotency, gateway.app.store
    raw = gateway.client.build_request("POST", "/tasks", json={"job_type": "demo"}).content
    request = (b"POST /tasks", b"", b"application/json", raw)
    names = store.make_names(lives.QUEUE, [TaskSpec("demo")])
    assert await idempotency.begin("default", "a", request, names) == (False, idempotency_made(names))
    running = await _post(gateway, "a", {"job_type": "demo"})
    assert (running.status_code, running.json()["code"]) == (409, "request_running")
    clock.advance(11)
    reply = await _post(gateway, "a", {"job_type": "demo"})
    assert reply.status_code == 201
    assert reply.json()["id"] == f"demo~{names[0]}"


async def test_a_refused_repetition_leaves_the_key_to_a_try_that_is_still_on_its_way(
    clocked_gateway: LiveGateway, clock: Clock
) -> None:
    gateway, body = clocked_gateway, {"job_type": "demo"}
    idempotency, store = gateway.app.idempotency, gateway.app.store
    raw = gateway.client.build_request("POST", "/tasks", json=body).content
    names = store.make_names(lives.QUEUE, [TaskSpec("demo")])
    await idempotency.begin("default", "a", (b"POST /tasks", b"", b"application/json", raw), names)
    clock.advance(11)
    store.queue_limit = 1
    await gateway.enqueue()
    assert (await _post(gateway, "a", body)).json()["code"] == "queue_full"
    store.queue_limit = 10
    assert (await _post(gateway, "a", body)).json()["id"] == f"demo~{names[0]}"


def idempotency_made(names: list[str]) -> object:
    from gateway.store.idempotency import Made

    return Made(tuple(names))


async def test_after_a_day_the_key_is_new(clocked_gateway: LiveGateway) -> None:
    await _post(clocked_gateway, "a", {"job_type": "demo"})
    redis = clocked_gateway.app.connections.redis
    (key,) = [key async for key in redis.scan_iter("tg:{idempotency:default}:*")]
    assert 86_000_000 < await redis.pttl(key) <= 86_400_000


async def test_batches_are_replayed_as_they_were(gateway: LiveGateway) -> None:
    batch = [{"job_type": "demo"}, {"job_type": "demo", "nope": 1}, {"job_type": "other"}]
    first = await _post(gateway, "a", batch)
    again = await _post(gateway, "a", batch)
    assert (again.status_code, again.content) == (200, first.content)
    assert await _pending(gateway) == 1


async def test_a_batch_of_which_a_part_is_in_doubt_is_made_whole_by_its_repetition(
    clocked_gateway: LiveGateway, clock: Clock, redis: Redis
) -> None:
    """What nobody knows of is no outcome to replay."""
    gateway = clocked_gateway
    for key, batch in (("a", [{"job_type": "demo"}, {"job_type": "other"}]), ("b", [{"job_type": "other"}, {"no": 1}])):
        before = await redis.zcard("arq:queue:{default:demo}")
        other = await redis.zcard("arq:queue:{default:other}")
        if other:
            await redis.rename("arq:queue:{default:other}", "aside")
        await redis.set("arq:queue:{default:other}", "no queue")
        refused = await _post(gateway, key, batch)
        assert (refused.status_code, refused.json()["code"]) == (500, "internal"), refused.text
        await redis.delete("arq:queue:{default:other}")
        if other:
            await redis.rename("aside", "arq:queue:{default:other}")
        clock.advance(11)
        reply = await _post(gateway, key, batch)
        made = reply.json().get("tasks") or [one["task"] for one in reply.json()["results"] if one["status"] == 201]
        assert len(made) == (2 if key == "a" else 1), reply.text
        assert await redis.zcard("arq:queue:{default:demo}") == before + (key == "a"), "what was stored is stored once"
        assert await redis.zcard("arq:queue:{default:other}") == other + 1
        assert (await _post(gateway, key, batch)).content == reply.content


async def test_a_batch_of_which_nothing_fits_leaves_its_key_free(gateway: LiveGateway) -> None:
    await gateway.client.put("/queues/demo", json={"max_pending": 2})
    for _ in range(2):
        await gateway.enqueue()
    batch = [{"job_type": "demo"}, {"job_type": "demo"}]
    refused = await _post(gateway, "a", batch)
    assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
    assert (await gateway.post("/tasks", batch)).status_code == 503
    await gateway.post("/queues/demo/purge")
    assert (await _post(gateway, "a", batch)).status_code == 201


async def test_what_a_key_made_is_told_again_although_it_fills_the_quota(redis_url: str) -> None:
    async with live_gateway(redis_url, tenant_max_pending=3) as gateway:
        batch = [{"job_type": "demo"}] * 3
        first = await _post(gateway, "a", batch)
        assert first.status_code == 201
        again = await _post(gateway, "a", batch)
        assert (again.status_code, again.content) == (201, first.content)
        refused = await _post(gateway, "b", batch)
        assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
        refused = await _post(gateway, "c", [*batch, {"job_type": "demo"}])
        assert (refused.status_code, refused.json()["code"], refused.json()["limit"]) == (413, "batch_too_large", 3)


async def test_a_repeated_request_may_still_wait_for_the_end(gateway: LiveGateway) -> None:
    first = await _post(gateway, "a", {"job_type": "demo"})
    (task,) = await gateway.poll()
    await gateway.report(task, "complete", result=7)
    again = await _post(gateway, "a", {"job_type": "demo"}, Prefer="wait=5")
    assert (again.status_code, again.json()["id"], again.json()["result"]) == (200, first.json()["id"], 7)


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "tab\there", "ünï"])
async def test_a_malformed_key_is_refused(gateway: LiveGateway, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode("latin-1"))]
    reply = await gateway.client.post("/tasks", json={"job_type": "demo"}, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_parameter")
    assert reply.json()["parameter"] == "Idempotency-Key"
