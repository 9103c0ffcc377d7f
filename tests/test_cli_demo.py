"""`gateway demo`: the story comes true, quickly, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

from gateway.commands.demo.stage import languages
from tests.command_line import ESCAPE, run, terminal

_SECONDS = 30


async def test_the_demo_tells_its_story_and_leaves_nothing(tmp_path: Path) -> None:
    async with asyncio.timeout(_SECONDS):
        ended = await run(
            None, "demo", folder=tmp_path, TMPDIR=str(tmp_path), PORT="1", REDIS_URL="redis://127.0.0.1:1"
        )
    assert (ended.code, ended.err) == (0, "")
    assert ESCAPE not in ended.out
    for language in languages():
        assert f"by {language}-1" in ended.out
    for words in ("each hash is right", "kill -9", "lapsed", "critical, high, normal, low, delayed", "cancelled"):
        assert words in ended.out
    assert list(tmp_path.iterdir()) == []
    assert running_in(tmp_path) == []


async def test_a_step_that_fails_is_1_and_says_which(tmp_path: Path) -> None:
    folder, work = tmp_path / "bin", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    node = folder / "node"
    node.write_text('#!/bin/sh\n[ "$1" = --version ] && echo v20.0.0 && exit\necho this node is broken >&2\nexit 1\n')
    node.chmod(0o755)
    ended = await run(None, "demo", TMPDIR=str(work), PATH=f"{folder}:{os.environ['PATH']}")
    assert ended.code == 1
    assert "node-1 ended: this node is broken" in ended.err
    assert list(work.iterdir()) == []
    assert running_in(work) == []


async def test_the_demo_ended_in_the_middle_cleans_up(tmp_path: Path) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with terminal(None, "demo", TMPDIR=str(tmp_path)) as one:
            await one.until("each hash is right")
            one.process.send_signal(number)
            assert await one.ended() == code
            assert "Traceback" not in one.text
        assert list(tmp_path.iterdir()) == []
        assert running_in(tmp_path) == []


async def test_python_alone_is_enough_and_json_is_one_document(tmp_path: Path) -> None:
    async with asyncio.timeout(_SECONDS):
        ended = await run(None, "demo", "--json", TMPDIR=str(tmp_path), PATH=str(tmp_path / "nowhere"))
    found = json.loads(ended.out)
    assert (ended.code, ended.err, found["ok"], len(found["steps"])) == (0, "", True, 7)
    assert [task["status"] for task in found["tasks"]] == ["completed"] * 4 + ["cancelled"]
    assert [task["attempt"] for task in found["tasks"]] == [1, 3, 2, 1, 1]
    assert "python" in found["tasks"][0]["worker_id"]
    assert "node" not in found["tasks"][0]["worker_id"]


def running_in(folder: Path) -> list[str]:
    """Command lines of processes that work below a folder (Linux; elsewhere none is found)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd").startswith(str(folder)):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found
