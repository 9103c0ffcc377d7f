"""Long polls: what they answer, when, and what becomes of a task whose client has gone."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import re
import socket
import statistics
import struct
import time
from typing import Any

import httpx
import pytest

from tests.harness import Clock, LiveGateway, live_gateway, wait_until

NO_LINGER = struct.pack("ii", 1, 0)


class RawPoll:
    """A poll sent by hand, to hang up on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def send(cls, gateway: LiveGateway, **members: Any) -> RawPoll:
        """POST /poll for `demo` with a long wait."""
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        body = json.dumps({"worker_id": "gone", "task_type": "demo", "wait": 30, **members}).encode()
        head = (
            f"POST /poll HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        return cls(reader, writer)

    async def tasks(self) -> list[dict[str, Any]]:
        """Read the answer, and close."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 204")), head
        length = re.search(rb"content-length: (\d+)", head)
        body = await self.reader.readexactly(int(length[1])) if length else b""
        self.hang_up()
        tasks: list[dict[str, Any]] = json.loads(body)["tasks"] if body else []
        return tasks

    def hang_up(self, *, reset: bool = False) -> None:
        """Close the connection: with a FIN, or with an RST."""
        if reset:
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.writer.transport.abort()


async def open_polls(gateway: LiveGateway, number: int) -> None:
    """Wait until so many polls are open."""
    await wait_until(lambda: gateway.app.manager.open_polls == number, message=f"never were {number} polls open")


async def waiting_poll(gateway: LiveGateway, *job_types: str, **members: Any) -> asyncio.Task[list[dict[str, Any]]]:
    """Start a poll and wait until it is open."""
    before = gateway.app.manager.open_polls
    poll = asyncio.create_task(gateway.poll(*job_types, **{"wait": 30, **members}))
    await open_polls(gateway, before + 1)
    return poll


# What a poll says and hears


async def test_get_and_post_are_the_same_poll(gateway: LiveGateway) -> None:
    for number in range(2):
        await gateway.enqueue("demo", payload=number)
    got = await gateway.get("/poll?worker_id=w1&task_type=demo&wait=0&max=1")
    posted = await gateway.post("/poll", {"worker_id": "w1", "task_type": "demo", "wait": 0, "max": 1})
    assert [reply.json()["tasks"][0]["payload"] for reply in (got, posted)] == [0, 1]
    assert got.json()["tasks"][0].keys() == posted.json()["tasks"][0].keys()


async def test_a_polled_task_carries_its_lease(gateway: LiveGateway) -> None:
    await gateway.enqueue("demo", lease_seconds=60)
    (task,) = await gateway.poll("demo")
    assert len(task["lease_token"]) >= 22  # 128 bits
    assert (task["lease_seconds"], task["heartbeat_seconds"]) == (60, 20)
    assert (task["status"], task["attempt"], task["worker_id"]) == ("processing", 1, "w1")


async def test_a_poll_may_choose_the_length_of_its_leases(clocked_gateway: LiveGateway, clock: Clock) -> None:
    gateway = clocked_gateway
    await gateway.enqueue("demo", lease_seconds=60)
    (task,) = await gateway.poll("demo", lease_seconds=5)
    assert (task["lease_seconds"], task["heartbeat_seconds"]) == (5, 1.667)
    clock.advance(5.1)
    assert (await gateway.report(task, "complete")).status_code == 409
    (again,) = await gateway.poll("demo", wait=5)
    assert again["attempt"] == 2


@pytest.mark.parametrize(
    "query",
    ["task_type=a&task_type=b&task_type=c", "task_type=a,b,c", "job_type=a,b&job_type=c", "task_type=a&job_type=b,c"],
)
async def test_the_order_of_types_is_strict_preference(gateway: LiveGateway, query: str) -> None:
    for job_type in ("c", "b", "a", "c", "b", "a"):
        await gateway.enqueue(job_type, priority="critical" if job_type == "c" else "low")
    got = []
    for _ in range(3):
        reply = await gateway.get(f"/poll?worker_id=w1&{query}&wait=0&max=2")
        got.append([task["job_type"] for task in reply.json()["tasks"]])
    assert got == [["a", "a"], ["b", "b"], ["c", "c"]]


async def test_a_waiting_poll_hears_of_each_of_its_types(gateway: LiveGateway) -> None:
    for job_type in ("a", "b", "c"):
        poll = await waiting_poll(gateway, "a", "b", "c")
        await gateway.enqueue(job_type)
        assert [task["job_type"] for task in await asyncio.wait_for(poll, 5)] == [job_type]


async def test_higher_priorities_come_first_and_equals_in_order(gateway: LiveGateway) -> None:
    priorities = ["low", "normal", "high", "critical"]
    for round_ in range(2):
        for priority in priorities:
            await gateway.enqueue("demo", priority=priority, payload=round_)
    got = [(task["priority"], task["payload"]) for task in await gateway.poll("demo", max=8)]
    assert got == [(priority, round_) for priority in reversed(priorities) for round_ in range(2)]


async def test_max_is_a_cap_and_never_waited_for(gateway: LiveGateway) -> None:
    for _ in range(5):
        await gateway.enqueue("demo")
    assert len(await gateway.poll("demo", max=2)) == 2
    started = time.monotonic()
    assert len(await gateway.poll("demo", max=1000, wait=20)) == 3
    assert time.monotonic() - started < 2


async def test_a_poll_without_wait_answers_204_at_once(gateway: LiveGateway) -> None:
    started = time.monotonic()
    reply = await gateway.get("/poll?worker_id=w1&task_type=demo&wait=0")
    assert (reply.status_code, reply.content) == (204, b"")
    assert time.monotonic() - started < 0.5


async def test_a_poll_answers_204_when_its_wait_is_over(gateway: LiveGateway) -> None:
    started = time.monotonic()
    reply = await gateway.get("/poll?worker_id=w1&task_type=demo&wait=1.2")
    assert reply.status_code == 204
    assert 1.2 <= time.monotonic() - started < 2.2
    assert gateway.app.manager.open_polls == 0


async def test_every_answer_has_a_directive_and_forbids_storing(gateway: LiveGateway) -> None:
    await gateway.enqueue("demo")
    for status in (200, 204):
        reply = await gateway.get("/poll?worker_id=w1&task_type=demo&wait=0")
        assert reply.status_code == status
        assert reply.headers["x-directive"] == "run"
        assert reply.headers["cache-control"] == "no-store"


async def test_head_is_405_and_claims_nothing(gateway: LiveGateway) -> None:
    await gateway.enqueue("demo")
    reply = await gateway.client.head("/poll?worker_id=w1&task_type=demo&wait=0")
    assert reply.status_code == 405
    assert reply.headers["allow"] == "GET, POST"
    assert len(await gateway.poll("demo")) == 1


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("task_type=demo", "worker_id"), ("worker_id=w1", "task_type"), ("worker_id=w1&task_type=", "task_type")],
)
async def test_a_poll_names_its_worker_and_a_type(gateway: LiveGateway, query: str, parameter: str) -> None:
    reply = await gateway.get(f"/poll?{query}")
    assert reply.status_code == 400
    assert parameter in reply.json()["detail"]


async def test_above_the_bound_of_open_polls_it_is_429(redis_url: str) -> None:
    async with live_gateway(redis_url, max_open_polls=2) as gateway:
        polls = [await waiting_poll(gateway, worker_id=f"w{number}") for number in range(2)]
        reply = await gateway.get("/poll?worker_id=w3&task_type=demo&wait=0")
        assert (reply.status_code, reply.json()["code"]) == (429, "too_many_polls")
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.json()["retryable"] is True
        gateway.app.manager.close()
        assert await asyncio.gather(*polls) == [[], []]


async def test_while_draining_open_polls_get_204_at_once_and_new_ones_503(gateway: LiveGateway) -> None:
    polls = [await waiting_poll(gateway, worker_id=f"w{number}") for number in range(5)]
    started = time.monotonic()
    gateway.app.manager.close()
    assert await asyncio.gather(*polls) == [[]] * 5
    assert time.monotonic() - started < 1
    reply = await gateway.get("/poll?worker_id=w1&task_type=demo&wait=0")
    assert (reply.status_code, reply.json()["code"]) == (503, "shutting_down")
    assert "retry-after" in reply.headers


# Wake-ups


async def test_a_post_wakes_an_open_poll_within_50_ms(gateway: LiveGateway) -> None:
    took_seconds = []
    for _ in range(50):
        poll = await waiting_poll(gateway)
        started = time.monotonic()
        posted = asyncio.create_task(gateway.enqueue())
        assert len(await asyncio.wait_for(poll, 5)) == 1
        took_seconds.append(time.monotonic() - started)
        await posted
    assert statistics.median(took_seconds) < 0.05


async def test_a_delayed_task_wakes_an_open_poll_when_it_is_due(gateway: LiveGateway) -> None:
    poll = await waiting_poll(gateway)
    started = time.monotonic()
    await gateway.enqueue(delay_seconds=0.7)
    assert len(await asyncio.wait_for(poll, 5)) == 1
    assert 0.69 <= time.monotonic() - started < 1.7


async def test_300_polls_and_300_posts_meet_one_to_one(gateway: LiveGateway) -> None:
    polls = [await RawPoll.send(gateway, worker_id=f"w{number}") for number in range(300)]

    async def produce() -> list[str]:
        return [(await gateway.enqueue())["id"] for _ in range(30)]

    posted = await asyncio.gather(*(produce() for _ in range(10)))
    answers = await asyncio.wait_for(asyncio.gather(*(poll.tasks() for poll in polls)), 10)
    assert all(len(tasks) == 1 for tasks in answers)
    assert sorted(tasks[0]["id"] for tasks in answers) == sorted(id for ids in posted for id in ids)


async def test_the_longest_waiting_poll_is_served_first(gateway: LiveGateway) -> None:
    polls = [await waiting_poll(gateway, worker_id=f"w{number}") for number in range(4)]
    for poll in polls:
        await gateway.enqueue()
        assert len(await asyncio.wait_for(poll, 5)) == 1


async def test_a_batch_wakes_as_many_polls_as_it_has_tasks(gateway: LiveGateway) -> None:
    polls = [await waiting_poll(gateway, worker_id=f"w{number}") for number in range(5)]
    await gateway.post("/tasks", [{"job_type": "demo"}] * 5)
    assert [len(tasks) for tasks in await asyncio.wait_for(asyncio.gather(*polls), 2)] == [1] * 5


# poll_id: a poll that can be repeated


async def test_a_repeated_poll_gets_the_same_leases(gateway: LiveGateway) -> None:
    for _ in range(3):
        await gateway.enqueue("demo")
    first = await gateway.poll("demo", max=2, poll_id="p1")
    again = await gateway.poll("demo", max=2, poll_id="p1")
    assert [task["lease_token"] for task in again] == [task["lease_token"] for task in first]
    assert [task["attempt"] for task in again] == [1, 1]
    assert (await gateway.report(first[0], "complete")).status_code == 200
    rest = await gateway.poll("demo", max=2, poll_id="p1")
    assert [task["lease_token"] for task in rest] == [first[1]["lease_token"]]


async def test_another_poll_id_or_worker_gets_other_tasks(gateway: LiveGateway) -> None:
    for _ in range(3):
        await gateway.enqueue("demo")
    answers = [
        await gateway.poll("demo", poll_id="p1"),
        await gateway.poll("demo", poll_id="p2"),
        await gateway.poll("demo", poll_id="p1", worker_id="w2"),
    ]
    assert len({tasks[0]["id"] for tasks in answers}) == 3


async def test_a_repeated_poll_finds_its_leases_in_whichever_queue(gateway: LiveGateway) -> None:
    await gateway.enqueue("b")
    first = await gateway.poll("a", "b", poll_id="p1")
    await gateway.enqueue("a")
    again = await gateway.poll("a", "b", poll_id="p1")
    assert [task["lease_token"] for task in again] == [task["lease_token"] for task in first]


async def test_a_poll_id_is_free_again_when_its_leases_ended(gateway: LiveGateway) -> None:
    await gateway.enqueue("demo")
    (first,) = await gateway.poll("demo", poll_id="p1")
    await gateway.report(first, "complete")
    second = await gateway.enqueue("demo")
    assert [task["id"] for task in await gateway.poll("demo", poll_id="p1")] == [second["id"]]


async def test_after_a_lost_reply_the_same_poll_gets_the_task(gateway: LiveGateway) -> None:
    for reset in (False, True) * 5:
        raw = await RawPoll.send(gateway, worker_id="w1", poll_id=f"p{reset}")
        await open_polls(gateway, 1)
        task = await gateway.enqueue()
        await asyncio.wait_for(raw.reader.readexactly(12), 5)  # the reply was on its way: the client dies reading it
        raw.hang_up(reset=reset)
        (again,) = await gateway.poll(poll_id=f"p{reset}", wait=5)
        assert (again["id"], again["attempt"]) == (task["id"], 1)
        assert (await gateway.report(again, "complete")).status_code == 200


# Clients that hang up


@pytest.mark.parametrize("reset", [False, True])
async def test_who_hung_up_gets_nothing_and_the_next_task_goes_to_another_at_once(
    gateway: LiveGateway, reset: bool
) -> None:
    raws = [await RawPoll.send(gateway) for _ in range(10)]
    await open_polls(gateway, 10)
    other = await waiting_poll(gateway, worker_id="alive")
    for raw in raws:
        raw.hang_up(reset=reset)
    await open_polls(gateway, 1)
    started = time.monotonic()
    await gateway.enqueue()
    (task,) = await asyncio.wait_for(other, 5)
    assert (task["attempt"], task["worker_id"]) == (1, "alive")
    assert time.monotonic() - started < 0.5


async def test_a_client_that_hangs_up_just_as_it_is_served_loses_no_task(
    gateway: LiveGateway, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(7)
    loop = asyncio.get_running_loop()
    for number in range(200):
        raw = await RawPoll.send(gateway, task_type=f"demo{number}")
        await open_polls(gateway, 1)
        posting = asyncio.create_task(gateway.enqueue(f"demo{number}"))
        loop.call_later(chance.uniform(0, 0.003), functools.partial(raw.hang_up, reset=number % 2 == 0))
        task = await posting
        await open_polls(gateway, 0)

        async def is_somewhere(task_id: str = task["id"]) -> bool:
            found = (await gateway.get(f"/tasks/{task_id}")).json()
            # Leased to it where the reply was out before it hung up.
            place = (found["status"], found["attempt"], found.get("worker_id"))
            return place in (("pending", 0, None), ("processing", 1, "gone"))

        await wait_until(is_somewhere, 1, "the task is lost")
    held = (await gateway.get("/tasks?status=processing&limit=200")).json()["tasks"]
    back = []
    for start in (0, 100):
        while found := await gateway.poll(*(f"demo{start + number}" for number in range(100))):
            back += found
    assert back
    assert {task["attempt"] for task in back} == {1}
    assert len({task["id"] for task in [*held, *back]}) == len(held) + len(back) == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_task_claimed_for_who_hung_up_goes_to_a_waiting_poll(gateway: LiveGateway) -> None:
    chance = random.Random(11)
    for number in range(60):
        raw = await RawPoll.send(gateway)
        await open_polls(gateway, 1)
        other = await waiting_poll(gateway, worker_id="alive")
        asyncio.get_running_loop().call_later(chance.uniform(0, 0.002), raw.hang_up)
        task = await gateway.enqueue(payload=number)
        second = await gateway.enqueue(payload=number)
        (got,) = await asyncio.wait_for(other, 2)
        assert got["id"] in (task["id"], second["id"])
        assert got["attempt"] == 1
        await gateway.report(got, "complete")
        for left in await gateway.poll():
            await gateway.report(left, "complete")
        await open_polls(gateway, 0)


async def test_a_hang_up_behind_a_proxy_that_half_closes_is_one_too(gateway: LiveGateway) -> None:
    raw = await RawPoll.send(gateway)
    await open_polls(gateway, 1)
    raw.writer.write_eof()
    await open_polls(gateway, 0)
    await gateway.enqueue()
    (task,) = await gateway.poll()
    assert task["attempt"] == 1
    raw.hang_up()


async def test_a_client_with_a_timeout_of_its_own_hangs_up(gateway: LiveGateway) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await gateway.get("/poll?worker_id=w1&task_type=demo&wait=30", timeout=0.2)
    await open_polls(gateway, 0)
    await gateway.enqueue()
    assert [task["attempt"] for task in await gateway.poll()] == [1]


# next: report and poll in one round trip


async def test_complete_brings_the_next_task(gateway: LiveGateway) -> None:
    posted = [await gateway.enqueue(payload=number) for number in range(4)]
    (task,) = await gateway.poll()
    reply = await gateway.report(task, "complete", next={})
    assert reply.status_code == 200
    assert (reply.json()["id"], reply.json()["status"]) == (posted[0]["id"], "completed")
    (second,) = reply.json()["tasks"]
    assert second["payload"] == 1
    assert reply.headers["x-directive"] == "run"
    reply = await gateway.report(second, "complete", next={"max": 10})
    assert [task["payload"] for task in reply.json()["tasks"]] == [2, 3]
    assert {task["worker_id"] for task in reply.json()["tasks"]} == {"w1"}


async def test_next_says_so_when_there_is_nothing(gateway: LiveGateway) -> None:
    await gateway.enqueue()
    (task,) = await gateway.poll()
    reply = await gateway.report(task, "complete", next={"wait": 0})
    assert reply.json()["tasks"] == []


async def test_next_waits_as_a_poll_does(gateway: LiveGateway) -> None:
    await gateway.enqueue()
    (task,) = await gateway.poll()
    report = asyncio.create_task(gateway.report(task, "complete", next={"wait": 20}))
    await open_polls(gateway, 1)
    assert (await gateway.get(f"/tasks/{task['id']}")).json()["status"] == "completed"
    second = await gateway.enqueue()
    reply = await asyncio.wait_for(report, 5)
    assert [task["id"] for task in reply.json()["tasks"]] == [second["id"]]


async def test_fail_brings_the_next_task_too(gateway: LiveGateway) -> None:
    await gateway.enqueue(payload="first")
    await gateway.enqueue(payload="second")
    (task,) = await gateway.poll()
    reply = await gateway.report(task, "fail", error="no", retry_in_seconds=60, next={"max": 5})
    assert reply.json()["status"] == "retrying"
    assert [task["payload"] for task in reply.json()["tasks"]] == ["second"]


async def test_next_may_name_other_types_and_a_poll_id(gateway: LiveGateway) -> None:
    await gateway.enqueue("a")
    await gateway.enqueue("b")
    (task,) = await gateway.poll("a")
    body = {"task_type": ["c", "b"], "poll_id": "p1", "lease_seconds": 7}
    first = (await gateway.report(task, "complete", next=body)).json()["tasks"]
    assert [(task["job_type"], task["lease_seconds"]) for task in first] == [("b", 7)]
    again = (await gateway.report(task, "complete", next=body)).json()["tasks"]
    assert [task["lease_token"] for task in again] == [task["lease_token"] for task in first]


async def test_a_refused_report_polls_nothing(gateway: LiveGateway) -> None:
    await gateway.enqueue()
    (task,) = await gateway.poll()
    await gateway.report(task, "release", delay_seconds=60)
    await gateway.enqueue()
    reply = await gateway.report(task, "complete", next={"max": 5})
    assert reply.status_code == 409
    assert len(await gateway.poll(max=5)) == 1


async def test_who_hangs_up_waiting_for_next_has_reported_all_the_same(gateway: LiveGateway) -> None:
    await gateway.enqueue()
    (task,) = await gateway.poll()
    body = {"lease_token": task["lease_token"], "next": {"wait": 30}}
    with pytest.raises(httpx.ReadTimeout):
        await gateway.post(f"/tasks/{task['id']}/complete", body, timeout=0.2)
    await open_polls(gateway, 0)
    assert (await gateway.get(f"/tasks/{task['id']}")).json()["status"] == "completed"
    await gateway.enqueue()
    assert [task["attempt"] for task in await gateway.poll()] == [1]


async def test_a_repeated_poll_tells_when_the_task_really_started(gateway: LiveGateway) -> None:
    await gateway.enqueue()
    (first,) = await gateway.poll(poll_id="p1")
    (again,) = await gateway.poll(poll_id="p1")
    assert again["started_at"] == first["started_at"]
