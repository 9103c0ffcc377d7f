"""What is left in the store at the end: over HTTP as a client sees it, and key by key."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from tests.campaign.producers import ALL_QUEUES, unix

FINAL = ("completed", "failed", "cancelled")


class Stored(msgspec.Struct):
    """One task, as the lists show it. Times are unix seconds."""

    id: str
    job_type: str
    status: str
    payload: str
    attempt: int
    max_attempts: int
    created: float
    finished: float | None
    result: Any = None
    error_type: str = ""
    unique_key: str = ""


class Contents(msgspec.Struct):
    """Everything that was found. listed_twice: ids that a walk through a list met again.

    strays: keys that stood at a node of a cluster which does not serve them.
    """

    tasks: dict[str, Stored]
    listed_twice: list[str]
    keys: dict[str, tuple[str, int]]
    live: dict[str, list[str]]
    unique_holders: dict[str, str]
    strays: list[str] = []


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=60) as reply:
        return json.load(reply)


async def read(gateway_url: str, redis_urls: list[str]) -> Contents:
    """Walk the lists of a gateway and all keys of its Redis, or of each primary. keys: type, TTL in ms (-1: none)."""
    tasks, twice = {}, []
    for queue in ALL_QUEUES:
        cursor = ""
        while True:
            page = await asyncio.to_thread(_get, f"{gateway_url}/tasks?job_type={queue}&limit=200{cursor}")
            for task in page["tasks"]:
                if task["id"] in tasks:
                    twice.append(task["id"])
                tasks[task["id"]] = _stored(task)
            if not page.get("next_cursor"):
                break
            cursor = f"&cursor={page['next_cursor']}"
    found = Contents(tasks, twice, {}, {}, {})
    for url in redis_urls:
        async with Redis.from_url(url, decode_responses=True) as redis:
            await _read_keys(redis, found)
    return found


async def _read_keys(redis: Redis, found: Contents) -> None:
    keys: dict[str, tuple[str, int]] = {}
    names = [name async for name in redis.scan_iter(count=5000)]
    for start in range(0, len(names), 5000):
        some = names[start : start + 5000]
        pipe = redis.pipeline(transaction=False)
        for name in some:
            pipe.type(name)
            pipe.pttl(name)
        answers = await pipe.execute(raise_on_error=False)
        for name, kind, ttl_ms in zip(some, answers[::2], answers[1::2], strict=True):
            if isinstance(kind, ResponseError):
                found.strays.append(name)
            else:
                keys[name] = (kind, ttl_ms)
    found.keys |= keys
    found.live |= {name: await redis.zrange(name, 0, -1) for name in keys if name.startswith("arq:queue:")}
    found.unique_holders |= {name: await redis.get(name) or "" for name in keys if ":unique:" in name}


def _stored(task: dict[str, Any]) -> Stored:
    finished = task.get("finished_at")
    return Stored(
        task["id"], task["job_type"], task["status"], str(task["payload"]), task["attempt"], task["max_attempts"],
        unix(task["created_at"]), unix(finished) if finished else None, task.get("result"),
        (task.get("error") or {}).get("type", ""), task.get("unique_key") or "",
    )  # fmt: skip
