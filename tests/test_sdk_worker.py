"""workers_sdk.Worker against a live gateway: what becomes of tasks, and what handlers hear."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import AsyncIterator
from typing import Any, TypedDict

import msgspec
import pytest

from tests.harness import LiveGateway, wait_until
from workers_sdk import Context, GiveUp, Interrupted, InvalidPayload, Release, Retry, Worker

JSON = {"content-type": "application/json"}


@contextlib.asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[Worker]:
    """Run a worker until the block ends; it has to stop by itself then."""
    working = asyncio.create_task(worker.work())
    try:
        yield worker
    finally:
        worker.stop()
        await asyncio.wait_for(working, 20)


def make(gateway: LiveGateway, **options: Any) -> Worker:
    return Worker(gateway.url, **{"worker_id": "sdk", "interrupt_seconds": 1.0, **options})


async def final(gateway: LiveGateway, task: dict[str, Any], seconds: float = 10) -> dict[str, Any]:
    """Wait for a task's end."""

    async def ended() -> dict[str, Any] | None:
        now = (await gateway.get(f"/tasks/{task['id']}")).json()
        return now if now["status"] in ("completed", "failed", "cancelled") else None

    found = await wait_until(ended, seconds, "the task never ended")
    assert found is not None
    return found


async def status(gateway: LiveGateway, task: dict[str, Any]) -> str:
    return (await gateway.get(f"/tasks/{task['id']}")).json()["status"]


class Resize(msgspec.Struct):
    path: str
    width: int = 100


@dataclasses.dataclass
class Mail:
    to: str
    copies: list[str] = dataclasses.field(default_factory=list)


class Export(TypedDict):
    table: str


async def test_async_and_plain_handlers_complete_with_what_they_return(gateway: LiveGateway) -> None:
    worker = make(gateway)

    @worker.task("double")
    async def double(payload: int) -> int:
        return payload * 2

    @worker.task("thread")
    def thread(payload: Any) -> str:
        assert threading.current_thread() is not threading.main_thread()
        return f"saw {payload}"

    @worker.task("nothing")
    async def nothing() -> None: ...

    tasks = [await gateway.enqueue(name, payload=21) for name in ("double", "thread", "nothing")]
    async with running(worker):
        results = [(await final(gateway, task))["result"] for task in tasks]
    assert results == [42, "saw 21", None]


async def test_payloads_are_decoded_as_the_annotation_says(gateway: LiveGateway) -> None:
    worker = make(gateway)

    @worker.task("struct")
    async def struct(payload: Resize) -> Resize:
        assert isinstance(payload, Resize)
        return payload

    @worker.task("dataclass")
    def data(mail: Mail, ctx: Context) -> Mail:
        assert isinstance(mail, Mail)
        return dataclasses.replace(mail, copies=[ctx.task.job_type])

    @worker.task("typeddict")
    async def typed(context: Context, payload: Export) -> str:
        return payload["table"]

    @worker.task("raw")
    async def raw(payload: msgspec.Raw) -> msgspec.Raw:
        return payload

    tasks = [
        await gateway.enqueue("struct", payload={"path": "a.png"}),
        await gateway.enqueue("dataclass", payload={"to": "a@b"}),
        await gateway.enqueue("typeddict", payload={"table": "users"}),
        await gateway.enqueue("raw", payload=[1, 2]),
    ]
    async with running(worker):
        results = [(await final(gateway, task))["result"] for task in tasks]
    assert results == [{"path": "a.png", "width": 100}, {"to": "a@b", "copies": ["dataclass"]}, "users", [1, 2]]


async def test_a_payload_that_does_not_fit_fails_the_task_at_once(gateway: LiveGateway) -> None:
    worker = make(gateway)

    @worker.task("struct")
    async def struct(payload: Resize) -> None: ...

    task = await gateway.enqueue("struct", payload={"path": 7})
    async with running(worker):
        ended = await final(gateway, task)
    assert ended["status"] == "failed"
    assert ended["attempt"] == 1
    assert ended["error"]["type"] == "InvalidPayload"
    assert "path" in ended["error"]["message"]


async def test_an_exception_fails_the_attempt_and_tells_its_stack(gateway: LiveGateway) -> None:
    worker = make(gateway)

    @worker.task("flaky")
    async def flaky(ctx: Context) -> str:
        if ctx.task.attempt == 1:
            raise ValueError("no luck \udcff")
        assert ctx.task.error is not None
        return ctx.task.error.type

    task = await gateway.enqueue("flaky", retry={"delays_seconds": [0]})
    async with running(worker):
        ended = await final(gateway, task)
    assert ended["result"] == "ValueError"
    error = ended["attempts"][0]["error"]
    assert error["message"] == "no luck ?"


async def test_numbers_that_python_has_not_stop_no_worker(gateway: LiveGateway) -> None:
    worker = make(gateway)

    @worker.task("exact")
    async def exact(payload: msgspec.Raw) -> msgspec.Raw:
        return payload

    body = b'{"job_type":"exact","payload":1e400,"retry":{"delays_seconds":[0]}}'
    assert (await gateway.client.post("/tasks", content=body, headers=JSON)).status_code == 201
    (claimed,) = await gateway.poll("exact")
    body = b'{"lease_token":"%b","error":{"message":"no","details":[1e400]}}' % claimed["lease_token"].encode()
    await gateway.client.post(f"/tasks/{claimed['id']}/fail", content=body, headers=JSON)
    async with running(worker):
        ended = await final(gateway, claimed)
    assert ended["status"] == "completed"
    assert '"result":1e400' in (await gateway.get(f"/tasks/{claimed['id']}")).text


async def test_retry_comes_back_after_the_asked_delay(gateway: LiveGateway) -> None:
    worker = make(gateway)

    @worker.task("later")
    def later(ctx: Context) -> int:
        if ctx.task.attempt == 1:
            raise Retry(in_seconds=0.3, message="rate limited")
        return ctx.task.attempt

    task = await gateway.enqueue("later")
    begun = time.monotonic()
    async with running(worker):
        ended = await final(gateway, task)
    assert ended["result"] == 2
    assert time.monotonic() - begun >= 0.3
    assert ended["attempts"][0]["error"]["message"] == "rate limited"


async def test_give_up_ends_the_task_with_attempts_left(gateway: LiveGateway) -> None:
    worker = make(gateway)

    @worker.task("hopeless")
    async def hopeless() -> None:
        raise GiveUp("no such user")

    task = await gateway.enqueue("hopeless")
    async with running(worker):
        ended = await final(gateway, task)
    assert (ended["status"], ended["attempt"]) == ("failed", 1)
    assert ended["error"] == {"type": "GiveUp", "message": "no such user"}


async def test_release_gives_the_task_back_uncounted(gateway: LiveGateway) -> None:
    worker = make(gateway)
    seen = []

    @worker.task("elsewhere")
    async def elsewhere(ctx: Context) -> int:
        seen.append(ctx.task.id)
        if len(seen) == 1:
            raise Release(in_seconds=0.1)
        return ctx.task.attempt

    task = await gateway.enqueue("elsewhere")
    async with running(worker):
        ended = await final(gateway, task)
    assert ended["result"] == 1


async def test_a_result_without_json_form_fails_the_task_for_good(gateway: LiveGateway) -> None:
    worker = make(gateway)

    @worker.task("odd")
    async def odd() -> object:
        return object()

    task = await gateway.enqueue("odd")
    async with running(worker):
        ended = await final(gateway, task)
    assert (ended["status"], ended["error"]["type"]) == ("failed", "InvalidResult")


async def test_a_result_too_large_fails_its_task_and_no_other(gateway: LiveGateway) -> None:
    worker = make(gateway)
    gate = asyncio.Event()

    @worker.task("sized")
    async def sized(payload: int) -> str:
        await gate.wait()
        return "x" * payload

    sizes = [10, 2_000_000, 20, 600_000, 600_000]
    tasks = [await gateway.enqueue("sized", payload=size) for size in sizes]
    async with running(worker):
        await wait_until(lambda: all_processing(gateway, tasks))
        gate.set()
        ended = [await final(gateway, task) for task in tasks]
    assert [one["status"] for one in ended] == ["completed", "failed", "completed", "completed", "completed"]
    assert ended[1]["error"]["type"] == "ResultRefused"


async def test_progress_and_log_lines_reach_the_task_before_its_end(gateway: LiveGateway) -> None:
    worker = make(gateway)
    gate = threading.Event()

    @worker.task("telling")
    def telling(ctx: Context) -> None:
        ctx.progress({"done": 1})
        ctx.log("began")
        gate.wait(10)
        ctx.progress({"done": 2})
        ctx.log("ended")

    task = await gateway.enqueue("telling")
    async with running(worker):

        async def told() -> bool:
            return (await gateway.get(f"/tasks/{task['id']}")).json().get("progress") == {"done": 1}

        await wait_until(told)
        gate.set()
        ended = await final(gateway, task)
    assert ended["progress"] == {"done": 2}
    assert [line["line"] for line in ended["log"]] == ["began", "ended"]


async def test_progress_that_is_refused_does_not_cost_the_lease(gateway: LiveGateway) -> None:
    worker = make(gateway)
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]

    @worker.task("deep")
    async def handler(payload: str, ctx: Context) -> str:
        if payload == "deep":
            ctx.progress(deep)
        await asyncio.sleep(1.5)
        return "done"

    tasks = [await gateway.enqueue("deep", payload=one, lease_seconds=1) for one in ("deep", "flat")]
    async with running(worker):
        ended = [await final(gateway, task) for task in tasks]
    assert [(one["status"], one["attempt"]) for one in ended] == [("completed", 1), ("completed", 1)]


async def test_heartbeats_keep_leases_with_one_request_for_all(gateway: LiveGateway) -> None:
    worker = make(gateway, concurrency=20)
    gate = asyncio.Event()

    @worker.task("long")
    async def long(ctx: Context) -> int:
        await gate.wait()
        return ctx.task.attempt

    tasks = [await gateway.enqueue("long", lease_seconds=1) for _ in range(20)]
    before = await _beats(gateway)
    async with running(worker):
        await wait_until(lambda: all_processing(gateway, tasks))
        begun = time.monotonic()

        async def beaten() -> bool:
            return await _beats(gateway) - before >= 6

        await wait_until(beaten)
        took = time.monotonic() - begun
        gate.set()
        ended = [await final(gateway, task) for task in tasks]
    assert [one["result"] for one in ended] == [1] * 20
    # A third of a second each; one request for every lease would be six in no time.
    assert took > 1.2, f"six heartbeats in {took:.1f} s"


async def all_processing(gateway: LiveGateway, tasks: list[dict[str, Any]]) -> bool:
    return all([await status(gateway, task) == "processing" for task in tasks])


async def _beats(gateway: LiveGateway) -> int:
    total = 0.0
    for line in (await gateway.get("/metrics")).text.splitlines():
        if not line.startswith("#") and "/heartbeats" in line and "requests_total" in line:
            total += float(line.rsplit(" ", 1)[1])
    return int(total)


async def test_cancellation_reaches_an_async_handler(gateway: LiveGateway) -> None:
    worker = make(gateway)
    heard: list[Any] = []

    @worker.task("endless")
    async def endless(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append(ctx.interrupted)
            raise

    task = await gateway.enqueue("endless", lease_seconds=2)
    async with running(worker):
        await wait_until(lambda: all_processing(gateway, [task]))
        assert (await gateway.client.delete(f"/tasks/{task['id']}")).status_code == 202
        ended = await final(gateway, task)
    assert heard == ["cancelled"]
    assert ended["status"] == "cancelled"


async def test_cancellation_reaches_a_plain_handler_at_its_next_check(gateway: LiveGateway) -> None:
    worker = make(gateway)
    heard: list[Any] = []

    @worker.task("endless")
    def endless(ctx: Context) -> None:
        try:
            while True:
                ctx.sleep(0.01)
                ctx.check()
        except Exception:  # must not swallow it
            heard.append("swallowed")
        except Interrupted as interrupted:
            heard.append(interrupted.reason)
            raise

    task = await gateway.enqueue("endless", lease_seconds=2)
    async with running(worker):
        await wait_until(lambda: all_processing(gateway, [task]))
        await gateway.client.delete(f"/tasks/{task['id']}")
        ended = await final(gateway, task)
    assert heard == ["cancelled"]
    assert ended["status"] == "cancelled"


async def test_a_handler_past_its_timeout_is_interrupted_and_tried_again(gateway: LiveGateway) -> None:
    worker = make(gateway)
    ends = threading.Event()

    @worker.task("slow", timeout_seconds=0.2)
    async def slow(ctx: Context) -> int:
        if ctx.task.attempt == 1:
            await asyncio.sleep(30)
        return ctx.task.attempt

    @worker.task("slow_thread", timeout_seconds=0.2)
    def slow_thread(ctx: Context) -> int:
        if ctx.task.attempt == 1:
            ctx.sleep(30)
        return ctx.task.attempt

    @worker.task("deaf_thread", timeout_seconds=0.2)
    def deaf_thread(ctx: Context) -> int:
        if ctx.task.attempt == 1:
            ends.wait(30)
        return ctx.task.attempt

    names = ("slow", "slow_thread", "deaf_thread")
    tasks = [await gateway.enqueue(name, retry={"delays_seconds": [0]}) for name in names]
    async with running(worker):
        ended = [await final(gateway, task) for task in tasks]
        ends.set()
    assert [one["result"] for one in ended] == [2, 2, 2]
    assert [one["attempts"][0]["error"]["type"] for one in ended] == ["Timeout"] * 3
    await wait_until(lambda: not any("sdk-handler" in one.name for one in threading.enumerate()))


async def test_a_handler_is_told_when_its_lease_is_lost(gateway: LiveGateway, caplog: pytest.LogCaptureFixture) -> None:
    worker = make(gateway)
    heard: list[Any] = []
    begun: list[str] = []

    @worker.task("robbed")
    async def robbed(ctx: Context) -> str:
        begun.append(ctx.task.id)
        if len(begun) > 1:
            return "second"
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            heard.append(ctx.interrupted)
            raise
        return "first"

    task = await gateway.enqueue("robbed", lease_seconds=2)
    with caplog.at_level(logging.INFO, "workers_sdk"):
        async with running(worker):
            await wait_until(lambda: all_processing(gateway, [task]))
            # Another takes the lease away: the worker signs off elsewhere under the same name.
            assert (await gateway.client.delete("/workers/sdk")).json()["released"] == 1
            ended = await final(gateway, task)
    assert heard == ["lease_lost"]
    assert ended["result"] == "second"
    assert "stopped a task whose lease was lost" in caplog.messages


async def test_never_more_handlers_at_once_than_concurrency(gateway: LiveGateway) -> None:
    worker = make(gateway, concurrency=3)
    now, most = 0, 0

    @worker.task("counted")
    async def counted() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.005)
        now -= 1

    tasks = [await gateway.enqueue("counted") for _ in range(40)]
    async with running(worker):
        for task in tasks:
            assert (await final(gateway, task))["status"] == "completed"
    assert most == 3


async def test_a_busy_worker_needs_few_round_trips(gateway: LiveGateway) -> None:
    worker = make(gateway, concurrency=32)

    @worker.task("empty")
    async def empty() -> None: ...

    tasks = [{"job_type": "empty"} for _ in range(640)]
    assert (await gateway.post("/tasks", tasks)).status_code == 201
    async with running(worker):

        async def done() -> bool:
            return (await gateway.get("/queues/empty")).json()["completed"] == 640

        await wait_until(done, 20)
        text = (await gateway.get("/metrics")).text
    requests = sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if "requests_total" in line and ('"/outcomes"' in line or '"/poll"' in line)
    )
    assert 20 <= requests <= 60, f"{requests} requests for 640 tasks"


async def test_hooks_are_called_around_the_worker_and_each_attempt(gateway: LiveGateway) -> None:
    worker = make(gateway)
    calls: list[Any] = []

    @worker.on_start
    async def start() -> None:
        calls.append("start")

    @worker.on_end
    def end() -> None:
        calls.append("end")

    @worker.on_task_start
    def task_start(ctx: Context) -> None:
        calls.append(("begin", ctx.task.job_type))

    @worker.on_task_end
    async def task_end(ctx: Context, word: str) -> None:
        calls.append((word, ctx.task.job_type))

    @worker.task("good")
    async def good() -> None: ...

    @worker.task("bad")
    def bad() -> None:
        raise GiveUp

    task = await gateway.enqueue("good")
    async with running(worker):
        await final(gateway, task)
        await final(gateway, await gateway.enqueue("bad"))
    assert calls == ["start", ("begin", "good"), ("completed", "good"), ("begin", "bad"), ("failed", "bad"), "end"]


async def test_the_log_says_what_became_of_each_task(gateway: LiveGateway, caplog: pytest.LogCaptureFixture) -> None:
    worker = make(gateway)

    @worker.task("any")
    async def any_(payload: str) -> None:
        if payload == "fail":
            raise GiveUp("secret words")
        if payload == "retry" and not retried:
            retried.append(1)
            raise Retry(0)

    retried: list[int] = []
    tasks = {one: await gateway.enqueue("any", payload=one) for one in ("complete", "fail", "retry")}
    with caplog.at_level(logging.INFO, "workers_sdk"):
        async with running(worker):
            for task in tasks.values():
                await final(gateway, task)
    said = {(record.task_id, record.message) for record in caplog.records if hasattr(record, "task_id")}
    assert said == {
        (tasks["complete"]["id"], "completed a task"),
        (tasks["fail"]["id"], "failed a task"),
        (tasks["retry"]["id"], "failed an attempt"),
        (tasks["retry"]["id"], "completed a task"),
    }
    for record in caplog.records:
        assert "secret" not in str(vars(record))
        assert "lease_token" not in str(vars(record))


async def test_a_stopping_worker_finishes_releases_the_rest_and_signs_off(gateway: LiveGateway) -> None:
    worker = make(gateway, stop_seconds=0.5, interrupt_seconds=0.2, concurrency=3)
    gate = asyncio.Event()
    begun: list[str] = []

    @worker.task("quick")
    async def quick() -> None:
        begun.append("quick")
        await gate.wait()

    @worker.task("stuck")
    async def stuck() -> None:
        begun.append("stuck")
        await asyncio.Event().wait()

    @worker.task("deaf")
    def deaf() -> None:
        begun.append("deaf")
        deaf_ends.wait(20)

    deaf_ends = threading.Event()
    tasks = {name: await gateway.enqueue(name) for name in ("quick", "stuck", "deaf")}
    working = asyncio.create_task(worker.work())
    await wait_until(lambda: len(begun) == 3)
    late = await gateway.enqueue("quick")
    worker.stop()
    gate.set()
    await asyncio.wait_for(working, 10)
    assert await status(gateway, tasks["quick"]) == "completed"
    for task in (tasks["stuck"], tasks["deaf"], late):
        found = (await gateway.get(f"/tasks/{task['id']}")).json()
        assert (found["status"], found["attempt"]) == ("pending", 0)
    assert (await gateway.get("/workers")).json()["workers"] == []
    deaf_ends.set()
    await wait_until(lambda: not any("sdk-handler" in one.name for one in threading.enumerate()))


async def test_a_cancelled_worker_gives_its_tasks_back(gateway: LiveGateway) -> None:
    worker = make(gateway)

    @worker.task("stuck")
    async def stuck() -> None:
        await asyncio.Event().wait()

    task = await gateway.enqueue("stuck")
    working = asyncio.create_task(worker.work())
    await wait_until(lambda: all_processing(gateway, [task]))
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(working, 10)
    assert await status(gateway, task) == "pending"


async def test_a_drained_worker_finishes_and_waits_until_it_may_run_again(gateway: LiveGateway) -> None:
    worker = make(gateway)
    gate = asyncio.Event()

    @worker.task("work")
    async def work() -> None:
        await gate.wait()

    first = await gateway.enqueue("work", lease_seconds=2)
    async with running(worker):
        await wait_until(lambda: all_processing(gateway, [first]))
        await gateway.post("/workers/sdk/drain", {})
        await wait_until(lambda: gateway.app.manager.open_polls == 0)
        second = await gateway.enqueue("work")
        gate.set()
        assert (await final(gateway, first))["status"] == "completed"
        assert await status(gateway, second) == "pending"
        await gateway.post("/workers/sdk/run", {})
        assert (await final(gateway, second))["status"] == "completed"


async def test_a_worker_that_is_told_to_stop_ends(gateway: LiveGateway) -> None:
    worker = make(gateway)

    @worker.task("work")
    async def work() -> None: ...

    working = asyncio.create_task(worker.work())
    await wait_until(lambda: gateway.app.manager.open_polls == 1)
    await gateway.post("/workers/sdk/stop", {})
    await asyncio.wait_for(working, 10)


async def test_handlers_can_be_called_without_a_gateway() -> None:
    worker = Worker()

    @worker.task("resize", timeout_seconds=5)
    def resize(payload: Resize, ctx: Context) -> int:
        ctx.progress(50)
        ctx.log("half way")
        return payload.width

    @worker.task("doubtful")
    async def doubtful() -> None:
        raise Retry(7)

    context = worker.context("resize", attempt=3)
    assert await worker.call("resize", {"path": "x", "width": 5}, context=context) == 5
    assert (context.latest_progress, context.lines, context.task.attempt) == (50, ["half way"], 3)
    with pytest.raises(InvalidPayload, match="path"):
        await worker.call("resize", {})
    with pytest.raises(Retry) as raised:
        await worker.call("doubtful")
    assert raised.value.in_seconds == 7
    with pytest.raises(KeyError):
        await worker.call("unknown")
    context = worker.context("resize")
    context.interrupt("cancelled")
    with pytest.raises(Interrupted):
        context.check()


def test_functions_that_cannot_be_handlers_are_refused() -> None:
    worker = Worker()
    with pytest.raises(ValueError, match="job type"):
        worker.task("no spaces")
    with pytest.raises(TypeError, match="one too many"):

        @worker.task("three")
        def three(one: Any, two: Any, three: Any) -> None: ...

    @worker.task("once")
    def once() -> None: ...

    with pytest.raises(ValueError, match="already"):
        worker.task("once")


async def test_the_log_calls_a_release_one_after_earlier_attempts_too(
    gateway: LiveGateway, caplog: pytest.LogCaptureFixture
) -> None:
    worker = make(gateway)
    ways: list[Exception] = [Retry(0), Release(in_seconds=0.01)]

    @worker.task("elsewhere")
    async def elsewhere() -> None:
        if ways:
            raise ways.pop(0)

    task = await gateway.enqueue("elsewhere")
    with caplog.at_level(logging.INFO, "workers_sdk"):
        async with running(worker):
            await final(gateway, task)
    said = [record.message for record in caplog.records if hasattr(record, "task_id")]
    assert said == ["failed an attempt", "released a task", "completed a task"]
