"""A hot queue that is spread over partitions: one queue to everybody, several hash tags to Redis."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from gateway.tasks import Queue, split_id
from tests.harness import Clock, LiveGateway, live_gateway, wait_until


async def spread(gateway: LiveGateway, partitions: int, **members: Any) -> dict[str, Any]:
    """Set `demo` so."""
    reply = await gateway.client.put("/queues/demo", json={"partitions": partitions, **members})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def partition_of(task: dict[str, Any]) -> int:
    parts = split_id(task["id"])
    assert parts is not None
    return parts.partition


async def learn(gateway: LiveGateway) -> None:
    """Let a gateway hear of the partitions: the first of its tasks goes where it has always gone."""
    await gateway.enqueue()


async def drain(gateway: LiveGateway, **options: Any) -> list[dict[str, Any]]:
    """Take and complete everything that is ready; in the order of the hand-outs."""
    taken: list[dict[str, Any]] = []
    while tasks := await gateway.poll(**options):
        taken += tasks
        for task in tasks:
            assert (await gateway.report(task, "complete")).status_code == 200
    return taken


async def test_tasks_go_to_all_partitions_and_every_one_comes_back_once(gateway: LiveGateway) -> None:
    assert (await spread(gateway, 4))["partitions"] == 4
    made = [await gateway.enqueue(payload=number) for number in range(40)]
    assert Counter(map(partition_of, made)) == {0: 10, 1: 10, 2: 10, 3: 10}
    taken = await drain(gateway, max=3)
    assert sorted(task["id"] for task in taken) == sorted(task["id"] for task in made)
    assert sorted(task["payload"] for task in taken) == list(range(40))
    for task in made:
        assert (await gateway.get(f"/tasks/{task['id']}")).json()["status"] == "completed"


async def test_order_and_priority_hold_within_each_partition(gateway: LiveGateway) -> None:
    await spread(gateway, 3)
    await learn(gateway)
    for number in range(30):
        await gateway.enqueue(payload=number, priority="critical" if number % 5 == 0 else "normal")
    lines: dict[int, list[tuple[bool, int]]] = {}
    for task in await drain(gateway):
        if task["payload"] is not None:
            lines.setdefault(partition_of(task), []).append((task["payload"] % 5 != 0, task["payload"]))
    assert len(lines) == 3
    assert all(line == sorted(line) for line in lines.values())


async def test_the_tasks_of_one_request_keep_their_order(gateway: LiveGateway) -> None:
    await spread(gateway, 4)
    await learn(gateway)
    await drain(gateway)
    for atomic in ("", "?atomic=true"):
        reply = await gateway.post(f"/tasks{atomic}", [{"job_type": "demo", "payload": number} for number in range(20)])
        assert len({partition_of(task) for task in reply.json()["tasks"]}) == 1
        assert [task["payload"] for task in await drain(gateway)] == list(range(20))


async def test_a_poll_that_waits_is_woken_by_a_task_of_any_partition(gateway: LiveGateway) -> None:
    await spread(gateway, 4)
    await learn(gateway)
    await drain(gateway)
    seen = set()
    for _ in range(8):
        waiting = asyncio.create_task(gateway.poll(wait=20))
        await wait_until(lambda: gateway.app.manager.open_polls == 1)
        made = await gateway.enqueue()
        (task,) = await asyncio.wait_for(waiting, 5)
        assert task["id"] == made["id"]
        seen.add(partition_of(task))
    assert seen == {0, 1, 2, 3}


async def test_polls_that_wait_already_hear_of_new_partitions_on_every_gateway(redis_url: str) -> None:
    async with live_gateway(redis_url) as one, live_gateway(redis_url) as two:
        polls = [asyncio.create_task(two.poll(wait=20, worker_id=f"w{number}")) for number in range(3)]
        await wait_until(lambda: two.app.manager.open_polls == 3)
        await spread(one, 3)
        await learn(one)
        made = [await one.enqueue() for _ in range(2)]
        taken = [task["id"] for poll in polls for task in await asyncio.wait_for(poll, 10)]
        assert {task["id"] for task in made} < set(taken)
        assert len(taken) == 3


async def test_a_gateway_that_never_heard_of_the_partitions_serves_them(redis_url: str) -> None:
    async with live_gateway(redis_url) as one:
        await spread(one, 4)
        made = {(await one.enqueue())["id"] for _ in range(8)}
    async with live_gateway(redis_url) as two:
        listed = (await two.get("/tasks", params={"job_type": "demo"})).json()["tasks"]
        assert {task["id"] for task in listed} == made
        assert {task["id"] for task in await drain(two)} == made


async def test_keys_hold_for_the_whole_queue(gateway: LiveGateway) -> None:
    await spread(gateway, 4)
    await learn(gateway)
    first = await gateway.enqueue(unique_key="k")
    for _ in range(6):
        again = await gateway.post("/tasks", {"job_type": "demo", "unique_key": "k"})
        assert (again.status_code, again.json()["id"]) == (200, first["id"])
    keyed = [await gateway.enqueue(concurrency_key="c") for _ in range(4)]
    assert {partition_of(task) for task in [first, *keyed]} == {0}
    taken = [task for _ in range(4) for task in await gateway.poll(max=10)]
    assert sum(task["id"] in {one["id"] for one in keyed} for task in taken) == 1


async def test_counts_and_lists_take_the_partitions_together(gateway: LiveGateway) -> None:
    await spread(gateway, 4)
    made = [(await gateway.enqueue())["id"] for _ in range(12)]
    (task,) = await gateway.poll()
    await gateway.report(task, "fail", error={"message": "no"}, retryable=False)
    (queue,) = (await gateway.get("/queues")).json()["queues"]
    alone = (await gateway.get("/queues/demo")).json()
    assert queue | {"oldest_pending_seconds": 0} == alone | {"oldest_pending_seconds": 0}
    assert (queue["job_type"], queue["pending"], queue["failed"]) == ("demo", 11, 1)
    assert queue["totals"]["enqueued"] == 12
    assert queue["partitions"] == 4
    assert (await gateway.get("/health")).json()["queue_depth"] == 11
    text = (await gateway.get("/metrics")).text
    assert text.count('gateway_queue_tasks{queue="demo",status="pending"}') <= 1
    page, cursor = [], ""
    while cursor is not None:
        reply = (await gateway.get("/tasks", params={"limit": 5, **({"cursor": cursor} if cursor else {})})).json()
        page += [one["id"] for one in reply["tasks"]]
        cursor = reply.get("next_cursor")
    assert page == made[::-1]


async def test_redrive_purge_and_bulk_requests_reach_every_partition(gateway: LiveGateway) -> None:
    await spread(gateway, 3)
    for _ in range(9):
        await gateway.enqueue()
    while tasks := await gateway.poll():
        await gateway.report(tasks[0], "fail", error={"message": "no"}, retryable=False)
    assert (await gateway.post("/queues/demo/redrive")).json()["changed"] == 9
    assert (await gateway.post("/tasks/cancel", {"filter": {"job_type": "demo"}})).json()["changed"] == 9
    assert (await gateway.post("/tasks/retry", {"filter": {}})).json()["changed"] == 9
    assert (await gateway.post("/queues/demo/purge")).json()["purged"] == 9
    assert await gateway.poll() == []


async def test_a_task_is_reached_by_its_id_wherever_it_stands(gateway: LiveGateway) -> None:
    await spread(gateway, 3)
    await learn(gateway)
    for _ in range(3):
        task = await gateway.enqueue()
        path = f"/tasks/{task['id']}"
        assert (await gateway.client.patch(path, json={"priority": "high"})).json()["priority"] == "high"
        assert (await gateway.client.delete(path)).json()["status"] == "cancelled"
        assert (await gateway.post(f"{path}/retry")).json()["status"] == "pending"
    for task in await drain(gateway):
        waited = await gateway.get(f"/tasks/{task['id']}", params={"wait": 1})
        assert waited.json()["status"] == "completed"


async def test_a_pause_reaches_every_partition_also_one_that_a_worker_asked_for(gateway: LiveGateway) -> None:
    await spread(gateway, 3)
    for _ in range(9):
        await gateway.enqueue()
    await gateway.post("/queues/demo/pause")
    assert await gateway.poll(max=9) == []
    await gateway.post("/queues/demo/resume")
    taken = await gateway.poll()
    await gateway.report(taken[0], "fail", error={"message": "slow down"}, pause_queue_seconds=60)
    assert [await gateway.poll(max=9) for _ in range(6)] == [[]] * 6
    assert (await gateway.get("/queues/demo")).json()["paused"] is True


async def test_a_pause_that_a_worker_asks_of_a_gateway_that_knows_of_no_partitions_reaches_all(redis_url: str) -> None:
    async with live_gateway(redis_url) as one, live_gateway(redis_url) as two:
        await spread(one, 4)
        for _ in range(12):
            await one.enqueue()
        (task,) = await one.poll()
        await two.report(task, "fail", error={"message": "slow down"}, pause_queue_seconds=60)
        assert [await one.poll(max=9) for _ in range(6)] == [[]] * 6


async def test_limits_are_divided_and_never_passed(gateway: LiveGateway) -> None:
    await spread(gateway, 3, max_pending=10, max_processing=4)
    made = [await gateway.post("/tasks", {"job_type": "demo"}) for _ in range(14)]
    assert Counter(reply.status_code for reply in made) == {201: 10, 503: 4}, "what one has no room for, another takes"
    assert made[-1].json()["code"] == "queue_full"
    taken = [task for _ in range(12) for task in await gateway.poll(max=5, worker_id="w")]
    assert len(taken) == 4
    for task in taken:
        await gateway.report(task, "complete")
    assert len(await drain(gateway)) == 6


async def test_a_gateway_that_has_not_heard_of_new_partitions_finds_the_room_that_they_have(redis_url: str) -> None:
    async with live_gateway(redis_url) as first, live_gateway(redis_url) as second:
        for _ in range(3):
            await first.enqueue()
        assert (await second.get("/queues/demo/settings")).json()["partitions"] == 1
        await spread(first, 2, max_pending=6)
        # The other gateway still sends new tasks to the first one, which has its part already.
        reply = await second.post("/tasks", {"job_type": "demo"})
        assert reply.status_code == 201, reply.text
        assert partition_of(reply.json()) == 1


async def test_an_atomic_batch_that_no_partition_could_ever_hold_is_refused_for_good(gateway: LiveGateway) -> None:
    await spread(gateway, 3, max_pending=10)
    await learn(gateway)
    assert (await gateway.post("/tasks?atomic=true", [{"job_type": "demo"}] * 3)).status_code == 201
    for _ in range(3):
        reply = await gateway.post("/tasks?atomic=true", [{"job_type": "demo"}] * 4)
    assert (reply.status_code, reply.json()["code"]) == (503, "queue_full"), "the first could hold four, were it empty"
    assert "in this one of its 3 partitions" in reply.json()["detail"]
    reply = await gateway.post("/tasks?atomic=true", [{"job_type": "demo"}] * 5)
    assert (reply.status_code, reply.json()["code"], reply.json()["limit"]) == (413, "batch_too_large", 4)
    assert reply.json()["detail"] == "an atomic batch for demo may have 4 items; send several"


@pytest.mark.parametrize("limit", ["max_pending", "max_processing"])
async def test_a_limit_below_the_number_of_partitions_is_refused(gateway: LiveGateway, limit: str) -> None:
    reply = await gateway.client.put("/queues/demo", json={"partitions": 4, limit: 3})
    assert (reply.status_code, reply.json()["member"]) == (400, limit)
    await spread(gateway, 4)
    assert (await gateway.client.patch("/queues/demo", json={limit: 3})).json()["member"] == limit
    await spread(gateway, 1, **{limit: 3})
    reply = await gateway.client.patch("/queues/demo", json={"partitions": 4})
    assert (reply.status_code, reply.json()["member"]) == (400, "partitions"), "what was sent is at fault"
    assert f"4 of them need {limit} 4; it is 3" in reply.json()["detail"]


async def test_more_partitions_than_the_gateways_own_bound_are_refused(redis_url: str) -> None:
    async with live_gateway(redis_url, task_queue_size=10) as gateway:
        reply = await gateway.client.put("/queues/demo", json={"partitions": 32})
        assert (reply.status_code, reply.json()["member"]) == (400, "partitions")
        await spread(gateway, 10)


async def test_a_rate_too_low_for_the_partitions_is_refused(clocked_gateway: LiveGateway) -> None:
    """Each gives out at least one task at once, and together they may give a tenth of the rate."""
    gateway = clocked_gateway
    reply = await gateway.client.put("/queues/demo", json={"partitions": 4, "rate_per_second": 39})
    assert (reply.status_code, reply.json()["member"]) == (400, "rate_per_second")
    await gateway.client.put("/queues/demo", json={"rate_per_second": 0.5})
    reply = await gateway.client.patch("/queues/demo", json={"partitions": 2})
    assert (reply.status_code, reply.json()["member"]) == (400, "partitions")
    await spread(gateway, 3, rate_per_second=30)
    await learn(gateway)
    for _ in range(12):
        await gateway.enqueue()
    assert len([task for _ in range(9) for task in await gateway.poll(max=10)]) == 3


async def test_fewer_partitions_are_worked_off(gateway: LiveGateway) -> None:
    await spread(gateway, 5)
    await learn(gateway)
    made = [await gateway.enqueue() for _ in range(10)]
    await spread(gateway, 2)
    assert {partition_of(await gateway.enqueue()) for _ in range(8)} == {0, 1}
    taken = {task["id"] for task in await drain(gateway)}
    assert {task["id"] for task in made} < taken
    assert len(taken) == 19


async def test_older_partitions_give_their_part_of_the_limits_back_once_they_are_worked_off(
    gateway: LiveGateway, redis: Redis
) -> None:
    await spread(gateway, 6, max_processing=12)
    for _ in range(6):
        await gateway.enqueue()
    await spread(gateway, 1, max_processing=12)
    held = [task for _ in range(12) for task in await gateway.poll(max=12, worker_id="w")]

    async def settings_of(partition: int) -> dict[bytes, bytes]:
        part = f"/{partition}" if partition else ""
        found: dict[bytes, bytes] = await redis.hgetall(f"tg:{{default:demo{part}}}:settings")
        return found

    last = max(held, key=partition_of)
    for task in held:
        if task is not last:
            await gateway.report(task, "complete")
    await drain(gateway)
    for _ in range(3):
        await gateway.app.store.forget_older(Queue("default", "demo"))
    assert (await settings_of(0))[b"spread"] == b"%d" % (partition_of(last) + 1), "one of it still runs"
    await gateway.report(last, "complete")

    async def forgotten() -> bool:
        return not any([b"spread" in await settings_of(number) for number in range(6)])

    await wait_until(forgotten)
    await gateway.post("/tasks", [{"job_type": "demo"} for _ in range(14)])
    assert len([task for _ in range(8) for task in await gateway.poll(max=14, worker_id="w")]) == 12


@pytest.mark.parametrize(("limit", "most"), [({"max_processing": 6}, 6), ({"rate_per_second": 60}, 6)])
async def test_limits_hold_while_fewer_partitions_are_worked_off(
    clocked_gateway: LiveGateway, limit: dict[str, int], most: int
) -> None:
    gateway = clocked_gateway
    await spread(gateway, 4)
    await learn(gateway)
    for _ in range(39):
        await gateway.enqueue()
    for partitions in (2, 1):
        await spread(gateway, partitions, **limit)
        taken = [task for _ in range(16) for task in await gateway.poll(max=10)]
        assert len(taken) == most
        assert {partition_of(task) for task in taken} == {0, 1, 2, 3}
        for task in taken:
            await gateway.report(task, "release")
        await gateway.client.patch("/queues/demo", json={"rate_per_second": None})


async def test_what_waited_before_is_not_moved(gateway: LiveGateway) -> None:
    before = [(await gateway.enqueue())["id"] for _ in range(5)]
    await spread(gateway, 4)
    taken = [task["id"] for task in await drain(gateway)]
    assert taken == before


async def test_a_request_repeated_by_its_key_makes_the_same_tasks(gateway: LiveGateway) -> None:
    await spread(gateway, 4)
    await learn(gateway)
    ids = set()
    for number in range(8):
        replies = [
            await gateway.client.post("/tasks", json={"job_type": "demo"}, headers={"idempotency-key": f"k{number}"})
            for _ in range(3)
        ]
        ids.add(replies[0].json()["id"])
        assert len({reply.json()["id"] for reply in replies}) == 1
    assert len(ids) == 8
    assert {task["id"] for task in await drain(gateway)} > ids


async def test_a_repeated_poll_gets_the_same_tasks_from_a_gateway_that_knows_of_no_partitions(redis_url: str) -> None:
    body = {"worker_id": "w", "task_type": "demo", "poll_id": "p", "wait": 0}
    async with live_gateway(redis_url) as one:
        await spread(one, 4)
        for _ in range(8):
            await one.enqueue()
        for number in range(6):
            first = (await one.post("/poll", {**body, "poll_id": f"p{number}"})).json()["tasks"]
            async with live_gateway(redis_url) as two:
                again = (await two.post("/poll", {**body, "poll_id": f"p{number}"})).json()["tasks"]
            assert [task["id"] for task in again] == [task["id"] for task in first]
            assert [task["lease_token"] for task in again] == [task["lease_token"] for task in first]


async def test_a_poll_id_costs_one_claim_more_and_not_one_for_each_partition(gateway: LiveGateway) -> None:
    await spread(gateway, 8)
    for _ in range(30):
        await gateway.enqueue()

    async def claims() -> int:
        text = (await gateway.get("/metrics")).text
        (line,) = re.findall(r'tasks_gateway_script_seconds_count{script="claim"} ([0-9.]+)', text)
        return round(float(line))

    await gateway.poll(poll_id="first")
    before = await claims()
    taken = {}
    for number in range(20):
        (task,) = await gateway.poll(poll_id=f"p{number}")
        taken[f"p{number}"] = task["id"]
    # One at the place that knows the id, and as few as it takes to find a task: 45 of them, 63 once in 20,000 runs;
    # 180, were every partition asked.
    assert await claims() - before <= 20 * 4
    for poll_id, task_id in taken.items():
        assert [task["id"] for task in await gateway.poll(poll_id=poll_id)] == [task_id]


async def test_a_poll_of_several_queues_that_is_repeated_gets_the_same_task(gateway: LiveGateway) -> None:
    for number in range(6):
        await gateway.enqueue(f"q{number % 3}")
    for number in range(6):
        types = ("q0", "q1", "q2")
        (first,) = await gateway.poll(*types, poll_id=f"p{number}")
        await gateway.enqueue("q0")
        (again,) = await gateway.poll(*reversed(types), poll_id=f"p{number}")
        assert (again["id"], again["lease_token"]) == (first["id"], first["lease_token"])


async def test_next_asks_every_partition(gateway: LiveGateway) -> None:
    await spread(gateway, 4)
    for _ in range(12):
        await gateway.enqueue()
    (task,) = await gateway.poll()
    done = 0
    while task is not None:
        reply = await gateway.report(task, "complete", next={"max": 1})
        done += 1
        task = next(iter(reply.json()["tasks"]), None)
    assert done == 12


async def test_a_copy_of_the_settings_that_was_left_behind_is_brought_up_to_date(
    gateway: LiveGateway, redis: Redis
) -> None:
    """A gateway that dies between the first partition and the others leaves that."""
    await spread(gateway, 3)
    for number in (1, 2):
        await redis.delete(f"tg:{{default:demo/{number}}}:settings")
    made = [await gateway.enqueue() for _ in range(6)]
    assert {partition_of(task) for task in made} == {0, 1, 2}
    truth = await redis.hgetall("tg:{default:demo}:settings")
    for number in (1, 2):
        assert await redis.hgetall(f"tg:{{default:demo/{number}}}:settings") == truth


async def test_partitions_whose_names_redis_lost_are_noted_again_by_who_knows_of_them(
    redis_url: str, redis: Redis
) -> None:
    """The gateway that spread the queue may have ended; sweeps and lists find a partition by its name only."""
    async with live_gateway(redis_url) as one:
        await spread(one, 3)
    async with live_gateway(redis_url) as two:
        await learn(two)

        async def noted() -> bool:
            return await redis.smembers("tg:{queues}") == {b"{default:demo%s}" % part for part in (b"", b"/1", b"/2")}

        await redis.delete("tg:{queues}")
        two.app.manager.resumed()
        await wait_until(noted)


async def test_tasks_of_partitions_that_the_settings_lost_are_handed_out(gateway: LiveGateway, redis: Redis) -> None:
    """An older gateway writes settings without them; a replica that takes over may lack the last change."""
    await spread(gateway, 3)
    await learn(gateway)
    made = {(await gateway.enqueue())["id"] for _ in range(6)}
    await redis.hdel("tg:{default:demo}:settings", "partitions", "spread")
    taken: set[str] = set()

    async def all_taken() -> bool:
        taken.update(task["id"] for task in await drain(gateway))
        return taken > made

    await wait_until(all_taken)


@pytest.mark.parametrize("ahead", [1, 7])
async def test_a_copy_of_settings_that_the_first_partition_lost_gives_way(
    gateway: LiveGateway, redis: Redis, ahead: int
) -> None:
    """In a cluster a replica takes over that lacks the last change, and the other shards have their copies of it."""
    version = (await spread(gateway, 3))["version"]
    await learn(gateway)
    await redis.hset("tg:{default:demo/1}:settings", mapping={"version": version + ahead, "max_pending": 3})
    changed = await spread(gateway, 3, max_processing=5) if ahead == 1 else {"version": version + ahead + 1}
    for _ in range(6):
        await gateway.enqueue()
    truth = await redis.hgetall("tg:{default:demo}:settings")
    assert int(truth[b"version"]) == changed["version"]
    assert await redis.hgetall("tg:{default:demo/1}:settings") == truth


async def test_leases_of_every_partition_lapse_and_delayed_tasks_of_every_one_come(
    clocked_gateway: LiveGateway, clock: Clock
) -> None:
    gateway = clocked_gateway
    await spread(gateway, 3)
    await learn(gateway)
    for _ in range(3):
        await gateway.enqueue()
    for _ in range(3):
        await gateway.enqueue(delay_seconds=60)
    leased = [task for _ in range(8) for task in await gateway.poll(max=5)]
    assert len(leased) == 4
    clock.advance(61)

    async def all_back() -> bool:
        return bool((await gateway.get("/queues/demo")).json()["pending"] == 7)

    await wait_until(all_back)
    assert len(await drain(gateway)) == 7


async def test_workers_that_poll_for_several_queues_keep_their_preference(gateway: LiveGateway) -> None:
    await spread(gateway, 3)
    for _ in range(6):
        await gateway.enqueue("other")
        await gateway.enqueue("demo")
    taken = [task["job_type"] for task in await drain_types(gateway, "demo", "other")]
    assert taken == ["demo"] * 6 + ["other"] * 6


async def drain_types(gateway: LiveGateway, *job_types: str) -> list[dict[str, Any]]:
    """Take and complete everything of some queues, one at a time."""
    taken = []
    while tasks := await gateway.poll(*job_types):
        taken += tasks
        await gateway.report(tasks[0], "complete")
    return taken


async def test_many_polls_over_many_partitions_share_the_work(gateway: LiveGateway) -> None:
    """Every task goes to exactly one of them, however they are woken."""
    await spread(gateway, 8)
    await learn(gateway)
    await drain(gateway)

    async def work(client: httpx.AsyncClient, number: int) -> list[str]:
        done = []
        while True:
            body = {"worker_id": f"w{number}", "task_type": "demo", "wait": 2}
            reply = await client.post("/poll", json=body)
            if reply.status_code == 204:
                return done
            (task,) = reply.json()["tasks"]
            body = {"lease_token": task["lease_token"]}
            assert (await client.post(f"/tasks/{task['id']}/complete", json=body)).status_code == 200
            done.append(task["id"])

    workers = [asyncio.create_task(work(gateway.client, number)) for number in range(20)]
    made = await asyncio.gather(*(gateway.enqueue() for _ in range(300)))
    done = [task_id for worker in workers for task_id in await worker]
    assert sorted(done) == sorted(task["id"] for task in made)
