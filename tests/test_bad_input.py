"""Bad input over HTTP: each case of the table is refused with a problem that names what is wrong, and stores nothing.

Requests are written byte for byte, since HTTP clients mend what is to stay broken. Good input that looks odd must pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.connection import Limits
from tests.bad_input_cases import BAD_ITEMS, BAD_REPORTS, JSON, NDJSON, Case, cases, unique_names
from tests.harness import LiveGateway, RedisServer, live_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE_SECONDS = 20.0
# Notes of when a worker was last seen, written behind the polls that set the scene.
# Notes of workers seen and of sweeps to come: what a gateway writes on its own, whatever it is sent.
VOLATILE = (b"tg:{workers:default}:seen", b"tg:{workers:default}:facts", b"tg:{alarms}:next")
CASES = cases()


class Answer(NamedTuple):
    """A reply as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class World:
    """A live gateway with a task in every state, and what stands for them in the table."""

    def __init__(self, gateway: LiveGateway, redis: Redis, redis_url: str) -> None:
        self.gateway = gateway
        self.redis = redis
        self.redis_url = redis_url
        self.names: dict[str, str] = {}
        self.before = b""

    async def build(self) -> None:
        """Bring a task into every state."""
        gateway, names = self.gateway, self.names
        long = {"lease_seconds": 43_200, "retention_seconds": 2_592_000}
        for name in ("done", "failed", "held", "other", "cancelled", "waiting"):
            task = await gateway.enqueue(payload=name, **long)
            names[name] = task["id"]
            if name == "cancelled":
                assert (await gateway.client.delete(f"/tasks/{task['id']}")).status_code == 200
            elif name != "waiting":
                (claimed,) = await gateway.poll()
                names[f"{name} token"] = claimed["lease_token"]
                if name == "done":
                    assert (await gateway.report(claimed, "complete", result=1)).status_code == 200
                if name == "failed":
                    assert (await gateway.report(claimed, "fail", error="x", retryable=False)).status_code == 200
        names["token"] = names["held token"]
        names["in an hour"] = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
        await gateway.enqueue(payload="later", delay_seconds=86_400, **long)

    def fill(self, text: bytes) -> bytes:
        """Put ids and tokens in their places."""
        if b"<" not in text:
            return text
        return re.sub(
            rb"<([a-z ]+)>", lambda match: self.names.get(match[1].decode(), match[0].decode()).encode(), text
        )

    async def digest(self) -> bytes:
        """A digest of all keys and values."""
        keys = sorted([key async for key in self.redis.scan_iter(count=10_000) if key not in VOLATILE])
        async with self.redis.pipeline(transaction=True) as pipe:
            for key in keys:
                pipe.dump(key)
            values = await pipe.execute()
        whole = hashlib.sha256()
        for key, value in zip(keys, values, strict=True):
            whole.update(b"%d %b %b" % (len(key), key, value or b""))
        return whole.digest()

    @contextlib.asynccontextmanager
    async def unchanged(self) -> AsyncIterator[None]:
        """Fail if the block changes anything in Redis."""
        before = self.before or await self.digest()
        yield
        # What the last case left is what this one finds.
        self.before = await self.digest()
        assert self.before == before, "something was stored"

    async def send(self, method: str, target: str, headers: tuple[str, ...] = (), body: bytes | None = None) -> Answer:
        """Send a request as it is written, on a connection of its own."""
        lines = [f"{method} {target} HTTP/1.1", "Host: gateway", "Connection: close", *headers]
        if body is not None:
            body = self.fill(body)
            lines.append(f"Content-Length: {len(body)}")
        head = self.fill("\r\n".join(lines).encode()) + b"\r\n\r\n"
        return await exchange(self.gateway.port, head + (body or b""), no_body=method == "HEAD")


async def exchange(port: int, request: bytes, *, no_body: bool = False, end: bool = False) -> Answer:
    """Send bytes and read one reply until the gateway closes. end: close our half behind the request."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            with contextlib.suppress(ConnectionError):
                writer.write(request)
                await writer.drain()
                if end:
                    writer.write_eof()
            received = b""
            with contextlib.suppress(ConnectionError):
                received = await reader.read(-1)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
    return read_answer(received, no_body=no_body)


def read_answer(received: bytes, *, no_body: bool = False) -> Answer:
    """Take one reply apart."""
    assert received.startswith(b"HTTP/1.1 "), received[:200]
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert len(headers) == len(lines), "a header came twice"
    if no_body:
        assert body == b""
    elif "content-length" in headers:
        assert len(body) == int(headers["content-length"])
    return Answer(int(first.split()[1]), headers, body)


def check_problem(answer: Answer, status: int, code: str, names: str | None = None) -> dict[str, Any]:
    """See that an answer is a whole problem document, with its request id, and gives nothing away."""
    assert (answer.status, answer.json().get("code")) == (status, code), answer.body[:400]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    problem: dict[str, Any] = answer.json()
    assert set(problem) >= {"type", "title", "status", "detail", "code", "request_id", "retryable"}
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["retryable"] is (status in (408, 429, 503))
    assert problem["title"]
    assert problem["detail"]
    assert len(problem["detail"]) < 1000
    assert problem["type"].endswith(code)
    assert b"Traceback" not in answer.body
    assert b".py" not in answer.body
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) > 0
    if status == 405:
        assert answer.headers["allow"] == problem["allow"]
    if names is not None:
        # `[...]` in the table is any index.
        blamed = problem.get("member", problem.get("parameter"))
        assert re.fullmatch(re.escape(names).replace(r"\[\.\.\.\]", r"\[(\d+|\.\.\.)\]"), blamed), problem
        assert ("parameter" in problem) is (code == "invalid_parameter")
    return problem


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(redis_server: RedisServer) -> AsyncIterator[World]:
    async with Redis(unix_socket_path=str(redis_server.socket)) as redis:
        await redis.flushall()
        async with live_gateway(redis_server.url, auth="none") as gateway:
            one = World(gateway, redis, redis_server.url)
            await one.build()
            yield one
            await redis.flushall()


@pytest.mark.parametrize("case", CASES, ids=unique_names(CASES))
async def test_bad_input_is_refused_and_stores_nothing(world: World, case: Case) -> None:
    async with world.unchanged():
        answer = await world.send(case.method, case.target, case.headers, case.body)
    if case.method == "HEAD":
        assert answer.status == case.status
        assert "HEAD" not in answer.headers["allow"]
        return
    check_problem(answer, case.status, case.code, case.names)
    for name, secret in world.names.items():
        assert "token" not in name or secret.encode() not in answer.body, "a token was repeated"


async def test_the_table_covers_every_route_that_reads_input(world: World) -> None:
    """A route that is added without cases of its own is found here."""
    targets = {(case.method, case.target.partition("?")[0]) for case in CASES if case.status in (400, 404, 409)}
    for methods, path in world.gateway.app.table:
        shape = re.compile(re.sub(r"\{\w+\}", "[^/]+", path))
        for method in set(methods.split()) - {"HEAD"}:
            assert any(method == tried and shape.fullmatch(target) for tried, target in targets), f"{method} {path}"


@pytest.mark.parametrize(("headers", "body", "wanted"), BAD_ITEMS, ids=["an array", "lines", "a second array"])
async def test_every_item_of_a_bad_batch_is_refused_for_itself(
    world: World, headers: tuple[str, ...], body: bytes, wanted: tuple[tuple[int, str, str | None], ...]
) -> None:
    async with world.unchanged():
        answer = await world.send("POST", "/tasks", headers, body)
    assert answer.status == 200
    results = answer.json()["results"]
    assert len(results) == len(wanted)
    for result, (status, code, member) in zip(results, wanted, strict=True):
        assert result["status"] == result["error"]["status"] == status
        assert result["error"]["code"] == code
        assert result["error"]["request_id"] == answer.headers["x-request-id"]
        assert member is None or result["error"]["member"] == member


async def test_an_atomic_batch_names_each_item_at_fault(world: World) -> None:
    body = b'[{"job_type":"demo"},{"job_type":""},{"job_type":"demo"},{"job_type":"demo","tenant":"x"}]'
    async with world.unchanged():
        answer = await world.send("POST", "/tasks?atomic=true", JSON, body)
    problem = check_problem(answer, 422, "batch_refused")
    assert [(one["index"], one["code"]) for one in problem["errors"]] == [(1, "invalid_member"), (3, "unknown_member")]


async def test_the_good_items_of_a_batch_are_stored_and_the_bad_ones_told(world: World) -> None:
    lines = b'{"job_type":"mixed","payload":1}\r\n\r\n{"job_type":"mixed",}\n  {"job_type":"mixed","payload":2}  '
    answer = await world.send("POST", "/tasks", NDJSON, lines)
    world.before = b""
    assert answer.status == 200
    assert [one["status"] for one in answer.json()["results"]] == [201, 400, 201]
    listed = (await world.gateway.get("/tasks?job_type=mixed")).json()["tasks"]
    assert [task["payload"] for task in listed] == [2, 1]


@pytest.mark.parametrize(("name", "item", "status", "code", "member"), BAD_REPORTS)
async def test_a_bad_report_of_a_batch_is_refused_for_itself(
    world: World, name: str, item: str, status: int, code: str, member: str | None
) -> None:
    target = "/outcomes" if name == "outcomes" else "/heartbeats"
    for body in (
        f'{{"worker_id":"w1","{name}":[{{{item}}}]}}',
        f'{{"worker_id":"w1","{name}":[{{{item}}},{{{item}}}]}}',
    ):
        async with world.unchanged():
            answer = await world.send("POST", target, JSON, body.encode())
        assert answer.status == 200
        for entry in answer.json()[name]:
            assert (entry["status"], entry["error"]["code"]) == (status, code)
            assert entry["error"].get("member") == member


async def test_a_bad_id_among_outcomes_does_not_hide_what_became_of_the_others(world: World) -> None:
    gateway = world.gateway
    await gateway.enqueue("mixed-outcomes")
    (task,) = await gateway.poll("mixed-outcomes")
    body = {
        "worker_id": "w1",
        "outcomes": [
            {"id": task["id"], "lease_token": task["lease_token"], "outcome": "complete"},
            {"id": "a b", "lease_token": "x", "outcome": "complete"},
            {"id": "nobody", "lease_token": "x", "outcome": "complete"},
            {"id": "mixed-outcomes~~__4", "lease_token": "x", "outcome": "complete"},
        ],
        "next": {"max": 1, "wait": 0},
    }
    reply = await gateway.post("/outcomes", body)
    world.before = b""
    assert reply.status_code == 200, reply.text
    assert [one["status"] for one in reply.json()["outcomes"]] == [200, 400, 404, 404]


async def test_a_cursor_that_was_tampered_with_is_refused(world: World) -> None:
    for number in range(3):
        await world.gateway.enqueue("cursors", payload=number)
    world.before = b""
    cursor = (await world.gateway.get("/tasks?job_type=cursors&limit=1")).json()["next_cursor"]
    for wrong in (
        cursor + "A",
        cursor[:-2] + "!!",
        cursor.upper(),
        cursor + "=",
        cursor[::-1],
        cursor + "%0A",
        "%20" + cursor,
    ):
        async with world.unchanged():
            answer = await world.send("GET", f"/tasks?job_type=cursors&limit=1&cursor={wrong}")
        check_problem(answer, 400, "bad_cursor")
    assert (await world.gateway.get(f"/tasks?job_type=cursors&limit=1&cursor={cursor}")).json()["tasks"][0][
        "payload"
    ] == 1


# ---- Junk that is ignored, and junk that is replaced.


@pytest.mark.parametrize(
    "junk", ["", "a b", "a" * 129, "a\tb", "é", "<script>", '{"a":1}', "a,b", "a;b", "'", "%0d%0aX-A: b"]
)
async def test_a_request_id_that_is_not_sane_is_replaced(world: World, junk: str) -> None:
    answer = await world.send("GET", "/tasks/<waiting>", (f"X-Request-Id: {junk}",))
    assert answer.status == 200
    assert re.fullmatch(r"[A-Za-z0-9._:/+=-]{1,128}", answer.headers["x-request-id"])
    assert answer.headers["x-request-id"] != junk


async def test_a_sane_request_id_comes_back_also_with_a_problem(world: World) -> None:
    for target in ("/tasks/<waiting>", "/tasks/demo", "/nothing"):
        answer = await world.send("GET", target, ("X-Request-Id: 4bf92f35-77b3:a/b+c=.7",))
        assert answer.headers["x-request-id"] == "4bf92f35-77b3:a/b+c=.7"


@pytest.mark.parametrize(
    "junk",
    [
        "", "wait", "wait=", "wait=abc", "wait=-1", "wait=1e9", "wait=1.5", "wait=\u0661", "=1", ";;;",
        "wait=99999999999999999999",
        "respond-async", "wait 5", 'wait="', "waiting=5", "a" * 4000, "return=minimal; foo=bar",
    ],
)  # fmt: skip
async def test_a_preference_that_says_nothing_is_ignored(world: World, junk: str) -> None:
    answer = await world.send("GET", "/tasks/<waiting>", (f"Prefer: {junk}",))
    assert answer.status == 200
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize("junk", ["", "x", '"', "W/", 'W/"x"', ",,,", '"a","b"', "*x", "a" * 4000, '"é"', "**"])
async def test_an_etag_of_nobody_is_ignored(world: World, junk: str) -> None:
    answer = await world.send("GET", "/tasks/<waiting>", (f"If-None-Match: {junk}",))
    assert answer.status == 200
    assert answer.json()["payload"] == "waiting"


@pytest.mark.parametrize(
    "junk",
    [
        "", "x", "00", "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        "a" * 4000, "é",
    ],
)  # fmt: skip
async def test_a_trace_that_is_none_is_ignored(world: World, junk: str) -> None:
    headers = (*JSON, f"traceparent: {junk}", "tracestate: \u00e9=1")
    answer = await world.send("POST", "/tasks", headers, b'{"job_type":"traces"}')
    world.before = b""
    assert answer.status == 201
    assert "traceparent" not in answer.json()
    assert "tracestate" not in answer.json()


async def test_a_tracestate_that_is_none_is_left_out(world: World) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for state in ("", "a=" + "b" * 520, "\u00e9=1"):
        headers = (*JSON, f"traceparent: {trace}", f"tracestate: {state}")
        answer = await world.send("POST", "/tasks", headers, b'{"job_type":"traces"}')
        assert answer.json()["traceparent"] == trace
        assert "tracestate" not in answer.json()
    world.before = b""


@pytest.mark.parametrize(
    "header",
    [
        "X-HTTP-Method-Override: DELETE", "X-Method-Override: DELETE", "X-Tenant: other",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Host: evil.example", "X-Original-URL: /workers", "Range: bytes=0-0", "Accept: text/html",
        "Accept: ,;q=x",
        "Accept-Encoding: identity;q=0", "Cookie: a=b", "TE: trailers",
    ],
)  # fmt: skip
async def test_headers_that_mean_nothing_here_change_nothing(world: World, header: str) -> None:
    async with world.unchanged():
        answer = await world.send("GET", "/tasks/<waiting>", (header,))
    assert answer.status == 200
    assert answer.json()["status"] == "pending"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json", "application/JSON", "Application/Json; charset=UTF-8", 'application/json;charset="utf-8"',
        "application/json ; charset=utf8", "application/json; profile=x", "application/json;",
    ],
)  # fmt: skip
async def test_spellings_of_json_are_accepted(world: World, content_type: str) -> None:
    answer = await world.send("POST", "/tasks", (f"Content-Type: {content_type}",), b'{"job_type":"media"}')
    world.before = b""
    assert answer.status == 201


async def test_identity_is_no_encoding(world: World) -> None:
    answer = await world.send("POST", "/tasks", (*JSON, "Content-Encoding: Identity"), b'{"job_type":"media"}')
    world.before = b""
    assert answer.status == 201


async def test_a_body_where_none_belongs_is_ignored(world: World) -> None:
    async with world.unchanged():
        for target in ("/tasks/<waiting>", "/health/live", "/queues"):
            assert (await world.send("GET", target, JSON, b'{"job_type":"demo"} {')).status == 200


async def test_a_worker_id_with_a_slash_is_reached_percent_encoded(world: World) -> None:
    answer = await world.send("POST", "/workers/pool%2F7@host/drain")
    assert (answer.status, answer.json()["id"]) == (200, "pool/7@host")
    answer = await world.send("POST", "/workers/pool%2F7%40host/run")
    assert (answer.status, answer.json()["directive"]) == (200, "run")
    world.before = b""


# ---- What no HTTP client sends.

PAYLOAD = b'{"job_type":"raw","payload":1}'
HEAD = b"POST /tasks HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HEAD + b"Content-Length: 30\r\nContent-Length: 31\r\n\r\n" + PAYLOAD, 400),
        (HEAD + b"Content-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n1e\r\n" + PAYLOAD + b"\r\n0\r\n\r\n", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n" + PAYLOAD, 400),
        (HEAD + b"Content-Length: +30\r\n\r\n" + PAYLOAD, 400),
        (HEAD + b"Content-Length: 0x1e\r\n\r\n" + PAYLOAD, 400),
        (HEAD + b"Content-Length: 30 30\r\n\r\n" + PAYLOAD, 400),
        (HEAD + b"Content-Length: 1000000000000000000000000000000\r\n\r\n" + PAYLOAD, 400),
        (HEAD + b"Content-Length: 2000000\r\n\r\n" + PAYLOAD, 413),
        (HEAD + b"Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n", 413),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n1e\r\n" + PAYLOAD + b"\r\n0\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + PAYLOAD, 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1e\r\n" + PAYLOAD, 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1e\r\n" + PAYLOAD + b"x\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n" + PAYLOAD, 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1E\n" + PAYLOAD + b"\n0\n\n", 400),
        (HEAD + b"Bad Header: x\r\nContent-Length: 30\r\n\r\n" + PAYLOAD, 400),
        (HEAD + b"Bad : x\r\nContent-Length: 30\r\n\r\n" + PAYLOAD, 400),
        (HEAD + b"Bad: a\x00b\r\nContent-Length: 30\r\n\r\n" + PAYLOAD, 400),
        (HEAD + b"A: b\r\n folded\r\nContent-Length: 30\r\n\r\n" + PAYLOAD, 400),
        (HEAD + b"Host: other\r\nContent-Length: 30\r\n\r\n" + PAYLOAD, 400),
        (HEAD.replace(b"Host: gateway\r\n", b"") + b"Content-Length: 30\r\n\r\n" + PAYLOAD, 400),
        (HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 30\n\n" + PAYLOAD, 400),
        (HEAD.replace(b"HTTP/1.1", b"HTTP/9.9") + b"Content-Length: 30\r\n\r\n" + PAYLOAD, 400),
        (HEAD.replace(b"/tasks", b"@evil") + b"Content-Length: 30\r\n\r\n" + PAYLOAD, 400),
        (HEAD.replace(b"/tasks", b"tasks") + b"Content-Length: 30\r\n\r\n" + PAYLOAD, 400),
        (HEAD.replace(b"/tasks", b"/ta sks") + b"Content-Length: 30\r\n\r\n" + PAYLOAD, 400),
        (HEAD.replace(b"/tasks", "/tasks/é".encode()) + b"Content-Length: 30\r\n\r\n" + PAYLOAD, 400),
        (b"GET /tasks\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (bytes.fromhex("1603010200010001fc0303") + b"\x00" * 200, 400),
        (b"\x00" * 100, 400),
        (b"*1\r\n$4\r\nPING\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: gateway\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: gateway\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: gateway\r\nA: " + b"b" * 65_536 + b"\r\n\r\n", 431),
        (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: gateway\r\n\r\n", 501),
    ],
)  # fmt: skip
async def test_what_is_no_http_is_refused_and_stores_nothing(world: World, request_bytes: bytes, status: int) -> None:
    async with world.unchanged():
        answer = await exchange(world.gateway.port, request_bytes, end=True)
    check_problem(answer, status, answer.json()["code"])


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD + b"Content-Length: 31\r\n\r\n" + PAYLOAD,
        HEAD + b"Content-Length: 30\r\n\r\n" + PAYLOAD[:-1],
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1e\r\n" + PAYLOAD + b"\r\n",
        HEAD + b"Content-Length: 30\r\n\r\n",
        HEAD,
        b"POST /tasks HT",
    ],
)
async def test_half_a_request_and_an_end_is_no_request(world: World, request_bytes: bytes) -> None:
    async with world.unchanged():
        reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
        writer.write(request_bytes)
        writer.write_eof()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await reader.read(-1) == b""
        writer.close()
        await writer.wait_closed()


async def test_an_absolute_target_is_its_path_whatever_its_host(world: World) -> None:
    async with world.unchanged():
        answer = await world.send("GET", "http://evil.example/tasks/<waiting>")
        assert (answer.status, answer.json()["payload"]) == (200, "waiting")
        check_problem(await world.send("GET", "http://evil.example//tasks"), 404, "not_found")


async def test_a_chunked_body_is_a_body(world: World) -> None:
    body = b"10\r\n" + PAYLOAD[:16] + b"\r\ne\r\n" + PAYLOAD[16:] + b"\r\n0\r\n\r\n"
    answer = await exchange(world.gateway.port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    world.before = b""
    assert (answer.status, answer.json()["payload"]) == (201, 1)


async def test_a_chunked_body_beyond_the_limit_is_refused(world: World) -> None:
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    async with world.unchanged():
        request = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 17 + b"0\r\n\r\n"
        check_problem(await exchange(world.gateway.port, request), 413, "body_too_large")


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (HEAD, 408, "request_timeout"),
        (HEAD + b"Content-Length: 30\r\n\r\n" + PAYLOAD[:-1], 408, "body_timeout"),
        (HEAD.replace(b"/tasks", b"/" + b"a" * 300) + b"\r\n", 414, "url_too_long"),
        (HEAD + b"A: b\r\n" * 20 + b"\r\n", 431, "headers_too_large"),
        (HEAD + b"A: " + b"b" * 3000 + b"\r\n\r\n", 431, "headers_too_large"),
        (HEAD + b"Content-Length: 3000\r\n\r\n", 413, "body_too_large"),
    ],
)
async def test_the_gateway_is_served_within_the_limits_it_is_given(
    world: World, request_bytes: bytes, status: int, code: str
) -> None:
    limits = Limits(
        header_bytes=2000, header_count=16, url_bytes=200, body_bytes=2000, header_seconds=0.2, body_seconds=0.2
    )
    async with world.unchanged(), live_gateway(world.redis_url, limits=limits) as gateway:
        check_problem(await exchange(gateway.port, request_bytes), status, code)


# ---- Odd input that is good comes back byte for byte.

ODD_VALUES = [
    b"null", b'""', b"{}", b"[]", b"0", b"-0", b"-0.0", b"1.0", b"1e400", b"-1e400", b"1E+2", b"1e-400",
    b"12345678901234567890",
    b"9007199254740993", b"0.1000000000000000055511151231257827", b"9" * 100_000, b"false", b'"\\u0000"',
    b'"\\ud83d\\ude00"',
    '"😀"'.encode(), b'"\\u2028\\u2029"', '"\u2028\u2029"'.encode(), b'"\\/\\b\\f\\n\\r\\t\\"\\\\"',
    b'"<script>alert(1)</script>"',
    b'"\\u003cb\\u003e"', b'{"a":1,"a":2}', b'{"":0}',
    b'{"__proto__":{"x":1},"constructor":1,"$ref":"#","@type":"x"}',
    b'{ "a" : [ 1 ,\t2 ] ,\r\n "b" : { } }', b'{"b":1,"a":2}', b'"' + b"\\u0041" * 10_000 + b'"',
    b"[" * 126 + b"]" * 126,
    b'{"a":' * 126 + b"1" + b"}" * 126, b'["[[[[{{{{", "\\"[[["]', b'["' + b"[" * 1000 + b'"]',
    '"e\u0301 \u00e9"'.encode(),
    '"\ufeff"'.encode(), '"\x7f\u0080\ufffe\uffff\U0010ffff"'.encode(), b'"' + b"a" * 500_000 + b'"',
    b"[" + b"0," * 100_000 + b"0]",
    b'"1e400"', b'"\\uDBFF\\uDFFF"',
]  # fmt: skip


def inside(body: bytes, member: bytes, behind: bytes) -> bytes:
    """The bytes of a member's value as they stand in a reply. behind: what follows."""
    start = body.index(b'"' + member + b'":') + len(member) + 3
    return body[start : body.index(behind, start)]


@pytest.mark.parametrize("value", ODD_VALUES, ids=[repr(value[:40])[2:-1] + f" ({len(value)})" for value in ODD_VALUES])
async def test_odd_values_come_back_byte_for_byte(world: World, value: bytes) -> None:
    world.before = b""
    marked = b', "payload": ' + value + b"  }"
    made = await world.send("POST", "/tasks", JSON, b'{ "job_type" : "odd"' + marked)
    assert made.status == 201
    assert inside(made.body, b"payload", b',"priority"') == value
    polled = await world.send("GET", "/poll?worker_id=odd&task_type=odd&wait=0")
    assert inside(polled.body, b"payload", b',"priority"') == value
    token = re.search(rb'"lease_token":"([^"]+)"', polled.body)
    id = re.search(rb'"id":"([^"]+)"', polled.body)
    assert token
    assert id
    target = f"/tasks/{id[1].decode()}"
    held = b'{"lease_token":"' + token[1] + b'",'
    if len(value) < 400_000:  # three of them must fit into a record
        beat = await world.send("POST", f"{target}/heartbeat", JSON, held + b'"progress": ' + value + b"\n}")
        assert beat.status == 200
        seen = await world.send("GET", target)
        assert inside(seen.body, b"progress", b',"worker_id"') == value
    done = await world.send("POST", f"{target}/complete", JSON, held + b'"result":\t' + value + b"}")
    assert done.status == 200
    final = await world.send("GET", target)
    assert inside(final.body, b"payload", b',"priority"') == value
    assert b'"result":' + value + b"," in final.body or b'"result":' + value + b"}" in final.body


@pytest.mark.parametrize("value", ODD_VALUES, ids=[repr(value[:40])[2:-1] + f" ({len(value)})" for value in ODD_VALUES])
async def test_odd_details_of_an_error_come_back_byte_for_byte(world: World, value: bytes) -> None:
    world.before = b""
    if value.startswith((b"[" * 126, b'{"a":' * 126)):
        value = value[:-1].replace(b"[", b"", 1) if value.startswith(b"[") else value.replace(b'{"a":', b"", 1)[:-1]
    await world.gateway.enqueue("odd-errors")
    (task,) = await world.gateway.poll("odd-errors", worker_id="odd")
    report = (
        b'{"lease_token":"'
        + task["lease_token"].encode()
        + b'","retryable":false,"error":{"type":"E","details": '
        + value
        + b" }}"
    )
    failed = await world.send("POST", f"/tasks/{task['id']}/fail", JSON, report)
    assert failed.status == 200
    final = await world.send("GET", f"/tasks/{task['id']}")
    assert b'"details":' + value + b"}" in final.body


async def test_a_payload_left_out_is_null(world: World) -> None:
    world.before = b""
    made = await world.send("POST", "/tasks", JSON, b'{"job_type":"absent"}')
    assert inside(made.body, b"payload", b",") == b"null"
    (task,) = await world.gateway.poll("absent")
    assert task["payload"] is None


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("run_at", "2020-01-01T00:00:00Z"),
        ("run_at", "1970-01-01T00:00:00Z"),
        ("run_at", "2030-01-31t08:00:00.123456789z"),
        ("run_at", "2030-01-31 08:00:00-23:59"),
        ("run_at", "2028-02-29T23:59:59+14:00"),
        ("delay_seconds", 0),
        ("delay_seconds", 31_622_400),
        ("max_attempts", 1),
        ("max_attempts", 1000),
        ("lease_seconds", 1),
        ("lease_seconds", 43_200),
        ("timeout_seconds", 1),
        ("timeout_seconds", 2_592_000),
        ("expires_in_seconds", 0.001),
        ("retention_seconds", 0),
        ("retention_seconds", 2_592_000),
        ("title", "a" * 512),
        ("title", "Ünïcödé 😀 \u202e <b> ' OR 1=1"),
        ("description", "a" * 16_384),
        ("unique_key", "k" * 255),
        ("unique_key", "ключ: 😀 \u2028"),
        ("tags", {}),
        ("tags", {f"t{number}": "é" * 256 for number in range(16)}),
        ("tags", {"a" * 64: "", "__proto__": "x", "ключ": "знач:ение"}),
        ("retry", {}),
        ("retry", {"backoff": "linear", "base_seconds": 0, "factor": 1, "max_seconds": 0, "jitter": False}),
        ("retry", {"delays_seconds": [0] * 1000}),
        *((member, None) for member in (
            "type", "payload", "title", "description", "priority", "delay_seconds", "run_at", "max_attempts", "retry",
            "lease_seconds", "timeout_seconds", "expires_in_seconds", "retention_seconds", "tags", "unique_key",
            "unique_until", "on_conflict",
        )),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
async def test_values_at_the_bounds_are_accepted(world: World, member: str, value: Any) -> None:
    world.before = b""
    made = await world.gateway.post("/tasks", {"job_type": "bounds", member: value})
    assert made.status_code == 201, made.text
    read = (await world.gateway.get(f"/tasks/{made.json()['id']}")).json()
    if member in ("title", "description", "tags", "payload", "max_attempts") and value:
        assert read[member] == value
    assert made.json().get(member) == read.get(member)


async def test_a_run_at_of_long_ago_is_due_at_once(world: World) -> None:
    world.before = b""
    made = await world.gateway.enqueue("long-ago", run_at="1970-01-01T00:00:00Z")
    assert made["status"] == "pending"
    assert [task["id"] for task in await world.gateway.poll("long-ago")] == [made["id"]]


@pytest.mark.parametrize("length", [1, 64, 128])
async def test_the_longest_names_make_ids_that_work(world: World, length: int) -> None:
    world.before = b""
    name = "q" * length
    made = await world.gateway.enqueue(name)
    assert len(made["id"]) <= 200
    (task,) = await world.gateway.poll(name, worker_id="W" * 128, poll_id="!" * 128)
    assert (await world.gateway.report(task, "complete")).status_code == 200
    assert (await world.gateway.get(f"/tasks/{made['id']}")).json()["status"] == "completed"


async def test_nothing_of_all_this_was_a_defect_of_the_gateway(world: World) -> None:
    """Runs last: no request above was answered 5xx by the application, whatever the test looked at."""
    metrics = (await world.gateway.get("/metrics")).text
    assert not re.findall(r'^\S*requests\S*\{[^}]*"5\d\d"[^}]*\} [1-9]', metrics, re.MULTILINE)
