"""An SDK worker behind a connection that loses replies, or goes away altogether."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.harness import LiveGateway, wait_until
from tests.test_sdk_client import Broken
from workers_sdk import Client, Context, Worker


@contextlib.asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[None]:
    working = asyncio.create_task(worker.work())
    try:
        yield
    finally:
        worker.stop()
        await asyncio.wait_for(working, 20)


async def test_tasks_of_a_lost_poll_are_asked_for_again_and_run_once(gateway: LiveGateway) -> None:
    async with Broken(gateway.port) as broken, Client(gateway.url) as client:
        worker = Worker(broken.url, worker_id="sdk", concurrency=5)
        runs: list[str] = []

        @worker.task("once")
        async def once(ctx: Context) -> int:
            runs.append(ctx.task.id)
            return ctx.task.attempt

        tasks = await client.enqueue_many([{"job_type": "once"}] * 5)
        broken.lose_replies = 3
        async with running(worker):
            for task in tasks:
                assert (await client.wait(task.id, timeout_seconds=10)).result == 1
        assert sorted(runs) == sorted(task.id for task in tasks)
        polls = [request for request in broken.requests if request.startswith(b"POST /poll")]
        assert polls[0] == polls[1] == polls[2] == polls[3]


async def test_a_report_whose_reply_was_lost_is_repeated_with_its_poll(
    gateway: LiveGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with Broken(gateway.port) as broken, Client(gateway.url) as client:
        worker = Worker(broken.url, worker_id="sdk", concurrency=2)
        runs: list[str] = []

        @worker.task("once")
        async def once(ctx: Context) -> int:
            if not runs:
                broken.lose_replies = 2
            runs.append(ctx.task.id)
            return ctx.task.attempt

        tasks = await client.enqueue_many([{"job_type": "once"}] * 6)
        with caplog.at_level(logging.INFO, "workers_sdk"):
            async with running(worker):
                for task in tasks:
                    ended = await client.wait(task.id, timeout_seconds=10)
                    assert ended.result == 1
                    assert [one.outcome for one in ended.attempts or []] == ["completed"]
        assert sorted(runs) == sorted(task.id for task in tasks)
        reports = [request for request in broken.requests if request.startswith(b"POST /outcomes")]
        assert reports[0] == reports[1] == reports[2]
        assert caplog.messages.count("completed a task") == 6


async def test_a_handler_is_told_when_the_gateway_is_away_for_longer_than_its_lease(
    gateway: LiveGateway, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []
    worker = Worker(worker_id="sdk", lease_seconds=1, interrupt_seconds=1)

    @worker.task("long")
    async def long(ctx: Context) -> None:
        heard.append("begun")
        try:
            await asyncio.sleep(20)
        finally:
            heard.append(ctx.interrupted)

    async with Client(gateway.url) as client:
        await client.enqueue("long")
        with caplog.at_level(logging.INFO, "workers_sdk"):
            async with Broken(gateway.port) as broken:
                worker.url = broken.url
                working = asyncio.create_task(worker.work())
                await wait_until(lambda: heard)
                await broken.close()
                await wait_until(lambda: len(heard) == 2)
                worker.stop()
                await asyncio.wait_for(working, 20)
    assert heard == ["begun", "lease_lost"]
    assert "stopped a task whose lease was lost" in caplog.messages
    assert "could not sign off" in caplog.messages


async def test_an_outcome_that_cannot_be_reported_in_time_is_given_up(
    gateway: LiveGateway, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(worker_id="sdk", lease_seconds=1)
    begun = asyncio.Event()
    gone = asyncio.Event()

    @worker.task("late")
    async def late(ctx: Context) -> int:
        begun.set()
        if ctx.task.attempt == 1:
            await gone.wait()
        return ctx.task.attempt

    async with Client(gateway.url) as client:
        task = await client.enqueue("late")
        with caplog.at_level(logging.INFO, "workers_sdk"):
            async with Broken(gateway.port) as broken:
                worker.url = broken.url
                async with running(worker):
                    await begun.wait()
                    await broken.close()
                    gone.set()
                    await wait_until(lambda: "could not report yet" in caplog.messages)
                    words = "lost the lease of a task before its outcome was confirmed"
                    await wait_until(lambda: words in caplog.messages)
                    await broken.open()
                    ended = await client.wait(task.id, timeout_seconds=15)
    assert (ended.status, ended.result) == ("completed", 2)
    assert "reached the gateway again" in caplog.messages
