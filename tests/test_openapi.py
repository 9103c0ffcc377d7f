"""/openapi.json: it is valid, it lists what the gateway has, and the gateway answers as it says."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway import protocol_guard, server
from gateway.api import admin_messages, messages, openapi, problems, task_messages, worker_messages
from gateway.api.operations import OPERATIONS
from tests.harness import LiveGateway, live_gateway, wait_until

DOCUMENT = openapi.document(OPERATIONS)
# What every reply may have, and no operation has to name.
_PLAIN_HEADERS = {"date", "cache-control", "content-length", "content-type", "x-content-type-options", "connection"}
_PAGE_HEADERS = {"content-security-policy", "referrer-policy", "x-frame-options"}


def _resolve(value: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in value:
        return value
    found: Any = DOCUMENT
    for word in value["$ref"].removeprefix("#/").split("/"):
        found = found[word]
    return found


def _operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    ]


def _faults(schema: dict[str, Any], value: Any) -> list[str]:
    """What is wrong with a value, in words."""
    whole = {"components": DOCUMENT["components"], **schema}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(whole).iter_errors(value)]


class Caller:
    """Calls operations and holds each reply against the document."""

    def __init__(self, gateway: LiveGateway) -> None:
        self.gateway = gateway
        self.called: set[tuple[str, str]] = set()
        self.codes: set[str] = set()

    async def __call__(
        self, method: str, path: str, status: int, *, code: str = "", json: Any = None, **options: Any
    ) -> httpx.Response:
        """Call `path`, a template filled from the option `at`. Returns the reply, which has this status."""
        at = options.pop("at", "")
        url = re.sub(r"\{\w+\}", at, path)
        if json is not None:
            options["content"] = msgspec.json.encode(json)
            options.setdefault("headers", {})["Content-Type"] = "application/json"
        reply = await self.gateway.client.request(method, url, **options)
        assert reply.status_code == status, reply.text
        self.called.add((method, path))
        operation = DOCUMENT["paths"][path][method.lower()]
        assert str(status) in operation["responses"], f"{method} {path} does not name {status}"
        response = _resolve(operation["responses"][str(status)])
        named = {name.lower() for name in response["headers"]}
        assert {"x-request-id"} <= set(reply.headers)
        assert set(reply.headers) - _PLAIN_HEADERS - _PAGE_HEADERS <= named, f"{method} {path} {status}: headers"
        if status in (429, 503) or "retry-after" in reply.headers:
            assert reply.headers["retry-after"].isdecimal()
        content = response.get("content", {})
        if not content:
            assert reply.content == b""
            return reply
        media = reply.headers["content-type"]
        assert media in content, f"{method} {path} {status}: {media}"
        if "json" in media:
            assert _faults(content[media]["schema"], reply.json()) == [], reply.text
        if media == openapi.PROBLEM_JSON:
            self.codes.add(reply.json()["code"])
            assert reply.json()["code"] == code or not code
        return reply


@pytest.fixture
def call(gateway: LiveGateway) -> Caller:
    """A checked client of a live gateway."""
    return Caller(gateway)


def test_the_document_is_valid_openapi() -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


async def test_every_route_has_an_operation_and_every_operation_a_route(gateway: LiveGateway) -> None:
    routes = {(method, path) for methods, path in gateway.app.table for method in methods.split() if method != "HEAD"}
    assert {(method, path) for method, path, _ in _operations()} == routes
    assert len(OPERATIONS) == len(routes)


async def test_the_gateway_serves_the_document(gateway: LiveGateway) -> None:
    reply = await gateway.get("/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == msgspec.json.decode(msgspec.json.encode(DOCUMENT))


def test_operations_have_names_of_their_own_and_a_known_tag() -> None:
    names = [operation["operationId"] for _, _, operation in _operations()]
    assert len(names) == len(set(names))
    assert {tag for _, _, operation in _operations() for tag in operation["tags"]} == {
        tag["name"] for tag in DOCUMENT["tags"]
    }


def test_path_parameters_are_those_of_the_path() -> None:
    for method, path, operation in _operations():
        given = {one["name"] for one in map(_resolve, operation["parameters"]) if one["in"] == "path"}
        assert given == set(re.findall(r"\{(\w+)\}", path)), f"{method} {path}"


def test_the_document_names_no_machine() -> None:
    assert DOCUMENT["servers"] == [{"url": "/"}]
    assert not re.search(r"localhost|127\.0\.0\.1|/home/|/tmp/", msgspec.json.encode(DOCUMENT).decode())


def test_examples_are_valid() -> None:
    checked = 0
    for method, path, operation in _operations():
        places = [operation.get("requestBody", {}), *map(_resolve, operation["responses"].values())]
        for media, body in ((media, body) for place in places for media, body in place.get("content", {}).items()):
            for name, example in body.get("examples", {}).items():
                assert _faults(body["schema"], example["value"]) == [], f"{method} {path} {media} {name}"
                checked += 1
        for parameter in map(_resolve, operation["parameters"]):
            if "example" in parameter:
                assert _faults(parameter["schema"], parameter["example"]) == [], f"{method} {path} {parameter['name']}"
                checked += 1
    assert checked > 60


def test_every_body_of_json_has_an_example() -> None:
    for method, path, operation in _operations():
        places = [operation.get("requestBody", {}), *map(_resolve, operation["responses"].values())]
        for place in places:
            body = place.get("content", {}).get("application/json")
            assert body is None or body["examples"], f"{method} {path}"


def test_every_example_of_a_request_is_accepted_by_the_type_that_reads_it() -> None:
    for operation in OPERATIONS:
        for body in operation.bodies:
            for value in body.examples.values() if body.media == openapi.JSON else ():
                kind = body.type[isinstance(value, list)] if isinstance(body.type, tuple) else body.type
                msgspec.json.decode(msgspec.json.encode(value), type=kind)


def test_every_type_of_the_wire_is_in_the_document() -> None:
    kinds = {
        name
        for module in (messages, task_messages, worker_messages, admin_messages)
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__
    }
    assert kinds - set(DOCUMENT["components"]["schemas"]) == {"Request", "Reply"}


def test_a_process_that_reads_messages_ends_well_whatever_else_it_imports() -> None:
    """A decoder of some of them must not be freed at its end. What is registered first is called last."""
    script = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0)); "
        "import msgspec; from gateway.api import worker_messages; decoder = msgspec.json.Decoder(worker_messages.Poll)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_any_json_value_is_told_from_a_string() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for value in ({}, [], "text", 1e400, None, True):
        assert _faults(schemas["NewTask"], {"job_type": "a", "payload": value}) == []
        assert _faults(schemas["Complete"], {"lease_token": "t", "result": value}) == []


def test_patterns_are_spelled_for_every_language() -> None:
    patterns = re.findall(r'"pattern":"(.*?)(?<!\\)"', msgspec.json.encode(DOCUMENT).decode())
    assert patterns
    assert not [pattern for pattern in patterns if r"\\Z" in pattern or "(?P" in pattern]


def test_every_cause_of_a_refusal_is_in_the_document() -> None:
    codes = set(re.findall(r"`(\w+)`:", " ".join(_descriptions(DOCUMENT))))
    assert {cause.code for cause in problems.STATUS} <= codes


def test_a_post_of_tasks_names_every_conflict_that_it_can_meet() -> None:
    conflict = DOCUMENT["paths"]["/tasks"]["post"]["responses"]["409"]
    known = conflict["content"][openapi.PROBLEM_JSON]["schema"]["properties"]["code"]["enum"]
    assert set(known) == {"unique_conflict", "request_running", "task_changed", "settings_changed"}


def test_what_the_protocol_guard_refuses_is_in_the_document() -> None:
    sources = "".join(Path(module.__file__ or "").read_text() for module in (protocol_guard, server))
    spelled = re.findall(r'\b([45]\d\d), "([a-z_]+)"', sources)
    assert len(spelled) > 8
    assert {(int(status), code) for status, code in spelled} == {
        (status, code) for status, codes in openapi.GUARD.items() for code in codes
    }


def _descriptions(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["description"]] if isinstance(value.get("description"), str) else []
        return own + [text for one in value.values() for text in _descriptions(one)]
    return [text for one in value for text in _descriptions(one)] if isinstance(value, list) else []


async def test_every_operation_answers_as_the_document_says(gateway: LiveGateway, call: Caller) -> None:
    task: dict[str, Any] = {"job_type": "demo", "payload": {"n": 1}, "retry": {"delays_seconds": [0]}}
    poll = {"worker_id": "w1", "task_type": "demo", "wait": 0}

    async def claim(**members: Any) -> dict[str, Any]:
        return (await call("POST", "/poll", 200, json={**poll, "wait": 5, **members})).json()["tasks"][0]

    first = (await call("POST", "/tasks", 201, json=task, headers={"X-Request-Id": "mine"})).json()
    await call("POST", "/tasks", 201, json=[task, task])
    await call("POST", "/tasks", 200, json=[{**task, "job_type": "other"}, {"payload": 1}])
    lines = b'{"job_type":"other"}\n{"job_type":"other","tags":{"a":"b"}}\n'
    await call("POST", "/tasks", 201, content=lines, headers={"Content-Type": "application/x-ndjson"})
    await call("POST", "/tasks", 202, json={**task, "job_type": "other"}, headers={"Prefer": "wait=0"})
    key = {"Idempotency-Key": "one"}
    kept = (await call("POST", "/tasks", 201, json={"job_type": "other", "unique_key": "k"}, headers=key)).json()
    again = await call("POST", "/tasks", 201, json={"job_type": "other", "unique_key": "k"}, headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    same = await call("POST", "/tasks", 200, json={"job_type": "other", "unique_key": "k", "unique_until": 60})
    assert same.json()["id"] == kept["id"]
    await call("PATCH", "/tasks/{id}", 200, at=kept["id"], json={"priority": "high", "payload": [1.0]})
    page = await call("GET", "/tasks", 200, params={"limit": 1, "status": "pending,failed"})
    assert page.headers["link"]
    await call("GET", "/tasks", 200, params={"job_type": "demo", "tag": "a:b"})
    etag = (await call("GET", "/tasks/{id}", 200, at=first["id"])).headers["etag"]
    await call("GET", "/tasks/{id}", 304, at=first["id"], headers={"If-None-Match": etag, "Prefer": "wait=0"})
    await call("GET", "/task", 200, params={"id": first["id"]})
    assert (await call("DELETE", "/tasks/{id}", 200, at=first["id"])).json()["status"] == "cancelled"
    await call("POST", "/tasks/{id}/retry", 200, at=first["id"])

    one = (await call("GET", "/poll", 200, params={**poll, "wait": 5})).json()["tasks"][0]
    await call("GET", "/poll", 204, params={**poll, "task_type": "idle"})
    beat = {"lease_token": one["lease_token"], "progress": 0.5, "log": ["half way"]}
    await call("POST", "/tasks/{id}/heartbeat", 200, at=one["id"], json=beat)
    await call("DELETE", "/tasks/{id}", 202, at=one["id"])
    await call("POST", "/tasks/{id}/release", 200, at=one["id"], json={"lease_token": one["lease_token"]})
    two = await claim()
    three = (
        await call(
            "POST", "/tasks/{id}/fail", 200, at=two["id"],
            json={"lease_token": two["lease_token"], "error": {"type": "Boom"}, "next": {"wait": 5}},
        )
    ).json()["tasks"][0]  # fmt: skip
    await call("GET", "/tasks/{id}", 200, at=two["id"])
    done = {"lease_token": three["lease_token"], "result": [1.0], "next": {"wait": 5}}
    four = (await call("POST", "/tasks/{id}/complete", 200, at=three["id"], json=done)).json()["tasks"][0]
    lease = {"id": four["id"], "lease_token": four["lease_token"]}
    lost = {"id": three["id"], "lease_token": "none"}
    await call("POST", "/heartbeats", 200, json={"worker_id": "w1", "leases": [lease, lost]})
    outcomes = [{**lease, "outcome": "fail", "retryable": False}, {**lost, "outcome": "release"}]
    await call("POST", "/outcomes", 200, json={"worker_id": "w1", "outcomes": outcomes, "next": {"wait": 0}})
    await call("GET", "/tasks/{id}", 200, at=four["id"])
    await call("POST", "/tasks/{id}/retry", 200, at=four["id"])
    for verb in ("cancel", "retry", "delete"):
        reply = await call("POST", f"/tasks/{verb}", 200, json={"filter": {"job_type": "other"}})
        assert reply.json()["changed"] > 0, verb

    limits = {
        "max_processing": 5,
        "rate_per_second": 50,
        "defaults": {"retry": {"backoff": "fixed"}, "max_attempts": 3},
    }
    await call("PUT", "/queues/{job_type}", 200, at="third", json={**limits, "paused": True})
    await call("PATCH", "/queues/{job_type}", 200, at="third", json={"max_pending": 7})
    await call("GET", "/queues/{job_type}/settings", 200, at="third")
    await call("POST", "/queues/{job_type}/pause", 200, at="third", json={"seconds": 60})
    await call("POST", "/queues/{job_type}/resume", 200, at="third")
    await call("POST", "/tasks", 201, json={"job_type": "third", "concurrency_key": "a"})
    assert (await call("POST", "/queues/{job_type}/purge", 200, at="third")).json() == {"purged": 1}
    await call("POST", "/queues/{job_type}/redrive", 200, at="third", json={"rate_per_second": 5, "dry_run": True})
    made = (await call("POST", "/keys", 201, json={"name": "ci", "scopes": ["work"], "expires_in_seconds": 60})).json()
    assert made["key"].startswith("tgw_")
    await call("GET", "/keys", 200)
    await call("DELETE", "/keys/{id}", 200, at=made["id"])
    await call("PUT", "/tenants/{tenant}", 200, at="acme", json={"max_pending": 5})
    await call("GET", "/tenants/{tenant}", 200, at="acme")
    await call("GET", "/tenants", 200)

    await claim(worker_id="w2")
    await call("GET", "/workers", 200)
    for verb in ("drain", "stop", "run"):
        await call("POST", f"/workers/{{id}}/{verb}", 200, at="w2")
    assert (await call("DELETE", "/workers/{id}", 200, at="w2")).json()["released"] == 1
    await call("GET", "/queues", 200)
    await call("GET", "/queues/{job_type}", 200, at="demo")
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"):
        await call("GET", path, 200)
    for name in ("style.css", "app.js", "icon.svg"):
        await call("GET", "/docs/{name}", 200, at=name)
    assert call.called == {(method, path) for method, path, _ in _operations()}


async def test_a_task_that_ends_in_time_is_the_reply_to_its_own_post(gateway: LiveGateway, call: Caller) -> None:
    post = asyncio.create_task(call("POST", "/tasks", 200, json={"job_type": "demo"}, headers={"Prefer": "wait=20"}))
    (task,) = await gateway.poll(wait=10)
    await gateway.report(task, "complete", result=42)
    reply = await post
    assert reply.json()["result"] == 42
    assert reply.headers["preference-applied"] == "wait=20"


async def test_refusals_are_those_of_the_document(gateway: LiveGateway, call: Caller) -> None:
    task = await gateway.enqueue()
    (leased,) = await gateway.poll()
    token = {"lease_token": "not the one"}
    for method, path, _ in _operations():
        if (method, path) not in {("POST", p) for p in ("/tasks", "/poll")}:
            headers = {"Content-Type": "application/json"}
            at = "demo~a" if path.startswith("/tasks") else "demo"
            await call(method, path, 400, at=at, params={"nonsense": "1"}, headers=headers)
    for method, path, operation in _operations():
        if "requestBody" not in operation:
            continue
        for body, headers, status, code in (
            (b"", {}, 400, "empty_body"),
            (b"{", {}, 400, "bad_json"),
            (b'"\xff"', {}, 400, "bad_utf8"),
            (b"[" * 200 + b"]" * 200, {}, 400, "too_deep"),
            (b'{"nonsense":1}', {}, 400, "unknown_member"),
            (b"7", {}, 400, "invalid_member"),
            (b"x" * (1024 * 1024 + 1), {}, 413, "body_too_large"),
            (b"a=1", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
            (b"{}", {"Content-Encoding": "gzip"}, 415, "unsupported_encoding"),
        ):
            if not body and not operation["requestBody"]["required"]:
                continue
            headers = {"Content-Type": "application/json", **headers}
            at = "acme" if path.startswith(("/tenants", "/queues")) else task["id"]
            await call(method, path, status, code=code, at=at, content=body, headers=headers)
    for method, path in (("GET", "/tasks/{id}"), ("DELETE", "/tasks/{id}"), ("POST", "/tasks/{id}/retry")):
        await call(method, path, 404, code="task_not_found", at="demo~none")
        await call(method, path, 400, code="invalid_id", at="a%20b")
    await call("PATCH", "/tasks/{id}", 404, code="task_not_found", at="demo~none", json={})
    await call("PATCH", "/tasks/{id}", 400, code="invalid_id", at="a%20b", json={})
    await call("PATCH", "/tasks/{id}", 409, code="already_started", at=leased["id"], json={"payload": 1})
    held = {"job_type": "held", "unique_key": "k", "on_conflict": "reject"}
    await call("POST", "/tasks", 201, json=held, headers={"Idempotency-Key": "one"})
    await call("POST", "/tasks", 409, code="unique_conflict", json=held)
    other = {**held, "payload": 1}
    await call("POST", "/tasks", 422, code="idempotency_mismatch", json=other, headers={"Idempotency-Key": "one"})
    body = msgspec.json.encode(held)
    request = (b"POST /tasks", b"", b"application/json", body)
    await gateway.app.idempotency.begin("default", "two", request, ["01m80dshd85ezv8h2fet7geqkb"])
    await call("POST", "/tasks", 409, code="request_running", json=held, headers={"Idempotency-Key": "two"})
    for verb in ("heartbeat", "complete", "fail", "release"):
        await call("POST", f"/tasks/{{id}}/{verb}", 409, code="lease_lost", at=leased["id"], json=token)
        await call("POST", f"/tasks/{{id}}/{verb}", 404, code="task_not_found", at="demo~none", json=token)
    await call("POST", "/tasks/{id}/retry", 409, code="not_finished", at=task["id"])
    await gateway.report(leased, "complete")
    await call("POST", "/tasks/{id}/retry", 409, code="already_finished", at=task["id"])
    await call("DELETE", "/tasks/{id}", 409, code="already_finished", at=task["id"])
    await call("PATCH", "/tasks/{id}", 409, code="already_finished", at=task["id"], json={"payload": 1})
    await call("GET", "/tasks", 400, code="bad_cursor", params={"cursor": "!"})
    await call("POST", "/tasks", 413, code="batch_too_large", json=[{"job_type": "a"}] * 1001)
    await call("POST", "/tasks", 422, code="batch_refused", json=[{"job_type": "a"}, {}], params={"atomic": "true"})
    await call("DELETE", "/workers/{id}", 404, code="worker_not_found", at="nobody")
    await call("GET", "/queues/{job_type}", 404, code="queue_not_found", at="none")
    await call("GET", "/docs/{name}", 404, code="not_found", at="none.js")
    await call("GET", "/tasks", 414, code="url_too_long", params={"cursor": "x" * 9000})
    await call("GET", "/tasks", 431, code="headers_too_large", headers={"X-Long": "x" * 40_000})


async def test_a_gateway_at_its_bounds_answers_as_the_document_says(redis_url: str) -> None:
    async with live_gateway(redis_url, task_queue_size=1, max_open_polls=1) as gateway:
        call = Caller(gateway)
        await gateway.enqueue("full")
        await call("POST", "/tasks", 503, code="queue_full", json={"job_type": "full"})
        waiting = asyncio.create_task(gateway.poll("idle", wait=30))
        await wait_until(lambda: gateway.app.manager.open_polls == 1)
        await call("GET", "/poll", 429, code="too_many_polls", params={"worker_id": "w2", "task_type": "idle"})
        gateway.app.manager.close()
        assert await waiting == []
        await call("POST", "/tasks", 503, code="shutting_down", json={"job_type": "full"})
        await call("POST", "/poll", 503, code="shutting_down", json={"worker_id": "w", "task_type": "full"})
        await call("GET", "/health", 503)
        await call("GET", "/health/ready", 503)
