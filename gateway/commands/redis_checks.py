"""What `gateway doctor` asks a Redis that runs elsewhere. What makes it unfit, `complaints` knows, as for `/health`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from gateway.commands.findings import Finding, ok, problem, warning
from gateway.config import Settings
from gateway.errors import StoreUnavailable
from gateway.redis_connections import connect
from gateway.redis_watch import complaints
from gateway.store.cluster import ClusterClient
from gateway.store.connect import Connections, answering
from gateway.store.keys import Keys
from gateway.store.registry import Registry, ServerFacts

_PINGS = 9
_SLOW_MS = 5.0
_SKEW_SECONDS = 1.0
_FULL_SHARE = 0.9
_MISSING = {
    "server": "start it, correct REDIS_URL (or REDIS_ADDR), or unset it: the gateway then runs a Redis of its own",
    "sentinel": "start it, or correct REDIS_SENTINELS, REDIS_MASTER or REDIS_SENTINEL_PASSWORD",
    "cluster": "start its nodes, or correct REDIS_CLUSTER",
}


async def check_redis(settings: Settings) -> list[Finding]:
    """Look at the configured Redis; one that does not answer is the only finding then."""
    location = settings.redis_location()
    shown = _without_password(location)
    try:
        connections = connect(settings, location)
    except ValueError as error:
        return [problem("redis", f"{shown}: {error}", "write REDIS_URL as redis://host:6379/0, rediss:// or unix://")]
    found = [ok("redis", f"{shown} answers")]
    try:
        infos = await _infos(connections)
        found += _roles(infos)
        if any(int(info.get("loading", 0)) for info in infos):
            # Of its settings it tells nothing but falsehoods until its data is there.
            found.append(warning("redis loading", "it is still loading its data", "wait until it has"))
        else:
            keys = Keys(settings.redis_key_prefix, cluster=connections.cluster)
            facts = await Registry(connections.redis, keys).server_facts()
            found += _fitness(facts, infos, await _appendfsync(connections), connections.kind, settings)
        found += _memory(infos)
        skew_seconds, latency_ms = await _clock_and_latency(connections)
    except StoreUnavailable as error:
        return [_unreachable(shown, connections.kind, error)]
    finally:
        await connections.close()
    return [*found, _clock(skew_seconds), _latency(latency_ms)]


async def _infos(connections: Connections) -> list[dict[str, Any]]:
    """What INFO says, of each primary."""
    redis = connections.redis
    async with answering():
        return await redis.each("INFO") if isinstance(redis, ClusterClient) else [await redis.info()]


async def _appendfsync(connections: Connections) -> str:
    try:
        async with answering():
            return str((await connections.redis.config_get("appendfsync")).get("appendfsync", ""))
    except StoreUnavailable:
        return ""  # managed ones hide their configuration


async def _clock_and_latency(connections: Connections) -> tuple[float, float]:
    """How many seconds Redis's clock is ahead of ours, and how many ms a round trip takes."""
    pings = []
    skew_seconds = 0.0
    async with answering():
        for _ in range(_PINGS):
            started, began = time.time(), time.perf_counter()
            seconds, micros = await connections.redis.time()
            took = time.perf_counter() - began
            pings.append(took)
            skew_seconds = seconds + micros / 1e6 - (started + took / 2)
    return skew_seconds, sorted(pings)[_PINGS // 2] * 1000


def _roles(infos: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    for role in {str(info["role"]) for info in infos if info.get("role") not in (None, "master")}:
        yield problem("redis role", f"it is a {role}, which takes no writes", "name the primary in REDIS_URL")


def _fitness(
    facts: ServerFacts, infos: Sequence[dict[str, Any]], appendfsync: str, kind: str, settings: Settings
) -> Iterator[Finding]:
    """Whether it keeps what we promise: each complaint, and what is well where there is none."""
    found = complaints(facts, embedded=False, kind=kind, durability=settings.durability)
    for one in found:
        rate = problem if one.breaks or settings.redis_check == "refuse" else warning
        yield rate(one.about, one.text, one.remedy)
    bad = {one.about for one in found}
    if "redis version" not in bad:
        yield ok("redis version", ".".join(map(str, facts.version)))
    if "maxmemory-policy" not in bad:
        yield _policy(facts)
    if "persistence" not in bad:
        yield _persistence(facts, infos, appendfsync)


def _policy(facts: ServerFacts) -> Finding:
    policy = facts.maxmemory_policy
    if policy == "noeviction":
        return ok("maxmemory-policy", policy)
    return warning(
        "maxmemory-policy", f"{policy}: harmless only as long as maxmemory is not set", "set it to noeviction"
    )


def _persistence(facts: ServerFacts, infos: Sequence[dict[str, Any]], appendfsync: str) -> Finding:
    if not facts.aof:
        return ok("persistence", "appendonly is off, which DURABILITY=memory allows: a restart loses tasks")
    if any(info.get("aof_last_write_status", "ok") != "ok" for info in infos):
        return problem("persistence", "the last write to the append-only file failed", "look at Redis's disk and log")
    if appendfsync == "no":
        return warning(
            "persistence", "appendfsync is no: a power cut may lose many seconds", "CONFIG SET appendfsync everysec"
        )
    lost = {"always": ", nothing is lost in a power cut", "everysec": ", a power cut may lose the last second"}
    return ok("persistence", "append-only file is on" + lost.get(appendfsync, ""))


def _memory(infos: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    shares = [int(info.get("used_memory", 0)) / int(info["maxmemory"]) for info in infos if info.get("maxmemory")]
    if shares and max(shares) > _FULL_SHARE:
        yield warning(
            "memory", f"{max(shares):.0%} of maxmemory is used; at 100% new tasks are refused", "raise maxmemory"
        )


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


def _unreachable(shown: str, kind: str, error: StoreUnavailable) -> Finding:
    cause = str(error.__cause__ or error) or type(error.__cause__).__name__
    lower = cause.lower()
    if "auth" in lower or "password" in lower or "noperm" in lower:
        return problem("redis", f"{shown} refuses us: {cause}", "set REDIS_PASSWORD, or user and password in REDIS_URL")
    if isinstance(error.__cause__, TimeoutError):
        cause = "no answer in time"
    return problem("redis", f"{shown} does not answer: {cause}", _MISSING[kind])


def _without_password(location: str) -> str:
    parts = urlsplit(location)
    if parts.password is None:
        return location
    return location.replace(f":{parts.password}@", ":***@", 1)
