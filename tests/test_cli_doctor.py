"""`gateway doctor`: what it finds at fault, and what it says to do about it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.command_line import ESCAPE, run, terminal
from tests.credentials import OTHER_SECRET, SECRET, key_pair, key_set, token
from tests.harness import LiveGateway, RedisServer, live_gateway


async def examine(folder: Path, *, port: str = "0", **env: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run it in a folder. Returns its exit code and the worst finding of each check."""
    ended = await run(None, "doctor", "--json", folder=folder, PORT=port, **env)
    assert ended.err == ""
    found = json.loads(ended.out)
    assert found["ok"] == (ended.code == 0)
    worst: dict[str, dict[str, Any]] = {}
    for one in found["checks"]:
        assert bool(one["do"]) == (one["level"] != "ok"), one
        if one["check"] not in worst or worst[one["check"]]["level"] == "ok":
            worst[one["check"]] = one
    return ended.code, worst


async def test_a_fresh_machine_is_well(tmp_path: Path) -> None:
    code, found = await examine(tmp_path)
    assert code == 0
    assert "problem" not in {one["level"] for one in found.values()}
    assert "embedded" in found["redis"]["text"]
    assert "will be made" in found["data directory"]["text"]
    assert list(tmp_path.iterdir()) == []


async def test_it_reads_well_and_goes_plain_into_a_pipe(tmp_path: Path) -> None:
    ended = await run(None, "doctor", folder=tmp_path, PORT="0", LOG_LEVEL="loud")
    assert ended.code == 1
    assert ESCAPE not in ended.out
    problem = next(number for number, line in enumerate(ended.lines) if line.startswith("problem"))
    assert "LOG_LEVEL" in ended.lines[problem]
    assert ended.lines[problem + 1].strip().startswith("do: ")
    with terminal(None, "doctor", PORT="0", DATA_DIR=str(tmp_path / "data")) as one:
        assert await one.ended() == 0
        assert ESCAPE in one.raw


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ({"TASK_WORKERS": "2", "WORKER_COUNT": "3"}, "TASK_WORKERS and WORKER_COUNT"),
        ({"REDIS_URL": "redis://127.0.0.1", "REDIS_ADDR": "127.0.0.1:6379"}, "set one of them"),
        ({"JWT_SECRET": "x"}, "JWT_SECRET"),
    ],
)
async def test_a_bad_setting_is_a_problem_that_names_it(tmp_path: Path, env: dict[str, str], words: str) -> None:
    code, found = await examine(tmp_path, **env)
    assert code == 1
    assert found["settings"]["level"] == "problem"
    assert words in found["settings"]["text"]


async def test_settings_that_do_nothing_are_warnings_and_an_open_door_is_a_problem(tmp_path: Path) -> None:
    code, found = await examine(tmp_path, DATABASE_URL="postgres://x", HOST="0.0.0.0")
    assert code == 1
    assert found["settings"]["level"] == "warning"
    assert "DATABASE_URL" in found["settings"]["text"]
    assert found["access"]["level"] == "problem"
    assert "AUTH=none" in found["access"]["text"]
    code, found = await examine(tmp_path, HOST="0.0.0.0", AUTH="none")
    assert (code, found["access"]["level"]) == (0, "warning")
    assert "anybody who reaches 0.0.0.0" in found["access"]["text"]


async def test_who_may_do_what_is_said_and_weak_settings_are_warnings(tmp_path: Path) -> None:
    _, found = await examine(tmp_path)
    assert (found["access"]["level"], "anybody on this machine" in found["access"]["text"]) == ("ok", True)
    code, found = await examine(tmp_path, HOST="0.0.0.0", JWT_SECRET=SECRET)
    assert (code, found["access"]["level"]) == (0, "ok")
    assert found["access"]["text"] == "asks who it is: JWT_SECRET, API keys"
    _, found = await examine(tmp_path, JWT_SECRET="a" * 40)
    assert (found["access"]["level"], "guessed" in found["access"]["text"]) == ("warning", True)
    _, found = await examine(tmp_path, JWKS_URL="https://issuer.invalid/keys")
    assert (found["access"]["level"], "JWT_AUDIENCE" in found["access"]["text"]) == ("warning", True)
    (tmp_path / "keys.json").write_bytes(key_set(one=key_pair("EdDSA")))
    _, found = await examine(tmp_path, JWKS_FILE="keys.json", JWT_AUDIENCE="us")
    assert found["access"]["level"] == "ok"
    (tmp_path / "keys.json").write_text("{}")
    code, found = await examine(tmp_path, JWKS_FILE="keys.json", JWT_AUDIENCE="us")
    assert (code, found["access"]["level"]) == (1, "problem")
    (tmp_path / ".env").write_text(f"JWT_SECRET={SECRET}\n")
    (tmp_path / ".env").chmod(0o644)
    _, found = await examine(tmp_path)
    assert (found["access"]["level"], found["access"]["do"]) == ("warning", "chmod 600 .env")
    assert SECRET not in json.dumps(found)
    (tmp_path / ".env").chmod(0o600)
    _, found = await examine(tmp_path)
    assert found["access"]["level"] == "ok"


async def test_the_token_that_commands_would_send_is_tried(redis_url: str, tmp_path: Path) -> None:
    async with live_gateway(redis_url, jwt_secret=SECRET) as gateway:
        settings = {"port": str(gateway.port), "HOST": "127.0.0.1", "JWT_SECRET": SECRET}
        for given, level in (("", "warning"), (token(OTHER_SECRET), "warning"), (token(scope="work"), "ok")):
            _, found = await examine(tmp_path, **settings, GATEWAY_TOKEN=given)
            assert found["token"]["level"] == level
            assert not given or given not in json.dumps(found)


async def test_an_unreachable_redis_is_a_problem_without_its_password(tmp_path: Path) -> None:
    code, found = await examine(tmp_path, REDIS_URL="redis://user:secret@127.0.0.1:1/0")
    assert code == 1
    assert found["redis"]["level"] == "problem"
    assert "127.0.0.1:1" in found["redis"]["text"]
    assert "secret" not in json.dumps(found)
    code, found = await examine(tmp_path, REDIS_URL="http://127.0.0.1")
    assert (code, found["redis"]["level"]) == (1, "problem")


async def test_a_bad_maxmemory_policy_is_what_redis_check_says_once_it_can_evict(
    tmp_path: Path, private_redis: RedisServer
) -> None:
    async with Redis.from_url(private_redis.url) as redis:
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        # It cannot yet: the gateway does not complain.
        settings = {"REDIS_URL": private_redis.url, "DURABILITY": "memory"}
        code, found = await examine(tmp_path, **settings, REDIS_CHECK="refuse")
        assert (code, found["maxmemory-policy"]["level"]) == (0, "warning")
        await redis.config_set("maxmemory", 100_000_000)
        code, found = await examine(tmp_path, **settings)
        assert (code, found["maxmemory-policy"]["level"]) == (0, "warning")
        code, found = await examine(tmp_path, **settings, REDIS_CHECK="refuse")
        assert (code, found["maxmemory-policy"]["level"]) == (1, "problem")
        assert "allkeys-lru" in found["maxmemory-policy"]["text"]
        assert "noeviction" in found["maxmemory-policy"]["do"]


async def test_a_redis_that_forgets_is_a_warning_or_a_problem_as_redis_check_says(
    tmp_path: Path, private_redis: RedisServer
) -> None:
    code, found = await examine(tmp_path, REDIS_URL=private_redis.url)
    assert (code, found["persistence"]["level"]) == (0, "warning")
    code, found = await examine(tmp_path, REDIS_URL=private_redis.url, REDIS_CHECK="refuse")
    assert (code, found["persistence"]["level"]) == (1, "problem")
    # The gateway is ready with it then, so doctor is content, too.
    settings = {"REDIS_URL": private_redis.url, "REDIS_CHECK": "refuse", "DURABILITY": "memory"}
    code, found = await examine(tmp_path, **settings)
    assert (code, found["persistence"]["level"]) == (0, "ok")
    assert "appendonly is off" in found["persistence"]["text"]
    async with Redis.from_url(private_redis.url) as redis:
        await redis.config_set("appendonly", "yes")
        code, found = await examine(tmp_path, REDIS_URL=private_redis.url, REDIS_CHECK="refuse")
        assert (code, found["persistence"]["level"]) == (0, "ok")
    assert {found[check]["level"] for check in ("redis version", "clock", "latency")} <= {"ok", "warning"}


async def test_what_makes_the_gateway_refuse_every_change_is_a_problem_whatever_redis_check_says(
    tmp_path: Path, private_redis: RedisServer
) -> None:
    code, found = await examine(tmp_path, REDIS_URL=private_redis.url, DURABILITY="replicated")
    assert (code, found["replication"]["level"]) == (1, "problem")
    assert "no replica" in found["replication"]["text"]


async def test_doctor_says_of_redis_what_health_says(tmp_path: Path, private_redis: RedisServer) -> None:
    async with Redis.from_url(private_redis.url) as redis:
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        await redis.config_set("maxmemory", 100_000_000)
    async with live_gateway(private_redis.url, jwt_secret=SECRET) as gateway:
        told = (await gateway.get("/health")).json()["warnings"]
    _, found = await examine(tmp_path, REDIS_URL=private_redis.url)
    bad = [found[check] for check in ("maxmemory-policy", "persistence")]
    assert [f"{one['text']}; {one['do']}" for one in bad] == told


async def test_a_redis_that_is_nearly_full_is_a_warning(tmp_path: Path, private_redis: RedisServer) -> None:
    async with Redis.from_url(private_redis.url) as redis:
        await redis.config_set("maxmemory", (await redis.info("memory"))["used_memory"])
    code, found = await examine(tmp_path, REDIS_URL=private_redis.url)
    assert (code, found["memory"]["level"]) == (0, "warning")


async def test_a_missing_password_is_told_apart_from_a_missing_redis(
    tmp_path: Path, private_redis: RedisServer
) -> None:
    async with Redis.from_url(private_redis.url) as redis:
        await redis.config_set("requirepass", "secret")
    code, found = await examine(tmp_path, REDIS_URL=private_redis.url)
    assert code == 1
    assert "REDIS_PASSWORD" in found["redis"]["do"]
    code, found = await examine(tmp_path, REDIS_URL=private_redis.url, REDIS_PASSWORD="secret")
    assert (code, found["redis"]["level"]) == (0, "ok")


async def test_a_gateway_on_the_port_is_asked_how_it_is(gateway: LiveGateway, tmp_path: Path) -> None:
    code, found = await examine(tmp_path, port=str(gateway.port), HOST="127.0.0.1")
    assert code == 0
    # The tests' Redis has no append-only file, of which the gateway warns.
    assert (found["gateway"]["level"], "appendonly" in found["gateway"]["text"]) == ("warning", True)
    gateway.app.manager.close()
    code, found = await examine(tmp_path, port=str(gateway.port), HOST="127.0.0.1")
    assert (code, found["gateway"]["level"]) == (1, "problem")
    assert "draining" in found["gateway"]["text"]


async def test_another_program_on_the_port_is_a_problem(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = str(server.sockets[0].getsockname()[1])
        code, found = await examine(tmp_path, port=port)
    assert (code, found["port"]["level"]) == (1, "problem")
    assert port in found["port"]["text"]
    code, found = await examine(tmp_path, port=port)
    assert (code, found["port"]["level"]) == (0, "ok")


async def test_a_data_directory_that_cannot_serve_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    code, found = await examine(tmp_path, DATA_DIR=str(file))
    assert (code, found["data directory"]["level"]) == (1, "problem")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "other").write_text("")
    shared.chmod(0o755)
    code, found = await examine(tmp_path, DATA_DIR=str(shared))
    assert (code, found["data directory"]["level"]) == (1, "problem")
    assert "open to other users" in found["data directory"]["text"]


async def test_too_few_open_files_for_the_polls_is_a_warning(tmp_path: Path) -> None:
    code, found = await examine(tmp_path, MAX_OPEN_POLLS="100000000")
    assert (code, found["open files"]["level"]) == (0, "warning")
    code, found = await examine(tmp_path, MAX_OPEN_POLLS="10")
    assert (code, found["open files"]["level"]) == (0, "ok")
