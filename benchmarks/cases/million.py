"""A million waiting tasks: what each takes of Redis's memory, what a claim costs beside queues of 100 to 100,000, and
how long lists and counts take, also of states that only a few of the oldest are in.

Claims are only made, not completed: their time over HTTP on one connection, and the time that Redis counts for the
script. Lists and counts are read on one connection, by an operator who looks at one page after the other.
"""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from benchmarks.bench import Bench, interleaved
from benchmarks.figures import Goal, Row, at_most, ratios
from benchmarks.http_server import HttpServer
from benchmarks.redis_server import RedisServer

_DEPTHS = (100, 1_000, 10_000, 100_000, 1_000_000)
_QUICK_DEPTHS = (100, 1_000, 50_000)
_LEAST_WEIGHED = 10_000  # of fewer, the connections' buffers would weigh as much as the tasks
_CLAIMS = 1_000
_SMALLEST_BATCH = 50
_LEASE_SECONDS = 3_600  # nothing lapses meanwhile
_FEW = 20
_READ_SECONDS = 1.5
_PAGE_MS = at_most(20)


def run(bench: Bench) -> list[Row]:
    """Fill a Redis once, then measure round by round."""
    depths = _QUICK_DEPTHS if bench.quick else _DEPTHS
    most = depths[-1]
    polls_ms: dict[str, list[float]] = {str(depth): [] for depth in depths}
    script_us: dict[str, list[float]] = {str(depth): [] for depth in depths}
    read_ms: dict[str, list[float]] = {name: [] for name in _reads(most)}
    with bench.redis() as redis, bench.gateway(redis) as gateway:
        _set_aside(gateway.url, _queue(most))
        memory_bytes = _fill(bench, gateway, redis, [depth for depth in depths if depth >= _LEAST_WEIGHED])
        for depth in depths[:-1]:
            bench.fill(gateway.url, depth, _queue(depth))
        for round_number in range(bench.rounds):
            for name in interleaved(round_number, list(polls_ms)):
                poll, script = _claims(bench, gateway, redis, int(name), round_number)
                polls_ms[name].append(poll)
                script_us[name].append(script)
            for name in interleaved(round_number, list(read_ms)):
                path, walk, _ = _reads(most)[name]
                report = bench.measure(
                    name, round_number, [gateway, redis], "get", gateway.url, path=path, walk=walk, connections=1,
                    warmup="200ms", duration=f"{min(bench.seconds, _READ_SECONDS)}s",
                )  # fmt: skip
                read_ms[name].append(report["latency_ms"]["request"]["p99"])
    small, large = str(depths[1]), str(most)
    return [
        *(
            Row(
                f"Redis memory of a waiting task, {depth:,} waiting", "bytes", [found],
                at_most(700) if depth == most else None, f"memory/{depth}",
            )
            for depth, found in memory_bytes.items()
        ),
        *(
            Row(f"poll with {int(name):,} waiting, p50", "ms", found, key=f"poll/{name}")
            for name, found in polls_ms.items()
        ),
        Row(
            f"poll, {most:,} waiting against {depths[1]:,}", "",
            ratios(polls_ms[large], polls_ms[small]), at_most(1.3), "poll against",
        ),
        *(
            Row(f"claim script with {int(name):,} waiting", "us", found, key=f"script/{name}")
            for name, found in script_us.items()
        ),
        Row(
            f"claim script, {most:,} waiting against {depths[1]:,}", "",
            ratios(script_us[large], script_us[small]), at_most(1.3), "script against",
        ),
        *(Row(f"{name}, p99", "ms", read_ms[name], goal, name) for name, (_, _, goal) in _reads(most).items()),
    ]  # fmt: skip


def _fill(bench: Bench, gateway: HttpServer, redis: RedisServer, depths: list[int]) -> dict[int, float]:
    """Fill the deepest queue, with a look at each depth on the way. Returns Redis's bytes a task, by depth."""
    before, stored, found = redis.used_memory_bytes(), 0, {}
    for depth in depths:
        bench.fill(gateway.url, depth - stored, _queue(depths[-1]))
        stored = depth
        found[depth] = (redis.used_memory_bytes() - before) / depth
    return found


def _reads(most: int) -> dict[str, tuple[str, bool, Goal | None]]:
    """What is read: its path, whether page follows page, its goal."""
    page = f"/tasks?job_type={_queue(most)}&limit=50"
    return {
        "page of 50, the newest": (page, False, _PAGE_MS),
        "page of 50, page after page": (page, True, _PAGE_MS),
        "page of 50, pending ones": (f"{page}&status=pending", False, _PAGE_MS),
        "page of 50, of all queues": ("/tasks?limit=50", False, _PAGE_MS),
        # Those in the states below are the oldest of the queue: everything else is newer.
        "page of 50, processing ones": (f"{page}&status=processing", True, _PAGE_MS),
        "page of 50, scheduled ones": (f"{page}&status=scheduled", True, _PAGE_MS),
        "page of 50, retrying ones": (f"{page}&status=retrying", True, _PAGE_MS),
        "page of 50, processing ones of all queues": ("/tasks?limit=50&status=processing", True, _PAGE_MS),
        "count of the queue": (f"/queues/{_queue(most)}", False, _PAGE_MS),
        "counts of all queues": ("/queues", False, _PAGE_MS),
    }


def _set_aside(url: str, job_type: str) -> None:
    """Make a few tasks that are scheduled, and a few that wait for their second attempt; older than all others."""
    few = [{"job_type": job_type}] * _FEW
    _post(f"{url}/tasks", few)
    body = {"worker_id": "bench", "task_type": [job_type], "max": _FEW, "wait": 0}
    for task in _post(f"{url}/poll", body)["tasks"]:
        report = {"lease_token": task["lease_token"], "error": "not yet", "retry_in_seconds": 2 * _LEASE_SECONDS}
        _post(f"{url}/tasks/{task['id']}/fail", report)
    _post(f"{url}/tasks", [task | {"delay_seconds": 2 * _LEASE_SECONDS} for task in few])


def _post(url: str, body: object) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.loads(reply.read() or b"null")


def _claims(
    bench: Bench, gateway: HttpServer, redis: RedisServer, depth: int, round_number: int
) -> tuple[float, float]:
    """Claim from a queue of about that depth. Returns the poll's p50 in ms, and the script's us.

    Each batch of claims is filled in beforehand, so at most half of a queue more than its depth waits.
    """
    claims = bench.size(_CLAIMS)
    batch = min(claims, max(depth // 2, _SMALLEST_BATCH))
    p50_ms, calls, usec = [], 0, 0
    for _ in range(claims // batch):
        bench.fill(gateway.url, batch, _queue(depth))
        calls_before, usec_before = redis.script_cost()
        report = bench.measure(
            f"claim, {depth}", round_number, [gateway, redis], "work", gateway.url, job_type=_queue(depth),
            connections=1, keep=True, tasks=batch, lease_seconds=_LEASE_SECONDS, duration="60s",
        )  # fmt: skip
        calls_after, usec_after = redis.script_cost()
        calls, usec = calls + calls_after - calls_before, usec + usec_after - usec_before
        p50_ms.append(report["latency_ms"]["poll"]["p50"])
    return sum(p50_ms) / len(p50_ms), usec / calls


def _queue(depth: int) -> str:
    return f"waiting-{depth}"
