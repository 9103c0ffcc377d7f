"""`python -m workers_sdk` as a process: it runs, stops on signals, and reloads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.harness import LiveGateway, wait_until
from workers_sdk import Client

_ROOT = Path(__file__).parents[1]
_MODULE = """
import asyncio
from workers_sdk import Context, Worker

worker = Worker(worker_id="child", stop_seconds={stop_seconds}, interrupt_seconds=0.5)

@worker.task("word")
async def word() -> str:
    return "{word}"

@worker.task("slow")
async def slow(payload: float) -> str:
    await asyncio.sleep(payload)
    return "slept"

@worker.task("deaf")
def deaf() -> None:
    import time
    time.sleep(600)
"""


@contextlib.contextmanager
def command(folder: Path, *arguments: str, url: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Run it in a folder; its log goes to `log` there. It must not outlive the block."""
    env = {**os.environ, "PYTHONPATH": str(_ROOT), "GATEWAY_URL": url, "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "workers_sdk", *arguments], cwd=folder, env=env, stdout=log, stderr=log
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait(20)


def write(folder: Path, word: str = "first", stop_seconds: float = 20) -> None:
    (folder / "mine.py").write_text(_MODULE.format(word=word, stop_seconds=stop_seconds))


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


async def ended(child: subprocess.Popen[bytes]) -> int:
    await wait_until(lambda: child.poll() is not None, 15, "the worker did not end")
    assert child.returncode is not None
    return child.returncode


async def test_it_runs_a_worker_and_ends_cleanly_on_sigterm(gateway: LiveGateway, tmp_path: Path) -> None:
    write(tmp_path)
    with command(tmp_path, "mine:worker", "--url", gateway.url, "--concurrency", "3") as child:
        async with Client(gateway.url) as client:
            quick = await client.enqueue("word")
            assert (await client.wait(quick.id, timeout_seconds=15)).result == "first"
            slow = await client.enqueue("slow", 1.0)
            await wait_until(lambda: _is(client, slow.id, "processing"))
            child.send_signal(signal.SIGTERM)
            assert await ended(child) == 0
            assert (await client.get(slow.id)).result == "slept"
    lines = log_of(tmp_path)
    assert lines[0]["message"] == "started"
    assert lines[0]["concurrency"] == 3
    assert lines[-1]["message"] == "stopped"
    assert {line.get("task_id") for line in lines if line["message"] == "completed a task"} == {quick.id, slow.id}
    assert (await gateway.get("/workers")).json()["workers"] == []


async def test_a_second_signal_gives_tasks_back_even_from_a_thread_that_hears_nothing(
    gateway: LiveGateway, tmp_path: Path
) -> None:
    write(tmp_path)
    with command(tmp_path, "mine", url=gateway.url) as child:
        async with Client(gateway.url) as client:
            tasks = [await client.enqueue("slow", 600.0), await client.enqueue("deaf")]
            for task in tasks:
                await wait_until(lambda id=task.id: _is(client, id, "processing"), 15)
            child.send_signal(signal.SIGINT)
            await wait_until(lambda: any(line["message"] == "waits for tasks in hand" for line in log_of(tmp_path)))
            child.send_signal(signal.SIGINT)
            assert await ended(child) == 0
            for task in tasks:
                assert (await client.get(task.id)).status == "pending"


async def _is(client: Client, task_id: str, status: str) -> bool:
    return (await client.get(task_id)).status == status


async def test_reload_starts_the_new_code(gateway: LiveGateway, tmp_path: Path) -> None:
    write(tmp_path)
    with command(tmp_path, "mine:worker", "--reload", url=gateway.url) as child:
        async with Client(gateway.url) as client:
            assert (await client.wait((await client.enqueue("word")).id, timeout_seconds=15)).result == "first"
            (tmp_path / "mine.py").write_text("this is no Python")
            await wait_until(lambda: "SyntaxError" in (tmp_path / "log").read_text(), 15)
            write(tmp_path, "second")
            assert (await client.wait((await client.enqueue("word")).id, timeout_seconds=15)).result == "second"
        child.send_signal(signal.SIGTERM)
        assert await ended(child) == 0


async def test_a_worker_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    for where, words in (("missing:worker", "no module missing"), ("empty:thing", "no Worker called thing")):
        with command(tmp_path, where) as child:
            assert await asyncio.to_thread(child.wait, 10) == 2
        assert words in (tmp_path / "log").read_text()
