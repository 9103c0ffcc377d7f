"""A worker of the demo, in Python and its standard library: SHA-256, bytes and lines of {"path": .., "seconds": 0}."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

GATEWAY, WORKER, TYPES = os.environ["GATEWAY_URL"], os.environ["WORKER_ID"], os.environ["TASK_TYPE"].split(",")


def post(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """POST JSON. Returns status and reply; any refusal is a status."""
    request = urllib.request.Request(GATEWAY + path, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - http, from the demo
    try:
        with urllib.request.urlopen(request, timeout=40) as reply:  # noqa: S310 - as above
            return reply.status, json.loads(reply.read() or b"{}")
    except urllib.error.HTTPError as refusal:
        return refusal.code, {}


def keep(task: dict[str, Any], done: threading.Event, let_go: threading.Event) -> None:
    """Send heartbeats until the work is done; `let_go` is set when the task was cancelled or the lease is lost."""
    while not done.wait(task["heartbeat_seconds"]):
        status, reply = post(f"/tasks/{task['id']}/heartbeat", {"lease_token": task["lease_token"]})
        if status != 200 or reply["cancel_requested"]:
            let_go.set()
            return


def work(payload: dict[str, Any], let_go: threading.Event) -> dict[str, Any]:
    """Read the file; first take as long as a large one would."""
    let_go.wait(payload.get("seconds", 0))
    data = Path(payload["path"]).read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "lines": data.count(b"\n")}


def handle(task: dict[str, Any]) -> None:
    """Work on one task and report."""
    done, let_go = threading.Event(), threading.Event()
    threading.Thread(target=keep, args=(task, done, let_go), daemon=True).start()
    path, report = f"/tasks/{task['id']}", {"lease_token": task["lease_token"]}
    try:
        result = work(task["payload"], let_go)
    except OSError as error:
        post(f"{path}/fail", report | {"error": {"type": type(error).__name__, "message": str(error)}})
    else:
        post(f"{path}/release", report) if let_go.is_set() else post(f"{path}/complete", report | {"result": result})
    finally:
        done.set()


while True:
    try:
        _, found = post("/poll", {"worker_id": WORKER, "task_type": TYPES, "wait": 25, "poll_id": secrets.token_hex(8)})
    except OSError:
        time.sleep(0.5)
        continue
    for leased in found.get("tasks", []):
        handle(leased)
