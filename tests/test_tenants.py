"""One tenant never sees, counts, takes or touches what is another's, by whatever route, id or name."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import re
import string
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.store import scripts
from gateway.store.keys import Keys
from gateway.tasks import Queue
from tests.credentials import SECRET, admin, bearer, token
from tests.harness import LiveGateway, live_gateway, wait_until

CANARY = "of-globex-only"
OURS, THEIRS = admin("acme"), admin("globex")
OF_ALL = (Keys().api_keys.encode(), Keys().tenants.encode())
JSON = {"Content-Type": "application/json"}
# Where who is let in does not matter, or the tenant is in no part of the request: not in the matrix.
OPEN = {"/health", "/health/live", "/health/ready", "/openapi.json", "/docs", "/docs/{name}"}


class World:
    """A gateway, and a tenant `globex` that has one of everything, all marked with CANARY."""

    def __init__(self, gateway: LiveGateway, redis: Redis) -> None:
        self.gateway = gateway
        self.redis = redis
        self.tasks: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.key_id = ""

    async def ask(
        self, method: str, path: str, body: Any = None, who: dict[str, str] = OURS, **headers: str
    ) -> httpx.Response:
        content = None if body is None else json.dumps(body).encode()
        given = {**who, **(JSON if body is not None else {}), **headers}
        return await self.gateway.client.request(method, path, content=content, headers=given)

    async def build(self) -> None:
        """Bring a task of globex into every state, and make its workers, settings and keys."""
        mark = {"payload": CANARY, "title": CANARY, "tags": {CANARY: CANARY}, "lease_seconds": 43_200}
        for state in ("completed", "failed", "cancelled", "processing", "pending"):
            made = await self.ask("POST", "/tasks", {"job_type": "demo", **mark}, THEIRS)
            self.tasks[state] = made.json()["id"]
            if state == "cancelled":
                await self.ask("DELETE", f"/tasks/{self.tasks[state]}", who=THEIRS)
            elif state != "pending":
                poll = {"worker_id": "w1", "task_type": "demo", "wait": 0}
                (task,) = (await self.ask("POST", "/poll", poll, THEIRS)).json()["tasks"]
                self.tokens[state] = task["lease_token"]
                report = {"lease_token": task["lease_token"]}
                if state == "completed":
                    await self.ask("POST", f"/tasks/{task['id']}/complete", {**report, "result": CANARY}, THEIRS)
                if state == "failed":
                    more = {"error": CANARY, "retryable": False}
                    await self.ask("POST", f"/tasks/{task['id']}/fail", {**report, **more}, THEIRS)
        made = await self.ask("POST", "/tasks", {"job_type": "demo", "delay_seconds": 86_400, **mark}, THEIRS)
        self.tasks["scheduled"] = made.json()["id"]
        unique = {"job_type": "demo", "unique_key": "the one", "delay_seconds": 86_400, **mark}
        await self.ask("POST", "/tasks", unique, THEIRS, **{"Idempotency-Key": "the key"})
        await self.ask("POST", "/tasks", {"job_type": CANARY, **mark}, THEIRS)
        await self.ask("PUT", f"/queues/{CANARY}", {"max_pending": 7}, THEIRS)
        await self.ask("POST", "/workers/w1/drain", who=THEIRS)
        key = await self.ask("POST", "/keys", {"name": CANARY, "scopes": ["work"]}, THEIRS)
        self.key_id = key.json()["id"]

    async def workers_noted(self) -> None:
        """Wait until what is written behind a poll was written."""
        await wait_until(lambda: self.redis.exists(Keys().worker_facts("globex")))

    async def holdings(self, *, workers: bool = False) -> dict[bytes, str]:
        """A digest of each key that is globex's, and of the API keys. workers: also when its workers were seen, which
        is written a while behind their polls."""
        found = {}
        async for key in self.redis.scan_iter(count=10_000):
            late = key.endswith((b":seen", b":facts")) and not workers
            if (b"globex" in key and b"{acme:" not in key and not late) or key in OF_ALL:
                found[key] = hashlib.sha256(await self.redis.dump(key)).hexdigest()
        assert len(found) > 15
        return found


@pytest_asyncio.fixture
async def world(redis_url: str, redis: Redis) -> AsyncIterator[World]:
    async with live_gateway(redis_url, jwt_secret=SECRET) as gateway:
        one = World(gateway, redis)
        await one.build()
        yield one


def missing_like(task_id: str) -> str:
    """An id of the same form and length that is nobody's."""
    return task_id[:-4] + ("0000" if not task_id.endswith("0000") else "1111")


def spelled_out(task_id: str, tag: str = "{globex:demo}") -> str:
    """A task's id as that of one with a foreign name: the whole name in Redis, with its owner's tag."""
    arq_id = tag + task_id.partition("~")[2]
    return f"demo~~{base64.urlsafe_b64encode(arq_id.encode()).decode().rstrip('=')}"


# Every route that names a thing, and what is asked of it. `{}` stands for an id of a task.
BY_TASK: dict[tuple[str, str], dict[str, Any] | None] = {
    ("GET", "/tasks/{id}"): None,
    ("HEAD", "/tasks/{id}"): None,
    ("GET", "/task"): None,
    ("HEAD", "/task"): None,
    ("DELETE", "/tasks/{id}"): None,
    ("PATCH", "/tasks/{id}"): {"priority": "high"},
    ("POST", "/tasks/{id}/retry"): None,
    ("POST", "/tasks/{id}/heartbeat"): {"progress": 1, "log": ["x"]},
    ("POST", "/tasks/{id}/complete"): {"result": 1},
    ("POST", "/tasks/{id}/fail"): {"error": "x"},
    ("POST", "/tasks/{id}/release"): {},
}
BY_NAME: dict[tuple[str, str], Any] = {
    ("GET", "/queues/{job_type}"): None,
    ("HEAD", "/queues/{job_type}"): None,
    ("GET", "/queues/{job_type}/settings"): None,
    ("HEAD", "/queues/{job_type}/settings"): None,
    ("PUT", "/queues/{job_type}"): {"max_processing": 3},
    ("PATCH", "/queues/{job_type}"): {"max_processing": 4},
    ("POST", "/queues/{job_type}/pause"): None,
    ("POST", "/queues/{job_type}/resume"): None,
    ("POST", "/queues/{job_type}/purge"): None,
    ("POST", "/queues/{job_type}/redrive"): None,
    ("POST", "/workers/{id}/stop"): None,
    ("POST", "/workers/{id}/run"): None,
    ("POST", "/workers/{id}/drain"): None,
    ("DELETE", "/workers/{id}"): None,
    ("DELETE", "/keys/{id}"): None,
    ("GET", "/tenants/{tenant}"): None,
    ("HEAD", "/tenants/{tenant}"): None,
    ("PUT", "/tenants/{tenant}"): {"max_pending": 1},
}
# Routes of the whole tenant, and a request that takes all it can get.
AT_LARGE: dict[tuple[str, str], tuple[str, Any]] = {
    ("GET", "/tasks"): ("/tasks?limit=200", None),
    ("HEAD", "/tasks"): ("/tasks", None),
    ("POST", "/tasks"): ("/tasks", {"job_type": "demo", "unique_key": "the one", "on_conflict": "reject"}),
    ("POST", "/tasks/cancel"): ("/tasks/cancel", {"filter": {}}),
    ("POST", "/tasks/retry"): ("/tasks/retry", {"filter": {}}),
    ("POST", "/tasks/delete"): ("/tasks/delete", {"filter": {}}),
    ("GET", "/poll"): ("/poll?worker_id=w1&task_type=demo&wait=0&max=1000", None),
    ("POST", "/poll"): ("/poll", {"worker_id": "w1", "task_type": ["demo", CANARY], "wait": 0, "max": 1000}),
    ("POST", "/outcomes"): ("/outcomes", {"worker_id": "w1", "outcomes": [], "next": {"task_type": "demo"}}),
    ("POST", "/heartbeats"): ("/heartbeats", {"worker_id": "w1", "leases": []}),
    ("GET", "/workers"): ("/workers", None),
    ("HEAD", "/workers"): ("/workers", None),
    ("GET", "/queues"): ("/queues", None),
    ("HEAD", "/queues"): ("/queues", None),
    ("GET", "/keys"): ("/keys", None),
    ("HEAD", "/keys"): ("/keys", None),
    ("POST", "/keys"): ("/keys", {"name": "theirs", "scopes": ["admin"], "tenant": "globex"}),
    ("GET", "/tenants"): ("/tenants", None),
    ("HEAD", "/tenants"): ("/tenants", None),
    ("GET", "/metrics"): ("/metrics", None),
    ("HEAD", "/metrics"): ("/metrics", None),
}


async def test_the_matrix_covers_every_route(world: World) -> None:
    routes = {(method, path) for methods, path in world.gateway.app.table for method in methods.split()}
    covered = {*BY_TASK, *BY_NAME, *AT_LARGE}
    assert routes - covered == {(method, path) for method, path in routes if path in OPEN}
    assert covered <= routes


def seen(reply: httpx.Response, *names: str) -> tuple[int, dict[str, str], str]:
    """A reply without what names the request: its id, and the ids that were asked for."""
    text, headers = reply.text, {name: value for name, value in reply.headers.items() if name != "date"}
    for name in (*names, headers.pop("x-request-id")):
        text = text.replace(name, "<id>")
    return reply.status_code, headers, text


@pytest.mark.parametrize("spell", [str, spelled_out], ids=["as its owner sees it", "by its whole name in Redis"])
async def test_a_foreign_task_is_answered_as_none_at_all(world: World, spell: Any) -> None:
    before = await world.holdings()
    differences = []
    for state, task_id in world.tasks.items():
        foreign, missing = spell(task_id), spell(missing_like(task_id))
        for (method, path), body in BY_TASK.items():
            if body is not None and method == "POST":
                # Even who got hold of the right token.
                body = {"lease_token": world.tokens.get(state, "none"), **body}
            answers = []
            for one in (foreign, missing):
                target = path.replace("{id}", one) + (f"?id={one}" if path == "/task" else "")
                reply = await world.ask(method, target, body, **{"X-Request-Id": "same"})
                answers.append(seen(reply, one))
            if answers[0] != answers[1] or answers[0][0] != 404:
                differences.append((state, method, path, answers))
        for batch, name in (("/outcomes", "outcomes"), ("/heartbeats", "leases")):
            answers = []
            for one in (foreign, missing):
                entry = {"id": one, "lease_token": world.tokens.get(state, "none")}
                if name == "outcomes":
                    entry["outcome"] = "release"
                answers.append(seen(await world.ask("POST", batch, {"worker_id": "w1", name: [entry]}), one))
            if answers[0] != answers[1] or '"status":404' not in answers[0][2]:
                differences.append((state, "POST", batch, answers))
    assert differences == []
    assert await world.holdings() == before


async def test_a_token_limited_to_job_types_reaches_no_other_queue_by_a_whole_name(world: World) -> None:
    made = await world.ask("POST", "/tasks", {"job_type": "secret"})
    (task,) = (await world.ask("POST", "/poll", {"worker_id": "w", "task_type": "secret"})).json()["tasks"]
    limited = bearer(token(tenant="acme", job_types=["demo"]))
    sneaky = spelled_out(made.json()["id"], "{acme:secret}")
    for (method, path), body in BY_TASK.items():
        if path == "/task":
            continue
        if body is not None and method == "POST":
            body = {"lease_token": task["lease_token"], **body}
        reply = await world.ask(method, path.replace("{id}", sneaky), body, limited)
        assert reply.status_code == 404, (method, path, reply.text)
    assert (await world.ask("GET", f"/tasks/{task['id']}")).json()["status"] == "processing"


async def redis_commands(world: World, ask: Any) -> list[list[str]]:
    """What a request makes Redis do: each script it runs on acme's `demo`, with the commands inside of it."""
    groups: list[list[str]] = []
    sweep = scripts.load(Keys())["expire"].sha.decode()
    async with world.redis.monitor() as monitor:
        await ask()
        await world.redis.echo("enough")
        async for command in monitor.listen():
            text = str(command["command"])
            if text.startswith("ECHO"):
                return [group for group in groups if "acme:demo" in group[0] and sweep not in group[0]]
            if command["client_type"] == "lua" and groups:
                groups[-1].append(text)
            elif text.startswith("EVAL"):
                groups.append([text])
    raise AssertionError("the monitor ended")


@pytest.mark.parametrize("spell", [str, spelled_out])
async def test_a_foreign_id_costs_redis_what_a_missing_one_does(world: World, spell: Any) -> None:
    """The time to answer tells nothing, because the work is the same: command by command."""
    await world.ask("POST", "/tasks", {"job_type": "demo"})
    for script in scripts.load(Keys()).values():
        # Or the first of each pair would bring it along.
        await world.redis.script_load(script.source)
    for state in ("processing", "completed", "pending"):
        foreign, missing = spell(world.tasks[state]), spell(missing_like(world.tasks[state]))
        for (method, path), body in BY_TASK.items():
            if path == "/task" or method == "HEAD":
                continue
            if body is not None and method == "POST":
                body = {"lease_token": world.tokens.get(state, "none"), **body}
            did = []
            for one in (foreign, missing):

                async def ask(one: str = one, method: str = method, path: str = path, body: Any = body) -> None:
                    await world.ask(method, path.replace("{id}", one), body)

                groups = await redis_commands(world, ask)
                did.append([[text.split()[0] for text in group] for group in groups if len(group) < 200])
            assert did[0] == did[1], (state, method, path)
            assert did[0], (method, path)


async def test_a_foreign_name_is_answered_as_one_nobody_has(world: World) -> None:
    await world.workers_noted()
    before = await world.holdings(workers=True)
    fresh = iter(f"n{number:0{len(CANARY) - 1}d}" for number in range(100))
    for (method, path), body in BY_NAME.items():
        if path.startswith("/workers"):
            foreign, missing = "w1", "w2"
        elif path.startswith("/keys"):
            foreign, missing = world.key_id, "0" * len(world.key_id)
        elif path.startswith("/tenants"):
            foreign, missing = "globex", "nobody"
        else:
            foreign, missing = CANARY, next(fresh)
        # PUT and PATCH count a version: each meets a queue of ours that has none yet.
        replies = []
        for one in (foreign, missing):
            target = re.sub(r"\{\w+\}", one, path)
            replies.append(seen(await world.ask(method, target, body, **{"X-Request-Id": "same"}), one))
        first, second = replies
        if path.startswith("/queues") and method in ("PUT", "PATCH", "POST"):
            version = re.compile(r'"version":\d+')
            first, second = ((*one[:1], {}, version.sub("", one[2])) for one in (first, second))
            if path.endswith(("pause", "resume")) or method == "PATCH":
                first, second = (re.sub(r'"(max_processing|paused\w*)":\w+', "", one[2]) for one in (first, second))
        assert first == second, (method, path)
        if path.startswith("/tenants"):
            assert replies[0][0] == 403
    assert await world.holdings(workers=True) == before


async def test_what_takes_all_it_can_get_gets_nothing_of_another_tenant(world: World) -> None:
    before = await world.holdings()
    await world.ask("POST", "/tasks", {"job_type": "demo", "payload": "ours"})
    for (method, path), (target, body) in AT_LARGE.items():
        reply = await world.ask(method, target, body)
        assert CANARY not in reply.text, (method, path)
        assert "globex" not in reply.text, (method, path)
        for task_id in world.tasks.values():
            assert task_id not in reply.text
        if path in ("/keys", "/tenants") and (method, path) != ("GET", "/keys") and method != "HEAD":
            assert (reply.status_code, reply.json()["code"]) == (403, "forbidden_tenant")
        else:
            assert reply.status_code in (200, 201, 204, 403), (method, path, reply.text)
        assert await world.holdings() == before, (method, path)


async def test_counts_are_of_the_tenant_alone(world: World) -> None:
    await world.ask("POST", "/tasks", {"job_type": "demo"})
    queue = (await world.ask("GET", "/queues/demo")).json()
    assert (queue["pending"], queue["completed"], queue["failed"], queue["scheduled"]) == (1, 0, 0, 0)
    assert [one["job_type"] for one in (await world.ask("GET", "/queues")).json()["queues"]] == ["demo"]
    health = (await world.ask("GET", "/health")).json()
    assert (health["queue_depth"], health["processing"], health["failed"], health["workers"]) == (1, 0, 0, 0)
    metrics = (await world.ask("GET", "/metrics")).text
    assert 'tasks_gateway_queue_depth{queue="demo",state="pending"} 1.0' in metrics
    # What a process counts for all tenants is for who looks after all of them.
    assert "http_requests" not in metrics
    assert "http_requests" in (await world.ask("GET", "/metrics", who=admin())).text
    tenant = (await world.ask("GET", "/tenants/acme")).json()
    assert (tenant["queues"], tenant["pending"]) == (1, 1)
    assert (await world.ask("POST", "/tasks/delete", {"filter": {}, "dry_run": True})).json()["matched"] == 1


async def test_keys_of_clients_are_the_tenants_own(world: World) -> None:
    """Idempotency keys, unique keys, poll ids, worker ids: the same text is another thing in another tenant."""
    unique = {"job_type": "demo", "unique_key": "the one", "on_conflict": "reject", "delay_seconds": 5}
    first = await world.ask("POST", "/tasks", unique, **{"Idempotency-Key": "the key"})
    assert first.status_code == 201
    assert "Idempotent-Replayed" not in first.headers
    again = await world.ask("POST", "/tasks", unique, **{"Idempotency-Key": "the key"})
    assert again.headers["Idempotent-Replayed"] == "true"
    poll = {"worker_id": "w5", "task_type": CANARY, "wait": 0, "poll_id": "p"}
    assert (await world.ask("POST", "/poll", poll, THEIRS)).status_code == 200
    assert (await world.ask("POST", "/poll", poll)).status_code == 204
    # Their worker w1 was told to drain; ours of the same name was not.
    directives = []
    for who in (THEIRS, OURS):
        reply = await world.ask("POST", "/heartbeats", {"worker_id": "w1", "leases": []}, who)
        directives.append(reply.json()["directive"])
    assert directives == ["drain", "run"]


async def test_an_open_poll_hears_nothing_of_another_tenants_task(world: World) -> None:
    open_poll = asyncio.create_task(
        world.ask("POST", "/poll", {"worker_id": "w", "task_type": "bell", "wait": 0.5, "max": 10})
    )
    await wait_until(lambda: world.gateway.app.manager.open_polls == 1)
    made = await world.ask("POST", "/tasks", {"job_type": "bell"}, THEIRS)
    assert (await open_poll).status_code == 204
    assert (await world.ask("GET", f"/tasks/{made.json()['id']}", who=THEIRS)).json()["status"] == "pending"


async def test_a_cursor_of_another_tenant_shows_only_ones_own(world: World) -> None:
    for number in range(3):
        await world.ask("POST", "/tasks", {"job_type": "demo", "payload": number})
    cursor = (await world.ask("GET", "/tasks?limit=1", who=THEIRS)).json()["next_cursor"]
    listed = await world.ask("GET", f"/tasks?limit=200&cursor={cursor}")
    assert listed.status_code == 200
    assert CANARY not in listed.text


async def test_a_tenant_is_taken_from_the_token_and_nowhere_else(world: World) -> None:
    names = ("X-Tenant", "X-Tenant-Id", "Tenant", "X-Scope-OrgID", "X-Forwarded-User", "X-Namespace", "Host")
    headers = dict.fromkeys(names, "globex")
    reply = await world.ask("POST", "/tasks", {"job_type": "mine"}, **headers, Cookie="tenant=globex")
    assert reply.status_code == 201
    assert (await world.ask("GET", f"/tasks/{reply.json()['id']}")).status_code == 200
    assert (await world.ask("GET", f"/tasks/{reply.json()['id']}", who=THEIRS)).status_code == 404
    for method, target, body, code in (
        ("POST", "/tasks", {"job_type": "mine", "tenant": "globex"}, "unknown_member"),
        ("POST", "/tasks?tenant=globex", {"job_type": "mine"}, "invalid_parameter"),
        ("GET", "/tasks?tenant=globex", None, "invalid_parameter"),
        ("GET", "/queues?tenant=globex", None, "invalid_parameter"),
        ("GET", "/metrics?tenant=globex", None, "invalid_parameter"),
        ("GET", "/poll?worker_id=w&task_type=demo&tenant=globex", None, "invalid_parameter"),
        ("POST", "/tasks/delete", {"filter": {"tenant": "globex"}}, "unknown_member"),
    ):
        refused = await world.ask(method, target, body)
        assert (refused.status_code, refused.json()["code"]) == (400, code), target


async def test_who_operates_the_whole_keeps_to_its_own_tasks_and_sees_every_tenant(world: World) -> None:
    operator = admin()
    assert (await world.ask("GET", "/tenants", who=operator)).json()["tenants"] == ["globex"]
    assert (await world.ask("GET", "/tenants/globex", who=operator)).json()["pending"] == 4
    assert CANARY in (await world.ask("GET", "/keys", who=operator)).text
    assert (await world.ask("GET", "/tasks", who=operator)).json()["tasks"] == []
    assert (await world.ask("GET", f"/tasks/{world.tasks['pending']}", who=operator)).status_code == 404


# ---- Names.

COLLIDING = (
    "queues", "keys", "tenants", "live", "workers", "workers:globex", "limit", "idempotency", "tenant:acme", "seen",
    "settings", "demo:live", "demo:trail:x", "globex:demo", "arq:queue:demo", "arq:job:x", "tg:queues", "a.b", "a-b",
    "a_b", "A", "a", "0", "ring:gw1", "directives", "api", "default", "null", "proto",
)  # fmt: skip


async def test_names_that_look_like_our_keys_are_names_as_any_other(world: World) -> None:
    before = await world.holdings()
    made = {}
    for name in COLLIDING:
        reply = await world.ask("POST", "/tasks", {"job_type": name, "payload": name, "unique_key": name})
        assert reply.status_code == 201, (name, reply.text)
        made[name] = reply.json()["id"]
        worker = {"worker_id": name, "task_type": name, "poll_id": name, "wait": 0}
        (task,) = (await world.ask("POST", "/poll", worker)).json()["tasks"]
        assert task["payload"] == name
        await world.ask("PUT", f"/queues/{name}", {"max_pending": 5})
    for name, task_id in made.items():
        assert (await world.ask("GET", f"/tasks/{task_id}")).json()["payload"] == name
        listed = (await world.ask("GET", f"/tasks?job_type={name}")).json()["tasks"]
        assert [task["id"] for task in listed] == [task_id]
        assert (await world.ask("GET", f"/queues/{name}")).json()["processing"] == 1
    assert await world.holdings() == before


@pytest.mark.parametrize("tenant", ["workers", "limit", "idempotency", "queues", "keys", "tenants", "arq", "tg", "0"])
async def test_a_tenant_may_be_called_like_our_keys(redis_url: str, tenant: str) -> None:
    """The tags of a tenant called `workers` are those of the workers of a tenant called as its queue."""
    async with live_gateway(redis_url, jwt_secret=SECRET, rate_limit_per_minute=1000) as gateway:
        who, other = admin(tenant), admin("acme")
        poll = {"worker_id": "w", "task_type": "acme", "wait": 0}
        for one in (other, who):
            await gateway.post("/tasks", {"job_type": "acme"}, headers={**one, "Idempotency-Key": "k"})
            await gateway.post("/tasks", {"job_type": "tenant:acme"}, headers=one)
            taken = await gateway.post("/poll", poll, headers=one)
            assert len(taken.json()["tasks"]) == 1
            await gateway.post("/workers/w/stop", headers=one)
        for one in (who, other):
            names = [queue["job_type"] for queue in (await gateway.get("/queues", headers=one)).json()["queues"]]
            assert names == ["acme", "tenant:acme"]
            assert len((await gateway.get("/tasks", headers=one)).json()["tasks"]) == 2
            assert (await gateway.client.delete("/workers/w", headers=one)).json()["released"] == 1


def in_a_queue(prefix: str) -> list[str]:
    """What stands behind a queue's tag in its keys; those that end in a colon go on with clients' text."""
    found = re.findall(r"^local \w+ = OURS \.\. '([a-z]+:?)'$", Keys(prefix).lua_header(), re.MULTILINE)
    assert len(found) > 15
    return found


BEHIND = in_a_queue("tg")


def all_keys(keys: Keys, tenant: str, job_type: str, text: str) -> dict[str, tuple[object, ...]]:
    """Every key that the three make, and what it is for."""
    of = keys.of(Queue(tenant, job_type))
    ours = f"{keys.prefix}:{of.tag}:"
    found: dict[str, tuple[object, ...]] = {of.queue_key.decode(): ("queue", tenant, job_type)}
    for name in BEHIND:
        said = text if name.endswith(":") else ""
        found[ours + name + said] = (name, tenant, job_type, said)
    return found | {
        keys.workers_seen(tenant): ("seen", tenant), keys.worker_facts(tenant): ("facts", tenant),
        keys.worker_directives(tenant): ("directives", tenant), keys.idempotency(tenant, text): ("key", tenant, text),
        keys.bucket(f"tenant:{tenant}", "requests").queue_key.decode(): ("requests", tenant),
        keys.bucket(f"address:{job_type}", "requests").queue_key.decode(): ("requests of", job_type),
        keys.queues: ("queues",), keys.api_keys: ("api keys",), keys.tenants: ("tenants",), keys.schema: ("schema",),
    }  # fmt: skip


WORDS = ("queues", "keys", "tenants", "workers", "limit", "idempotency", "default", "tg", "arq", "a", "b", "0", "live")
TEXTS = ("live", "{a:b}", "a}:live", "*", "[a-z]*", "\n", "x\r\nDEL y", "", "\u0000", "{a:b}:unique:x")


@pytest.mark.parametrize("prefix", ["tg", "a", "tg.2"])
def test_no_two_names_make_one_key(prefix: str) -> None:
    """Each of some 200,000 pairs of (tenant, queue, client's text), each with some thirty keys."""
    chance, keys, known = random.Random(4), Keys(prefix), {}
    letters = string.ascii_letters + string.digits
    for _ in range(650):
        tenant = chance.choice((*WORDS, chance.choice(letters) + chance.choice(letters + "._-")))
        job_type = ":".join(chance.choices((*WORDS, chance.choice(letters + "._-")), k=chance.randint(1, 4)))
        job_type = chance.choice("ab0Z") + job_type if job_type[0] in "._-" else job_type
        text = chance.choice((*TEXTS, job_type, "".join(chance.choices("{}:ab*\r\n ", k=5))))
        for key, purpose in all_keys(keys, tenant, job_type, text).items():
            assert known.setdefault(key, purpose) == purpose, key
        assert keys.queue_of(keys.of(Queue(tenant, job_type)).tag) == Queue(tenant, job_type)


@pytest.mark.parametrize("pattern", ["*", "?", "[a-z]*", "dem[o]", "demo*", "%2A", "d%3Fmo"])
async def test_no_filter_is_a_pattern(world: World, pattern: str) -> None:
    await world.ask("POST", "/tasks", {"job_type": "demo", "tags": {"k": "v"}})
    for target in (f"/tasks?job_type={pattern}", f"/tasks?worker_id={pattern}", f"/tasks?tag=k:{pattern}"):
        reply = await world.ask("GET", target)
        assert reply.status_code == 400 or reply.json()["tasks"] == [], target
