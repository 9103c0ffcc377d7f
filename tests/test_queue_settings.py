"""What operators set for a queue: bounds, concurrency, pace, pause, defaults, purge, redrive."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from gateway.queue_settings import FOR_EVER_MS, QueueSettings
from gateway.store.calls import Claim
from gateway.tasks import Queue, TaskSpec
from tests import lives
from tests.harness import Clock, LiveGateway, Store, live_gateway, wait_until

DEMO = Queue("default", "demo")


async def put(gateway: LiveGateway, **settings: Any) -> dict[str, Any]:
    reply = await gateway.client.put("/queues/demo", json=settings)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def take(store: Store, max: int = 100, poll_id: str = "") -> list[Any]:
    claimed = await store.tasks.claim(DEMO, [Claim("w1", max, poll_id=poll_id)], stays=False, others=0, waited_ms=0)
    return claimed.tasks[0]


async def enqueue(store: Store, number: int = 1, **members: Any) -> list[str]:
    tasks = await store.tasks.enqueue(DEMO, [TaskSpec("demo", **members) for _ in range(number)])
    return [task.id for task in tasks]  # type: ignore[union-attr]


class TestMaxProcessing:
    async def test_it_is_never_passed_and_what_ends_makes_room(self, store: Store) -> None:
        await store.tasks.configure(DEMO, QueueSettings(max_processing=3))
        await enqueue(store, 10)
        held = await take(store)
        assert len(held) == 3
        assert await take(store) == []
        await store.tasks.complete(DEMO, held[0].task.id, held[0].token, b"1")
        await store.tasks.fail(DEMO, held[1].task.id, held[1].token, b"{}", b"{}", "no", retryable=False)
        await store.tasks.release(DEMO, held[2].task.id, held[2].token)
        assert len(await take(store)) == 3

    async def test_a_lapsed_lease_makes_room(self, store: Store, clock: Clock) -> None:
        await store.tasks.configure(DEMO, QueueSettings(max_processing=1))
        first, second = await enqueue(store, 2)
        assert [one.task.id for one in await take(store)] == [first]
        clock.advance(31)
        await store.tasks.expire(DEMO)
        assert [one.task.id for one in await take(store)] == [second]

    async def test_a_poll_that_waits_for_room_is_rung_when_there_is_some(self, gateway: LiveGateway) -> None:
        await put(gateway, max_processing=1)
        for _ in range(3):
            await gateway.enqueue()
        (held,) = await gateway.poll(max=5)
        waiting = asyncio.create_task(gateway.poll(worker_id="w2", wait=20))
        await wait_until(lambda: gateway.app.manager.open_polls == 1)
        started = asyncio.get_running_loop().time()
        await gateway.report(held, "complete")
        (got,) = await waiting
        assert asyncio.get_running_loop().time() - started < 0.9
        assert got["id"] != held["id"]

    async def test_it_holds_over_gateways_that_claim_at_once(self, redis_url: str) -> None:
        async with live_gateway(redis_url) as one, live_gateway(redis_url) as two:
            await put(one, max_processing=5)
            await one.post("/tasks", [{"job_type": "demo"}] * 60)
            done = 0

            async def work(gateway: LiveGateway, name: str) -> None:
                nonlocal done
                while done < 60:
                    for task in await gateway.poll(worker_id=name, max=4, wait=0.2):
                        counts = (await gateway.get("/queues/demo")).json()
                        assert counts["processing"] <= 5
                        assert (await gateway.report(task, "complete")).status_code == 200
                        done += 1

            await asyncio.gather(*(work((one, two)[n % 2], f"w{n}") for n in range(8)))
            assert done == 60


class TestMaxPending:
    async def test_it_is_the_bound_of_its_queue_alone(self, clocked_gateway: LiveGateway) -> None:
        gateway = clocked_gateway
        await put(gateway, max_pending=2)
        await gateway.enqueue()
        await gateway.enqueue(delay_seconds=60)
        full = await gateway.post("/tasks", {"job_type": "demo"})
        assert (full.status_code, full.json()["code"]) == (503, "queue_full")
        assert (full.json()["depth"], full.json()["limit"]) == (2, 2)
        assert (await gateway.post("/tasks", {"job_type": "other"})).status_code == 201
        await put(gateway)
        assert (await gateway.post("/tasks", {"job_type": "demo"})).status_code == 201

    async def test_another_gateway_knows_of_it_at_once(self, redis_url: str) -> None:
        async with live_gateway(redis_url) as one, live_gateway(redis_url) as two:
            await two.enqueue()
            await put(one, max_pending=1, defaults={"max_attempts": 7, "lease_seconds": 99, "retention_seconds": 5})
            full = await two.post("/tasks", {"job_type": "demo"})
            assert (full.status_code, full.json()["limit"]) == (503, 1)
            await put(one, max_pending=5, defaults={"max_attempts": 7, "lease_seconds": 99})
            task = await two.enqueue()
            assert task["max_attempts"] == 7


class TestPace:
    async def test_tasks_are_handed_out_at_the_rate_and_no_faster(self, store: Store, clock: Clock) -> None:
        await store.tasks.configure(DEMO, QueueSettings(rate_per_second=20))
        await enqueue(store, 100)
        given = []
        for _ in range(100):
            given.append(len(await take(store)))
            clock.advance(0.02)
        assert sum(given) in range(40, 44)
        in_a_second = [sum(given[at : at + 50]) for at in range(50)]
        assert max(in_a_second) <= 22

    async def test_slower_than_one_a_second_works_too(self, store: Store, clock: Clock) -> None:
        await store.tasks.configure(DEMO, QueueSettings(rate_per_second=0.1))
        await enqueue(store, 3)
        assert len(await take(store)) == 1
        clock.advance(9.9)
        assert await take(store) == []
        clock.advance(0.1)
        assert len(await take(store)) == 1

    async def test_a_slower_rate_does_not_hold_up_a_faster_one(self, store: Store, clock: Clock) -> None:
        await store.tasks.configure(DEMO, QueueSettings(rate_per_second=0.001))
        await enqueue(store, 3)
        assert len(await take(store)) == 1
        clock.advance(1)
        assert await take(store) == []
        await store.tasks.configure(DEMO, QueueSettings(rate_per_second=10))
        assert len(await take(store)) == 1
        assert await take(store) == []
        clock.advance(0.1)
        assert len(await take(store)) == 1

    async def test_a_waiting_poll_gets_its_task_when_the_pace_allows(self, gateway: LiveGateway) -> None:
        await put(gateway, rate_per_second=4)
        for _ in range(4):
            await gateway.enqueue()
        started = asyncio.get_running_loop().time()
        got = [await gateway.poll(worker_id="w1", wait=5) for _ in range(4)]
        took = asyncio.get_running_loop().time() - started
        assert [len(one) for one in got] == [1] * 4
        assert 0.7 <= took < 2.0

    async def test_a_task_that_comes_while_the_pace_is_used_up_is_not_forgotten(self, gateway: LiveGateway) -> None:
        await put(gateway, rate_per_second=3)
        await gateway.enqueue()
        assert len(await gateway.poll()) == 1
        waiting = asyncio.create_task(gateway.poll(worker_id="w2", wait=10))
        await wait_until(lambda: gateway.app.manager.open_polls == 1)
        started = asyncio.get_running_loop().time()
        await gateway.enqueue()
        assert len(await waiting) == 1
        assert asyncio.get_running_loop().time() - started < 0.9


class TestPause:
    async def test_nothing_is_handed_out_until_it_is_resumed(self, gateway: LiveGateway) -> None:
        paused = (await gateway.post("/queues/demo/pause")).json()
        assert (paused["paused"], paused["paused_until"]) == (True, None)
        task = await gateway.enqueue()
        assert await gateway.poll() == []
        assert (await gateway.get("/queues/demo")).json()["paused"] is True
        waiting = asyncio.create_task(gateway.poll(wait=20))
        await wait_until(lambda: gateway.app.manager.open_polls == 1)
        assert (await gateway.post("/queues/demo/resume")).json()["paused"] is False
        assert [one["id"] for one in await waiting] == [task["id"]]

    @pytest.mark.parametrize(
        ("until", "reason"),
        [
            ("tomorrow", "is no RFC 3339 time"),
            ("1969-12-31T23:59:59Z", "is before 1970 or more than ten years ahead"),
            ("2999-01-01T00:00:00Z", "is before 1970 or more than ten years ahead"),
            ("2001-01-01T00:00:00Z", "is past"),
        ],
    )
    async def test_a_pause_ends_at_a_time_that_is_ahead(self, gateway: LiveGateway, until: str, reason: str) -> None:
        reply = await gateway.post("/queues/demo/pause", {"until": until})
        assert (reply.status_code, reply.json()["member"]) == (400, "until")
        assert reply.json()["detail"].startswith(f"until: {reason}")

    async def test_a_pause_ends_by_itself(self, gateway: LiveGateway) -> None:
        paused = (await gateway.post("/queues/demo/pause", {"seconds": 0.6})).json()
        assert paused["paused_until"] is not None
        await gateway.enqueue()
        started = asyncio.get_running_loop().time()
        assert len(await gateway.poll(wait=10)) == 1
        assert 0.3 < asyncio.get_running_loop().time() - started < 1.5

    async def test_a_worker_can_ask_for_it_and_a_shorter_one_does_not_end_a_longer(
        self, store: Store, clock: Clock
    ) -> None:
        await enqueue(store, 3)
        first, second, _ = await take(store)
        for leased, seconds in ((first, 60), (second, 10)):
            await store.tasks.fail(
                DEMO, leased.task.id, leased.token, b"{}", b"{}", "429", retry_in_ms=0, pause_ms=seconds * 1000
            )
        clock.advance(59)
        assert await take(store) == []
        clock.advance(1)
        assert len(await take(store)) == 2

    async def test_a_worker_asks_for_it_over_http_also_in_a_batch(self, gateway: LiveGateway) -> None:
        for _ in range(2):
            await gateway.enqueue()
        one, two = await gateway.poll(max=2)
        failed = await gateway.report(one, "fail", error="429", pause_queue_seconds=60, retry_in_seconds=0)
        assert failed.json()["status"] == "retrying"
        settings = (await gateway.get("/queues/demo/settings")).json()
        assert settings["paused"] is True
        await gateway.post("/queues/demo/resume")
        outcome = {"id": two["id"], "lease_token": two["lease_token"], "outcome": "fail", "pause_queue_seconds": 60}
        assert (await gateway.post("/outcomes", {"worker_id": "w1", "outcomes": [outcome]})).status_code == 200
        assert (await gateway.get("/queues/demo/settings")).json()["paused"] is True
        assert await gateway.poll() == []

    async def test_a_put_that_says_nothing_of_it_leaves_a_pause(self, gateway: LiveGateway) -> None:
        await gateway.post("/queues/demo/pause")
        assert (await put(gateway, max_processing=5))["paused"] is True
        assert (await put(gateway, paused=False))["paused"] is False
        assert (await put(gateway, paused=True))["max_processing"] is None


class TestConcurrencyKeys:
    async def test_tasks_of_one_key_run_one_at_a_time_and_in_order(self, store: Store) -> None:
        firsts = await enqueue(store, 3, concurrency_key="a")
        others = await enqueue(store, 2, concurrency_key="b")
        free = await enqueue(store, 2)
        held = await take(store)
        assert [one.task.id for one in held] == [firsts[0], others[0], *free]
        assert await take(store) == []
        (stats,) = await store.inspector.stats([DEMO])
        assert (stats.ready, stats.due, stats.leased) == (3, 0, 4)
        await store.tasks.complete(DEMO, held[0].task.id, held[0].token, b"1")
        assert [one.task.id for one in await take(store)] == [firsts[1]]

    @pytest.mark.parametrize("end", ["complete", "fail", "retrying", "release", "lapse", "cancel"])
    async def test_however_a_task_ends_the_next_of_its_key_runs(self, end: str, store: Store, clock: Clock) -> None:
        one, two = await enqueue(store, 2, concurrency_key="a", max_attempts=1 if end == "lapse" else 5)
        (held,) = await take(store)
        if end == "complete":
            await store.tasks.complete(DEMO, one, held.token, b"1")
        elif end in ("fail", "retrying"):
            again = end == "retrying"
            await store.tasks.fail(DEMO, one, held.token, b"{}", b"{}", "no", retryable=again, retry_in_ms=9000)
        elif end == "release":
            await store.tasks.release(DEMO, one, held.token, delay_ms=5000)
        elif end == "lapse":
            clock.advance(31)
            await store.tasks.expire(DEMO)
        else:
            await store.tasks.cancel(DEMO, one)
            await store.tasks.release(DEMO, one, held.token)
        assert [leased.task.id for leased in await take(store)] == [two]

    async def test_what_is_held_back_waits_like_any_other(self, store: Store) -> None:
        one, two, three = await enqueue(store, 3, concurrency_key="a")
        (held,) = await take(store)
        assert await take(store) == []
        for task_id in (two, three):
            assert (await store.inspector.get(DEMO, task_id)).status.value == "pending"
        await store.tasks.cancel(DEMO, two)
        await store.tasks.delete(DEMO, three)
        (four,) = await enqueue(store, 1, concurrency_key="a")
        await store.tasks.complete(DEMO, one, held.token, b"1")
        assert [leased.task.id for leased in await take(store)] == [four]

    @pytest.mark.parametrize("end", ["cancel", "delete", "expire"])
    async def test_one_that_is_gone_before_it_ran_lets_the_next_of_its_key_run(
        self, end: str, store: Store, clock: Clock
    ) -> None:
        (one,) = await enqueue(store, concurrency_key="a")
        (two,) = await enqueue(store, concurrency_key="a", expires_in_ms=5000)
        (three,) = await enqueue(store, concurrency_key="a")
        (held,) = await take(store)
        assert await take(store) == []
        await store.tasks.complete(DEMO, one, held.token, b"1")
        if end == "cancel":
            await store.tasks.cancel(DEMO, two)
        elif end == "delete":
            await store.tasks.delete(DEMO, two)
        else:
            clock.advance(6)
        await enqueue(store, 1, concurrency_key="a")
        assert [leased.task.id for leased in await take(store)] == [three]

    async def test_a_leased_one_whose_record_is_gone_lets_the_next_of_its_key_run(
        self, store: Store, clock: Clock
    ) -> None:
        one, two = await enqueue(store, 2, concurrency_key="a")
        await take(store)
        await store.redis.delete(f"arq:in-progress:{store.tasks.arq_id(DEMO, one)}")
        clock.advance(31)
        await store.tasks.expire(DEMO)
        assert [leased.task.id for leased in await take(store)] == [two]

    async def test_a_higher_bound_lets_more_of_them_run_at_once(self, store: Store) -> None:
        await enqueue(store, 1200, concurrency_key="a")
        assert len(await take(store)) == 1
        while await take(store):
            pass
        await store.tasks.configure(DEMO, QueueSettings(max_processing_per_key=1000))
        assert len(await take(store, 1000)) == 999

    async def test_no_key_of_it_is_left_when_all_is_done(self, store: Store) -> None:
        await enqueue(store, 20, concurrency_key="a")
        for _ in range(20):
            (held,) = await take(store)
            await store.tasks.complete(DEMO, held.task.id, held.token, b"1")
        left = await lives.keyspace(store.redis)
        assert [key for key in left if b"running" in key or b"heldby" in key] == []

    async def test_it_is_shown_and_reaches_the_worker(self, gateway: LiveGateway) -> None:
        task = await gateway.enqueue(concurrency_key="customer 7", unique_key="u")
        assert task["concurrency_key"] == "customer 7"
        (leased,) = await gateway.poll()
        assert (leased["concurrency_key"], leased["unique_key"]) == ("customer 7", "u")
        await gateway.report(leased, "complete")
        assert (await gateway.get(f"/tasks/{task['id']}")).json()["concurrency_key"] == "customer 7"


class TestDefaults:
    async def test_they_stand_where_the_producer_said_nothing(self, gateway: LiveGateway) -> None:
        rule = {"backoff": "fixed", "base_seconds": 3.0}
        defaults = {"max_attempts": 3, "retry": rule, "lease_seconds": 90, "timeout_seconds": 200}
        shown = await put(gateway, defaults=defaults)
        assert shown["defaults"]["max_attempts"] == 3
        assert shown["defaults"]["lease_seconds"] == 90.0
        plain = await gateway.enqueue()
        told = await gateway.enqueue(max_attempts=9, lease_seconds=10, retry={"backoff": "linear"})
        assert (plain["max_attempts"], plain["retry"]["backoff"]) == (3, "fixed")
        assert (told["max_attempts"], told["retry"]["backoff"]) == (9, "linear")
        first, second = await gateway.poll(max=2)
        assert (first["lease_seconds"], second["lease_seconds"]) == (90.0, 10.0)

    async def test_patch_changes_what_it_names_and_null_takes_it_back(self, gateway: LiveGateway) -> None:
        await put(gateway, max_processing=4, rate_per_second=9.5, defaults={"max_attempts": 2})
        changed = (await gateway.client.patch("/queues/demo", json={"rate_per_second": None, "max_pending": 7})).json()
        assert (changed["max_processing"], changed["rate_per_second"], changed["max_pending"]) == (4, None, 7)
        assert changed["defaults"] == {"max_attempts": 2}
        changed = (await gateway.client.patch("/queues/demo", json={"defaults": None})).json()
        assert changed["defaults"] == {}
        assert (await put(gateway))["max_processing"] is None

    async def test_changes_at_the_same_moment_do_not_undo_each_other(self, gateway: LiveGateway) -> None:
        members = [{"max_pending": 11}, {"max_processing": 12}, {"rate_per_second": 13.0}]
        replies = await asyncio.gather(*(gateway.client.patch("/queues/demo", json=one) for one in members))
        assert {reply.status_code for reply in replies} <= {200, 409}
        settings = (await gateway.get("/queues/demo/settings")).json()
        for reply, member in zip(replies, members, strict=True):
            if reply.status_code == 200:
                assert member.items() <= settings.items()


class TestPurgeAndRedrive:
    async def test_purge_forgets_all_that_waits_and_nothing_else(self, store: Store, clock: Clock) -> None:
        await enqueue(store, 1100)
        await enqueue(store, 50, delay_ms=60_000, unique=None)
        await enqueue(store, 5, concurrency_key="a")
        held = await take(store, 3)
        await store.tasks.complete(DEMO, held[0].task.id, held[0].token, b"1")
        assert await store.tasks.purge(DEMO) == 1100 + 50 + 5 - 3
        (stats,) = await store.inspector.stats([DEMO])
        assert (stats.ready, stats.due, stats.leased, stats.completed) == (0, 0, 2, 1)
        for leased in held[1:]:
            await store.tasks.complete(DEMO, leased.task.id, leased.token, b"1")
        clock.advance(40 * 86_400)
        await store.tasks.expire(DEMO)
        (stats,) = await store.inspector.stats([DEMO])
        assert stats.stored_bytes == 0

    async def test_redrive_sends_failed_tasks_back_at_a_rate(self, gateway: LiveGateway) -> None:
        for team in ("web", "web", "app"):
            await gateway.enqueue(tags={"team": team})
        for task in await gateway.poll(max=3):
            await gateway.report(task, "fail", retryable=False)
        body = {"rate_per_second": 0.01, "filter": {"tags": {"team": "web"}}}
        asked = await gateway.post("/queues/demo/redrive", {**body, "dry_run": True})
        assert asked.json() == {"matched": 2, "changed": 0}
        assert (await gateway.post("/queues/demo/redrive", body)).json() == {"matched": 2, "changed": 2}
        statuses = [task["status"] for task in (await gateway.get("/tasks")).json()["tasks"]]
        assert sorted(statuses) == ["failed", "pending", "scheduled"]
        assert len(await gateway.poll(max=9)) == 1
        assert (await gateway.post("/queues/demo/redrive")).json()["changed"] == 1


class TestBytes:
    async def test_what_a_queue_keeps_is_counted_and_taken_off_exactly(self, store: Store, clock: Clock) -> None:
        async def stored() -> int:
            (stats,) = await store.inspector.stats([DEMO])
            return stats.stored_bytes

        await enqueue(store, 10, payload=b'"' + b"x" * 5000 + b'"')
        assert 50_000 < await stored() < 53_000
        for number, leased in enumerate(await take(store)):
            if number % 2:
                await store.tasks.complete(DEMO, leased.task.id, leased.token, b'"' + b"y" * 3000 * number + b'"')
            else:
                await store.tasks.fail(DEMO, leased.task.id, leased.token, b"{}", b"{}", "no", retryable=False)
        before = await stored()
        failed, _ = await store.inspector.page([DEMO], lives.ANY, 50, None)
        one = next(task for task in failed if task.status.value == "failed")
        await store.tasks.retry(DEMO, one.id)
        await store.tasks.patch(DEMO, one.id, lambda spec: msgspec.structs.replace(spec, payload=b"1"), None)
        assert await stored() < before - 4000
        await store.tasks.cancel(DEMO, one.id)
        clock.advance(40 * 86_400)
        await store.tasks.expire(DEMO)
        assert await stored() == 0


async def test_settings_of_an_unknown_queue_are_the_defaults(gateway: LiveGateway) -> None:
    settings = (await gateway.get("/queues/never/settings")).json()
    assert (settings["version"], settings["max_processing"], settings["paused"]) == (0, None, False)


async def test_a_pause_for_ever_is_far_beyond_any_time(store: Store) -> None:
    settings = await store.tasks.configure(DEMO, None, pause=FOR_EVER_MS)
    assert settings.paused_until_ms == FOR_EVER_MS


async def test_a_pause_until_a_time_that_is_past_is_refused_and_ends_no_other(gateway: LiveGateway) -> None:
    await gateway.post("/queues/demo/pause")
    refused = await gateway.post("/queues/demo/pause", {"until": "2020-01-01T00:00:00Z"})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_member")
    assert (await gateway.get("/queues/demo/settings")).json()["paused"] is True


async def test_a_queue_with_settings_and_no_task_is_shown(gateway: LiveGateway) -> None:
    assert (await gateway.get("/queues/demo")).status_code == 404
    await put(gateway, max_processing=5)
    assert (await gateway.get("/queues/demo")).json()["pending"] == 0


async def test_to_resume_a_queue_that_was_never_set_makes_none(gateway: LiveGateway) -> None:
    assert (await gateway.post("/queues/nowhere/resume")).json()["paused"] is False
    assert (await gateway.get("/queues/nowhere")).status_code == 404


async def test_null_leaves_a_pause_as_it_is(gateway: LiveGateway) -> None:
    await gateway.post("/queues/demo/pause")
    for method in ("PUT", "PATCH"):
        reply = await gateway.client.request(method, "/queues/demo", json={"paused": None, "max_processing": 3})
        assert (reply.status_code, reply.json()["paused"]) == (200, True), reply.text
