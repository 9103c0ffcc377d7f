"""Plain arq code and the gateway on the same queue, with the real arq package: one test for each promise."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import arq.constants
import arq.jobs
import msgspec
import pytest
import pytest_asyncio
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus
from redis.asyncio import Redis

from gateway.tasks import Queue
from tests.harness import Clock, LiveGateway, wait_until

_QUEUE = "arq:queue:{default:demo}"
_POLL_SECONDS = 0.01
PRIORITIES = ("low", "normal", "high", "critical")


@pytest_asyncio.fixture
async def producer(redis_url: str) -> AsyncIterator[ArqRedis]:
    """arq's own client, with msgpack in place of pickle."""
    async with ArqRedis.from_url(redis_url) as client:
        client.job_serializer = msgspec.msgpack.encode
        client.job_deserializer = msgspec.msgpack.decode
        client.expires_extra_ms = arq.constants.expires_extra_ms
        yield client


def job_of(task: dict[str, Any], redis: ArqRedis) -> Job:
    """The task as arq's Job."""
    ulid = task["id"].partition("~")[2]
    return Job(f"{{default:demo}}{ulid}", redis, _QUEUE, _deserializer=msgspec.msgpack.decode)


async def enqueue(producer: ArqRedis, *args: Any, **options: Any) -> Job:
    """enqueue_job("demo", ..) to our queue."""
    job = await producer.enqueue_job("demo", *args, **{"_queue_name": _QUEUE, **options})
    assert job is not None
    return job


async def take(gateway: LiveGateway) -> dict[str, Any]:
    """Poll until there is a task: arq's producers ring nobody, a recheck finds their jobs."""
    (task,) = await gateway.poll(wait=10)
    return task


# 1. arq's Job works on a task POSTed over HTTP


@pytest.mark.parametrize("priority", PRIORITIES)
async def test_status_of_a_task_through_its_life(priority: str, gateway: LiveGateway, producer: ArqRedis) -> None:
    task = await gateway.enqueue(priority=priority)
    job = job_of(task, producer)
    assert await job.status() is JobStatus.queued
    (leased,) = await gateway.poll()
    assert await job.status() is JobStatus.in_progress
    await gateway.report(leased, "fail", error="no", retry_in_seconds=60)
    assert await job.status() is JobStatus.deferred
    assert (await gateway.client.delete(f"/tasks/{task['id']}")).status_code == 200
    assert await job.status() is JobStatus.complete


@pytest.mark.parametrize("priority", PRIORITIES)
async def test_status_of_a_delayed_task(priority: str, gateway: LiveGateway, producer: ArqRedis) -> None:
    job = job_of(await gateway.enqueue(priority=priority, delay_seconds=60), producer)
    assert await job.status() is JobStatus.deferred


async def test_status_of_a_task_that_was_released(gateway: LiveGateway, producer: ArqRedis) -> None:
    job = job_of(await gateway.enqueue(), producer)
    (leased,) = await gateway.poll()
    await gateway.report(leased, "release")
    assert await job.status() is JobStatus.queued


async def test_status_of_a_task_that_never_was(gateway: LiveGateway, producer: ArqRedis) -> None:
    assert await job_of({"id": "demo~nothing"}, producer).status() is JobStatus.not_found


async def test_info_of_a_waiting_task(gateway: LiveGateway, producer: ArqRedis) -> None:
    task = await gateway.enqueue(payload={"a": 1}, delay_seconds=60, title="t", tags={"k": "v"})
    info = await job_of(task, producer).info()
    assert info is not None
    assert (info.function, info.args, info.kwargs) == ("demo", ['{"a":1}'], {})
    assert info.enqueue_time == datetime.fromisoformat(task["created_at"])
    assert info.score == int(datetime.fromisoformat(task["run_at"]).timestamp() * 1000)
    assert await job_of(task, producer).result_info() is None


@pytest.mark.parametrize("priority", PRIORITIES)
async def test_result_info_of_a_completed_task(priority: str, gateway: LiveGateway, producer: ArqRedis) -> None:
    task = await gateway.enqueue(payload=[1], priority=priority)
    (leased,) = await gateway.poll()
    await gateway.report(leased, "complete", result={"n": [1, 2.5, None, True, "ü"]})
    job = job_of(task, producer)
    assert await job.status() is JobStatus.complete
    info = await job.result_info()
    assert info is not None
    assert info.success
    assert info.result == {"n": [1, 2.5, None, True, "ü"]}
    assert (info.function, info.args, info.job_try) == ("demo", ["[1]"], 1)
    assert (info.queue_name, info.job_id) == (_QUEUE, job.job_id)
    assert info.enqueue_time == datetime.fromisoformat(task["created_at"])
    assert info.enqueue_time <= info.start_time <= info.finish_time
    again = await job.info()
    assert again is not None
    assert again.score is None


@pytest.mark.parametrize("priority", PRIORITIES)
async def test_result_of_a_completed_task(priority: str, gateway: LiveGateway, producer: ArqRedis) -> None:
    task = await gateway.enqueue(priority=priority)
    waiting = asyncio.create_task(job_of(task, producer).result(timeout=10, poll_delay=_POLL_SECONDS))
    (leased,) = await gateway.poll()
    await gateway.report(leased, "complete", result=["done"])
    assert await waiting == ["done"]


async def test_result_of_a_failed_task_raises_what_went_wrong(gateway: LiveGateway, producer: ArqRedis) -> None:
    task = await gateway.enqueue()
    (leased,) = await gateway.poll()
    error = {"type": "Boom", "message": "it broke"}
    await gateway.report(leased, "fail", error=error, retryable=False)
    with pytest.raises(arq.jobs.SerializationError, match="Boom: it broke"):
        await job_of(task, producer).result(poll_delay=_POLL_SECONDS)
    info = await job_of(task, producer).result_info()
    assert info is not None
    assert not info.success


async def test_result_of_a_cancelled_task_raises(gateway: LiveGateway, producer: ArqRedis) -> None:
    task = await gateway.enqueue()
    await gateway.client.delete(f"/tasks/{task['id']}")
    with pytest.raises(arq.jobs.SerializationError, match="cancelled"):
        await job_of(task, producer).result(poll_delay=_POLL_SECONDS)


async def test_all_job_results_reads_what_we_wrote(gateway: LiveGateway, producer: ArqRedis) -> None:
    for number in range(3):
        await gateway.enqueue(payload=number)
        (leased,) = await gateway.poll()
        await gateway.report(leased, "complete", result=number)
    assert [one.result for one in await producer.all_job_results()] == [0, 1, 2]


# 2. A job of arq's is handed to an HTTP worker


async def test_a_job_is_handed_over_as_function_args_and_kwargs(gateway: LiveGateway, producer: ArqRedis) -> None:
    job = await enqueue(producer, 1, "two", [3], x=2, y={"z": None})
    task = await take(gateway)
    assert task["payload"] == {"function": "demo", "args": [1, "two", [3]], "kwargs": {"x": 2, "y": {"z": None}}}
    assert (task["job_type"], task["attempt"], task["max_attempts"], task["priority"]) == ("demo", 1, 25, "normal")
    info = await job.info()
    assert info is not None
    assert datetime.fromisoformat(task["created_at"]) == info.enqueue_time
    assert await job.status() is JobStatus.in_progress


@pytest.mark.parametrize(
    "result",
    [{"a": [1, {"b": None}]}, [1, 2, 3], 42, -1.5, "text", "", None, True, [], {}, "x" * 1_000_000],
    ids=lambda value: repr(value)[:20],
)
async def test_the_producer_gets_what_the_worker_completed_with(
    result: Any, gateway: LiveGateway, producer: ArqRedis
) -> None:
    job = await enqueue(producer, 1)
    task = await take(gateway)
    reply = await gateway.report(task, "complete", result=result)
    assert reply.status_code == 200
    assert await job.result(timeout=10, poll_delay=_POLL_SECONDS) == result
    assert (await gateway.get(f"/tasks/{task['id']}")).json()["result"] == result


async def test_the_producers_wait_raises_when_the_job_failed(gateway: LiveGateway, producer: ArqRedis) -> None:
    job = await enqueue(producer)
    waiting = asyncio.create_task(job.result(timeout=10, poll_delay=_POLL_SECONDS))
    await gateway.report(await take(gateway), "fail", error="broken", retryable=False)
    with pytest.raises(arq.jobs.SerializationError, match="broken"):
        await waiting


async def test_the_producers_wait_goes_on_while_the_job_is_in_progress_and_over_retries(
    gateway: LiveGateway, producer: ArqRedis
) -> None:
    """arq raises ResultNotFound when an id is in no queue: ours stays in arq's queue until its result is there."""
    job = await enqueue(producer)
    waiting = asyncio.create_task(job.result(timeout=20, poll_delay=0.001))
    for _ in range(3):
        task = await take(gateway)
        await gateway.report(task, "heartbeat")
        await gateway.report(task, "fail", error="again", retry_in_seconds=0)
    task = await take(gateway)
    await gateway.report(task, "release")
    task = await take(gateway)
    assert not waiting.done()
    await gateway.report(task, "complete", result=1)
    assert await waiting == 1


async def test_a_deferred_job_is_not_handed_out_early(
    clocked_gateway: LiveGateway, producer: ArqRedis, clock: Any
) -> None:
    clock.now_ms = int(datetime.now(UTC).timestamp() * 1000)
    job = await enqueue(producer, _defer_by=timedelta(seconds=60))
    info = await job.info()
    assert info is not None
    assert info.score is not None
    clock.now_ms = info.score - 1
    assert await clocked_gateway.poll() == []
    clock.now_ms = info.score
    (task,) = await clocked_gateway.poll()
    assert task["payload"]["function"] == "demo"


async def test_a_job_deferred_until_the_past_is_handed_out(gateway: LiveGateway, producer: ArqRedis) -> None:
    await enqueue(producer, 7, _defer_until=datetime.now(UTC) - timedelta(days=3), _expires=timedelta(days=1))
    assert (await take(gateway))["payload"]["args"] == [7]


@pytest.mark.parametrize("score", [0, -1, -5e12, 1, 0.5, 2**39])
async def test_an_odd_score_does_not_hide_a_job(
    score: float, gateway: LiveGateway, producer: ArqRedis, redis: Redis
) -> None:
    job = await enqueue(producer, 7)
    await redis.zadd(_QUEUE, {job.job_id: score})
    task = await take(gateway)
    assert task["payload"]["args"] == [7]
    await gateway.report(task, "complete", result=8)
    assert await job.result(timeout=10, poll_delay=_POLL_SECONDS) == 8


@pytest.mark.parametrize(
    "job_id",
    ["order-1", "a b", "ä€😀", "a/b?c=d#e%20", "{other}:x", "~", "'\"\\", "new\nline", "x" * 140, "{default:demo}"],
)
async def test_a_job_of_any_id_is_reported_on_read_and_listed(
    job_id: str, gateway: LiveGateway, producer: ArqRedis
) -> None:
    job = await enqueue(producer, 1, _job_id=job_id)
    task = await take(gateway)
    assert (await gateway.report(task, "heartbeat", progress=50, log=["half"])).status_code == 200
    seen = (await gateway.get(f"/tasks/{task['id']}")).json()
    assert (seen["status"], seen["progress"], seen["worker_id"]) == ("processing", 50, "w1")
    listed = (await gateway.get("/tasks", params={"job_type": "demo"})).json()["tasks"]
    assert [one["id"] for one in listed] == [task["id"]]
    assert (await gateway.report(task, "complete", result="ok")).status_code == 200
    assert await job.result(timeout=10, poll_delay=_POLL_SECONDS) == "ok"
    assert (await gateway.get(f"/tasks/{task['id']}")).json()["status"] == "completed"


async def test_a_second_job_of_the_same_id_is_refused_by_arq_while_the_first_lives(
    gateway: LiveGateway, producer: ArqRedis
) -> None:
    await enqueue(producer, 1, _job_id="once")
    assert await producer.enqueue_job("demo", 2, _job_id="once", _queue_name=_QUEUE) is None
    task = await take(gateway)
    assert await producer.enqueue_job("demo", 2, _job_id="once", _queue_name=_QUEUE) is None
    await gateway.report(task, "complete")
    assert await producer.enqueue_job("demo", 2, _job_id="once", _queue_name=_QUEUE) is None


async def test_a_waiting_jobs_body_does_not_expire(gateway: LiveGateway, producer: ArqRedis, redis: Redis) -> None:
    """arq lets bodies expire a day after they are due, waiting or not: that loses jobs."""
    await gateway.enqueue("other")
    jobs = [await enqueue(producer, _expires=timedelta(hours=1)), await enqueue(producer, _job_id="named")]
    assert await redis.pttl(f"arq:job:{jobs[0].job_id}") > 0
    # The queue is known from its first hand-out on; then sweeps adopt what comes, polls or not.
    task = await take(gateway)
    for job in jobs:

        async def lasts(name: str = job.job_id) -> bool:
            return await redis.pttl(f"arq:job:{name}") == -1

        await wait_until(lasts)
    await gateway.report(task, "fail", error="no", retry_in_seconds=60)
    assert await redis.pttl(f"arq:job:{jobs[0].job_id}") == -1
    ours = job_of(await gateway.enqueue(delay_seconds=100_000), producer)
    assert await redis.pttl(f"arq:job:{ours.job_id}") == -1


async def test_a_job_of_an_id_like_ours_is_kept_and_listed_like_any_other(
    gateway: LiveGateway, producer: ArqRedis, redis: Redis
) -> None:
    """In a cluster arq's ids stand in the queue's tag, and a ULID has 26 characters for everybody."""
    job = await enqueue(producer, _job_id="{default:demo}01ARZ3NDEKTSV4RRFFQ69G5FAV")
    task = await take(gateway)
    assert await redis.pttl(f"arq:job:{job.job_id}") == -1
    assert [one["id"] for one in (await gateway.get("/tasks")).json()["tasks"]] == [task["id"]]


@pytest.mark.parametrize(
    "tail", ["~" * 26, "1." + "a" * 24, "/" * 26, "a b" + "c" * 23, '"' + "q" * 25, "é" * 13, "0123456789=" + "a" * 15]
)
async def test_a_job_whose_id_in_the_tag_is_as_long_as_ours_is_reported_on(
    tail: str, gateway: LiveGateway, producer: ArqRedis
) -> None:
    assert len(tail.encode()) == 26
    job = await enqueue(producer, _job_id="{default:demo}" + tail)
    task = await take(gateway)
    assert [one["id"] for one in (await gateway.get("/tasks")).json()["tasks"]] == [task["id"]]
    assert (await gateway.report(task, "complete", result=7)).status_code == 200
    assert (await gateway.get(f"/tasks/{task['id']}")).json()["status"] == "completed"
    assert await job.result(timeout=10, poll_delay=_POLL_SECONDS) == 7
    assert (await gateway.post("/tasks/delete", {"filter": {}})).json() == {"matched": 1, "changed": 1}


async def test_a_finished_job_shows_its_past_and_leaves_nothing_when_it_is_deleted(
    gateway: LiveGateway, producer: ArqRedis, redis: Redis
) -> None:
    await enqueue(producer, _job_id="once")
    first = await take(gateway)
    await gateway.report(first, "fail", error="no", retry_in_seconds=0)
    task = await take(gateway)
    await gateway.report(task, "heartbeat", progress=50, log=["half"])
    await gateway.report(task, "complete")
    seen = (await gateway.get(f"/tasks/{task['id']}")).json()
    assert (seen["progress"], len(seen["attempts"]), len(seen["log"])) == (50, 2, 1)
    reply = await gateway.post("/tasks/delete", {"filter": {"job_type": "demo"}})
    assert (reply.status_code, reply.json()["changed"]) == (200, 1), reply.text
    left = {key.decode() for key in await redis.keys("*{default:demo}*")} | set(await redis.keys("arq:*once*"))
    assert {name.rsplit(":", 1)[1] for name in left} <= {"seq", "totals", "waiting", "wants"}


async def test_a_job_whose_id_is_used_again_keeps_its_result_when_the_first_ones_time_is_over(
    clocked_gateway: LiveGateway, clock: Clock, producer: ArqRedis, redis: Redis
) -> None:
    gateway = clocked_gateway
    await enqueue(producer, _job_id="daily")
    first = await take(gateway)
    await gateway.report(first, "complete", result=1)
    clock.advance(86_400)
    # As its TTL does it, by Redis's own clock.
    await redis.delete("arq:result:daily")
    await producer.enqueue_job(
        "demo", _job_id="daily", _queue_name=_QUEUE, _defer_until=datetime.fromtimestamp(clock.now_ms / 1000 - 5, UTC)
    )
    second = await take(gateway)
    await gateway.report(second, "complete", result=2)
    clock.advance(10)
    await gateway.app.store.expire(Queue("default", "demo"))
    assert (await gateway.get(f"/tasks/{second['id']}")).json()["result"] == 2


async def test_a_waiting_job_can_be_cancelled_and_sent_back_over_http(gateway: LiveGateway, producer: ArqRedis) -> None:
    job = await enqueue(producer, 5)
    await take(gateway)
    second = await enqueue(producer, 6, _defer_by=3600)
    (listed,) = [one for one in (await gateway.get("/tasks")).json()["tasks"] if one["status"] != "processing"] or [
        None
    ]
    task_id = listed["id"] if listed else "demo~~" + _encoded(second.job_id)
    assert (await gateway.client.delete(f"/tasks/{task_id}")).status_code == 200
    with pytest.raises(arq.jobs.SerializationError):
        await second.result(poll_delay=_POLL_SECONDS)
    assert (await gateway.post(f"/tasks/{task_id}/retry")).status_code == 200
    assert (await take(gateway))["payload"]["args"] == [6]
    assert await job.status() is JobStatus.in_progress


def _encoded(job_id: str) -> str:
    import base64

    return base64.urlsafe_b64encode(job_id.encode()).decode().rstrip("=")


async def test_a_pickled_job_ends_failed_as_corrupt_and_is_never_unpickled(
    gateway: LiveGateway, producer: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was unpickled")

    producer.job_serializer = pickle.dumps
    job = await enqueue(producer, 1)
    monkeypatch.setattr(pickle, "loads", forbidden)
    monkeypatch.setattr(pickle, "load", forbidden)
    monkeypatch.setattr(pickle, "Unpickler", forbidden)
    producer.job_serializer = msgspec.msgpack.encode
    good = await enqueue(producer, 2)
    (task,) = await gateway.poll(max=2, wait=10)
    assert task["payload"]["args"] == [2]
    bad = (await gateway.get(f"/tasks/demo~~{_encoded(job.job_id)}")).json()
    assert bad["status"] == "failed"
    assert bad["error"]["type"] == "corrupt"
    failed = (await gateway.get("/tasks", params={"status": "failed"})).json()["tasks"]
    assert [one["id"] for one in failed] == [bad["id"]]
    await gateway.report(task, "complete", result=3)
    assert await good.result(timeout=10, poll_delay=_POLL_SECONDS) == 3
    with pytest.raises(arq.jobs.SerializationError, match="corrupt"):
        await Job(job.job_id, producer, _QUEUE, _deserializer=msgspec.msgpack.decode).result(poll_delay=_POLL_SECONDS)


async def test_a_msgpack_body_that_is_no_job_ends_failed_as_corrupt_over_http(
    gateway: LiveGateway, producer: ArqRedis, redis: Redis
) -> None:
    await redis.set("arq:job:bad", msgspec.msgpack.encode({"hello": "world"}))
    await redis.zadd(_QUEUE, {"bad": 1})
    await enqueue(producer, 2)
    assert (await take(gateway))["payload"]["args"] == [2]
    bad = (await gateway.get(f"/tasks/demo~~{_encoded('bad')}")).json()
    assert (bad["status"], bad["error"]["type"]) == ("failed", "corrupt")


async def test_jobs_and_tasks_share_one_queue_in_the_order_of_their_times(
    gateway: LiveGateway, producer: ArqRedis
) -> None:
    for number in range(6):
        if number % 2:
            await enqueue(producer, number)
        else:
            await gateway.enqueue(payload={"args": [number]})
        await asyncio.sleep(0.002)  # arq orders by milliseconds
    taken = await gateway.poll(max=10)
    assert [task["payload"]["args"] for task in taken] == [[number] for number in range(6)]


async def test_arguments_that_only_msgpack_can_hold_are_handed_out(gateway: LiveGateway, producer: ArqRedis) -> None:
    await producer.enqueue_job("demo", b"\x00\xff", _queue_name=_QUEUE)
    (task,) = await gateway.poll()
    assert task["payload"]["args"] == ["AP8="]


async def test_a_job_whose_id_no_worker_could_name_ends_failed(gateway: LiveGateway, producer: ArqRedis) -> None:
    await producer.enqueue_job("demo", _job_id="x" * 160, _queue_name=_QUEUE)
    await producer.enqueue_job("demo", _job_id="y" * 140, _queue_name=_QUEUE)
    (task,) = await gateway.poll(max=5)
    assert (await gateway.report(task, "complete")).status_code == 200
    (failed,) = (await gateway.get("/tasks?status=failed")).json()["tasks"]
    assert failed["error"]["message"] == "the job id is too long"
