"""Producers that use every option, repeat what got no answer where that is safe, cancel, send back, and hang up."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime
from typing import Any

from tests.campaign.wire import Client, Misbehaviour

QUEUES = ("mixed-a", "mixed-b", "mixed-c")
# Tasks here are never delayed, limited or unique: their order is checked.
ORDER_QUEUE = "order"
# Likewise, but each has a concurrency key: one of a key runs at a time.
KEYED_QUEUE = "keyed"
# Few run at a time, of a concurrency key fewer still.
LIMITED_QUEUE = "limited"
# Workers pause it now and then.
PAUSED_QUEUE = "paused"
# Spread over partitions, whose number changes; ready at once, some with a concurrency key: order is checked in each.
PARTITIONED_QUEUE = "spread"
# So many are handed out in a second, and not many at once.
RATED_QUEUE = "rated"
ALL_QUEUES = (*QUEUES, ORDER_QUEUE, KEYED_QUEUE, PARTITIONED_QUEUE, LIMITED_QUEUE, PAUSED_QUEUE, RATED_QUEUE)
# What is handed out there first can be compared with what was stored first.
ORDERED_QUEUES = (ORDER_QUEUE, KEYED_QUEUE, PARTITIONED_QUEUE)
# What an operator has set before the first task.
SETTINGS: dict[str, dict[str, float]] = {
    LIMITED_QUEUE: {"max_processing": 4, "max_processing_per_key": 2},
    RATED_QUEUE: {"rate_per_second": 20},
    PARTITIONED_QUEUE: {"partitions": 3},
}
_KEYS = 8
PRIORITIES = ("low", "normal", "high", "critical")
_PAUSE_SECONDS = 0.01
_BACKOFF_SECONDS = (0.1, 0.4)
_SAFE_REPEATS = 60


def unix(text: str) -> float:
    """Read a time of the protocol as unix seconds."""
    return datetime.fromisoformat(text).timestamp()


class Producer:
    """One producer. Its payloads are unique, so a task can be told by its payload."""

    def __init__(self, client: Client, stop: asyncio.Event) -> None:
        self._client = client
        self._rng = client.rng
        self._stop = stop
        self._number = 0
        self._made: deque[str] = deque(maxlen=200)

    async def run(self) -> None:
        """Produce until told to stop."""
        while not self._stop.is_set():
            chance = self._rng.random()
            if chance < 0.02 and self._made:
                await self._cancel()
            elif chance < 0.03 and self._made:
                await self._send_back()
            elif chance < 0.05 and self._made:
                await self._read()
            else:
                await self._enqueue()
            await asyncio.sleep(self._rng.uniform(0, 2 * _PAUSE_SECONDS))

    def _task(self) -> dict[str, Any]:
        rng = self._rng
        self._number += 1
        payload = f"{self._client.name}-{self._number}"
        if rng.random() < 0.02:
            payload += ":" + "x" * rng.randrange(20_000)
        task: dict[str, Any] = {
            "job_type": rng.choice(QUEUES),
            "payload": payload,
            "lease_seconds": rng.choice((1, 1.5, 2)),
            "retry": {"backoff": "fixed", "base_seconds": rng.choice((0, 0.2, 0.5)), "jitter": False},
        }
        if rng.random() < 0.7:
            task["priority"] = rng.choice(PRIORITIES)
        ordered = rng.random()
        if ordered < 0.35:
            task["job_type"] = ORDER_QUEUE if ordered < 0.2 else PARTITIONED_QUEUE
            if ordered > 0.33:
                task["concurrency_key"] = f"c{rng.randrange(_KEYS)}"
            return task
        special = rng.random()
        if special < 0.12:
            return task | {"job_type": KEYED_QUEUE, "concurrency_key": f"c{rng.randrange(_KEYS)}"}
        if special < 0.19:
            task["job_type"] = LIMITED_QUEUE
            if rng.random() < 0.5:
                task["concurrency_key"] = f"c{rng.randrange(3)}"
        elif special < 0.24:
            task["job_type"] = PAUSED_QUEUE
        elif special < 0.32:
            task["job_type"] = RATED_QUEUE
        task["max_attempts"] = rng.choice((1, 2, 3, 25))
        if rng.random() < 0.2:
            task["delay_seconds"] = round(rng.uniform(0.05, 2.0), 3)
        if rng.random() < 0.15:
            task["expires_in_seconds"] = task.get("delay_seconds", 0) + round(rng.uniform(0.3, 3), 3)
        if rng.random() < 0.05:
            task["timeout_seconds"] = 1.2
        if rng.random() < 0.03:
            task["retention_seconds"] = 0
        if "concurrency_key" not in task and rng.random() < 0.12:
            # Some that many ask for, and some that nobody will ask for again.
            task["unique_key"] = rng.choice((f"k{rng.randrange(4)}", f"only {payload[:40]}"))
            if task["unique_key"].startswith("k"):
                # Whose task it would be that is forgotten so soon, nobody could tell.
                task.pop("retention_seconds", None)
            task["unique_until"] = rng.choice(("finished", "finished", "started"))
            task["on_conflict"] = rng.choice(("return", "reject", "replace"))
        return task

    async def _enqueue(self) -> None:
        rng = self._rng
        batch = rng.random() < 0.08
        items = [self._task() for _ in range(rng.randrange(2, 20) if batch else 1)]
        atomic = batch and rng.random() < 0.3
        if atomic:
            queue = items[0]["job_type"]
            items = [item for item in items if item["job_type"] == queue]
        # A request may be repeated later than a task without retention is remembered: docs/reliability.md names it.
        kept = all(item.get("retention_seconds") != 0 for item in items)
        key = f"{self._client.name}-key-{self._number}" if kept and rng.random() < 0.4 else None
        facts = {"items": items, "atomic": atomic, "key": key}
        path = "/tasks?atomic=true" if atomic else "/tasks"
        misbehaviour = None
        if rng.random() < 0.01:
            misbehaviour = Misbehaviour(rng.uniform(0, 0.01), rng.choice(("close", "reset")), rng.random() < 0.5)
        for _ in range(_SAFE_REPEATS):
            reply = await self._client.call(
                "enqueue", facts, "POST", path, items if batch else items[0],
                headers=f"Idempotency-Key: {key}\r\n" if key else "", misbehaviour=misbehaviour, digest=_made,
            )  # fmt: skip
            misbehaviour = None
            again = reply.status == 0 or reply.status == 409 or reply.status == 503
            if reply.status in (200, 201) and isinstance(reply.body, dict):
                self._made += [task["id"] for task in _tasks(reply.body) if "id" in task]
            if not again:
                return
            if self._stop.is_set():
                return
            await asyncio.sleep(rng.uniform(*_BACKOFF_SECONDS))
            if key is None:
                return

    async def _cancel(self) -> None:
        task_id = self._rng.choice(self._made)
        await self._client.call("cancel", {"id": task_id}, "DELETE", f"/tasks/{task_id}")

    async def _send_back(self) -> None:
        task_id = self._rng.choice(self._made)
        await self._client.call("retry", {"id": task_id}, "POST", f"/tasks/{task_id}/retry")

    async def _read(self) -> None:
        task_id = self._rng.choice(self._made)
        wait = self._rng.choice((0, 0, 0.5))
        await self._client.call("read", {"id": task_id}, "GET", f"/tasks/{task_id}?wait={wait}", digest=_state)


def _tasks(body: dict[str, Any]) -> list[dict[str, Any]]:
    if "results" in body:
        return [entry.get("task", {}) for entry in body["results"]]
    return body.get("tasks", [body])


def _made(body: dict[str, Any]) -> dict[str, Any]:
    entries = body.get("results") or [{"status": 201, "task": task} for task in body.get("tasks", [body])]
    return {"tasks": [_one_made(entry) for entry in entries]}


def _one_made(entry: dict[str, Any]) -> dict[str, Any]:
    if "task" not in entry:
        return {"status": entry["status"], "code": entry["error"]["code"]}
    task = entry["task"]
    return {
        "status": entry["status"], "id": task["id"], "task_status": task["status"], "payload": task["payload"],
        "created": unix(task["created_at"]), "run_at": unix(task["run_at"]),
    }  # fmt: skip


def _state(body: dict[str, Any]) -> dict[str, Any]:
    return {"status": body["status"], "attempt": body["attempt"], "payload": body["payload"]}
