"""What tenants may use: rate limits shared by all gateways, open polls, quotas of what they store."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from tests.credentials import SECRET, admin, bearer, token
from tests.harness import Clock, LiveGateway, Store, live_gateway, wait_until

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"


async def statuses(gateway: LiveGateway, number: int, path: str = "/queues", **headers: str) -> list[int]:
    """Ask so often, one after the other."""
    return [(await gateway.get(path, headers=headers)).status_code for _ in range(number)]


# ---- The rate: GCRA. A bucket of a minute's requests, refilled evenly.


async def test_two_gateways_let_in_the_limit_together_and_then_one_by_one(redis_url: str, clock: Clock) -> None:
    settings: dict[str, Any] = {"clock": clock, "rate_limit_per_minute": 60}
    async with live_gateway(redis_url, **settings) as one, live_gateway(redis_url, **settings) as two:
        let_in = 0
        for number in range(70):
            reply = await (one, two)[number % 2].get("/queues")
            let_in += reply.status_code == 200
            assert reply.status_code == (200 if number < 60 else 429)
        assert let_in == 60
        for gateway in (one, two, one):
            clock.advance(0.99)
            assert await statuses(gateway, 1) == [429]
            clock.advance(0.01)
            assert await statuses(gateway, 2) == [200, 429]
        clock.advance(30)
        assert (await statuses(two, 40)).count(200) == 30
        clock.advance(3600)
        # It never saves up more than a minute's.
        assert (await statuses(one, 35) + await statuses(two, 35)).count(200) == 60


async def test_requests_kept_in_store_never_pass_the_limit(redis_url: str, clock: Clock) -> None:
    """A gateway takes some ahead of need: what is let in is bounded all the same, at every moment."""
    limit, left = 12_000, 150
    settings: dict[str, Any] = {"clock": clock, "rate_limit_per_minute": limit}
    async with live_gateway(redis_url, **settings) as one, live_gateway(redis_url, **settings) as two:
        # Use up most of it, so that the edge is near.
        await one.app.store.spend("tenant:default", "requests", limit, limit - left - 1)
        let_in, bound = 0, left
        for _ in range(3):
            found = await asyncio.gather(*(statuses(gateway, 25) for _ in range(5) for gateway in (one, two)))
            let_in += sum(one.count(200) for one in found)
            assert let_in <= bound
            clock.advance(0.25)
            bound += limit // 240
        # What a gateway took and did not use within a quarter of a second is lost, and only that.
        assert let_in > bound / 2


async def test_no_window_of_the_script_holds_more_than_its_due(store: Store, clock: Clock) -> None:
    """Over any stretch of time: at most a bucket and what the rate brings in that time. Asked in uneven bursts."""
    limit, granted = 600, []
    for number in range(400):
        found = await store.tasks.spend("tenant:x", "requests", limit, number % 7)
        granted.append((clock.now_ms, int(found.ok) + found.stored))
        if not found.ok:
            # What it says of the next is exact.
            clock.advance(found.wait_ms / 1000)
            assert (await store.tasks.spend("tenant:x", "requests", limit, 0)).ok
            granted.append((clock.now_ms, 1))
        clock.advance((number * 37 % 11) / 100)
    for start in range(0, len(granted), 9):
        total, begin = 0, granted[start][0]
        for at_ms, number in granted[start:]:
            total += number
            assert total <= limit + math.ceil((at_ms - begin) * limit / 60_000)
    assert sum(number for _, number in granted) > limit


async def test_a_limit_that_is_refused_says_which_and_for_how_long(redis_url: str, clock: Clock) -> None:
    async with live_gateway(redis_url, clock=clock, rate_limit_per_minute=2) as gateway:
        first = await gateway.get("/queues")
        assert first.headers["RateLimit-Policy"] == '"requests";q=2;w=60'
        assert first.headers["RateLimit"] == '"requests";r=1;t=30'
        assert (await gateway.get("/queues")).headers["RateLimit"] == '"requests";r=0;t=60'
        refused = await gateway.post("/tasks", {"job_type": "demo"})
        assert refused.status_code == 429
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.headers["Retry-After"] == "30"
        assert refused.headers["RateLimit-Policy"] == '"requests";q=2;w=60'
        assert refused.headers["RateLimit"] == '"requests";r=0;t=30'
        problem = refused.json()
        assert (problem["type"], problem["code"], problem["retryable"]) == (QUOTA_EXCEEDED, "rate_limited", True)
        assert problem["violated-policies"] == ["requests"]
        clock.advance(29)
        assert (await gateway.get("/queues")).headers["Retry-After"] == "1"
        clock.advance(1)
        assert (await gateway.get("/tasks")).json()["tasks"] == []  # nothing of what was refused is there


async def test_reports_of_workers_have_ten_times_as_many_of_their_own(redis_url: str, clock: Clock) -> None:
    async with live_gateway(redis_url, clock=clock, rate_limit_per_minute=3) as gateway:
        await gateway.enqueue(lease_seconds=600)
        (task,) = await gateway.poll()
        assert await statuses(gateway, 2) == [200, 429]
        replies = [await gateway.report(task, "heartbeat") for _ in range(31)]
        assert [reply.status_code for reply in replies] == [200] * 30 + [429]
        assert replies[0].headers["RateLimit-Policy"] == '"reports";q=30;w=60'
        assert replies[-1].json()["violated-policies"] == ["reports"]
        clock.advance(2)
        assert (await gateway.report(task, "complete")).status_code == 200


async def test_probes_and_documents_are_not_counted(redis_url: str, clock: Clock) -> None:
    async with live_gateway(redis_url, clock=clock, rate_limit_per_minute=1) as gateway:
        for path in ("/health", "/health/live", "/health/ready", "/openapi.json", "/docs") * 3:
            reply = await gateway.get(path)
            assert reply.status_code == 200
            assert "RateLimit" not in reply.headers
        assert await statuses(gateway, 2) == [200, 429]


async def test_a_tenant_that_used_up_its_limit_is_no_others_business(redis_url: str, clock: Clock) -> None:
    async with live_gateway(redis_url, clock=clock, jwt_secret=SECRET, rate_limit_per_minute=5) as gateway:
        assert await statuses(gateway, 6, **admin("noisy")) == [200] * 5 + [429]
        assert await statuses(gateway, 6, **admin("quiet")) == [200] * 5 + [429]
        # One limit however many tokens a tenant has.
        assert await statuses(gateway, 1, **bearer(token(tenant="noisy", sub="somebody else"))) == [429]


# ---- By address.


def from_address(gateway: LiveGateway, address: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=gateway.url, transport=httpx.AsyncHTTPTransport(local_address=address), timeout=10
    )


async def test_anonymous_requests_are_counted_by_the_address_they_come_from(redis_url: str, clock: Clock) -> None:
    async with (
        live_gateway(
            redis_url, clock=clock, rate_limit_per_minute=4, rate_limit_by_address=True, auth="none"
        ) as gateway,
        from_address(gateway, "127.0.0.2") as two,
        from_address(gateway, "127.0.0.3") as three,
    ):
        for client in (two, three):
            # What a client says of its own address is nothing.
            spoofed = [{"X-Forwarded-For": f"10.0.0.{n}", "X-Real-IP": f"10.0.0.{n}", "Forwarded": f"for=10.0.0.{n}"}
                       for n in range(6)]  # fmt: skip
            found = [(await client.get("/queues", headers=one)).status_code for one in spoofed]
            assert found == [200] * 4 + [429] * 2


async def test_bad_tokens_are_counted_by_address_and_good_ones_by_tenant(redis_url: str, clock: Clock) -> None:
    settings: dict[str, Any] = {"rate_limit_per_minute": 3, "rate_limit_by_address": True, "jwt_secret": SECRET}
    async with live_gateway(redis_url, clock=clock, **settings) as gateway:
        bad = [(await gateway.get("/queues", headers=bearer(f"guess{n}"))).status_code for n in range(5)]
        assert bad == [401, 401, 401, 429, 429]
        assert (await gateway.get("/queues")).status_code == 429
        assert await statuses(gateway, 4, **admin("acme")) == [200, 200, 200, 429]


# ---- What it costs.


async def limit_calls(redis: Redis, ask: Any) -> int:
    """How many calls of the limit's script something makes."""
    calls = 0
    async with redis.monitor() as monitor:
        await ask()
        await redis.echo("enough")
        async for command in monitor.listen():
            if str(command["command"]).startswith("ECHO"):
                return calls
            calls += "EVALSHA" in command["command"] and "{limit:" in command["command"]
    raise AssertionError("the monitor ended")


@pytest.mark.parametrize(("limit", "most"), [(None, 0), (100_000, 50), (1500, 100)])
async def test_a_limit_costs_a_call_for_many_requests(
    redis_url: str, redis: Redis, limit: int | None, most: int
) -> None:
    """200 requests, twenty at a time: no call without a limit, few with a generous one, with a low one one a group."""
    async with live_gateway(redis_url, rate_limit_per_minute=limit) as gateway:
        await asyncio.gather(*(statuses(gateway, 1) for _ in range(20)))

        async def ask() -> None:
            for found in await asyncio.gather(*(statuses(gateway, 10) for _ in range(20))):
                assert set(found) == {200}

        calls = await limit_calls(redis, ask)
        assert calls <= most
        assert (calls > 0) is (limit is not None)


async def test_requests_of_one_moment_share_one_call(redis_url: str, redis: Redis) -> None:
    async with live_gateway(redis_url, rate_limit_per_minute=1500) as gateway:
        limits = gateway.app.limits

        async def ask() -> None:
            await asyncio.gather(*(limits.take("tenant:default", "requests") for _ in range(1000)))

        assert await limit_calls(redis, ask) <= 2


# ---- A tenant's own limits.


async def test_a_tenants_own_limits_hold_at_every_gateway_and_go_again(redis_url: str, clock: Clock) -> None:
    settings: dict[str, Any] = {"clock": clock, "jwt_secret": SECRET, "rate_limit_per_minute": 1000}
    async with live_gateway(redis_url, **settings) as one, live_gateway(redis_url, **settings) as two:
        acme = admin("acme")
        mine = {"rate_limit_per_minute": 7, "max_batch": 3}
        reply = await one.client.put("/tenants/acme", json=mine, headers=admin())
        assert reply.status_code == 200
        assert {name: reply.json()["limits"][name] for name in mine} == mine
        assert sorted(reply.json()["own"]) == sorted(mine)

        async def known(number: int) -> bool:
            found = await two.get("/tenants/acme", headers=acme)
            return found.status_code == 429 or f"q={number};" in found.headers["RateLimit-Policy"]

        await wait_until(lambda: known(7), 5)
        clock.advance(600)
        assert (await statuses(one, 5, **acme) + await statuses(two, 5, **acme)).count(200) == 7
        assert await statuses(two, 5, **admin("other")) == [200] * 5
        reply = await two.client.put("/tenants/acme", json={}, headers=admin())
        assert (reply.json()["own"], reply.json()["limits"]["rate_limit_per_minute"]) == ([], 1000)
        clock.advance(600)
        assert await statuses(two, 20, **acme) == [200] * 20


async def test_a_tenant_may_have_limits_where_nobody_else_has_any(redis_url: str, clock: Clock) -> None:
    async with live_gateway(redis_url, clock=clock, jwt_secret=SECRET) as gateway:
        assert "RateLimit" not in (await gateway.get("/queues", headers=admin("acme"))).headers
        await gateway.client.put("/tenants/acme", json={"rate_limit_per_minute": 2}, headers=admin())
        assert await statuses(gateway, 3, **admin("acme")) == [200, 200, 429]
        assert await statuses(gateway, 5, **admin("other")) == [200] * 5


# ---- Quotas. What is refused leaves nothing behind.


async def stored(redis: Redis) -> list[bytes]:
    """Every key there is; the registry of queues may know a name ahead of its first task."""
    return sorted([key async for key in redis.scan_iter(count=10_000) if b"{limit:" not in key])


def check_quota(reply: httpx.Response, quota: str, used: int, limit: int) -> None:
    assert reply.status_code == 429, reply.text
    assert reply.headers["Retry-After"] == "5"
    problem = reply.json()
    assert (problem["type"], problem["code"], problem["retryable"]) == (QUOTA_EXCEEDED, "quota_exceeded", True)
    assert (problem["quota"], problem["used"], problem["limit"]) == (quota, used, limit)


async def test_max_pending_counts_all_queues_of_the_tenant(redis_url: str, redis: Redis) -> None:
    async with live_gateway(redis_url, jwt_secret=SECRET, tenant_max_pending=5) as gateway:
        acme = admin("acme")
        assert (await gateway.post("/tasks", [{"job_type": "a"}] * 2, headers=acme)).status_code == 201
        assert (await gateway.post("/tasks", {"job_type": "b", "delay_seconds": 9}, headers=acme)).status_code == 201
        before = await stored(redis)
        for target in ("/tasks", "/tasks?atomic=true"):
            check_quota(await gateway.post(target, [{"job_type": "c"}] * 3, headers=acme), "max_pending", 3, 5)
        assert await stored(redis) == before
        assert (await gateway.post("/tasks", [{"job_type": "c"}] * 2, headers=acme)).status_code == 201
        before = await stored(redis)
        key = {"Idempotency-Key": "k"}
        check_quota(await gateway.post("/tasks", {"job_type": "c"}, headers={**acme, **key}), "max_pending", 5, 5)
        assert await stored(redis) == before
        assert (await gateway.post("/tasks", [{"job_type": "c"}] * 5, headers=admin("other"))).status_code == 201
        # What is taken makes room, a second later at most, and the refused key is free.
        assert (
            len(
                (await gateway.post("/poll", {"worker_id": "w", "task_type": "a", "max": 9}, headers=acme)).json()[
                    "tasks"
                ]
            )
            == 2
        )

        async def room() -> bool:
            reply = await gateway.post("/tasks", {"job_type": "c"}, headers={**acme, **key})
            return reply.status_code == 201

        await wait_until(room, 5)


@pytest.mark.parametrize("target", ["/tasks/retry", "/queues/a/redrive"])
async def test_no_more_tasks_go_back_at_once_than_max_pending_has_room_for(redis_url: str, target: str) -> None:
    async with live_gateway(redis_url) as gateway:
        await gateway.post("/tasks", [{"job_type": "a", "max_attempts": 1}] * 8)
        for task in await gateway.poll("a", max=8):
            await gateway.report(task, "fail")
        await gateway.enqueue("b")
    every = {"filter": {"status": "failed"}}
    async with live_gateway(redis_url, tenant_max_pending=6) as gateway:
        counted = await gateway.post(target, {**every, "dry_run": True})
        assert counted.json() == {"matched": 8, "changed": 0}
        assert (await gateway.post(target, every)).json() == {"matched": 5, "changed": 5, "more": True}
        check_quota(await gateway.post(target, every), "max_pending", 6, 6)
        assert len(await gateway.poll("a", max=8)) == 5

        async def rest() -> Any:
            reply = await gateway.post(target, every)
            return reply.json() if reply.status_code == 200 else None

        assert await wait_until(rest, 5) == {"matched": 3, "changed": 3}


async def test_max_stored_bytes_counts_payloads_and_results(redis_url: str, redis: Redis) -> None:
    async with live_gateway(redis_url, tenant_max_stored_bytes=20_000) as gateway:
        await gateway.enqueue("big", payload="x" * 8000)
        (task,) = await gateway.poll("big")
        # A result is never refused for a quota: the work is done.
        assert (await gateway.report(task, "complete", result="y" * 9000)).status_code == 200

        async def counted() -> bool:
            return (await gateway.get("/tenants/default")).json()["stored_bytes"] > 17_000

        await wait_until(counted)

        async def refused() -> httpx.Response | None:
            before = await stored(redis)
            reply = await gateway.post("/tasks", {"job_type": "big", "payload": "z" * 8000})
            if reply.status_code == 201:
                # The count of a second ago let it pass.
                await gateway.client.delete(f"/tasks/{reply.json()['id']}")
                return None
            assert await stored(redis) == before
            return reply

        reply = await wait_until(refused, 5)
        check_quota(reply, "max_stored_bytes", reply.json()["used"], 20_000)
        assert reply.json()["used"] > 12_000


async def test_max_open_polls_is_the_tenants_and_not_its_neighbours(redis_url: str) -> None:
    async with live_gateway(redis_url, jwt_secret=SECRET, tenant_max_open_polls=3) as gateway:
        poll = {"worker_id": "w", "task_type": "demo", "wait": 20}
        open_polls = [asyncio.create_task(gateway.post("/poll", poll, headers=admin("acme"))) for _ in range(3)]
        await wait_until(lambda: gateway.app.manager.open_polls == 3)
        refused = await gateway.post("/poll", poll, headers=admin("acme"))
        assert (refused.status_code, refused.json()["code"], refused.json()["limit"]) == (429, "too_many_polls", 3)
        assert int(refused.headers["Retry-After"]) > 0
        other = asyncio.create_task(gateway.post("/poll", poll, headers=admin("other")))
        await wait_until(lambda: gateway.app.manager.open_polls == 4)
        for tenant in ("acme", "acme", "acme", "other"):
            await gateway.post("/tasks", {"job_type": "demo"}, headers=admin(tenant))
        assert [reply.status_code for reply in await asyncio.gather(*open_polls, other)] == [200] * 4
        # A poll that ended makes room.
        assert (await gateway.post("/poll", {**poll, "wait": 0}, headers=admin("acme"))).status_code == 204


async def test_max_batch_is_the_tenants(redis_url: str, redis: Redis) -> None:
    async with live_gateway(redis_url, tenant_max_batch=3) as gateway:
        before = await stored(redis)
        for body in ([{"job_type": "a"}] * 4, [{"job_type": "a"}] * 1000):
            refused = await gateway.post("/tasks", body)
            assert (refused.status_code, refused.json()["code"], refused.json()["limit"]) == (413, "batch_too_large", 3)
        lines = b'{"job_type":"a"}\n' * 4
        refused = await gateway.client.post("/tasks", content=lines, headers={"Content-Type": "application/x-ndjson"})
        assert refused.status_code == 413
        assert await stored(redis) == before
        assert (await gateway.post("/tasks", [{"job_type": "a"}] * 3)).status_code == 201


async def test_a_tenant_uses_so_many_queues_and_no_more(redis_url: str) -> None:
    async with live_gateway(redis_url, tenant_max_queues=3) as one, live_gateway(redis_url, tenant_max_queues=3) as two:
        batch = await one.post("/tasks", [{"job_type": f"q{n}"} for n in range(3)])
        assert batch.status_code == 201
        for gateway in (one, two):
            assert (await gateway.post("/tasks", {"job_type": "q1"})).status_code == 201
            refused = await gateway.post("/tasks", {"job_type": "q9"})
            assert (refused.status_code, refused.json()["code"], refused.json()["quota"]) == (
                429, "quota_exceeded", "max_queues",
            )  # fmt: skip
            assert (await gateway.client.put("/queues/q9", json={})).status_code == 429
        assert (await one.get("/queues/q9")).status_code == 404


async def test_held_requests_for_ends_count_as_polls(redis_url: str) -> None:
    async with live_gateway(redis_url, tenant_max_open_polls=2) as gateway:
        task = await gateway.enqueue()
        held = [asyncio.create_task(gateway.get(f"/tasks/{task['id']}?wait=20")) for _ in range(2)]
        await wait_until(lambda: gateway.app.manager.open_polls_of("default") == 2)
        assert (await gateway.get(f"/tasks/{task['id']}?wait=20")).status_code == 429
        assert (await gateway.get(f"/tasks/{task['id']}")).status_code == 200
        await gateway.client.delete(f"/tasks/{task['id']}")
        assert {reply.status_code for reply in await asyncio.gather(*held)} == {200}
