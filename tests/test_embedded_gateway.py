"""`gateway run` and `gateway serve` in an empty directory, with the Redis they bring along; and how they stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.harness import GatewayProcess, wait_until


class Folder:
    """A directory with gateways and the one redis-server they share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gateways: list[GatewayProcess] = []

    async def start(self, *arguments: str, **env: str) -> tuple[GatewayProcess, httpx.AsyncClient]:
        """Start a gateway here, without any Redis configured."""
        gateway = GatewayProcess(None, self.path, *arguments, **env)
        self.gateways.append(gateway)
        await gateway.start()
        return gateway, httpx.AsyncClient(base_url=gateway.url, timeout=40)

    def servers(self) -> list[int]:
        """The process ids of the redis-servers that run here."""
        found = []
        for entry in Path("/proc").iterdir() if Path("/proc/self/cwd").exists() else ():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                name = (entry / "comm").read_text()
                if "redis" in name and Path(os.readlink(entry / "cwd")).is_relative_to(self.path):
                    found.append(pid)
        return found

    async def end(self) -> None:
        """Kill what is left."""
        for gateway in self.gateways:
            if gateway.process is not None:
                await gateway.end(signal.SIGKILL)
        for pid in self.servers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest_asyncio.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Folder]:
    one = Folder(tmp_path.resolve())
    yield one
    await one.end()


async def enqueue(client: httpx.AsyncClient, **members: Any) -> dict[str, Any]:
    """Enqueue a `demo` task."""
    reply = await client.post("/tasks", json={"job_type": "demo", **members})
    assert reply.status_code == 201, reply.text
    task: dict[str, Any] = reply.json()
    return task


async def poll(client: httpx.AsyncClient, **members: Any) -> list[dict[str, Any]]:
    """Poll for `demo`; no tasks for 204."""
    reply = await client.post("/poll", json={"worker_id": "w1", "task_type": "demo", "wait": 0, **members})
    assert reply.status_code in (200, 204), reply.text
    tasks: list[dict[str, Any]] = reply.json()["tasks"] if reply.status_code == 200 else []
    return tasks


@pytest.mark.parametrize("command", ["run", "serve"])
async def test_it_works_in_an_empty_directory(folder: Folder, command: str) -> None:
    gateway, client = await folder.start(command)
    async with client:
        task = await enqueue(client, payload={"hello": "world"})
        (got,) = await poll(client)
        assert (got["id"], got["payload"]) == (task["id"], {"hello": "world"})
        assert [one for one in (await client.get("/health")).json()["warnings"] if "no authentication" not in one] == []
    assert (folder.path / "data").is_dir()
    assert await gateway.end() == 0
    assert folder.servers() == []


async def test_run_tells_what_to_try(folder: Folder) -> None:
    gateway, client = await folder.start("run")
    async with client:
        reply = await client.post("/tasks", json={"title": "My first task"}, headers={"Prefer": "wait=10"})
        assert reply.json()["status"] == "completed"
    assert await gateway.end() == 0
    told = gateway.log.read_text()
    assert f"curl -s {gateway.url}/tasks" in told
    assert f"curl -s '{gateway.url}/poll?worker_id=me&task_type=demo'" in told


async def test_tasks_and_leases_survive_a_graceful_restart(folder: Folder) -> None:
    gateway, client = await folder.start("serve")
    async with client:
        await enqueue(client, payload="held")
        (held,) = await poll(client)
        await enqueue(client, payload="waiting")
        await enqueue(client, payload="later", delay_seconds=3600)
    assert await gateway.end() == 0
    gateway, client = await folder.start("serve")
    async with client:
        assert [task["payload"] for task in await poll(client, max=5)] == ["waiting"]
        reply = await client.post(f"/tasks/{held['id']}/complete", json={"lease_token": held["lease_token"]})
        assert reply.status_code == 200
        later = (await client.get("/tasks?status=scheduled")).json()["tasks"]
        assert [task["payload"] for task in later] == ["later"]


async def test_every_acknowledged_task_survives_kill_9_of_everything(folder: Folder) -> None:
    gateway, client = await folder.start("serve")
    acknowledged: set[str] = set()

    async def produce() -> None:
        with contextlib.suppress(httpx.HTTPError):
            while True:
                acknowledged.add((await enqueue(client))["id"])

    async with client:
        producers = [asyncio.create_task(produce()) for _ in range(8)]
        await wait_until(lambda: len(acknowledged) > 100)
        (server,) = folder.servers()
        os.kill(server, signal.SIGKILL)
        await gateway.end(signal.SIGKILL)
        await asyncio.gather(*producers, return_exceptions=True)
    gateway, client = await folder.start("serve")
    async with client:
        stored = {task["id"] for task in await poll(client, max=1000)}
        assert len(acknowledged) < 1000
        assert acknowledged <= stored


async def test_a_killed_server_comes_back_by_itself(folder: Folder) -> None:
    _, client = await folder.start("serve")
    async with client:
        task = await enqueue(client)
        (server,) = folder.servers()
        os.kill(server, signal.SIGKILL)

        async def polled() -> list[dict[str, Any]]:
            reply = await client.get("/poll?worker_id=w1&task_type=demo&wait=1")
            assert reply.status_code in (200, 503), reply.text
            return reply.json()["tasks"] if reply.status_code == 200 else []

        assert [one["id"] for one in await wait_until(polled)] == [task["id"]]


async def test_two_gateways_in_one_directory_share_one_server(folder: Folder) -> None:
    first, one = await folder.start("serve")
    second, two = await folder.start("serve")
    async with one, two:
        assert len(folder.servers()) == 1
        waiting = asyncio.create_task(poll(two, wait=20))

        async def is_open() -> bool:
            return (await two.get("/health")).json()["open_polls"] == 1

        await wait_until(is_open)
        task = await enqueue(one)
        assert [got["id"] for got in await asyncio.wait_for(waiting, 2)] == [task["id"]]
        # The one that started the server leaves: the server stays with the other.
        assert await first.end() == 0
        assert len(folder.servers()) == 1
        assert (await enqueue(two))["status"] == "pending"
    assert await second.end() == 0
    assert folder.servers() == []


async def test_several_processes_share_one_server(folder: Folder) -> None:
    gateway, client = await folder.start("serve", "--processes", "2")
    async with client:
        assert len(folder.servers()) == 1
        await enqueue(client)
        assert len(await poll(client, wait=2)) == 1
    assert await gateway.end() == 0
    assert folder.servers() == []


async def test_a_signal_during_the_start_leaves_no_server_behind(folder: Folder) -> None:
    for _ in range(3):
        starting = asyncio.create_task(folder.start("serve"))
        await wait_until(folder.servers)
        gateway = folder.gateways[-1]
        gateway.send_signal(signal.SIGTERM)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        assert gateway.process is not None
        assert await asyncio.to_thread(gateway.process.wait, 5) in (0, 143)
        assert folder.servers() == []


async def test_1000_open_polls_go_home_on_sigterm(redis_url: str, tmp_path: Path) -> None:
    gateway = GatewayProcess(redis_url, tmp_path)
    await gateway.start()
    body = b'{"worker_id":"w1","task_type":"demo","wait":50}'
    head = b"POST /poll HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    connections = []
    for _ in range(1000):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(head + body)
        connections.append((reader, writer))
    async with httpx.AsyncClient(base_url=gateway.url) as client:

        async def all_open() -> bool:
            return (await client.get("/health")).json()["open_polls"] == 1000

        await wait_until(all_open)
    started = time.monotonic()
    gateway.send_signal(signal.SIGTERM)
    statuses = await asyncio.gather(*(reader.readline() for reader, _ in connections))
    took_seconds = time.monotonic() - started
    for _, writer in connections:
        writer.close()
    assert set(statuses) == {b"HTTP/1.1 204 No Content\r\n"}
    assert took_seconds < 3
    assert gateway.process is not None
    assert await asyncio.to_thread(gateway.process.wait, 5) == 0


async def test_a_second_signal_ends_it_now(redis_url: str, tmp_path: Path) -> None:
    gateway = GatewayProcess(redis_url, tmp_path, TASK_WORKERS="1", SHUTDOWN_TIMEOUT_SECONDS="30")
    await gateway.start()
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        for _ in range(3):
            await client.post("/tasks", json={"title": "work", "lease_seconds": 60})

        async def runs() -> bool:
            return (await client.get("/health")).json()["processing"] == 1

        await wait_until(runs)
    gateway.send_signal(signal.SIGTERM)

    def draining() -> bool:
        return "draining the pool" in gateway.log.read_text()

    await wait_until(draining)
    started = time.monotonic()
    await gateway.end(signal.SIGTERM, 5)
    assert time.monotonic() - started < 1
