"""A connection that ended leaves nothing for the cycle collector, which the gateway lets run seldom."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
import uvloop

from gateway.protocol_guard import GuardedProtocol
from tests.harness import LiveGateway, live_gateway, wait_until

# The two loops differ where connections end. The hook that replaces this fixture can only be set for all test files.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture:DeprecationWarning")


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free anything."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def connections() -> int:
    """Count those that take memory."""
    return sum(isinstance(one, GuardedProtocol) for one in gc.get_objects())


async def ask(gateway: LiveGateway, request: str, *, answered: bool) -> None:
    """Send a request on a connection of its own, and close that: after the answer, or while it is awaited."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"{request} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
    if answered:
        await reader.readuntil(b"\r\n\r\n")
    else:
        await wait_until(lambda: gateway.app.manager.open_polls == 1)
    writer.close()
    await writer.wait_closed()
    await wait_until(lambda: gateway.app.manager.open_polls == 0)


@pytest.mark.parametrize(
    ("request_line", "answered"),
    [
        ("GET /health/live", True),
        ("GET /nothing/here", True),
        ("GET /poll?worker_id=w&task_type=demo&wait=0", True),
        ("GET /poll?worker_id=w&task_type=demo&wait=20", False),
        ("NONSENSE", True),
    ],
)
async def test_a_closed_connection_is_freed_at_once(
    redis_url: str, no_collector: None, request_line: str, answered: bool
) -> None:
    async with live_gateway(redis_url) as gateway:
        before = connections()
        for _ in range(20):
            await ask(gateway, request_line, answered=answered)
        await wait_until(lambda: connections() <= before, 10, f"{connections() - before} of 20 are still there")
