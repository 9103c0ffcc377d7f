"""Requests and replies of the worker's calls: docs/protocol.md, Workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from workers_sdk.tasks import LeasedTask

MAX_ITEMS = 1000
# The gateway refuses bodies above 1 MiB.
MAX_BODY_BYTES = 1_000_000
_Item = TypeVar("_Item")


class Poll(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Ask for up to `max` tasks. With `worker_id` a request of its own, without it the `next` of a report."""

    max: int
    wait: float
    poll_id: str
    task_type: list[str]
    worker_id: str | None = None
    lease_seconds: float | None = None


class PollReply(msgspec.Struct):
    """At least one task."""

    tasks: list[LeasedTask]


class ItemResult(msgspec.Struct):
    """What became of one item of a batch. error: the problem document."""

    id: str
    status: int
    task_status: str | None = None
    lease_seconds: float = 0.0
    cancel_requested: bool = False
    error: dict[str, Any] | None = None


class OutcomesReply(msgspec.Struct):
    """One entry per report, in order, and what `next` polled."""

    outcomes: list[ItemResult]
    tasks: list[LeasedTask] | None = None


class LeaseToKeep(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One lease of a heartbeat."""

    id: str
    lease_token: str
    progress: Raw | None = None
    log: list[str] | None = None


class HeartbeatsReply(msgspec.Struct):
    """One entry per lease, in order."""

    leases: list[ItemResult]
    directive: str = "run"


encode = msgspec.json.Encoder().encode
decode_poll = msgspec.json.Decoder(PollReply).decode
decode_outcomes = msgspec.json.Decoder(OutcomesReply).decode
decode_heartbeats = msgspec.json.Decoder(HeartbeatsReply).decode


def batches(items: Iterable[tuple[_Item, bytes]]) -> Iterator[list[tuple[_Item, bytes]]]:
    """Cut items, each with its JSON text, into batches that one body can hold."""
    batch: list[tuple[_Item, bytes]] = []
    size = 0
    for item in items:
        if batch and (len(batch) == MAX_ITEMS or size + len(item[1]) + 1 > MAX_BODY_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item[1]) + 1
    if batch:
        yield batch
