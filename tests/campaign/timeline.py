"""What a history says about each task: who asked for it, who held it when, what was reported, with certain bounds.

The store's clock and the clients' are the same machine's, so a time that a reply tells can be compared with the times
of requests. A request that got no answer may have taken effect, or may do so later.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec

from tests.campaign.history import NO_ANSWER, Fault, Operation

# No task and no poll of the campaign asks for a longer lease, or for a shorter one.
LONGEST_LEASE_SECONDS = 2.0
SHORTEST_LEASE_SECONDS = 1.0
# Times in replies are whole milliseconds.
ROUNDING_SECONDS = 0.002
REPORTS = ("complete", "fail", "release")
# The gateway's default.
_MAX_ATTEMPTS = 25
_WITHOUT_EFFECT = frozenset(("queue_full", "store_full", "shutting_down", "request_running"))
_NEVER_SENT = ("ConnectionRefusedError", "FileNotFoundError")


class Item(msgspec.Struct):
    """A task that a producer asked for, by its payload. start: of the first request; end: of the answer that counts."""

    payload: str
    asked: dict[str, Any]
    start: float
    end: float = float("inf")
    created_id: str = ""
    run_at: float = 0.0
    ids: set[str] = msgspec.field(default_factory=set)
    may_exist: bool = False
    keyed: bool = False
    by_replacing: bool = False


class Grant(msgspec.Struct):
    """One lease, as its worker saw it. at: when the store gave it; it was held for certain until `until_least`."""

    task: str
    token: str
    at: float
    attempt: int
    max_attempts: int
    payload: str
    client: str
    sent: float
    answered: float
    until_least: float
    until_most: float
    let_go: float = float("inf")
    released: float = float("inf")
    shortened: float = float("inf")

    def held_until(self) -> float:
        """Until when it was held for certain."""
        return min(self.until_least, self.let_go)


class Report(msgspec.Struct):
    """One report. outcome: the task's status that the answer told.

    lease_end: of a heartbeat: when the lease ended at the latest, by what was known before it.
    """

    task: str
    token: str
    verb: str
    start: float
    end: float
    status: int
    facts: dict[str, Any]
    outcome: str = ""
    run_at: float = 0.0
    code: str = ""
    lease_end: float = float("inf")

    def effective(self) -> bool:
        """Whether it may have taken effect."""
        return may_take_effect(self.status, self.code)


class Timeline(msgspec.Struct):
    """The history, by task. made: who asked for it, by its id; lost_polls: those that may have taken tasks unseen."""

    operations: list[Operation]
    faults: list[Fault]
    gateways: int
    items: dict[str, Item] = msgspec.field(default_factory=dict)
    made: dict[str, Item] = msgspec.field(default_factory=dict)
    grants: dict[str, list[Grant]] = msgspec.field(default_factory=lambda: defaultdict(list))
    by_token: dict[str, Grant] = msgspec.field(default_factory=dict)
    reports: dict[str, list[Report]] = msgspec.field(default_factory=lambda: defaultdict(list))
    heartbeats: dict[str, list[Report]] = msgspec.field(default_factory=lambda: defaultdict(list))
    cancels: dict[str, list[Operation]] = msgspec.field(default_factory=lambda: defaultdict(list))
    retries: dict[str, list[Operation]] = msgspec.field(default_factory=lambda: defaultdict(list))
    lost_polls: list[Operation] = msgspec.field(default_factory=list)
    reused_tokens: list[tuple[str, str]] = msgspec.field(default_factory=list)

    def gateway_of(self, operation: Operation) -> str:
        """Name the gateway that a request went to, directly or through a proxy."""
        return f"gateway-{operation.door % self.gateways}"

    def asked(self, task: str) -> dict[str, Any]:
        """What the producer asked for who made this task; empty when no reply told."""
        made = self.made.get(task)
        return made.asked if made else {}

    def most_attempts(self, payload: str, told: int) -> int:
        """How many attempts a task may have, as its producer asked. told: by the gateway.

        One with a unique key may have taken another's place, and that one's attempts with it.
        """
        item = self.items.get(payload)
        if item is None or item.asked.get("unique_key"):
            return told
        return int(item.asked.get("max_attempts", _MAX_ATTEMPTS))


def place_of(task: str) -> str:
    """Name the partition that a task stands in, by its id: the queue itself, or `<queue>/<number>`."""
    queue, _, name = task.partition("~")
    number, _, _ = name.rpartition(".")
    return f"{queue}/{number}" if number else queue


def asks_for(poll: Operation, queue: str) -> bool:
    """Whether a poll, or one that comes with a report, asks for tasks of a queue."""
    named = poll.facts.get("next", poll.facts).get("task_type")
    return not named or queue in named


def effective(operation: Operation) -> bool:
    """Whether a request may have taken effect, now or later."""
    return may_take_effect(operation.status, _why(operation.reply))


def may_take_effect(status: int, why: str) -> bool:
    """Whether a request so answered may have taken effect. why: a refusal's code, or why there is no answer."""
    if status == NO_ANSWER:
        return not why.startswith(_NEVER_SENT)
    if status == 503:
        return why not in _WITHOUT_EFFECT
    return status < 400 or status == 500


def _why(reply: dict[str, Any]) -> str:
    return str(reply.get("code") or reply.get("cause") or "")


def build(operations: list[Operation], faults: list[Fault], gateways: int) -> Timeline:
    """Sort a history by task. operations: by start; gateways: how many there were."""
    timeline = Timeline(operations, faults, gateways)
    ended_by_kill = {fault.target: fault.at for fault in faults if fault.name in ("worker_kill", "producer_kill")}
    for operation in operations:
        if operation.end == float("inf"):
            operation.end = ended_by_kill.get(operation.client.partition(".")[0], float("inf"))
        if operation.op == "enqueue":
            _note_items(timeline, operation)
        _note_grants(timeline, operation)
    for operation in operations:
        _note_reports(timeline, operation)
    _bound_leases(timeline)
    for grants in timeline.grants.values():
        grants.sort(key=lambda grant: grant.at)
    return timeline


def _note_items(timeline: Timeline, operation: Operation) -> None:
    made = operation.reply.get("tasks") or [{}] * len(operation.facts["items"])
    for asked, entry in zip(operation.facts["items"], made, strict=True):
        payload = asked["payload"]
        item = timeline.items.get(payload)
        if item is None:
            item = timeline.items[payload] = Item(payload, asked, operation.start)
        item.keyed = operation.facts["key"] is not None
        status = entry.get("status", 0)
        if effective(operation) and not entry:
            item.may_exist = True
        if status == 503 and entry.get("code") not in _WITHOUT_EFFECT:
            item.may_exist = True
        if entry.get("id"):
            # Another's task may be what a unique key gave; its own payload tells it apart.
            own = entry["payload"] == payload
            if own:
                item.may_exist = True
                item.ids.add(entry["id"])
                item.by_replacing = item.by_replacing or (operation.status == 200 and len(made) == 1)
                if not item.created_id:
                    item.created_id, item.end = entry["id"], operation.end
                    # A task that is ready tells no time to wait for.
                    item.run_at = entry["run_at"] if entry["task_status"] == "scheduled" else 0.0
                timeline.made.setdefault(entry["id"], item)


def _note_grants(timeline: Timeline, operation: Operation) -> None:
    polls = operation.op == "poll" or "next" in operation.facts
    if polls and operation.status in (NO_ANSWER, 503) and effective(operation):
        timeline.lost_polls.append(operation)
    for task, token, at, attempt, max_attempts, lease, given, _, _ in operation.reply.get("tasks", ()) if polls else ():
        # A task whose body was taken from Redis comes with another payload than its producer's text.
        payload = given if isinstance(given, str) else msgspec.json.encode(given).decode()
        known = timeline.by_token.get(token)
        if known is not None:
            if known.task != task or abs(known.at - at) > ROUNDING_SECONDS:
                timeline.reused_tokens.append((task, token))
            continue
        # A hand-out that was repeated, by the client or within the gateway, tells what is left of its lease.
        whole = abs(lease - _lease_asked_for(timeline, operation, payload)) < ROUNDING_SECONDS
        least = at if at > operation.start - ROUNDING_SECONDS else operation.start
        grant = Grant(
            task, token, at, attempt, max_attempts, payload, operation.client, operation.start, operation.end,
            least + lease, (at if whole else operation.end) + lease,
        )  # fmt: skip
        timeline.by_token[token] = grant
        timeline.grants[task].append(grant)


def _lease_asked_for(timeline: Timeline, operation: Operation, payload: str) -> float:
    """How long a lease of this task is when this poll is its first; infinite when nobody knows."""
    item = timeline.items.get(payload)
    if item is None:
        return float("inf")
    asked = operation.facts.get("next", operation.facts).get("lease_seconds") or item.asked.get("lease_seconds", 30)
    return float(min(asked, item.asked.get("timeout_seconds", asked)))


def _note_reports(timeline: Timeline, operation: Operation) -> None:
    facts, reply = operation.facts, operation.reply
    if operation.op in REPORTS:
        report = Report(
            facts["id"], facts["lease_token"], operation.op, operation.start, operation.end, operation.status, facts,
            reply.get("status", ""), reply.get("run_at", 0.0), _why(reply),
        )  # fmt: skip
        timeline.reports[report.task].append(report)
    elif operation.op == "outcomes":
        entries = reply.get("outcomes") or [{"status": operation.status}] * len(facts["outcomes"])
        for one, entry in zip(facts["outcomes"], entries, strict=True):
            report = Report(
                one["id"], one["lease_token"], one["outcome"], operation.start, operation.end, entry["status"], one,
                entry.get("task_status") or "", entry.get("run_at") or 0.0, _why(reply),
            )  # fmt: skip
            timeline.reports[report.task].append(report)
    elif operation.op in ("heartbeat", "heartbeats"):
        leases = facts.get("leases") or [facts]
        entries = reply.get("leases") or [[operation.status, 0]] * len(leases)
        for one, (status, lease_seconds, *_) in zip(leases, entries, strict=True):
            report = Report(
                one["id"], one["lease_token"], "heartbeat", operation.start, operation.end, status,
                {"lease_seconds": lease_seconds, "asked": one.get("lease_seconds")}, code=_why(reply),
            )  # fmt: skip
            timeline.heartbeats[report.token].append(report)
    elif operation.op == "cancel":
        timeline.cancels[facts["id"]].append(operation)
    elif operation.op == "retry":
        timeline.retries[facts["id"]].append(operation)


def _bound_leases(timeline: Timeline) -> None:
    """Let heartbeats set the ends of leases, and reports and sign-offs end them."""
    for token, beats in timeline.heartbeats.items():
        grant = timeline.by_token.get(token)
        if grant is None:
            continue
        for beat in beats:
            beat.lease_end = grant.until_most
            if beat.status == 200:
                # It may shorten the lease, too.
                grant.until_least = min(beat.start + beat.facts["lease_seconds"], grant.shortened)
                grant.until_most = max(grant.until_most, beat.end + beat.facts["lease_seconds"])
            elif beat.effective():
                grant.until_most += LONGEST_LEASE_SECONDS
                if beat.facts["asked"] is not None:
                    # Whenever it takes effect, it sets the end anew.
                    grant.shortened = min(grant.shortened, beat.start)
                    grant.until_least = min(grant.until_least, grant.shortened)
    for reports in timeline.reports.values():
        for report in reports:
            grant = timeline.by_token.get(report.token)
            if grant is not None and report.effective():
                grant.let_go = min(grant.let_go, report.start)
                if report.verb == "release":
                    grant.released = min(grant.released, report.start)
    signed_off: dict[str, list[float]] = defaultdict(list)
    for operation in timeline.operations:
        if operation.op == "sign_off" and effective(operation):
            signed_off[operation.facts["worker"]].append(operation.start)
    for grant in timeline.by_token.values():
        # A sign-off may take effect late: it may end any lease of this worker, older or younger.
        for start in signed_off.get(grant.client, ()):
            if start <= grant.until_most:
                grant.let_go = min(grant.let_go, max(start, grant.at))
                grant.released = min(grant.released, max(start, grant.at))
