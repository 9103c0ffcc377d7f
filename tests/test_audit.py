"""What is written down of what was done, and what never is: payloads, tokens, secrets."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway import logs
from tests.credentials import SECRET, admin, bearer, token
from tests.harness import LiveGateway, live_gateway
from tests.log_lines import LogLines, log_lines

CANARY = "canary-7f3a"


@pytest_asyncio.fixture
async def guarded(redis_url: str) -> AsyncIterator[LiveGateway]:
    async with live_gateway(redis_url, jwt_secret=SECRET) as one:
        yield one


# Every route that needs `admin` and changes something: its body, and what its line says it was done to.
ACTIONS: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {
    ("POST", "/tasks/cancel"): ({"filter": {"job_type": "demo"}}, {"job_type": "demo", "changed": 1}),
    ("POST", "/tasks/retry"): ({"filter": {}}, {"job_type": "*", "changed": 1}),
    ("POST", "/tasks/delete"): ({"filter": {"status": "failed"}}, {"job_type": "*", "changed": 0}),
    ("POST", "/workers/{id}/drain"): (None, {"worker_id": "w1", "directive": "drain"}),
    ("POST", "/workers/{id}/stop"): (None, {"worker_id": "w1", "directive": "stop"}),
    ("POST", "/workers/{id}/run"): (None, {"worker_id": "w1", "directive": "run"}),
    ("PUT", "/queues/{job_type}"): ({"max_pending": 5}, {"job_type": "demo", "version": 1}),
    ("PATCH", "/queues/{job_type}"): ({"max_processing": 5}, {"job_type": "demo", "version": 2}),
    ("POST", "/queues/{job_type}/pause"): (None, {"job_type": "demo"}),
    ("POST", "/queues/{job_type}/resume"): (None, {"job_type": "demo"}),
    ("POST", "/queues/{job_type}/redrive"): (None, {"job_type": "demo", "changed": 0}),
    ("POST", "/queues/{job_type}/purge"): (None, {"job_type": "demo", "purged": 1}),
    ("POST", "/keys"): (
        {"name": "ci", "scopes": ["work"], "tenant": "acme"}, {"of_tenant": "acme", "scopes": "work", "key_name": "ci"},
    ),
    ("DELETE", "/keys/{id}"): (None, {}),
    ("PUT", "/tenants/{tenant}"): ({"max_pending": 9}, {"of_tenant": "acme", "own": "max_pending"}),
}  # fmt: skip


async def test_every_action_of_an_administrator_leaves_one_line(guarded: LiveGateway) -> None:
    paths = (await guarded.get("/openapi.json")).json()["paths"]
    needing_admin = {
        (method.upper(), path)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if method != "get" and operation.get("security", [{}])[0].get("bearer") == ["admin"]
    }
    # Cancelling and retrying by filter take `tasks:write`, and are written down as well.
    assert set(ACTIONS) == needing_admin | {("POST", "/tasks/cancel"), ("POST", "/tasks/retry")}
    await guarded.post("/tasks", {"job_type": "demo"}, headers=admin())
    key_id = ""
    for (method, path), (body, facts) in ACTIONS.items():
        target = path.replace("/keys/{id}", f"/keys/{key_id}").replace("{id}", "w1").replace("{job_type}", "demo")
        who = bearer(token(scope="admin", sub="ann"))
        with log_lines() as lines:
            started = datetime.now(UTC)
            reply = await guarded.client.request(
                method, target.replace("{tenant}", "acme"), json=body, headers={**who, "X-Request-Id": "r-1"}
            )
        assert reply.status_code in (200, 201), (method, path, reply.text)
        if path == "/keys":
            key_id = reply.json()["id"]
        if path.startswith("/keys"):
            facts = {**facts, "key_id": key_id}
        (line,) = lines.audited()
        assert {name: line.get(name) for name in facts} == facts, (method, path)
        assert (line["tenant"], line["subject"], line["request_id"]) == ("default", "ann", "r-1")
        assert abs(datetime.fromisoformat(line["at"]) - started) < timedelta(seconds=5)
        assert re.fullmatch(r"[a-z][a-zA-Z' ]+", line["message"])


async def test_what_is_refused_or_only_tried_out_leaves_no_line(guarded: LiveGateway) -> None:
    with log_lines() as lines:
        for who in (admin(), bearer(token()), {}):
            await guarded.post("/tasks/delete", {"filter": {}, "dry_run": True}, headers=who)
            await guarded.post("/queues/demo/redrive", {"dry_run": True}, headers=who)
            await guarded.client.put("/queues/demo", json={"max_pending": 0}, headers=who)
            await guarded.client.put("/tenants/acme", json={"max_pending": 5}, headers=bearer(token(tenant="acme")))
            await guarded.client.delete("/keys/none", headers=who)
    assert lines.audited() == []


async def test_the_audit_log_is_written_however_quiet_the_rest_is() -> None:
    """LOG_LEVEL=error does not silence it."""
    root, log = logging.getLogger(), logging.getLogger("gateway.audit")
    before = (root.handlers, root.level, log.level)
    try:
        logs.configure("error", "json")
        assert log.isEnabledFor(logging.INFO)
        assert not logging.getLogger("gateway").isEnabledFor(logging.WARNING)
    finally:
        root.handlers, log_level = before[0], before[2]
        root.setLevel(before[1])
        log.setLevel(log_level)
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
            logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    "subject",
    [
        "ann\n12:00:00.000 info    purged a queue  tenant=default subject=bob", "ann\r\nX: y", "a\u2028b", "a\x85b",
        "\x1b[31mred", 'a" , "subject": "bob', "a subject=bob", "\x00", "a\tb", "\u202ebob",
    ],
)  # fmt: skip
async def test_no_name_makes_a_line_of_its_own(guarded: LiveGateway, subject: str) -> None:
    with log_lines() as lines:
        reply = await guarded.post("/queues/demo/pause", headers=bearer(token(scope="admin", sub=subject)))
    assert reply.status_code == 200
    (line,) = lines.audited()
    assert line["subject"] == subject
    for text in lines.json:
        assert not re.search(r"[\x00-\x1f\x7f]", text)
        assert json.loads(text)
    for text in lines.text:
        assert text.isprintable()
        assert text.count("subject=") == 1 or "subject='" in text or 'subject="' in text


async def test_a_subject_that_is_no_text_cannot_act_unseen(guarded: LiveGateway) -> None:
    """Half of a pair cannot be written to a log: who has it for a name is not let in."""
    with log_lines() as lines:
        reply = await guarded.post("/queues/demo/pause", headers=bearer(token(scope="admin", sub="\ud800")))
    assert (reply.status_code, lines.audited()) == (401, [])


def test_bytes_that_are_no_text_do_not_cost_a_line() -> None:
    with log_lines() as lines:
        logging.getLogger("gateway.store").warning(
            "found a task corrupt", extra={"id": b"\xff\n".decode("utf-8", "surrogateescape")}
        )
    assert json.loads(lines.json[0])["message"] == "found a task corrupt"
    lines.json[0].encode()
    lines.text[0].encode()


class Secrets:
    """Something that must not be seen for every member that takes text of a client."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, name: str) -> str:
        self.made.append(f"{CANARY}-{name}")
        return self.made[-1]

    def check(self, *texts: str) -> None:
        """Fail when one of them is in a text."""
        for text in texts:
            for secret in self.made:
                assert secret not in text, secret


async def test_payloads_tokens_and_secrets_are_in_no_log_error_or_metric(guarded: LiveGateway, redis: Redis) -> None:
    """A canary in every member, also of requests that are refused and of records that are broken."""
    secret, errors = Secrets(), []
    who, operator = bearer(token(tenant="acme", scope="admin")), admin()
    with log_lines() as lines:

        async def ask(method: str, path: str, body: Any = None, **headers: str) -> Any:
            reply = await guarded.client.request(method, path, json=body, headers={**who, **headers})
            if reply.status_code >= 400:
                errors.append(reply.text)
            return reply.json() if reply.content else None

        new = {
            "job_type": "demo", "payload": {"a": secret("payload")}, "title": secret("title"),
            "description": secret("description"), "tags": {"k": secret("tag")}, "unique_key": secret("unique"),
        }  # fmt: skip
        await ask("POST", "/tasks", new, **{"Idempotency-Key": secret("idempotency"), "tracestate": secret("state")})
        await ask("POST", "/tasks", {**new, "on_conflict": "reject"})
        await ask("POST", "/tasks", {**new, "payload": secret("other")}, **{"Idempotency-Key": secret.made[-2]})
        await ask("POST", "/tasks", {**new, "max_attempts": 0})
        await ask("POST", "/tasks", {**new, "priority": 5, "payload": secret("refused")})
        await ask("POST", "/tasks", [new, {**new, "lease_seconds": "x"}, secret("item")])
        await ask("POST", "/tasks", {"job_type": "demo", "payload": secret("plain")})
        await ask("GET", "/tasks", Cookie=secret("cookie"), **{"X-Secret": secret("header")})
        await ask("GET", "/tasks", Authorization=f"Bearer {secret('token')}")
        await ask("GET", "/tasks", Authorization=f"Bearer tgw_{secret('key')}")
        await ask("GET", "/tasks", Authorization=f"Basic {secret('basic')}")
        taken = await ask("POST", "/poll", {"worker_id": "w", "task_type": "demo", "max": 9, "wait": 0})
        secret.made += [task["lease_token"] for task in taken["tasks"]]
        first, second, *_ = taken["tasks"]
        report = {"lease_token": first["lease_token"]}
        beat = {**report, "progress": secret("progress"), "log": [secret("line")]}
        await ask("POST", f"/tasks/{first['id']}/heartbeat", beat)
        await ask(
            "POST", f"/tasks/{first['id']}/complete", {"lease_token": secret("no token"), "result": secret("late")}
        )
        failure = {
            "type": secret("type"),
            "message": secret("message"),
            "stack": secret("stack"),
            "details": secret("d"),
        }
        await ask("POST", f"/tasks/{first['id']}/fail", {**report, "error": failure, "retryable": False})
        await ask(
            "POST", f"/tasks/{second['id']}/complete", {"lease_token": second["lease_token"], "result": secret("r")}
        )
        await ask("POST", "/queues/demo/redrive", {"filter": {"tags": {"k": secret.made[3]}}})
        # Broken behind our back: what was there is not told.
        await ask("POST", "/tasks", {"job_type": "broken", "payload": secret("broken")})
        async for key in redis.scan_iter("arq:job:{acme:broken}*"):
            await redis.set(key, secret("raw").encode())
        await redis.set("tg:{acme:demo}:live", secret("wrong type"))
        for method, path in (("GET", "/tasks"), ("POST", "/poll")):
            body = {"worker_id": "w", "task_type": ["broken", "demo"], "wait": 0} if method == "POST" else None
            await ask(method, path, body)
        await ask("POST", "/tasks", {"job_type": "demo", "payload": secret("last")})
        metrics = [(await guarded.get("/metrics", headers=one)).text for one in (who, operator)]
    assert len(secret.made) > 30
    assert len(errors) > 8
    assert any("failed" in line for line in lines.json), "nothing went wrong: the test shows less than it says"
    for line in (*lines.json, *lines.text):
        secret.check(line)
        assert not re.search(r"eyJ[\w-]{10,}\.[\w-]+\.|tgw_\w{20}", line), "a token was logged"
    secret.check(*metrics)
    secret.check(*errors)


async def test_what_fails_inside_is_told_by_a_request_id_and_nothing_else(guarded: LiveGateway, redis: Redis) -> None:
    await guarded.post("/tasks", {"job_type": "demo"}, headers=admin())
    await redis.set("tg:{default:demo}:live", "no list")
    with log_lines() as lines:
        reply = await guarded.get("/tasks", headers={**admin(), "X-Request-Id": "r-7"})
    assert (reply.status_code, reply.json()["code"], reply.json()["request_id"]) == (500, "internal", "r-7")
    for word in ("Traceback", ".py", "WRONGTYPE", "redis", "lua"):
        assert word not in reply.text
    assert any("WRONGTYPE" in line for line in lines.json)


def test_lines_are_kept_as_they_are_logged() -> None:
    with log_lines() as lines:
        logging.getLogger("gateway.audit").info("did", extra={"a": 1})
        logging.getLogger("httpx").info("not ours")
    assert isinstance(lines, LogLines)
    assert [(line["message"], line["a"]) for line in lines.audited()] == [("did", 1)]
    assert len(lines.json) == 1
