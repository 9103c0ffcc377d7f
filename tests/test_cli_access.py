"""Who may do what, from the command line: the token that is sent, `token`, `keys`, `tenant`, and what is advised."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.command_line import Ended, run
from tests.credentials import OTHER_SECRET, SECRET, bearer, token
from tests.harness import GatewayProcess, LiveGateway, live_gateway


@pytest_asyncio.fixture
async def guarded(redis_url: str) -> AsyncIterator[LiveGateway]:
    """A gateway that takes tokens only."""
    async with live_gateway(redis_url, jwt_secret=SECRET) as one:
        yield one


async def as_admin(gateway: LiveGateway, *arguments: str, **env: str) -> Ended:
    """Run a command with a token that may do everything."""
    return await run(gateway.url, *arguments, GATEWAY_TOKEN=token(scope="admin"), **env)


# Which token is sent


async def test_every_reading_command_sends_the_token(guarded: LiveGateway) -> None:
    reply = await guarded.post("/tasks", {"job_type": "demo"}, headers=bearer(token()))
    id = reply.json()["id"]
    await guarded.client.delete(f"/tasks/{id}", headers=bearer(token()))
    for arguments in (
        ["list"],
        ["queues"],
        ["get", id],
        ["top", "--once"],
        ["tail", id],
        ["queue", "show", "demo"],
    ):
        refused = await run(guarded.url, *arguments)
        assert (refused.code, "unauthenticated" in refused.err) == (1, True), arguments
        assert "GATEWAY_TOKEN" in refused.err
        granted = await run(guarded.url, *arguments, GATEWAY_TOKEN=token(scope="tasks:read"))
        assert granted.err == "", (arguments, granted.err)
        assert granted.code == (1 if arguments[0] == "tail" else 0)  # the task was cancelled


async def test_a_token_file_wins_over_the_environment_and_that_over_the_env_file(
    guarded: LiveGateway, tmp_path: Path
) -> None:
    good, bad = token(), token(OTHER_SECRET)
    (tmp_path / ".env").write_text(f"GATEWAY_TOKEN={good}\n")
    (tmp_path / "good").write_text(good + "\n")
    assert (await run(guarded.url, "queues", folder=tmp_path)).code == 0
    assert (await run(guarded.url, "queues", folder=tmp_path, GATEWAY_TOKEN=bad)).code == 1
    with_file = await run(guarded.url, "queues", "--token-file", "good", folder=tmp_path, GATEWAY_TOKEN=bad)
    assert with_file.code == 0
    assert (await run(guarded.url, "queues", folder=tmp_path, GATEWAY_TOKEN=bad, GATEWAY_TOKEN_FILE="good")).code == 0


async def test_what_is_no_token_is_never_sent_nor_repeated(tmp_path: Path) -> None:
    (tmp_path / "odd").write_text("secret-one\nsecret-two\n")
    for arguments, env in (
        (["--token-file", "odd"], {}), (["--token-file", "none"], {}), ([], {"GATEWAY_TOKEN": "secret one"}),
    ):  # fmt: skip
        ended = await run("http://127.0.0.1:1", "queues", *arguments, folder=tmp_path, **env)
        assert ended.code == 2
        assert "secret" not in ended.err
        assert "Traceback" not in ended.err


async def test_a_refusal_says_what_to_do(redis_url: str) -> None:
    async with live_gateway(redis_url, jwt_secret=SECRET, rate_limit_per_minute=6) as gateway:
        for given, arguments, words in (
            (token(OTHER_SECRET), ["queues"], ["invalid_token", "gateway token"]),
            (token(scope="work"), ["queues"], ["insufficient_scope", "tasks:read", "--scope"]),
            (token(job_types=["other"]), ["enqueue", "demo"], ["forbidden_job_type", "--job-type"]),
            (token(scope="admin", tenant="acme"), ["tenants"], ["forbidden_tenant"]),
        ):
            ended = await run(gateway.url, *arguments, GATEWAY_TOKEN=given)
            assert ended.code == 1
            assert all(word in ended.err for word in words), ended.err
            assert given not in ended.err
        found = [await run(gateway.url, "queues", GATEWAY_TOKEN=token(tenant="busy")) for _ in range(8)]
        assert [one.code for one in found[:6]] == [0] * 6
        assert "rate_limited" in found[-1].err
        assert "wait " in found[-1].err


async def test_a_file_is_enqueued_at_the_pace_that_is_allowed(redis_url: str) -> None:
    async with live_gateway(redis_url, jwt_secret=SECRET, rate_limit_per_minute=60) as gateway:
        headers = bearer(token())
        while (await gateway.get("/queues", headers=headers)).status_code == 200:
            pass
        ended = await run(
            gateway.url, "enqueue", "demo", "--file", "-", stdin="1\n2\n", GATEWAY_TOKEN=headers["Authorization"][7:]
        )
        assert (ended.code, ended.out) == (0, "2 enqueued\n")


# gateway token


async def test_a_token_for_development_is_accepted_as_asked(redis_url: str, tmp_path: Path) -> None:
    settings = {"JWT_SECRET": SECRET, "JWT_ISSUER": "https://issuer", "JWT_AUDIENCE": "us"}
    async with live_gateway(redis_url, jwt_secret=SECRET, jwt_issuer="https://issuer", jwt_audience="us") as gateway:
        made = await run(None, "token", folder=tmp_path, **settings)
        assert (made.code, made.err, len(made.lines)) == (0, "", 1)
        assert (await gateway.get("/queues", headers=bearer(made.lines[0]))).status_code == 200
        assert (await gateway.get("/keys", headers=bearer(made.lines[0]))).status_code == 403
        made = await run(
            None, "token", "--tenant", "acme", "--scope", "tasks:write", "--scope", "tasks:read", "--job-type",
            "mail.*", "--expires-in", "60", "--subject", "me", folder=tmp_path, **settings,
        )  # fmt: skip
        headers = bearer(made.lines[0])
        assert (await gateway.post("/tasks", {"job_type": "mail.send"}, headers=headers)).status_code == 201
        assert (await gateway.post("/tasks", {"job_type": "other"}, headers=headers)).status_code == 403
        assert (
            await gateway.post("/poll", {"worker_id": "w", "task_type": "mail.send"}, headers=headers)
        ).status_code == 403
        mine = (await gateway.get("/tasks", headers=headers)).json()["tasks"]
        assert [one["job_type"] for one in mine] == ["mail.send"]
        of_default = await run(None, "token", folder=tmp_path, **settings)
        assert (await gateway.get("/tasks", headers=bearer(of_default.lines[0]))).json()["tasks"] == []


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        ([], {}, "JWT_SECRET is not set"),
        ([], {"API_KEYS": "true"}, "gateway keys create"),
        (["--scope", "everything"], {"JWT_SECRET": SECRET}, "--scope everything"),
        (["--job-type", "a b"], {"JWT_SECRET": SECRET}, "--job-type a b"),
        (["--tenant", "a/b"], {"JWT_SECRET": SECRET}, "--tenant a/b"),
        (["--expires-in", "0"], {"JWT_SECRET": SECRET}, "--expires-in"),
    ],
)
async def test_a_token_that_cannot_be_made_is_wrong_usage(
    tmp_path: Path, arguments: list[str], env: dict[str, str], words: str
) -> None:
    ended = await run(None, "token", *arguments, folder=tmp_path, **env)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err
    assert SECRET not in ended.err


# gateway keys


async def test_keys_are_made_listed_and_revoked_over_http(guarded: LiveGateway) -> None:
    made = await as_admin(
        guarded, "keys", "create", "ci", "--scope", "tasks:read", "--job-type", "demo.*", "--expires-in", "3600"
    )
    assert made.code == 0
    (secret,) = made.lines
    assert secret.startswith("tgw_")
    assert secret not in made.err
    assert (await run(guarded.url, "list", GATEWAY_TOKEN=secret)).code == 0
    listed = await as_admin(guarded, "keys", "list")
    row = listed.lines[1].split()
    assert row[1:5] == ["ci", "default", "tasks:read", "demo.*"]
    assert row[0] in made.err
    assert secret not in listed.out
    (record,) = json.loads((await as_admin(guarded, "keys", "list", "--json")).out)
    assert record["id"] == row[0]
    assert (await as_admin(guarded, "keys", "revoke", row[0])).out == f"{row[0]} is revoked\n"
    unknown = await as_admin(guarded, "keys", "revoke", row[0])
    assert (unknown.code, "key_not_found" in unknown.err) == (1, True)
    in_json = json.loads((await as_admin(guarded, "keys", "create", "again", "--json")).out)
    assert in_json["scopes"] == ["tasks:write", "tasks:read", "work"]
    assert in_json["key"].startswith("tgw_")


async def test_the_first_key_is_made_in_the_redis_of_the_settings(redis_url: str, tmp_path: Path) -> None:
    settings = {"REDIS_URL": redis_url, "API_KEYS": "true"}
    made = await run(None, "keys", "create", "root", "--local", "--scope", "admin", folder=tmp_path, **settings)
    assert (made.code, len(made.lines)) == (0, 1)
    async with live_gateway(redis_url, api_keys=True) as gateway:
        second = await run(gateway.url, "keys", "create", "second", GATEWAY_TOKEN=made.lines[0])
        assert second.code == 0
        listed = await run(None, "keys", "list", "--local", "--json", folder=tmp_path, **settings)
        by_name = {one["name"]: one for one in json.loads(listed.out)}
        assert set(by_name) == {"root", "second"}
        over_http = await run(gateway.url, "keys", "list", "--json", GATEWAY_TOKEN=made.lines[0])
        assert {one["name"]: one for one in json.loads(over_http.out)} == by_name
        id = by_name["second"]["id"]
        assert (await run(None, "keys", "revoke", id, "--local", folder=tmp_path, **settings)).code == 0
        assert (await run(None, "keys", "revoke", id, "--local", folder=tmp_path, **settings)).code == 1
        assert (await run(gateway.url, "queues", GATEWAY_TOKEN=second.lines[0])).code == 1


async def test_the_first_key_is_made_in_the_embedded_redis_whether_a_gateway_runs_or_not(tmp_path: Path) -> None:
    settings = {"API_KEYS": "true", "DATA_DIR": str(tmp_path / "data")}
    before = await run(None, "keys", "create", "before", "--local", "--scope", "admin", folder=tmp_path, **settings)
    assert before.code == 0, before.err
    gateway = GatewayProcess(None, tmp_path, **settings)
    await gateway.start()
    try:
        meanwhile = await run(None, "keys", "create", "meanwhile", "--local", folder=tmp_path, **settings)
        assert meanwhile.code == 0, meanwhile.err
        for made in (before, meanwhile):
            assert (await run(gateway.url, "queues", GATEWAY_TOKEN=made.lines[0])).code == 0
        assert (await run(gateway.url, "queues")).code == 1
    finally:
        assert await gateway.end() == 0
    listed = await run(None, "keys", "list", "--local", "--json", folder=tmp_path, **settings)
    assert [one["name"] for one in json.loads(listed.out)] == ["before", "meanwhile"]
    # The Redis that was started for the moment is gone: its socket would be there as long as it runs.
    assert not (tmp_path / "data" / "redis.sock").exists()


async def test_a_local_key_is_checked_as_one_over_http(redis_url: str, tmp_path: Path) -> None:
    for arguments in (["x", "--scope", "everything"], ["x", "--tenant", "a/b"], ["", "--scope", "work"]):
        ended = await run(None, "keys", "create", *arguments, "--local", folder=tmp_path, REDIS_URL=redis_url)
        assert (ended.code, ended.out) == (2, ""), ended.err
        assert "Traceback" not in ended.err
    ended = await run(None, "keys", "list", "--local", folder=tmp_path, REDIS_URL="redis://127.0.0.1:1")
    assert (ended.code, "Traceback" in ended.err) == (3, False)


# gateway tenant


async def test_a_tenants_own_limits_are_set_one_by_one_and_taken_back(guarded: LiveGateway) -> None:
    await guarded.post("/tasks", {"job_type": "demo"}, headers=bearer(token(tenant="acme")))
    assert (await as_admin(guarded, "tenants")).lines == ["acme"]
    await as_admin(guarded, "tenant", "set", "acme", "--max-pending", "5")
    shown = await as_admin(guarded, "tenant", "set", "acme", "--rate-limit-per-minute", "600", "--json")
    found = json.loads(shown.out)
    assert (found["limits"]["max_pending"], found["limits"]["rate_limit_per_minute"]) == (5, 600)
    assert (found["pending"], found["queues"]) == (1, 1)
    await as_admin(guarded, "tenant", "set", "acme", "--max-pending", "none")
    told = await as_admin(guarded, "tenant", "show", "acme")
    assert ["max_pending", "none"] in [line.split() for line in told.lines]
    assert "rate_limit_per_minute    600 (its own)" in told.out
    assert (await as_admin(guarded, "tenant", "set", "acme")).code == 2
    assert (await as_admin(guarded, "tenant", "set", "acme", "--max-batch", "many")).code == 2
