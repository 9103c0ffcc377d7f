"""API keys: made, listed, ended, revoked; what one may do; and that nobody but its maker ever sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.credentials import SECRET, admin, bearer, token
from tests.harness import Clock, LiveGateway, live_gateway, wait_until
from tests.log_lines import log_lines


@pytest_asyncio.fixture
async def gateway(redis_url: str, clock: Clock) -> AsyncIterator[LiveGateway]:
    """A gateway that takes HS256 tokens and API keys, and goes by the hand-moved clock."""
    async with live_gateway(redis_url, clock=clock, jwt_secret=SECRET) as one:
        yield one


async def make(gateway: LiveGateway, who: dict[str, str] | None = None, **members: Any) -> dict[str, Any]:
    """Make a key that may do everything but administer, unless `members` say otherwise."""
    wanted = {"name": "ci", "scopes": ["tasks:write", "tasks:read", "work"], **members}
    reply = await gateway.post("/keys", wanted, headers=who or admin("acme"))
    assert reply.status_code == 201, reply.text
    made: dict[str, Any] = reply.json()
    return made


async def status(gateway: LiveGateway, key: str, path: str = "/tasks") -> int:
    return (await gateway.get(path, headers=bearer(key))).status_code


async def test_a_key_works_for_its_tenant_and_is_listed_without_its_secret(gateway: LiveGateway) -> None:
    made = await make(gateway)
    assert made["key"].startswith("tgw_")
    assert len(made["key"]) == 4 + 43
    reply = await gateway.post("/tasks", {"job_type": "demo"}, headers=bearer(made["key"]))
    assert reply.status_code == 201
    path = f"/tasks/{reply.json()['id']}"
    assert (await gateway.get(path, headers=admin("acme"))).status_code == 200
    assert (await gateway.get(path, headers=admin("globex"))).status_code == 404
    (listed,) = (await gateway.get("/keys", headers=admin("acme"))).json()["keys"]
    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert (await gateway.get("/keys", headers=admin("globex"))).json()["keys"] == []


async def test_two_keys_never_look_alike(gateway: LiveGateway) -> None:
    made = [await make(gateway, name="same") for _ in range(20)]
    assert len({one["key"] for one in made}) == len({one["id"] for one in made}) == 20
    assert not any(one["id"] in one["key"] for one in made)


async def test_a_key_ends_by_the_clock(gateway: LiveGateway, clock: Clock) -> None:
    made = await make(gateway, expires_in_seconds=60)
    assert made["expires_at"] is not None
    assert await status(gateway, made["key"]) == 200
    clock.advance(60)

    async def over() -> bool:
        return await status(gateway, made["key"]) == 401

    # A gateway remembers for two seconds whom it let in.
    await wait_until(over, 5)
    (listed,) = (await gateway.get("/keys", headers=admin("acme"))).json()["keys"]
    assert listed["expired"] is True
    fresh = await make(gateway, expires_in_seconds=1)
    clock.advance(1)
    assert await status(gateway, fresh["key"]) == 401


async def test_a_revoked_key_is_refused_by_every_gateway_within_two_seconds(redis_url: str) -> None:
    async with live_gateway(redis_url, jwt_secret=SECRET) as one, live_gateway(redis_url, jwt_secret=SECRET) as two:
        made = await make(one)
        assert await status(one, made["key"]) == await status(two, made["key"]) == 200
        gone = await one.client.delete(f"/keys/{made['id']}", headers=admin("acme"))
        assert (gone.status_code, gone.json()) == (200, {"id": made["id"], "revoked": True})

        async def refused() -> bool:
            return await status(one, made["key"]) == await status(two, made["key"]) == 401

        await wait_until(refused, 3)
        assert (await one.get("/keys", headers=admin("acme"))).json()["keys"] == []
        again = await two.client.delete(f"/keys/{made['id']}", headers=admin("acme"))
        assert (again.status_code, again.json()["code"]) == (404, "key_not_found")


async def test_a_secret_is_shown_once_and_stands_nowhere(gateway: LiveGateway, redis: Redis) -> None:
    """Not in Redis, not in what is sent to it, not in a list, an error, a metric or a log."""
    with log_lines() as lines:
        async with redis.monitor() as monitor:
            made = await make(gateway, scopes=["admin"])
            secret = made["key"]
            replies = [
                await gateway.get("/tasks", headers=bearer(secret)),
                await gateway.get("/keys", headers=bearer(secret)),
                await gateway.get("/keys", headers=bearer(secret + "x")),
                await gateway.get(f"/tasks?limit={secret}", headers=bearer(secret)),
                await gateway.post("/poll", {"worker_id": "w", "task_type": "demo", "wait": 0}, headers=bearer(secret)),
                await gateway.post("/workers/w/stop", headers=bearer(secret)),
                await gateway.get("/metrics", headers=admin()),
                await gateway.client.delete(f"/keys/{made['id']}", headers=bearer(secret)),
            ]
            await redis.echo("enough")
            async for command in monitor.listen():
                assert secret[4:] not in command["command"]
                if command["command"].startswith("ECHO"):
                    break
        for reply in replies:
            assert secret[4:] not in reply.text
            assert secret[4:] not in str(reply.headers)
        await make(gateway)
        async for key in redis.scan_iter(count=1000):
            assert secret[4:].encode() not in key + (await redis.dump(key) or b"")
    assert lines.json
    assert not [line for line in (*lines.json, *lines.text) if secret[4:] in line]


async def test_a_key_does_what_its_scopes_say(gateway: LiveGateway) -> None:
    routes = {
        "tasks:write": ("POST", "/tasks/cancel"),
        "tasks:read": ("GET", "/tasks"),
        "work": ("GET", "/poll?worker_id=w&task_type=demo&wait=0"),
        "admin": ("GET", "/keys"),
    }
    for scope in routes:
        made = await make(gateway, scopes=[scope])
        for needed, (method, path) in routes.items():
            reply = await gateway.client.request(method, path, headers=bearer(made["key"]))
            expected = scope in (needed, "admin")
            assert (reply.status_code != 403) is expected, (scope, path)
            assert expected or reply.json()["code"] == "insufficient_scope"


async def test_a_key_limited_to_job_types_touches_no_other_queue(gateway: LiveGateway) -> None:
    made = await make(gateway, job_types=["mail.*", "image"])
    assert made["job_types"] == ["mail.*", "image"]
    for job_type, expected in (("mail.send", 201), ("image", 201), ("images", 403), ("mail", 403), ("*", 400)):
        reply = await gateway.post("/tasks", {"job_type": job_type}, headers=bearer(made["key"]))
        assert reply.status_code == expected, job_type
    poll = {"worker_id": "w", "task_type": ["image", "secret"], "wait": 0}
    assert (await gateway.post("/poll", poll, headers=bearer(made["key"]))).status_code == 403


async def test_who_may_make_which_key(gateway: LiveGateway) -> None:
    new = {"name": "x", "scopes": ["work"]}
    refused = [
        (bearer(token(tenant="acme")), new, "insufficient_scope"),
        (bearer(token(tenant="acme", scope="tasks:write tasks:read work")), new, "insufficient_scope"),
        (admin("acme"), {**new, "tenant": "globex"}, "forbidden_tenant"),
        (admin("acme"), {**new, "tenant": "default"}, "forbidden_tenant"),
        (bearer(token(tenant="acme", scope="admin", job_types=["a"])), new, "forbidden_job_type"),
        # Who is limited to some queues of the default tenant does not operate the whole.
        (bearer(token(scope="admin", job_types=["a"])), {**new, "tenant": "globex"}, "forbidden_job_type"),
    ]
    for who, body, code in refused:
        reply = await gateway.post("/keys", body, headers=who)
        assert (reply.status_code, reply.json()["code"]) == (403, code)
    assert (await gateway.get("/keys", headers=admin())).json()["keys"] == []
    assert (await make(gateway, admin("acme"), tenant="acme"))["tenant"] == "acme"
    made = await make(gateway, admin(), tenant="globex", scopes=["admin"])
    # A key that may administer its tenant makes keys of that one, and no other.
    assert (await make(gateway, bearer(made["key"])))["tenant"] == "globex"
    for tenant in ("acme", "default"):
        reply = await gateway.post("/keys", {**new, "tenant": tenant}, headers=bearer(made["key"]))
        assert reply.status_code == 403
    (acme,) = (await gateway.get("/keys", headers=admin("acme"))).json()["keys"]
    assert (await gateway.client.delete(f"/keys/{acme['id']}", headers=bearer(made["key"]))).status_code == 404
    assert len((await gateway.get("/keys", headers=admin())).json()["keys"]) == 3
    assert (await gateway.client.delete(f"/keys/{acme['id']}", headers=admin())).status_code == 200


def wrong_keys(key: str) -> dict[str, str]:
    """Ways to spell a key that is none."""
    flipped = "A" if key[-1] != "A" else "B"
    return {
        "another prefix": "tgx_" + key[4:],
        "no prefix": key[4:],
        "the prefix alone": "tgw_",
        "upper case": key.upper(),
        "the last letter": key[:-1] + flipped,
        "cut short": key[:-1],
        "longer": key + "A",
        "twice": key + key,
        "a space inside": key[:20] + " " + key[20:],
        "padding": key + "=",
        "a wrong secret": "tgw_" + "A" * 43,
        "ten thousand letters": "tgw_" + "A" * 8000,
        "a percent": key[:10] + "%41" + key[11:],
    }


async def test_a_key_is_right_as_a_whole_or_not_at_all(gateway: LiveGateway) -> None:
    made = await make(gateway)
    assert await status(gateway, made["key"]) == 200
    answers = set()
    for name, wrong in wrong_keys(made["key"]).items():
        reply = await gateway.get("/tasks", headers={"Authorization": f"Bearer {wrong}"})
        assert reply.status_code == 401, name
        problem = reply.json()
        answers.add((problem["code"], problem["detail"], reply.headers["WWW-Authenticate"]))
    # Nobody is told which half of a key was right.
    assert len(answers) == 1
    raw = made["key"].encode()
    for wrong_bytes in (raw.replace(raw[-1:], b"\xb2"), b"\xef\xbb\xbf" + raw, raw[:-1] + "\u0661".encode()):
        reply = await gateway.client.get("/tasks", headers={"Authorization": b"Bearer " + wrong_bytes})
        assert reply.status_code == 401


async def test_a_key_is_taken_from_its_header_alone(gateway: LiveGateway) -> None:
    key = (await make(gateway, scopes=["admin"]))["key"]
    for target in (f"/tasks?key={key}", f"/tasks?api_key={key}", f"/tasks?access_token={key}"):
        assert (await gateway.get(target)).status_code == 401
    for headers in (
        {"Cookie": f"key={key}; Authorization=Bearer {key}"}, {"X-Api-Key": key}, {"Api-Key": key},
        {"Authorization": key}, {"Authorization": f"Basic {key}"}, {"Authorization": f"ApiKey {key}"},
        {"Proxy-Authorization": f"Bearer {key}"}, {"X-Authorization": f"Bearer {key}"},
    ):  # fmt: skip
        assert (await gateway.get("/tasks", headers=headers)).status_code == 401, headers
    reply = await gateway.post("/tasks", {"job_type": "demo", "payload": {"key": key}, "title": f"Bearer {key}"})
    assert reply.status_code == 401


@pytest.mark.parametrize("api_keys", [True, False])
async def test_keys_are_taken_where_they_are_asked_for(redis_url: str, redis: Redis, api_keys: bool) -> None:
    """API_KEYS alone asks for a key; a gateway that asks nobody lets everybody in, whatever they carry."""
    async with live_gateway(redis_url, api_keys=api_keys) as gateway:
        secret, _ = await gateway.app.api_keys.create("ci", "acme", ("tasks:write", "tasks:read"))
        assert (await gateway.get("/tasks")).status_code == (401 if api_keys else 200)
        assert await status(gateway, secret) == 200
        assert await status(gateway, token(tenant="acme")) == (401 if api_keys else 200)
        made = await gateway.post("/tasks", {"job_type": "demo"}, headers=bearer(secret))
        tenant = b"acme" if api_keys else b"default"
        assert await redis.exists(b"arq:queue:{%b:demo}" % tenant)
        assert made.status_code == 201


async def test_a_poll_that_was_open_when_its_key_was_revoked_gets_nothing(redis_url: str) -> None:
    async with live_gateway(redis_url, jwt_secret=SECRET) as gateway:
        made = (await gateway.post("/keys", {"name": "w", "scopes": ["work"]}, headers=admin())).json()
        held = asyncio.create_task(
            gateway.post("/poll", {"worker_id": "w", "task_type": "demo", "wait": 30}, headers=bearer(made["key"]))
        )
        await wait_until(lambda: gateway.app.manager.open_polls == 1)
        begun = time.monotonic()
        assert (await gateway.client.delete(f"/keys/{made['id']}", headers=admin())).status_code == 200
        await wait_until(lambda: time.monotonic() - begun > 2.2)
        task = (await gateway.post("/tasks", {"job_type": "demo"}, headers=admin())).json()
        assert (await held).status_code == 401

        async def back() -> bool:
            found = (await gateway.get(f"/tasks/{task['id']}", headers=admin())).json()
            return found["status"] == "pending" and found["attempt"] == 0

        await wait_until(back)
