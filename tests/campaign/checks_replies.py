"""Replies: one to each request, only statuses that the protocol names, never a 500, and a 503 that says when to come
back. Each entry of a batch is held to what its single form may be answered.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator

from tests.campaign.contents import Contents
from tests.campaign.history import NO_ANSWER, Fault, Operation
from tests.campaign.timeline import Timeline
from tests.campaign.violations import Violation

_AWAY = {(503, "store_unavailable"), (503, "shutting_down"), (503, "not_replicated")}
_NOT_FOUND = (404, "task_not_found")
_REFUSALS = {
    "enqueue": {(503, "queue_full"), (503, "store_full"), (409, "unique_conflict"), (409, "request_running")},
    "poll": set(),
    "complete": {(409, "lease_lost"), _NOT_FOUND},
    "fail": {(409, "lease_lost"), _NOT_FOUND},
    "release": {(409, "lease_lost"), _NOT_FOUND},
    "heartbeat": {(409, "lease_lost"), _NOT_FOUND},
    "heartbeats": set(),
    "outcomes": set(),
    "cancel": {(409, "already_finished"), _NOT_FOUND},
    "retry": {(409, "already_finished"), (409, "not_finished"), (409, "unique_conflict"), (503, "queue_full"),
              (503, "store_full"), _NOT_FOUND},
    "read": {_NOT_FOUND},
    "sign_off": {(404, "worker_not_found")},
}  # fmt: skip
_SUCCESSES = (200, 201, 202, 204)
# What a client says that broke off by itself.
_HUNG_UP = "_NoAnswer"
# And one whose patience was at an end.
_GAVE_UP = "TimeoutError"
# A gateway that is ready again has connections to accept that came before.
_AFTERMATH_SECONDS = 1.0


def check(timeline: Timeline, contents: Contents) -> Iterator[Violation]:
    """Yield replies that nobody promised, and requests without one."""
    for operation in timeline.operations:
        if "unreadable" in operation.reply:
            yield Violation("unreadable answer", "", f"{_name(operation)} {operation.reply['unreadable']}")
        if operation.status in (429, 503) and "retry_after" not in operation.reply:
            yield Violation("503 without Retry-After", "", _name(operation))
        for op, status, code, task in _answers(operation):
            if status == NO_ANSWER or status in _SUCCESSES:
                continue
            told = f"{op} {status} {code} ({operation.id})"
            allowed = {*_AWAY, *_REFUSALS[op]}
            # Histories of old do not tell the codes of entries.
            if (status, code) not in allowed and (code or status not in dict(allowed)):
                yield Violation("unexpected 5xx" if status >= 500 else "unexpected refusal", task, told)
            elif status == 404 and task in contents.tasks:
                yield Violation("404 for a task that exists", task, told)
    yield from _silence(timeline)


def _answers(operation: Operation) -> Iterator[tuple[str, int, str, str]]:
    """The answer to the request as a whole, and those to the entries of a batch: operation, status, code, task."""
    facts, reply = operation.facts, operation.reply
    yield operation.op, operation.status, reply.get("code", ""), facts.get("id", "")
    if operation.op == "enqueue":
        for entry in reply.get("tasks", ()):
            yield "enqueue", entry["status"], entry.get("code", ""), ""
    elif operation.op == "outcomes":
        for one, entry in zip(facts["outcomes"], reply.get("outcomes", ()), strict=False):
            yield one["outcome"], entry["status"], entry.get("code") or "", one["id"]
    elif operation.op == "heartbeats":
        for one, (status, _, *code) in zip(facts["leases"], reply.get("leases", ()), strict=False):
            yield "heartbeat", status, code[0] if code else "", one["id"]


def _silence(timeline: Timeline) -> Iterator[Violation]:
    """Requests that got no answer although nothing was broken between the client and its gateway."""
    faults: dict[str, list[Fault]] = defaultdict(list)
    for fault in timeline.faults:
        faults[fault.target].append(fault)
    # When a client's last requests to a door were answered. It keeps the connection, and may find out long afterwards
    # that it broke; a twin of the client, with a line of its own, has the same name.
    answered: dict[tuple[str, int], deque[float]] = defaultdict(lambda: deque((0.0, 0.0), maxlen=2))
    for operation in timeline.operations:
        line = operation.client, operation.door
        since = answered[line][0]
        if operation.status != NO_ANSWER:
            answered[line].append(operation.start)
            continue
        cause = operation.reply.get("cause", "")
        if not cause or cause.startswith(_HUNG_UP) or "unreadable" in operation.reply:
            continue
        number = operation.door % timeline.gateways
        near = [*faults[f"gateway-{number}"], *faults[operation.client.partition(".")[0]]]
        through_proxy = operation.door >= timeline.gateways
        near += [fault for fault in faults[f"clients-{number}"] if through_proxy or fault.name != "client_link"]
        broken = any(fault.at < operation.end and since < fault.until + _AFTERMATH_SECONDS for fault in near)
        if not broken and not (cause.startswith(_GAVE_UP) and _crowded(timeline, operation)):
            yield Violation("no answer", operation.facts.get("id", ""), f"{_name(operation)} {cause}")


def _crowded(timeline: Timeline, waited: Operation) -> bool:
    """Whether others of its kind at its gateway waited half as long, and were answered: slow is not lost."""
    return any(
        other.op == waited.op
        and other.status != NO_ANSWER
        and timeline.gateway_of(other) == timeline.gateway_of(waited)
        and other.start < waited.end
        and waited.start < other.end
        and 2 * (other.end - other.start) >= waited.end - waited.start
        for other in timeline.operations
    )


def _name(operation: Operation) -> str:
    return f"{operation.op} {operation.status} {operation.reply.get('code', '')} ({operation.id})"
