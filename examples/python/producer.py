"""A producer without an SDK: the standard library alone. `producer.py FILE ..` has each file counted and hashed."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

GATEWAY = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8080")
TOKEN = {"Authorization": f"Bearer {token}"} if (token := os.environ.get("GATEWAY_TOKEN")) else {}


def call(path, body=None, **headers):
    """GET, or POST a body. Comes again when a gateway has no room, or no time: after as long as it asks for."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(GATEWAY + path, data, {"Content-Type": "application/json", **TOKEN, **headers})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as refusal:
            if refusal.code not in (429, 503):
                sys.exit(f"{path}: {refusal.read().decode()}")
            time.sleep(int(refusal.headers["Retry-After"]))


first, *rest = [{"job_type": "file_process", "payload": {"path": str(Path(name).resolve())}} for name in sys.argv[1:]]
task = call("/tasks", first, Prefer="wait=30")  # answered when the task is final, at the latest after 30 s
print(task["status"], json.dumps(task.get("result")))
if rest:
    for task in call("/tasks?atomic=true", rest)["tasks"]:  # a batch: all of it is stored, or nothing
        task = call(f"/tasks/{task['id']}?wait=30")
        print(task["status"], json.dumps(task.get("result")))
