"""What `gateway doctor` asks a Redis that runs elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from gateway.commands.findings import Finding, ok, problem, warning
from gateway.config import Settings
from gateway.errors import StoreUnavailable
from gateway.redis_connections import connect
from gateway.store.connect import Connections, answering

_OLDEST = (6, 2)
_PINGS = 9
_SLOW_MS = 5.0
_SKEW_SECONDS = 1.0
_FULL_SHARE = 0.9


async def check_redis(settings: Settings) -> list[Finding]:
    """Look at the configured Redis; one that does not answer is the only finding then."""
    location = settings.redis_location()
    shown = _without_password(location)
    try:
        connections = connect(settings, location)
    except ValueError as error:
        return [problem("redis", f"{shown}: {error}", "write REDIS_URL as redis://host:6379/0, rediss:// or unix://")]
    try:
        info, clock, appendfsync = await _ask(connections)
        skew_seconds, latency_ms = clock
    except StoreUnavailable as error:
        return [_unreachable(shown, error)]
    finally:
        await connections.close()
    found = [ok("redis", f"{shown} answers")]
    found += _server(info)
    found += _memory(info)
    found += _persistence(info, appendfsync, strict=settings.redis_check == "refuse")
    found.append(_clock(skew_seconds))
    found.append(_latency(latency_ms))
    return found


async def _ask(connections: Connections) -> tuple[dict[str, Any], tuple[float, float], str]:
    redis = connections.redis
    async with answering():
        info = await redis.info()
    pings = []
    skew_seconds = 0.0
    async with answering():
        for _ in range(_PINGS):
            started, began = time.time(), time.perf_counter()
            seconds, micros = await redis.time()
            took = time.perf_counter() - began
            pings.append(took)
            skew_seconds = seconds + micros / 1e6 - (started + took / 2)
    try:
        async with answering():
            appendfsync = (await redis.config_get("appendfsync")).get("appendfsync", "")
    except StoreUnavailable:
        appendfsync = ""  # managed ones hide their configuration
    return info, (skew_seconds, sorted(pings)[_PINGS // 2] * 1000), appendfsync


def _server(info: dict[str, Any]) -> Iterator[Finding]:
    text = str(info.get("redis_version", "0"))
    version = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if version < _OLDEST:
        yield problem("redis version", f"{text} is older than 6.2", "upgrade Redis")
    else:
        yield ok("redis version", text)
    if info.get("role") not in (None, "master"):
        yield problem("redis role", f"it is a {info['role']}, which takes no writes", "name the primary in REDIS_URL")
    if info.get("loading"):
        yield warning("redis loading", "it is still loading its data", "wait until it has")


def _memory(info: dict[str, Any]) -> Iterator[Finding]:
    policy, limit, used = (
        str(info.get("maxmemory_policy", "noeviction")), int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    )  # fmt: skip
    advice = "CONFIG SET maxmemory-policy noeviction, and write it into redis.conf"
    if policy == "noeviction":
        yield ok("maxmemory-policy", policy)
    elif limit:
        yield problem("maxmemory-policy", f"{policy}: Redis may throw tasks away when its memory is full", advice)
    else:
        yield warning("maxmemory-policy", f"{policy}: harmless only as long as maxmemory is not set", advice)
    if limit and used > _FULL_SHARE * limit:
        yield warning(
            "memory", f"{used / limit:.0%} of maxmemory is used; at 100% new tasks are refused", "raise maxmemory"
        )


def _persistence(info: dict[str, Any], appendfsync: str, *, strict: bool) -> Iterator[Finding]:
    if not int(info.get("aof_enabled", 1)):
        rate = problem if strict else warning
        yield rate(
            "persistence", "appendonly is off: tasks are lost when Redis restarts",
            "CONFIG SET appendonly yes, and write it into redis.conf",
        )  # fmt: skip
    elif info.get("aof_last_write_status", "ok") != "ok":
        yield problem("persistence", "the last write to the append-only file failed", "look at Redis's disk and log")
    elif appendfsync == "no":
        yield warning(
            "persistence", "appendfsync is no: a power cut may lose many seconds", "CONFIG SET appendfsync everysec"
        )
    else:
        lost = {"always": ", nothing is lost in a power cut", "everysec": ", a power cut may lose the last second"}
        yield ok("persistence", "append-only file is on" + lost.get(appendfsync, ""))


def _clock(skew_seconds: float) -> Finding:
    if abs(skew_seconds) > _SKEW_SECONDS:
        ahead = "ahead of" if skew_seconds > 0 else "behind"
        return warning(
            "clock", f"Redis's clock is {abs(skew_seconds):.1f} s {ahead} this machine's; tasks go by Redis's",
            "run NTP (chrony, systemd-timesyncd) on both machines",
        )  # fmt: skip
    return ok("clock", f"{abs(skew_seconds) * 1000:.0f} ms between Redis and here")


def _latency(latency_ms: float) -> Finding:
    text = f"{latency_ms:.1f} ms a round trip"
    if latency_ms > _SLOW_MS:
        return warning("latency", f"{text}; each request needs one or two", "run Redis nearer to the gateway")
    return ok("latency", text)


def _unreachable(shown: str, error: StoreUnavailable) -> Finding:
    cause = str(error.__cause__ or error) or type(error.__cause__).__name__
    lower = cause.lower()
    if "auth" in lower or "password" in lower or "noperm" in lower:
        return problem("redis", f"{shown} refuses us: {cause}", "set REDIS_PASSWORD, or user and password in REDIS_URL")
    if isinstance(error.__cause__, TimeoutError):
        cause = "no answer in time"
    return problem(
        "redis", f"{shown} does not answer: {cause}",
        "start it, correct REDIS_URL (or REDIS_ADDR), or unset it: the gateway then runs a Redis of its own",
    )  # fmt: skip


def _without_password(location: str) -> str:
    parts = urlsplit(location)
    if parts.password is None:
        return location
    return location.replace(f":{parts.password}@", ":***@", 1)
