"""Workers of every temper: quick, slow, forgetful, stale, contradictory; and the quiet ones that drain at the end."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from tests.campaign.producers import ALL_QUEUES, ORDERED_QUEUES, PAUSED_QUEUE, unix
from tests.campaign.wire import Client, Misbehaviour, Reply

_ALL = ALL_QUEUES
_ORDERED = {*ORDERED_QUEUES}
_BACKOFF_SECONDS = (0.05, 0.3)
_REPEATS = 8
Task = dict[str, Any]


class Worker:
    """One worker. quiet: it only completes, promptly."""

    def __init__(self, client: Client, stop: asyncio.Event, *, quiet: bool = False) -> None:
        self._client = client
        self._rng = client.rng
        self._stop = stop
        self._quiet = quiet
        self._polls = 0
        self._old: deque[tuple[str, str]] = deque(maxlen=50)

    async def run(self) -> None:
        """Poll and report until told to stop."""
        while not self._stop.is_set():
            tasks = await self._poll()
            while tasks:
                tasks = await self._work(tasks)
            if not self._quiet and self._rng.random() < 0.003:
                await self._client.call(
                    "sign_off", {"worker": self._client.name}, "DELETE", f"/workers/{self._client.name}"
                )

    # Polls

    def _poll_id(self) -> str | None:
        self._polls += 1
        return f"p{self._polls}" if self._quiet or self._rng.random() < 0.7 else None

    async def _poll(self) -> list[Task]:
        rng = self._rng
        queues = rng.sample(_ALL, rng.choice((1, 2, 4, 6)))
        if self._quiet or rng.random() < 0.3:
            queues = list(_ALL)
        body: dict[str, Any] = {
            "worker_id": self._client.name, "task_type": queues, "wait": rng.choice((0.2, 0.5, 1.0)),
            "max": rng.choice((1, 1, 1, 2, 5)),
        }  # fmt: skip
        if rng.random() < 0.05:
            body["lease_seconds"] = rng.choice((1, 2))
        poll_id = self._poll_id()
        if poll_id is not None:
            body["poll_id"] = poll_id
        for _ in range(_REPEATS):
            misbehaviour = None
            # A poll given up holds tasks for a moment, and nobody can tell then who came first: not in these queues.
            if not self._quiet and _ORDERED.isdisjoint(queues) and rng.random() < 0.08:
                seconds = rng.choice((rng.uniform(0, 0.004), rng.uniform(0, 0.5)))
                misbehaviour = Misbehaviour(seconds, rng.choice(("close", "reset", "half_close")))
            reply = await self._client.call(
                "poll", body, "POST", "/poll", body, seconds=10, misbehaviour=misbehaviour, digest=_given
            )
            if reply.status in (200, 204):
                return _given_tasks(reply)
            if poll_id is None or self._stop.is_set():
                return []
            await asyncio.sleep(rng.uniform(*_BACKOFF_SECONDS))
        return []

    # Reports

    async def _work(self, tasks: list[Task]) -> list[Task]:
        """Do something about each task. Returns what came along with the reports."""
        rng = self._rng
        self._old += [(task["id"], task["lease_token"]) for task in tasks]
        if self._quiet or (len(tasks) > 1 and rng.random() < 0.5):
            return await self._report_together(tasks)
        more: list[Task] = []
        for task in tasks:
            more += await self._handle(task)
        if rng.random() < 0.02:
            await self._report(*rng.choice(self._old), rng.choice(("complete", "fail", "release")), {})
        return more

    async def _handle(self, task: Task) -> list[Task]:
        rng, task_id, token = self._rng, task["id"], task["lease_token"]
        temper = rng.random()
        if temper < 0.03:
            return []  # forgets it
        if temper < 0.06:
            # Works on past the end of its lease, and reports all the same; some ask for more of it just too late.
            await asyncio.sleep(task["lease_seconds"] + rng.uniform(0, rng.choice((0.03, 0.3))))
            if rng.random() < 0.5:
                await self._heartbeat(task)
        elif temper < 0.12:
            for _ in range(rng.randrange(1, 4)):
                await asyncio.sleep(task["lease_seconds"] * rng.uniform(0.1, 0.6))
                if not await self._heartbeat(task):
                    break
        verb = rng.choices(("complete", "fail", "release"), (80, 14, 6))[0]
        members = self._members(verb, task)
        if rng.random() < 0.3 and verb != "release":
            members["next"] = {"max": 1, "wait": rng.choice((0, 0.2)), "task_type": list(_ALL), "poll_id": f"n{token}"}
        if rng.random() < 0.02:
            # Says two things at once.
            other = "fail" if verb == "complete" else "complete"
            await asyncio.gather(
                self._report(task_id, token, verb, self._members(verb, task)),
                self._own_line(task, other),
            )
            return []
        reply = await self._report(task_id, token, verb, members)
        if rng.random() < 0.03:
            await self._report(task_id, token, verb, self._members(verb, task))
        if rng.random() < 0.01:
            await self._report(task_id, token, rng.choice(("complete", "fail", "release")), {})
        return _given_tasks(reply) if reply is not None else []

    async def _own_line(self, task: Task, verb: str) -> None:
        client = self._client.twin()
        mate = Worker(client, self._stop)
        await mate._report(task["id"], task["lease_token"], verb, self._members(verb, task))
        client.close()

    def _members(self, verb: str, task: Task) -> dict[str, Any]:
        rng, token = self._rng, task["lease_token"]
        if verb == "complete":
            return {"result": f"done by {token}"}
        if verb == "release":
            return {"delay_seconds": rng.choice((0, 0, 0.3, 2.5))}
        members: dict[str, Any] = {"error": {"type": "Trouble", "message": f"met by {token}"}}
        if rng.random() < 0.2:
            members["retryable"] = False
        elif rng.random() < 0.5:
            members["retry_in_seconds"] = round(rng.uniform(0, 0.8), 3)
        if task["job_type"] == PAUSED_QUEUE and rng.random() < 0.5:
            members["pause_queue_seconds"] = round(rng.uniform(0.2, 1.5), 3)
        return members

    async def _heartbeat(self, task: Task) -> bool:
        rng = self._rng
        body: dict[str, Any] = {"lease_token": task["lease_token"]}
        if rng.random() < 0.3:
            body["lease_seconds"] = rng.choice((1, 2))
        if rng.random() < 0.3:
            body |= {"progress": rng.random(), "log": ["a line"]}
        if rng.random() < 0.3:
            lease = {"id": task["id"], **body}
            reply = await self._client.call(
                "heartbeats", {"leases": [lease]}, "POST", "/heartbeats",
                {"worker_id": self._client.name, "leases": [lease]}, digest=_kept,
            )  # fmt: skip
            return reply.status == 200 and reply.body["leases"][0]["status"] == 200
        facts = {"id": task["id"], **body}
        path = f"/tasks/{task['id']}/heartbeat"
        reply = await self._client.call("heartbeat", facts, "POST", path, body, digest=_kept_one)
        return reply.status == 200

    async def _report(self, task_id: str, token: str, verb: str, members: dict[str, Any]) -> Reply | None:
        body = {"lease_token": token, **members}
        facts = {"id": task_id, **body}
        reply = None
        for _ in range(_REPEATS if self._rng.random() < 0.9 else 1):
            reply = await self._client.call(verb, facts, "POST", f"/tasks/{task_id}/{verb}", body, digest=_reported)
            if reply.status not in (0, 503):
                break
            await asyncio.sleep(self._rng.uniform(*_BACKOFF_SECONDS))
        return reply

    async def _report_together(self, tasks: list[Task]) -> list[Task]:
        outcomes = []
        for task in tasks:
            quick = self._quiet or self._rng.random() < 0.8
            verb = "complete" if quick else self._rng.choice(("fail", "release"))
            members = self._members(verb, task)
            outcomes.append({"id": task["id"], "lease_token": task["lease_token"], "outcome": verb, **members})
        body: dict[str, Any] = {"worker_id": self._client.name, "outcomes": outcomes}
        if self._quiet or self._rng.random() < 0.3:
            next_poll = f"o{tasks[0]['lease_token']}"
            body["next"] = {"max": 5, "wait": 0, "task_type": list(_ALL), "poll_id": next_poll}
        for _ in range(_REPEATS):
            reply = await self._client.call("outcomes", body, "POST", "/outcomes", body, digest=_settled)
            if reply.status == 200:
                return _given_tasks(reply)
            await asyncio.sleep(self._rng.uniform(*_BACKOFF_SECONDS))
        return []


def _given_tasks(reply: Reply) -> list[Task]:
    return (reply.body or {}).get("tasks", []) if reply.status == 200 else []


def _given(body: dict[str, Any]) -> dict[str, Any]:
    """What was handed out: a list per task, as `checks.Grant` reads it."""
    return {
        "tasks": [
            [
                task["id"], task["lease_token"], unix(task["started_at"]), task["attempt"], task["max_attempts"],
                task["lease_seconds"], task["payload"], task["priority"], unix(task["run_at"]),
            ]
            for task in body.get("tasks", ())
        ]
    }  # fmt: skip


def _reported(body: dict[str, Any]) -> dict[str, Any]:
    facts = _given(body) if body.get("tasks") else {}
    facts["status"] = body["status"]
    if body.get("run_at"):
        facts["run_at"] = unix(body["run_at"])
    return facts


def _settled(body: dict[str, Any]) -> dict[str, Any]:
    facts = _given(body) if body.get("tasks") else {}
    facts["outcomes"] = [
        {
            "status": entry["status"],
            "task_status": entry.get("task_status"),
            "run_at": unix(entry["run_at"]) if entry.get("run_at") else None,
            "code": _code(entry),
        }
        for entry in body["outcomes"]
    ]
    return facts


def _kept(body: dict[str, Any]) -> dict[str, Any]:
    return {"leases": [[one["status"], one.get("lease_seconds", 0), _code(one)] for one in body["leases"]]}


def _code(entry: dict[str, Any]) -> str:
    """Why an entry of a batch was refused; '' when it was not."""
    return str(entry["error"]["code"]) if entry["status"] >= 400 else ""


def _kept_one(body: dict[str, Any]) -> dict[str, Any]:
    return {"leases": [[200, body["lease_seconds"], ""]]}
