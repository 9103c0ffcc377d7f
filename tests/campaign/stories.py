"""Histories told by hand: what the checker is held against."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.campaign.checker import check
from tests.campaign.contents import Contents, Stored
from tests.campaign.history import Fault, Operation

TASK = "order~1"


class Story:
    """A history told by hand, in seconds from its start, of a task with two attempts and leases of ten seconds."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.faults: list[Fault] = []
        self.left = [Stored(TASK, "order", "completed", "p1", 1, 2, 100.0, 120.0, "done by t1")]
        self.keys: dict[str, tuple[str, int]] = {"arq:result:{default:order}1": ("string", 99_000)}
        self.listed_twice: list[str] = []
        self.strays: list[str] = []
        self.live: dict[str, list[str]] = {}

    def add(self, op: str, start: float, end: float, status: int, facts: dict[str, Any], reply: Any = None) -> Story:
        """Tell of one request."""
        number = str(len(self.operations))
        self.operations.append(Operation(number, "w1", op, 0, 100 + start, 100 + end, status, facts, reply or {}))
        return self

    def enqueue(self, start: float, end: float, status: int = 201, payload: str = "p1", **asked: Any) -> Story:
        """A producer asks for a task; with 201 it is stored 10 ms before the end."""
        item = {"job_type": "order", "payload": payload, "max_attempts": 2, **asked}
        state = "scheduled" if "delay_seconds" in asked else "pending"
        task = {"status": 201, "task_status": state, "id": f"order~{payload[1:]}", "payload": payload}
        tasks = [{**task, "run_at": 99.99 + end + asked.get("delay_seconds", 0)}] if status == 201 else []
        return self.add("enqueue", start, end, status, {"items": [item], "key": None}, {"tasks": tasks})

    def poll(
        self, start: float, end: float, token: str = "t1", attempt: int = 1, payload: str = "p1", lease: float = 10.0
    ) -> Story:
        """A worker gets the task, 10 ms before the end."""
        given = [f"order~{payload[1:]}", token, 99.99 + end, attempt, 2, lease, payload, "normal", 0.0]
        return self.add("poll", start, end, 200, {"task_type": ["order"], "max": 1}, {"tasks": [given]})

    def lost_poll(
        self, start: float, end: float, queue: str = "order", status: int = 0, most: int = 1,
        code: str = "store_unavailable",
    ) -> Story:  # fmt: skip
        """A worker hangs up, or hears 503."""
        reply = {"code": code, "retry_after": "1"} if status else {"cause": "_NoAnswer hung up: close"}
        return self.add("poll", start, end, status, {"task_type": [queue], "max": most}, reply)

    def ends(self, status: str, attempt: int = 1, **facts: Any) -> Story:
        """How the lists show the task at the end. facts: members of `Stored`."""
        one = msgspec.structs.replace(self.left[0], status=status, attempt=attempt, result=None)
        self.left[0] = msgspec.structs.replace(one, **facts)
        return self

    def report(self, start: float, verb: str = "complete", token: str = "t1", status: int = 200, **more: Any) -> Story:
        """The worker reports and hears after 100 ms."""
        said = {"complete": "completed", "fail": "retrying", "release": "pending"}[verb]
        facts = {"id": TASK, "lease_token": token, "result": f"done by {token}"}
        reply = {"status": said} if status == 200 else {"code": "lease_lost"} if status == 409 else {}
        return self.add(verb, start, start + 0.1, status, facts, reply | more)

    def saying(self, **members: Any) -> Story:
        """The last request had these members, too."""
        self.operations[-1].facts |= members
        return self

    def kinds(self, queue_size: int = 100) -> set[str]:
        """What the checker finds broken."""
        tasks = {one.id: one for one in self.left}
        contents = Contents(tasks, self.listed_twice, self.keys, self.live, {}, self.strays)
        verdict = check(self.operations, self.faults, contents, gateways=1, queue_size=queue_size)
        return {violation.kind for violation in verdict.violations}
