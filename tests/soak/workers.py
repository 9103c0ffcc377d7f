"""The workers of a soak: most do their work, some fail, let go, fall silent, or hang up while they wait."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.soak.line import Line, Reply
from tests.soak.producers import ALL, RARE

Task = dict[str, Any]


class Worker:
    """One worker. `steady` turns to true when the run ends: from then on it only completes what it gets."""

    def __init__(self, line: Line, name: str) -> None:
        self._line = line
        self._rng = line.rng
        self._ledger = line.ledger
        self._name = name
        self._polls = 0
        self.steady = False

    async def run(self, stop: asyncio.Event) -> None:
        """Poll and report until told to stop."""
        while not stop.is_set():
            tasks = await self._poll()
            while tasks:
                tasks = await self._work(tasks)

    async def _poll(self) -> list[Task]:
        rng = self._rng
        self._polls += 1
        body: dict[str, Any] = {
            "worker_id": self._name, "task_type": rng.sample(ALL, len(ALL)), "wait": rng.choice((0.5, 1, 2)),
            "max": rng.choice((1, 1, 2, 10)),
        }  # fmt: skip
        if rng.random() < 0.7:
            body["poll_id"] = f"p{self._polls}"
        hang_up = rng.uniform(0, 0.3) if not self.steady and rng.random() < 0.02 else None
        return self._given(await self._line.call("poll", "POST", "/poll", body, hang_up=hang_up))

    def _given(self, reply: Reply) -> list[Task]:
        tasks: list[Task] = (reply.body or {}).get("tasks", []) if reply.status == 200 else []
        now = time.monotonic()
        for task in tasks:
            self._ledger.counts["handed out"] += 1
            if task["attempt"] == 1 and "sent" in task["payload"]:
                self._ledger.took("dispatch", now - task["payload"]["sent"])
        return tasks

    async def _work(self, tasks: list[Task]) -> list[Task]:
        """Do something about each task. Returns what came along with the reports."""
        if len(tasks) > 1:
            return await self._report_together(tasks)
        (task,) = tasks
        chance = 1.0 if self.steady else self._rng.random()
        if chance < 0.02:
            self._ledger.counts["abandoned"] += 1
            return []
        if chance < 0.10 and not await self._keep(task):
            return []
        verb, members = self._outcome()
        body: dict[str, Any] = {"lease_token": task["lease_token"], **members}
        if verb != "release" and self._rng.random() < 0.4:
            poll_id = f"n{task['lease_token']}"
            body["next"] = {"max": 1, "wait": self._rng.choice((0, 0.5)), "task_type": list(ALL), "poll_id": poll_id}
        reply = await self._line.insist("report", "POST", f"/tasks/{task['id']}/{verb}", body)
        self._note(task["id"], verb, reply, reply.status, (reply.body or {}).get("status"))
        return self._given(reply)

    def _note(self, task_id: str, verb: str, reply: Reply, status: int, task_status: Any) -> None:
        self._ledger.counts[f"{verb}: {status}"] += 1
        if status == 200:
            self._ledger.reported(task_id, task_status)
        elif reply.repeated or status in (0, 503):
            # The first try may have been accepted, and forgotten with the task's retention since.
            self._ledger.lost_sight(task_id)

    def _outcome(self) -> tuple[str, dict[str, Any]]:
        rng = self._rng
        verb = "complete" if self.steady else rng.choices(("complete", "fail", "release"), (88, 9, 3))[0]
        if verb == "complete":
            return verb, {"result": {"done": True, "text": "y" * rng.choice((5, 50, 500))}}
        if verb == "release":
            return verb, {"delay_seconds": rng.choice((0, 0.2))}
        members: dict[str, Any] = {"error": {"type": "Trouble", "message": "as planned", "stack": "at a line\n" * 5}}
        if rng.random() < 0.15:
            members["retryable"] = False
        elif rng.random() < 0.3:
            members["retry_in_seconds"] = rng.uniform(0, 0.5)
        return verb, members

    async def _keep(self, task: Task) -> bool:
        """Work for a while, with heartbeats. False: the lease is lost, or the task is to be cancelled."""
        for beat in range(self._rng.randrange(1, 4)):
            await asyncio.sleep(task["lease_seconds"] * self._rng.uniform(0.05, 0.3))
            body = {"lease_token": task["lease_token"], "progress": {"percent": beat * 30}, "log": [f"step {beat}"] * 3}
            if self._rng.random() < 0.5:
                reply = await self._line.call("report", "POST", f"/tasks/{task['id']}/heartbeat", body)
                kept, cancelled = reply.status == 200, reply.status == 200 and reply.body["cancel_requested"]
            else:
                leases = [{"id": task["id"], **body}]
                together = {"worker_id": self._name, "leases": leases}
                reply = await self._line.call("report", "POST", "/heartbeats", together)
                (lease,) = reply.body["leases"] if reply.status == 200 else ({"status": 0},)
                kept, cancelled = lease["status"] == 200, lease.get("cancel_requested", False)
            self._ledger.counts["heartbeats"] += 1
            if cancelled:
                gone = await self._line.insist(
                    "report", "POST", f"/tasks/{task['id']}/release", {"lease_token": task["lease_token"]}
                )
                self._note(task["id"], "release", gone, gone.status, (gone.body or {}).get("status"))
                return False
            if not kept:
                return False
        return True

    async def _report_together(self, tasks: list[Task]) -> list[Task]:
        outcomes = []
        for task in tasks:
            if not self.steady and self._rng.random() < 0.02:
                self._ledger.counts["abandoned"] += 1
                continue
            verb, members = self._outcome()
            outcomes.append({"id": task["id"], "lease_token": task["lease_token"], "outcome": verb, **members})
        body = {"worker_id": self._name, "outcomes": outcomes}
        reply = await self._line.insist("report", "POST", "/outcomes", body)
        unanswered = [{"status": reply.status}] * len(outcomes)
        entries = reply.body["outcomes"] if reply.status == 200 else unanswered
        for sent, entry in zip(outcomes, entries, strict=True):
            self._note(sent["id"], sent["outcome"], reply, entry["status"], entry.get("task_status"))
        return []


class Lurker:
    """A poller of a queue that is nearly always empty. Every other poll it loses patience and hangs up."""

    def __init__(self, line: Line, name: str) -> None:
        self._line = line
        self._name = name
        self.steady = False

    async def run(self, stop: asyncio.Event) -> None:
        """Wait, hang up, wait."""
        rng = self._line.rng
        while not stop.is_set():
            hang_up = rng.uniform(0, 4) if not self.steady and rng.random() < 0.5 else None
            path = f"/poll?worker_id={self._name}&task_type={RARE}&wait={rng.choice((1, 2, 4))}&max=1"
            reply = await self._line.call("poll", "GET", path, hang_up=hang_up)
            for task in reply.body["tasks"] if reply.status == 200 else ():
                body = {"lease_token": task["lease_token"]}
                answer = await self._line.insist("report", "POST", f"/tasks/{task['id']}/complete", body)
                if answer.status == 200:
                    self._line.ledger.reported(task["id"], answer.body["status"])
