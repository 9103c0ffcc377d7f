"""workers_sdk.Client and its blocking twin against a live gateway."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.harness import LiveGateway, live_gateway, wait_until
from workers_sdk import (
    Client,
    Conflict,
    GatewayError,
    LeasedTask,
    NewTask,
    NotFound,
    PartlyRefused,
    SyncClient,
    Task,
    TaskOptions,
    Unavailable,
    Unreachable,
)


class Broken:
    """A proxy before the gateway that loses replies, and can go away and come back."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.lose_replies = 0
        self.requests: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def open(self) -> None:
        """Listen, on the same port each time."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse and drop connections."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()
        await wait_until(lambda: not self._writers)

    async def __aenter__(self) -> Broken:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, onward = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers |= {writer, onward}
        try:
            while True:
                request = await _message(reader)
                self.requests.append(request)
                onward.write(request)
                reply = await _message(upstream)
                if self.lose_replies:
                    self.lose_replies -= 1
                    return
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            onward.close()
            writer.close()
            self._writers -= {writer, onward}


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":", 1)[1])
    return head + await reader.readexactly(length)


async def test_a_task_is_enqueued_read_and_waited_for(gateway: LiveGateway) -> None:
    class Answer(msgspec.Struct):
        number: int

    async with Client(gateway.url) as client:
        task = await client.enqueue("sum", {"of": [40, 2]}, title="a sum", tags={"who": "me"}, priority="high")
        assert (task.status, task.payload, task.title, task.tags) == (
            "pending",
            {"of": [40, 2]},
            "a sum",
            {"who": "me"},
        )
        assert task.created_at is not None
        assert abs(datetime.now(UTC) - task.created_at) < timedelta(minutes=1)
        assert (await client.get(task.id)).id == task.id
        waiting = asyncio.create_task(client.wait(task.id, timeout_seconds=10))
        (claimed,) = await gateway.poll("sum")
        await gateway.report(claimed, "complete", result={"number": 42})
        ended = await waiting
        assert ended.final
        assert ended.result == {"number": 42}
        assert ended.result_as(Answer) == Answer(42)


async def test_a_task_may_be_told_when_to_run(gateway: LiveGateway) -> None:
    moment = datetime(2035, 1, 1, tzinfo=UTC)
    async with Client(gateway.url) as client:
        task = await client.enqueue("later", run_at=moment)
        assert (task.status, task.run_at) == ("scheduled", moment)
        assert (await client.enqueue("later", delay_seconds=60)).status == "scheduled"


async def test_a_task_has_the_members_that_the_gateway_has(gateway: LiveGateway) -> None:
    schemas = (await gateway.get("/openapi.json")).json()["components"]["schemas"]
    assert set(NewTask.__annotations__) | set(TaskOptions.__annotations__) <= set(schemas["NewTask"]["properties"])
    for told, schema in ((Task, "TaskReply"), (LeasedTask, "LeasedTaskReply")):
        # Those that are there for older clients' spelling are left out.
        theirs = set(schemas[schema]["properties"]) - {"job_id", "completed_at"}
        assert {field.encode_name for field in msgspec.structs.fields(told)} == theirs


async def test_waiting_ends_after_its_timeout(gateway: LiveGateway) -> None:
    async with Client(gateway.url) as client:
        task = await client.enqueue("never")
        with pytest.raises(TimeoutError, match="pending"):
            await client.wait(task.id, timeout_seconds=0.2)


async def test_numbers_that_python_would_change_come_back_byte_for_byte(gateway: LiveGateway) -> None:
    async with Client(gateway.url) as client:
        task = await client.enqueue("exact", msgspec.Raw(b"[12345678901234567890,1e400,1.0]"))
        assert bytes((await client.get(task.id)).payload_json) == b"[12345678901234567890,1e400,1.0]"


async def test_many_tasks_go_in_few_requests_and_come_back_in_order(gateway: LiveGateway) -> None:
    async with Client(gateway.url) as client:
        tasks = await client.enqueue_many({"job_type": f"many{n % 2}", "payload": n} for n in range(2500))
        assert [task.payload for task in tasks] == list(range(2500))
        big = await client.enqueue_many([{"job_type": "big", "payload": "x" * 400_000}] * 5)
        assert len({task.id for task in big}) == 5
        assert await client.enqueue_many([]) == []


async def test_a_batch_refused_in_part_tells_of_each_task(redis_url: str) -> None:
    async with live_gateway(redis_url, task_queue_size=2) as gateway, Client(gateway.url, patience_seconds=0) as client:
        with pytest.raises(PartlyRefused, match="2 of 4") as raised:
            await client.enqueue_many(
                [{"job_type": "a"}, {"job_type": "not valid"}, {"job_type": "a"}, {"job_type": "a"}]
            )
        first, second, third, fourth = raised.value.results
        assert not isinstance(first, GatewayError)
        assert not isinstance(third, GatewayError)
        assert isinstance(second, GatewayError)
        assert (second.code, second.status) == ("invalid_member", 400)
        assert isinstance(fourth, Unavailable)
        assert (fourth.code, fourth.retryable) == ("queue_full", True)


async def test_refusals_are_errors_with_code_and_status(redis_url: str) -> None:
    async with live_gateway(redis_url, task_queue_size=1) as gateway, Client(gateway.url, patience_seconds=0) as client:
        with pytest.raises(NotFound) as missing:
            await client.get("sum~00000000000000000000000000")
        assert (missing.value.code, missing.value.status, missing.value.retryable) == ("task_not_found", 404, False)
        assert missing.value.request_id
        with pytest.raises(GatewayError) as invalid:
            await client.enqueue("not valid")
        assert (invalid.value.code, invalid.value.status) == ("invalid_member", 400)
        assert invalid.value.members["member"] == "job_type"
        task = await client.enqueue("one")
        with pytest.raises(Unavailable) as full:
            await client.enqueue("one")
        assert (full.value.code, full.value.retry_after_seconds) == ("queue_full", 1.0)
        assert full.value.members["limit"] == 1
        with pytest.raises(Conflict) as early:
            await client.retry(task.id)
        assert early.value.code == "not_finished"


async def test_a_full_queue_is_waited_for_within_the_patience(redis_url: str) -> None:
    async with (
        live_gateway(redis_url, task_queue_size=1) as gateway,
        Broken(gateway.port) as broken,
        Client(broken.url) as client,
        Client(gateway.url) as other,
    ):
        first = await client.enqueue("one")
        second = asyncio.create_task(client.enqueue("one"))
        await wait_until(lambda: len(broken.requests) == 2)
        await other.cancel(first.id)
        assert (await second).status == "pending"


async def test_tasks_are_cancelled_and_retried(gateway: LiveGateway) -> None:
    async with Client(gateway.url) as client:
        task = await client.enqueue("some")
        assert (await client.cancel(task.id)).status == "cancelled"
        assert (await client.cancel(task.id)).status == "cancelled"
        assert (await client.retry(task.id)).status == "pending"
        await gateway.poll("some")
        asked = await client.cancel(task.id)
        assert (asked.status, asked.cancel_requested) == ("processing", True)
        done = await client.enqueue("done")
        (claimed,) = await gateway.poll("done")
        await gateway.report(claimed, "complete")
        with pytest.raises(Conflict) as late:
            await client.cancel(done.id)
        assert (late.value.code, late.value.members["task_status"]) == ("already_finished", "completed")


async def test_a_list_walks_all_pages(gateway: LiveGateway) -> None:
    async with Client(gateway.url) as client:
        tasks = await client.enqueue_many(
            {"job_type": f"kind{n % 2}", "payload": n, "tags": {"third": str(n % 3)}} for n in range(450)
        )
        assert sorted([task.id async for task in client.list()]) == sorted(task.id for task in tasks)
        assert [
            task.payload async for task in client.list(job_type="kind1", tags={"third": "2"}, status="pending")
        ] == [n for n in reversed(range(450)) if n % 2 == 1 and n % 3 == 2]
        since = tasks[400].created_at
        assert since is not None
        assert len([task async for task in client.list(created_after=since)]) >= 49
        assert [task async for task in client.list(created_before="2020-01-01T00:00:00Z")] == []


async def test_no_gateway_is_unreachable_and_was_not_sent() -> None:
    async with Client("http://127.0.0.1:9", patience_seconds=0) as client:
        with pytest.raises(Unreachable) as raised:
            await client.enqueue("any")
        assert (raised.value.sent, raised.value.retryable, raised.value.status) == (False, True, 0)


async def test_a_gateway_that_comes_back_is_waited_for(redis_url: str) -> None:
    async with live_gateway(redis_url) as gateway, Broken(gateway.port) as broken, Client(broken.url) as client:
        broken.lose_replies = 2
        assert [task async for task in client.list()] == []
        assert len(broken.requests) == 3


async def test_an_enqueue_whose_reply_was_lost_is_repeated_with_the_same_key(gateway: LiveGateway) -> None:
    async with Broken(gateway.port) as broken, Client(broken.url) as client:
        broken.lose_replies = 1
        await client.enqueue("once")
        await client.enqueue("once")
        keys = [_header(request, b"idempotency-key") for request in broken.requests]
        assert len(keys) == 3
        assert keys[0] == keys[1] != keys[2]


async def test_a_cancel_whose_reply_was_lost_is_no_error(gateway: LiveGateway) -> None:
    async with Broken(gateway.port) as broken, Client(broken.url) as client:
        task = await client.enqueue("once")
        broken.lose_replies = 1
        assert (await client.cancel(task.id)).status == "cancelled"


async def test_a_retry_whose_reply_was_lost_is_not_repeated(gateway: LiveGateway) -> None:
    async with Broken(gateway.port) as broken, Client(broken.url) as client:
        task = await client.enqueue("once")
        await client.cancel(task.id)
        broken.lose_replies = 1
        with pytest.raises(Unreachable) as raised:
            await client.retry(task.id)
        assert raised.value.sent
        assert (await client.get(task.id)).status == "pending"


async def test_the_token_goes_with_each_request(gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN", "from-environment")
    async with Broken(gateway.port) as broken:
        monkeypatch.setenv("GATEWAY_URL", broken.url)
        async with Client(token="given") as client:
            await client.enqueue("any")
        async with Client() as client:
            await client.enqueue("any")
        assert [_header(one, b"authorization") for one in broken.requests] == [
            b"Bearer given",
            b"Bearer from-environment",
        ]


async def test_the_blocking_twin_does_the_same(gateway: LiveGateway) -> None:
    def produce() -> list[Any]:
        with SyncClient(gateway.url) as client:
            task = client.enqueue("sum", [1, 2], title="t")
            many = client.enqueue_many([{"job_type": "sum", "payload": n} for n in range(250)])
            assert client.get(task.id).payload == [1, 2]
            assert len(list(client.list(job_type="sum"))) == 251
            assert client.cancel(many[0].id).status == "cancelled"
            assert client.retry(many[0].id).status == "pending"
            with pytest.raises(TimeoutError):
                client.wait(task.id, timeout_seconds=0.05)
            with pytest.raises(NotFound):
                client.get("sum~00000000000000000000000000")
            asked.set()
            return [client.wait(task.id, timeout_seconds=10).result]

    asked = threading.Event()
    producing = asyncio.create_task(asyncio.to_thread(produce))
    await wait_until(asked.is_set)
    (claimed,) = await gateway.poll("sum")
    await gateway.report(claimed, "complete", result=3)
    assert await producing == [3]
    await wait_until(lambda: not any(one.name == "gateway-client" for one in threading.enumerate()))


async def test_the_blocking_twin_may_be_shared_by_threads_and_closed_twice(gateway: LiveGateway) -> None:
    client = SyncClient(gateway.url)

    def enqueue(number: int) -> str:
        return client.enqueue("shared", number).id

    def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
        return asyncio.to_thread(call, *arguments)

    ids = await asyncio.gather(*(in_thread(enqueue, number) for number in range(20)))
    assert len(set(ids)) == 20
    await in_thread(client.close)
    await in_thread(client.close)


def _header(request: bytes, name: bytes) -> bytes:
    for line in request.split(b"\r\n\r\n", 1)[0].split(b"\r\n"):
        if line.lower().startswith(name + b":"):
            return line.split(b":", 1)[1].strip()
    return b""


def test_an_address_without_a_scheme_is_refused_at_once() -> None:
    for make in (Client, SyncClient):
        with pytest.raises(ValueError, match=r"localhost:8080 is no http or https address, such as http://127"):
            make("localhost:8080")
