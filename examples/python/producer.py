"""A producer without an SDK: the standard library alone. `producer.py FILE ..` has each file counted and hashed."""

import json
import os
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

GATEWAY = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8080")
TOKEN = {"Authorization": f"Bearer {token}"} if (token := os.environ.get("GATEWAY_TOKEN")) else {}


def call(path, body=None, **headers):
    """GET, or POST a body. Comes again when a gateway has no room, or no time: after as long as it asks for."""
    data = json.dumps(body).encode() if body else None
    request = Request(GATEWAY + path, data, {"Content-Type": "application/json", **TOKEN, **headers})
    while True:
        try:
            with urlopen(request, timeout=60) as reply:
                return json.load(reply)
        except HTTPError as refusal:
            if refusal.code not in (429, 503):
                sys.exit(f"{path}: {refusal.read().decode()}")
            time.sleep(int(refusal.headers["Retry-After"]))


def show(task):
    """Print what came of a task: its result, or its error so far. Returns whether there is no result."""
    print(task["status"], json.dumps(task.get("result", task.get("error"))))
    return task["status"] != "completed"


first, *rest = [{"job_type": "file_process", "payload": {"path": str(Path(name).resolve())}} for name in sys.argv[1:]]
failed = show(call("/tasks", first, Prefer="wait=30"))  # answered when the task is final, at the latest after 30 s
for task in call("/tasks?atomic=true", rest)["tasks"] if rest else []:  # a batch: all of it is stored, or nothing
    failed |= show(call(f"/tasks/{task['id']}?wait=30"))
sys.exit(failed)
