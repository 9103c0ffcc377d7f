"""`gateway tail` and `gateway top`: what they show while things happen."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from gateway.commands.snapshot import Look, buckets_of, compare, quantile
from tests.command_line import ESCAPE, environment, run, terminal
from tests.harness import GatewayProcess, LiveGateway, wait_until


class Tail:
    """`gateway tail` with a pipe."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, url: str, *arguments: str) -> Tail:
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "tail", "--interval", "0.1", *arguments, env=environment(url),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )
        )  # fmt: skip

    async def line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            return (await self._process.stdout.readline()).decode()

    async def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.line())
        return found

    async def end(self, number: int | None = None) -> tuple[int, str]:
        if number is not None:
            self._process.send_signal(number)
        _, err = await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode, err.decode()


async def test_tail_follows_a_task_to_its_end(gateway: LiveGateway) -> None:
    task = await gateway.enqueue(retry={"delays_seconds": [0]})
    tail = await Tail.start(gateway.url, task["id"], "--json")
    assert (await tail.event())["to"] == "pending"
    (leased,) = await gateway.poll()
    event = await tail.event()
    assert (event["kind"], event["from"], event["to"], event["worker_id"]) == ("status", "pending", "processing", "w1")
    await gateway.report(leased, "heartbeat", progress={"percent": 50}, log=["one", "two"])
    assert [(await tail.event())["line"] for _ in "12"] == ["one", "two"]
    assert (await tail.event())["progress"] == {"percent": 50}
    await gateway.report(leased, "heartbeat", log=["three"])
    assert (await tail.event())["line"] == "three"
    await gateway.report(leased, "complete", result="done")
    event = await tail.event()
    assert (event["kind"], event["outcome"]) == ("attempt", "completed")
    assert (await tail.event())["to"] == "completed"
    assert await tail.end() == (0, "")


async def test_tail_of_a_task_that_did_not_complete_is_1(gateway: LiveGateway) -> None:
    task = await gateway.enqueue()
    (leased,) = await gateway.poll()
    await gateway.report(leased, "fail", error={"type": "Oops", "message": "broken"}, retryable=False)
    ended = await run(gateway.url, "tail", task["id"])
    assert ended.code == 1
    assert "failed" in ended.lines[-1]
    assert "Oops: broken" in ended.lines[-1]
    assert ESCAPE not in ended.out
    assert (await run(gateway.url, "tail", "demo~nobody")).code == 1


async def test_tail_of_all_shows_each_change_of_state(gateway: LiveGateway) -> None:
    await gateway.enqueue("old", title="there before")
    tail = await Tail.start(gateway.url, "--json")
    # Its first look is over when it shows a task that came later.
    first, shown = set(), asyncio.create_task(tail.event())
    while not shown.done():
        first.add((await gateway.enqueue("probe"))["id"])
        await asyncio.wait([shown], timeout=0.2)
    seen = [shown.result()]
    task = await gateway.enqueue("new", title="T")
    seen.append(await _event_of(tail, task["id"]))
    (old,) = await gateway.poll("old")
    seen.append(await _event_of(tail, old["id"]))
    await gateway.report(old, "complete")
    seen.append(await _event_of(tail, old["id"]))
    assert seen[0]["id"] in first
    assert [(one["from"], one["to"]) for one in seen[1:]] == [
        (None, "pending"), ("pending", "processing"), ("processing", "completed"),
    ]  # fmt: skip
    assert (seen[1]["title"], seen[2]["worker_id"]) == ("T", "w1")
    assert await tail.end(signal.SIGINT) == (130, "")


async def _event_of(tail: Tail, task_id: str) -> dict[str, Any]:
    while True:
        event = await tail.event()
        if event["id"] == task_id:
            return event


async def test_tail_outlives_a_gateway_that_restarts(redis_url: str, tmp_path: Path) -> None:
    one = GatewayProcess(redis_url, tmp_path)
    await one.start()
    ended = await run(one.url, "enqueue", "demo", "--json")
    tail = await Tail.start(one.url, json.loads(ended.out)["id"])
    assert "pending" in await tail.line()
    await one.end(signal.SIGKILL)
    await one.start()
    await run(one.url, "cancel", json.loads(ended.out)["id"])
    assert "cancelled" in await tail.line()
    code, err = await tail.end()
    assert code == 1
    assert "Traceback" not in err
    await one.end()


async def test_tail_on_a_terminal_shows_whole_ids(gateway: LiveGateway) -> None:
    with terminal(gateway.url, "tail", "--interval", "0.1", columns=60) as one:
        await one.until("following all tasks")
        task = await gateway.enqueue(title="a title that does not fit into the rest of the line")
        await one.until(task["id"], "new -> pending")
        one.type("\x03")
        one.process.send_signal(signal.SIGINT)
        assert await one.ended() == 130


async def test_top_prints_one_frame_into_a_pipe(gateway: LiveGateway) -> None:
    await gateway.enqueue("image_resize")
    await gateway.poll("other", worker_id="w1")
    ended = await run(gateway.url, "top", "--once", "--interval", "0.2")
    assert ended.code == 0
    assert ESCAPE not in ended.out
    assert gateway.url in ended.lines[0]
    assert next(line for line in ended.lines if line.startswith("image_resize")).split()[1] == "1"


async def test_top_in_json_is_one_snapshot_with_rates(gateway: LiveGateway) -> None:
    await gateway.enqueue("demo")
    found = json.loads((await run(gateway.url, "top", "--json", "--interval", "0.2")).out)
    assert found["health"]["status"] == "ok"
    assert found["queues"][0]["job_type"] == "demo"
    assert found["queues"][0]["pending"] == 1
    assert found["enqueued_per_second"] == 0
    assert found["dispatch_p99_seconds"] is None


async def test_top_lives_on_the_second_screen_follows_the_window_and_quits(gateway: LiveGateway) -> None:
    await gateway.enqueue("image_resize")
    with terminal(gateway.url, "top", "--interval", "0.2", columns=100, lines=24) as one:
        await one.until("image_resize", "OLDEST", "q quits")
        assert "\x1b[?1049h" in one.raw
        assert "\x1b[2J" not in one.raw.partition("\x1b[?1049h")[2].partition("image_resize")[2]
        await gateway.enqueue("video_encode")
        await one.until("video_encode")
        one.resize(40, 12)
        await wait_until(lambda: {len(line) <= 40 for line in one.frames[-1].split("\n")} == {True})
        lines = one.frames[-1].split("\n")
        assert len(lines) == 12
        assert lines[-1].strip() == "q quits"
        assert "image_resize" in one.frames[-1]
        one.type("q")
        assert await one.ended() == 0
        assert "\x1b[?1049l" in one.raw


async def test_top_ends_quietly_on_ctrl_c(gateway: LiveGateway) -> None:
    with terminal(gateway.url, "top", "--interval", "5") as one:
        await one.until("q quits")
        one.process.send_signal(signal.SIGINT)
        assert await one.ended() in (0, 130)
        assert "\x1b[?1049l" in one.raw
        assert "Traceback" not in one.text


def look(at: float, totals: dict[str, int], buckets: dict[float, float]) -> Look:
    return Look(at, {"status": "ok"}, {"demo": {"job_type": "demo", "totals": totals}}, [], buckets)


def test_rates_are_differences_over_time() -> None:
    found = compare(
        look(10, {"enqueued": 100, "completed": 50, "failed": 1}, {}),
        look(12, {"enqueued": 120, "completed": 54, "failed": 2, "cancelled": 1}, {}),
    )
    assert (found.total().enqueued, found.total().done, found.total().failed) == (10, 3, 0.5)


def test_rates_are_never_negative_after_a_loss() -> None:
    found = compare(look(10, {"enqueued": 100}, {}), look(11, {"enqueued": 1}, {}))
    assert found.total().enqueued == 0


def test_quantiles_are_those_since_the_last_look() -> None:
    before = {0.001: 1000.0, 0.01: 1000.0, float("inf"): 1000.0}
    now = {0.001: 1000.0, 0.01: 1100.0, float("inf"): 1100.0}
    found = compare(look(0, {}, before), look(1, {}, now))
    assert found.p50 is not None
    assert found.p99 is not None
    assert 0.005 < found.p50 < 0.006
    assert 0.0099 < found.p99 < 0.01


def test_counters_that_began_anew_are_taken_as_they_are() -> None:
    found = compare(look(0, {}, {1.0: 50, float("inf"): 50}), look(1, {}, {1.0: 2, float("inf"): 2}))
    assert found.p50 == 0.5


def test_quantile_of_nothing_and_beyond_the_last_bound() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({1.0: 0, float("inf"): 0}, 0.5) is None
    assert quantile({1.0: 0, float("inf"): 5}, 0.5) == 1.0


def test_the_histogram_is_read_from_prometheus_text() -> None:
    text = 'a 1\ntasks_gateway_dispatch_latency_seconds_bucket{le="0.001"} 2.0\n' \
           'tasks_gateway_dispatch_latency_seconds_bucket{le="+Inf"} 3.0\n'  # fmt: skip
    assert buckets_of(text) == {0.001: 2.0, float("inf"): 3.0}
