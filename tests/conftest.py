"""Fixtures: one private Redis for the whole run, emptied before each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.harness import Clock, LiveGateway, RedisServer, Store, live_gateway, redis_binaries


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Spell captured logs in characters that can be sent from one process of the run to another."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The run's Redis: the distribution's where there is one."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), next(iter(redis_binaries().values())))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def private_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test, to be killed, paused or filled."""
    server = RedisServer(tmp_path / "redis", next(iter(redis_binaries().values())))
    server.start()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def redis_url(redis_server: RedisServer) -> str:
    """The run's Redis, empty."""
    async with Redis(unix_socket_path=str(redis_server.socket)) as redis:
        await redis.flushall()
    return redis_server.url


@pytest_asyncio.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A plain client of the run's Redis."""
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def clock() -> Clock:
    """A clock moved by hand."""
    return Clock()


@pytest_asyncio.fixture
async def store(redis_url: str, clock: Clock) -> AsyncIterator[Store]:
    """A store that goes by the hand-moved clock."""
    one = Store(redis_url, clock)
    yield one
    await one.close()


@pytest_asyncio.fixture
async def gateway(redis_url: str) -> AsyncIterator[LiveGateway]:
    """A live gateway that goes by Redis's clock."""
    async with live_gateway(redis_url) as one:
        yield one


@pytest_asyncio.fixture
async def clocked_gateway(redis_url: str, clock: Clock) -> AsyncIterator[LiveGateway]:
    """A live gateway that goes by the hand-moved clock."""
    async with live_gateway(redis_url, clock=clock) as one:
        yield one
