"""Whether the Redis behind us answers, and whether its settings keep what we promise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

import msgspec

from gateway.errors import StoreUnavailable
from gateway.store.keys import SCHEMA
from gateway.store.registry import Registry, ServerFacts

Durability = Literal["replicated", "local", "memory"]
log = logging.getLogger("gateway.redis")
_WATCH_SECONDS = 2.0
_OLDEST_REDIS = (6, 2)
_FOREIGN = (
    "Redis holds data of version {}, this gateway knows version {}: it neither reads nor writes it. Run the version of "
    "tasks-gateway that wrote it, or a later one; or give this one a prefix of its own (REDIS_QUEUE_KEY)"
)
_OLDEST_CLUSTER = (7, 0)  # sharded pub/sub


class Complaint(msgspec.Struct, frozen=True):
    """What is wrong with a Redis.

    about: the matter, in a word or two. remedy: what to do. breaks: requests fail because of it, whatever REDIS_CHECK
    says.
    """

    about: str
    text: str
    remedy: str
    breaks: bool = False

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"


class RedisWatch:
    """Knows whether Redis answers and whether its settings keep the promise.

    strict: a bad setting means not ready. kind: of `Connections`; durability: of the settings.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        embedded: bool,
        strict: bool,
        kind: str = "server",
        durability: Durability = "local",
    ) -> None:
        self._registry = registry
        self._embedded = embedded
        self._strict = strict
        self._kind = kind
        self.durability = durability
        self.answers = False
        self.warnings: list[str] = []
        # Why nothing may be read or written here at all, or ''.
        self.refusal = ""
        self.on_refusal: Callable[[str], None] = lambda refusal: None

    @property
    def ready(self) -> bool:
        """Whether requests can be served."""
        return self.answers and not self.refusal and not (self._strict and self.warnings)

    async def look(self) -> None:
        """Ask Redis now."""
        try:
            facts = await self._registry.server_facts()
            schema = await self._registry.meet_schema()
        except StoreUnavailable:
            if self.answers:
                log.warning("lost Redis")
            self.answers = False
            return
        refusal = "" if schema == SCHEMA else _FOREIGN.format(schema, SCHEMA)
        if refusal and refusal != self.refusal:
            log.error("refused what Redis holds", extra={"reason": refusal})
        if refusal != self.refusal:
            self.refusal = refusal
            self.on_refusal(refusal)
        found = complaints(facts, embedded=self._embedded, kind=self._kind, durability=self.durability)
        warnings = [str(complaint) for complaint in found]
        for warning in warnings:
            if warning not in self.warnings:
                log.warning("found Redis at fault", extra={"warning": warning})
        if not self.answers:
            log.info("reached Redis", extra={"version": ".".join(map(str, facts.version))})
        self.answers, self.warnings = True, warnings

    async def run(self) -> None:
        """Look for ever. Cancel it to stop."""
        while True:
            await self.look()
            await asyncio.sleep(_WATCH_SECONDS if self.answers else _WATCH_SECONDS / 8)


def complaints(facts: ServerFacts, *, embedded: bool, kind: str, durability: str) -> list[Complaint]:
    """Say what is wrong with a Redis, and what to do."""
    found = []
    oldest = _OLDEST_CLUSTER if kind == "cluster" else _OLDEST_REDIS
    if facts.version[:2] < oldest:
        older = f"Redis is older than {oldest[0]}.{oldest[1]}"
        found.append(Complaint("redis version", older, "upgrade it", breaks=True))
    if facts.maxmemory and facts.maxmemory_policy != "noeviction":
        evicts = f"maxmemory-policy is {facts.maxmemory_policy}: Redis may throw tasks away"
        found.append(Complaint("maxmemory-policy", evicts, "set it to noeviction"))
    if not facts.aof and not embedded and durability != "memory":
        forgets = "appendonly is off: tasks are lost when Redis restarts"
        found.append(Complaint("persistence", forgets, "set appendonly yes"))
    if kind == "sentinel" and facts.min_replicas == 0:
        found.append(
            Complaint(
                "replication",
                "min-replicas-to-write is 0: a primary that is cut off from the others goes on taking tasks, and loses "
                "them",
                "set min-replicas-to-write 1 and min-replicas-max-lag 10 on every server",
            )
        )
    if durability == "replicated" and facts.replicas == 0:
        refuses = "no replica follows the primary: with DURABILITY=replicated every change is refused"
        found.append(Complaint("replication", refuses, "start one", breaks=True))
    return found
