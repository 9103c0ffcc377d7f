"""Lanes to Redis: whose turn it is, and what an idle connection that was cut off costs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import uvloop

from gateway.tasks import Queue
from tests import lives
from tests.harness import RedisServer, Store, wait_until

# The two loops differ where connections end. The hook that replaces this fixture can only be set for all test files.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture:DeprecationWarning")
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()


class Forwarder:
    """Passes connections on to Redis, until it resets them."""

    def __init__(self, redis_server: RedisServer) -> None:
        self._redis_server = redis_server
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(str(self._redis_server.socket))
        self._writers += (writer, up_writer)
        for source, sink in ((reader, up_writer), (up_reader, writer)):
            pump = asyncio.ensure_future(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()

    async def reset(self) -> None:
        """Answer nothing more on any connection: a RST for each."""
        for writer in self._writers:
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()
        self._writers.clear()
        await wait_until(lambda: not self._pumps)


@contextlib.asynccontextmanager
async def forwarding(redis_server: RedisServer) -> AsyncIterator[Forwarder]:
    forwarder = Forwarder(redis_server)
    server = await asyncio.start_server(forwarder.accept, "127.0.0.1", 0)
    forwarder.port = server.sockets[0].getsockname()[1]
    try:
        yield forwarder
    finally:
        await forwarder.reset()
        server.close()
        await server.wait_closed()


async def test_an_idle_connection_that_was_reset_costs_no_request(redis_server: RedisServer, redis_url: str) -> None:
    tenants = [Queue(tenant, "demo") for tenant in ("a", "b")]
    async with forwarding(redis_server) as forwarder:
        store = Store(f"redis://127.0.0.1:{forwarder.port}")
        for queue in tenants:
            await lives.enqueue(store, queue)
        link = store.tasks._lanes["enqueue"]._link  # type: ignore[attr-defined]
        before = link._connection
        await forwarder.reset()
        await wait_until(lambda: before._writer.transport.is_closing())
        # More than one turn carries, so that some wait for the next.
        async with asyncio.timeout(10):
            await asyncio.gather(*(lives.enqueue(store, queue) for queue in tenants for _ in range(20)))
            await asyncio.gather(*(lives.enqueue(store, queue) for queue in tenants))
        assert link._connection is not before
        await store.close()


async def test_one_busy_queue_of_a_tenant_does_not_starve_its_others(store: Store) -> None:
    """While another tenant is active, too, and each has but a share of every call."""
    await lives.enqueue(store, Queue("b", "demo"))
    await lives.enqueue(store, Queue("a", "busy"))
    done: list[str] = []

    async def enqueue(tenant: str, job_type: str) -> None:
        await lives.enqueue(store, Queue(tenant, job_type))
        done.append(job_type)

    asked = [enqueue("a", "busy") for _ in range(200)] + [enqueue("a", "quiet"), enqueue("b", "other")]
    await asyncio.gather(*asked)
    assert len(done) == 202
    assert done.index("quiet") < 60, "its turn is the second; a call carries some 8 tasks of each"
    assert done.index("other") < 30
