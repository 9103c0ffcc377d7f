"""A worker without an SDK: Python's standard library alone. Payload: {"path": "a file", "seconds": 0}."""

import json
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

GATEWAY, JSON = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8080"), {"Content-Type": "application/json"}
TOKEN = {"Authorization": f"Bearer {token}"} if (token := os.environ.get("GATEWAY_TOKEN")) else {}
WORKER = os.environ.get("WORKER_ID", f"python-{random.randbytes(4).hex()}")


def file_process(payload, let_go):
    """The work. Whatever takes long looks at `let_go` and ends early when that is set."""
    let_go.wait(payload.get("seconds", 0))
    raw = Path(payload["path"]).read_bytes()
    return {"bytes": len(raw), "lines": raw.count(b"\n"), "words": len(raw.split()), "sha256": sha256(raw).hexdigest()}


def call(method, path, body=None, tries=1):
    """Send a request. Returns status, directive and reply; status 0: nobody had an answer, however often asked."""
    for attempt in range(tries):
        request = Request(GATEWAY + path, body and json.dumps(body).encode(), JSON | TOKEN, method=method)
        try:
            with urlopen(request, timeout=35 if path == "/poll" else 10) as reply:
                return reply.status, reply.headers["X-Directive"], json.loads(reply.read() or b"{}")
        except HTTPError as refusal:
            print(WORKER, path, refusal.code, refusal.read().decode(), file=sys.stderr)
            if refusal.code < 500 and refusal.code != 429:
                return refusal.code, None, {}
        except (OSError, HTTPException) as error:
            print(WORKER, path, error, file=sys.stderr)
        time.sleep(random.uniform(0.5, 1) * min(10, 0.1 * 2 ** min(attempt, 9)))
    return 0, None, {}


def handle(task):
    """Work on a task in the pool's thread while this one keeps the lease."""
    path, lease, let_go = f"/tasks/{task['id']}", {"lease_token": task["lease_token"]}, threading.Event()
    work = pool.submit(file_process, task["payload"], let_go)
    try:
        while not wait([work], task["heartbeat_seconds"]).done:
            status, _, beat = call("POST", path + "/heartbeat", lease)
            if status in (404, 409):
                return  # the lease is lost, another may have the task by now: report nothing
            if beat.get("cancel_requested") or beat.get("directive") == "stop":
                return call("POST", path + "/release", lease)
        error = work.exception()
        again = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        failure = {"error": {"type": type(error).__name__, "message": str(error)}, "retryable": again}
        verb, report = ("fail", failure) if error else ("complete", {"result": work.result()})
        status, _, _ = call("POST", f"{path}/{verb}", lease | report, sys.maxsize)
        print(f"{WORKER}: {verb} {task['id']}: {status} {error or ''}", file=sys.stderr)
    finally:
        let_go.set()


for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: sys.exit())
pool, directive = ThreadPoolExecutor(1), "run"
print(f"{WORKER} polls {GATEWAY} for file_process", file=sys.stderr)
try:
    while directive == "run":
        poll = {"worker_id": WORKER, "task_type": "file_process", "wait": 25, "poll_id": random.randbytes(8).hex()}
        status, directive, reply = call("POST", "/poll", poll, sys.maxsize)
        for task in reply.get("tasks", []):
            handle(task)
finally:
    call("DELETE", f"/workers/{WORKER}")  # gives back what is in hand, too
sys.exit(0 if directive else "the gateway refused the poll")
