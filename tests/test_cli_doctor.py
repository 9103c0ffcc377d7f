"""`gateway doctor`: what it finds at fault, and what it says to do about it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.command_line import ESCAPE, run, terminal
from tests.harness import LiveGateway, RedisServer


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


async def test_settings_that_do_nothing_and_an_open_door_are_warnings(tmp_path: Path) -> None:
    code, found = await examine(tmp_path, DATABASE_URL="postgres://x", HOST="0.0.0.0")
    assert code == 0
    assert found["settings"]["level"] == "warning"
    assert "DATABASE_URL" in found["settings"]["text"]
    assert found["access"]["level"] == "warning"


async def test_an_unreachable_redis_is_a_problem_without_its_password(tmp_path: Path) -> None:
    code, found = await examine(tmp_path, REDIS_URL="redis://user:secret@127.0.0.1:1/0")
    assert code == 1
    assert found["redis"]["level"] == "problem"
    assert "127.0.0.1:1" in found["redis"]["text"]
    assert "secret" not in json.dumps(found)
    code, found = await examine(tmp_path, REDIS_URL="http://127.0.0.1")
    assert (code, found["redis"]["level"]) == (1, "problem")


async def test_a_bad_maxmemory_policy_is_a_problem_once_it_can_evict(
    tmp_path: Path, private_redis: RedisServer
) -> None:
    async with Redis.from_url(private_redis.url) as redis:
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        code, found = await examine(tmp_path, REDIS_URL=private_redis.url)
        assert (code, found["maxmemory-policy"]["level"]) == (0, "warning")
        await redis.config_set("maxmemory", 100_000_000)
        code, found = await examine(tmp_path, REDIS_URL=private_redis.url)
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
    async with Redis.from_url(private_redis.url) as redis:
        await redis.config_set("appendonly", "yes")
        code, found = await examine(tmp_path, REDIS_URL=private_redis.url, REDIS_CHECK="refuse")
        assert (code, found["persistence"]["level"]) == (0, "ok")
    assert {found[check]["level"] for check in ("redis version", "clock", "latency")} <= {"ok", "warning"}


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
