"""The SDK and a gateway that asks who it is: tokens, their renewal, refusals, and what limits say."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.credentials import OTHER_SECRET, SECRET, token
from tests.harness import LiveGateway, live_gateway, wait_until
from workers_sdk import Client, NotAllowed, Retry, SyncClient, Unavailable, Worker

_ROOT = Path(__file__).parents[1]


@pytest_asyncio.fixture
async def guarded(redis_url: str) -> AsyncIterator[LiveGateway]:
    """A gateway that takes tokens only."""
    async with live_gateway(redis_url, jwt_secret=SECRET) as one:
        yield one


def worker_of(gateway: LiveGateway, **options: object) -> Worker:
    """A worker with one handler."""
    worker = Worker(gateway.url, worker_id="sdk", wait_seconds=0.2, **options)  # type: ignore[arg-type]  # options are passed on

    @worker.task("word")
    async def word() -> str:
        return "done"

    return worker


async def test_client_and_worker_say_who_they_are(guarded: LiveGateway) -> None:
    worker = worker_of(guarded, token=token(scope="work"))
    working = asyncio.create_task(worker.work())
    async with Client(guarded.url, token=token(scope="tasks:write tasks:read")) as client:
        task = await client.enqueue("word", concurrency_key="one at a time")
        assert task.concurrency_key == "one at a time"
        assert (await client.wait(task.id, timeout_seconds=10)).result == "done"

    def blocking() -> str:
        with SyncClient(guarded.url, token=lambda: token()) as one:
            return one.get(task.id).status

    assert await asyncio.to_thread(blocking) == "completed"
    worker.stop()
    await asyncio.wait_for(working, 10)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (token(OTHER_SECRET), "invalid_token"),
        (token(scope="tasks:read"), "insufficient_scope"),
        (token(job_types=["other.*"]), "forbidden_job_type"),
    ],
)
async def test_a_worker_that_is_refused_ends_and_says_why(
    guarded: LiveGateway, given: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(NotAllowed) as raised:
        await asyncio.wait_for(worker_of(guarded, token=given).work(), 10)
    assert raised.value.code == code
    assert given not in caplog.text
    assert [getattr(one, "code", None) for one in caplog.records if one.levelname == "ERROR"] == [code]


async def test_a_worker_whose_token_is_over_finishes_what_it_has_and_ends(
    guarded: LiveGateway, caplog: pytest.LogCaptureFixture
) -> None:
    given = [token()]
    worker = Worker(guarded.url, token=lambda: given[0], worker_id="sdk", concurrency=2, wait_seconds=0.2)
    started = asyncio.Event()

    @worker.task("word")
    async def word() -> str:
        started.set()
        await gone.wait()
        return "done"

    gone = asyncio.Event()
    working = asyncio.create_task(worker.work())
    async with Client(guarded.url, token=token()) as client:
        task = await client.enqueue("word")
        await asyncio.wait_for(started.wait(), 10)
        given[0] = token(OTHER_SECRET)
        await wait_until(lambda: "stops: the gateway refused its token" in caplog.text)
        # Renewed in time for the report.
        given[0] = token()
        gone.set()
        with pytest.raises(NotAllowed):
            await asyncio.wait_for(working, 20)
        assert (await client.get(task.id)).status == "completed"


async def test_a_token_is_asked_for_before_each_request_and_again_when_it_was_refused(guarded: LiveGateway) -> None:
    supply = [token(OTHER_SECRET), token(sub="second"), token(sub="third")]
    async with Client(guarded.url, token=lambda: supply.pop(0) if len(supply) > 1 else supply[0]) as client:
        assert (await client.enqueue("word")).status == "pending"
    async with Client(guarded.url, token=lambda: token(OTHER_SECRET)) as client:
        with pytest.raises(NotAllowed):
            await client.enqueue("word")


async def test_a_token_file_is_read_again_when_it_changes(
    guarded: LiveGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(token() + "\n")
    monkeypatch.setenv("GATEWAY_TOKEN_FILE", str(file))
    monkeypatch.setenv("GATEWAY_TOKEN", "not this one")
    async with Client(guarded.url) as client:
        await client.enqueue("word")
        file.write_text(token(scope="tasks:read"))
        os.utime(file, ns=(1, 1))
        with pytest.raises(NotAllowed) as raised:
            await client.enqueue("word")
        assert raised.value.code == "insufficient_scope"
        file.unlink()
        assert [one async for one in client.list()]
    monkeypatch.setenv("GATEWAY_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        Client(guarded.url)


async def test_the_command_ends_with_1_and_says_what_to_do(guarded: LiveGateway, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from workers_sdk import Worker\nworker = Worker()\n\n\n@worker.task('word')\nasync def word(): ...\n"
    )
    (tmp_path / "token").write_text(token(scope="tasks:read"))
    env = {**os.environ, "PYTHONPATH": str(_ROOT), "GATEWAY_URL": guarded.url, "GATEWAY_TOKEN": ""}
    for arguments, words in (
        ([], ["unauthenticated", "Set GATEWAY_TOKEN"]),
        (["--token-file", "token"], ["insufficient_scope", "scope `work`"]),
    ):
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-m", "workers_sdk", "mine", *arguments],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert all(word in last for word in words), done.stderr
        assert "Traceback" not in done.stderr


async def test_a_handler_can_pause_its_queue(gateway: LiveGateway) -> None:
    worker = Worker(gateway.url, worker_id="sdk", wait_seconds=0.2)

    @worker.task("mail")
    async def mail() -> None:
        raise Retry(in_seconds=0, message="the provider said 429", pause_queue_seconds=60)

    working = asyncio.create_task(worker.work())
    task = await gateway.enqueue("mail")

    async def paused() -> bool:
        return bool((await gateway.get("/queues/mail/settings")).json()["paused"])

    await wait_until(paused)
    worker.stop()
    await asyncio.wait_for(working, 10)
    found = (await gateway.get(f"/tasks/{task['id']}")).json()
    assert (found["attempt"], found["error"]["message"]) == (1, "the provider said 429")


async def client_until_refused(client: Client) -> None:
    for _ in range(100):
        await client.enqueue("word")


async def test_a_rate_limit_is_waited_for_or_raised_with_its_time(redis_url: str) -> None:
    async with (
        live_gateway(redis_url, jwt_secret=SECRET, rate_limit_per_minute=60) as one,
        Client(one.url, token=token(), patience_seconds=10) as patient,
        Client(one.url, token=token(), patience_seconds=0) as hasty,
    ):
        with pytest.raises(Unavailable) as raised:
            await client_until_refused(hasty)
        assert raised.value.code == "rate_limited"
        assert raised.value.retry_after_seconds == 1
        # It waits as long as it is asked to, and is let in.
        assert (await patient.enqueue("word")).status == "pending"
