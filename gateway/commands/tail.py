"""`gateway tail`: follow one task, or every state change of all, by asking again and again at a gentle rate."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from gateway.commands.bearer import TokenFile
from gateway.commands.client import Gateway, Refused, Unreachable, Url, path_of
from gateway.commands.output import REFUSED, AsJson, err, painted, plain, print_raw, say, terminal_width
from gateway.commands.tasks import FINAL, reason

_LIVE = "scheduled,pending,processing,retrying"
_MOST_LISTED = 1000
_MOST_REQUESTS = 8
_MOST_LOOKED_AT = 200
_MOST_REMEMBERED = 20_000
_OVERLAP = timedelta(seconds=2)
_GONE = "gone"
_LEAST_REST = 12


def tail(
    task_id: Annotated[str | None, typer.Argument(help="One task; without it, all.", show_default=False)] = None,
    interval: Annotated[float | None, typer.Option(min=0.1, max=60, help="Seconds between two looks.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Follow one task until it is final (exits 0 when it completed, 1 when not), or the state changes of all.

    --json prints an event a line.
    """
    gateway = Gateway(url, token_file, timeout_seconds=10)
    if task_id is None:
        _follow_all(gateway, interval or 1.0, as_json=json_)
    else:
        _follow_one(gateway, task_id, interval or 0.5, as_json=json_)


class OneTask:
    """Finds what happened to a task between two looks at it."""

    def __init__(self) -> None:
        self._status: str | None = None
        self._progress: bytes | None = None
        self._attempts: set[tuple[int, str]] = set()
        self._log: list[dict[str, Any]] = []

    def events(self, raw: bytes) -> Iterator[dict[str, Any]]:
        """What is new in this answer, as events: kind is log, progress, attempt or status."""
        task = json.loads(raw)
        log = task.get("log", [])
        for line in _new_lines(self._log, log):
            yield {"at": line["at"], "kind": "log", "attempt": line["attempt"], "line": line["line"]}
        self._log = log
        progress = msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).get("progress")
        if progress is not None and bytes(progress) != self._progress:
            self._progress = bytes(progress)
            yield {"at": _now(), "kind": "progress", "progress": progress}
        for one in task.get("attempts", []):
            key = (one["attempt"], one["started_at"])
            if key not in self._attempts:
                self._attempts.add(key)
                yield {**one, "at": one["finished_at"], "kind": "attempt"}
        if task["status"] != self._status:
            event = {"at": task.get("finished_at", _now()), "kind": "status", "from": self._status}
            event |= {"to": task["status"], "attempt": task["attempt"], "max_attempts": task["max_attempts"]}
            event |= {name: task[name] for name in ("worker_id", "run_at", "title") if name in task}
            self._status = task["status"]
            yield event


class AllTasks:
    """Finds the state changes of all tasks between two looks.

    What it sees of a gateway that has more than 1,000 unfinished tasks is not complete: `missed` tells.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._known: dict[str, dict[str, Any]] = {}
        self._counts: object = None
        self._newest: datetime | None = None
        self.missed = False

    def changes(self) -> list[dict[str, Any]]:
        """Look; list what changed since the last look, from old to new. Raises Refused."""
        counts = [
            {name: value for name, value in queue.items() if name != "oldest_pending_seconds"}
            for queue in self._gateway.get("/queues").json()["queues"]
        ]
        if counts == self._counts:
            return []
        found = self._list(status=_LIVE)
        self.missed = len(found) >= _MOST_LISTED
        after = None if self._newest is None else (self._newest - _OVERLAP).isoformat(timespec="milliseconds")
        found = self._list(created_after=after) | found
        oldest = min((task["created_at"] for task in found.values()), default="") if self.missed else ""
        vanished = [
            task_id
            for task_id, task in self._known.items()
            if task_id not in found and task["status"] not in (*FINAL, _GONE) and task["created_at"] >= oldest
        ]
        for task_id in vanished[:_MOST_LOOKED_AT]:
            found[task_id] = self._look(task_id)
        # What was not looked at yet must not wait until a count changes again.
        self._counts = None if len(vanished) > _MOST_LOOKED_AT else counts
        return [change for task in sorted(found.values(), key=_created) for change in self._note(task)]

    def begin(self) -> None:
        """Take what there is for known."""
        newest = [json.loads(raw) for page in self._gateway.pages(1) for raw in page]
        if newest:
            self._newest = datetime.fromisoformat(newest[0]["created_at"])
        self.changes()

    def _list(self, **query: object) -> dict[str, dict[str, Any]]:
        pages = self._gateway.pages(_MOST_LISTED, most_requests=_MOST_REQUESTS, **query)
        tasks = [json.loads(raw) for page in pages for raw in page]
        return {task["id"]: task for task in tasks}

    def _look(self, task_id: str) -> dict[str, Any]:
        try:
            task: dict[str, Any] = self._gateway.get(path_of(task_id)).json()
        except Refused as refusal:
            if refusal.status != 404:
                raise
            return {**self._known[task_id], "status": _GONE}
        return task

    def _note(self, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
        known = self._known.pop(task["id"], None)
        kept = ("id", "status", "created_at", "attempt", "max_attempts", "worker_id", "title")
        self._known[task["id"]] = {name: task[name] for name in kept if name in task}
        if len(self._known) > _MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        created = datetime.fromisoformat(task["created_at"])
        if self._newest is None or created > self._newest:
            self._newest = created
        before = known["status"] if known else None
        if task["status"] != before or (known and known["attempt"] < task["attempt"]):
            change = {"at": task.get("finished_at", _now()), "id": task["id"], "from": before, "to": task["status"]}
            yield change | {
                name: task[name] for name in ("attempt", "max_attempts", "worker_id", "title") if name in task
            }


def _follow_one(gateway: Gateway, task_id: str, interval: float, *, as_json: bool) -> None:
    one = OneTask()
    etag: str | None = None
    final: str | None = None
    started = False

    def look() -> None:
        nonlocal etag, final
        answer = gateway.ask("GET", path_of(task_id), headers={"If-None-Match": etag} if etag else None)
        etag = answer.etag or etag
        if answer.status == 304:
            return
        task = answer.json()
        for event in one.events(answer.raw):
            if as_json:
                print_raw(msgspec.json.encode({"id": task["id"], **event}))
            else:
                say(_event_line(event, task))
        if task["status"] in FINAL:
            final = task["status"]

    while final is None:
        _patiently(look, first=not started)
        started = True
        if final is None:
            time.sleep(interval)
    raise typer.Exit(0 if final == "completed" else REFUSED)


def _follow_all(gateway: Gateway, interval: float, *, as_json: bool) -> None:
    tasks = AllTasks(gateway)
    warned = False
    _patiently(tasks.begin, first=True)
    if err.is_terminal:
        err.print("[dim]following all tasks; Ctrl+C ends[/]")

    def look() -> None:
        for change in tasks.changes():
            if as_json:
                print_raw(msgspec.json.encode(change))
            else:
                say(_change_line(change, terminal_width()))

    while True:
        time.sleep(interval)
        _patiently(look, first=False)
        if tasks.missed and not warned:
            warned = True
            err.print(f"[yellow]more than {_MOST_LISTED} unfinished tasks: not every change can be shown[/]")


def _patiently(look: Callable[[], None], *, first: bool) -> None:
    """Look; where the gateway or its Redis is away for a while, look again until it is back."""
    away = False
    while True:
        pause_seconds = 1
        try:
            look()
        except Unreachable as error:
            if first:
                raise
            problem = str(error).partition(". Start")[0]
        except Refused as refusal:
            if first or not refusal.problem.get("retryable"):
                raise
            problem, pause_seconds = str(refusal), refusal.retry_after_seconds or 1
        else:
            if away:
                err.print("[dim]back again[/]")
            return
        if not away:
            err.print(f"{problem}; trying again", markup=False, soft_wrap=True)
        away = True
        time.sleep(pause_seconds)


def _event_line(event: dict[str, Any], task: dict[str, Any]) -> Text:
    kind = event["kind"]
    if kind == "log":
        label, text = Text("log", "dim"), plain(event["line"])
    elif kind == "progress":
        label, text = Text("progress", "blue"), plain(bytes(event["progress"]).decode())
    elif kind == "attempt":
        label = Text("attempt")
        text = f"{event['attempt']} by {plain(event['worker_id'])}: {event['outcome']}"
        text += f" ({reason(event['error'])})" if "error" in event else ""
    else:
        label, text = painted(event["to"]), _status_text(event, task)
    label.append(" " * max(10 - len(label.plain), 0))
    return Text.assemble((_clock(event["at"]), "dim"), "  ", label, "  ", text)


def _status_text(event: dict[str, Any], task: dict[str, Any]) -> str:
    status = event["to"]
    if status == "processing":
        return f"attempt {event['attempt']} of {event['max_attempts']} by {plain(event.get('worker_id', ''))}"
    if status in ("scheduled", "retrying") and "run_at" in event:
        return f"until {_clock(event['run_at'])}"
    if status == "completed":
        return plain(json.dumps(task.get("result"), ensure_ascii=False))
    if status == "failed" and "error" in task:
        return reason(task["error"])
    return plain(event.get("title", ""))


def _change_line(change: dict[str, Any], width: int | None) -> Text:
    before, after = change["from"] or "new", painted(change["to"])
    padding = " " * max(24 - len(before) - len(after.plain) - 4, 0)
    line = Text.assemble((_clock(change["at"]), "dim"), f"  {change['id']}  {before} -> ", after)
    again = change["attempt"] > 1 and (change["to"] == "processing" or change["to"] == before)
    attempt = f"  attempt {change['attempt']}" if again else ""
    rest = Text(f"{padding}  {plain(change.get('worker_id', '-'))}{attempt}  {plain(change.get('title', ''))}")
    rest.rstrip()
    if width is not None:
        room = width - line.cell_len
        rest.truncate(room if room > _LEAST_REST else 0, overflow="ellipsis" if room > _LEAST_REST else "crop")
    line.append_text(rest)
    return line


def _new_lines(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of `new` that `old` did not have; only the last lines of a log are kept."""
    for kept in range(min(len(old), len(new)), 0, -1):
        if old[-kept:] == new[:kept]:
            return new[kept:]
    return new


def _created(task: dict[str, Any]) -> str:
    return str(task["created_at"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _clock(at: str) -> str:
    return datetime.fromisoformat(at).astimezone().strftime("%H:%M:%S.%f")[:-3]
