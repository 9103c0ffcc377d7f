"""Commands about tasks: enqueue, get, list, wait, cancel, retry."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gateway.commands.client import (
    REFUSED,
    USAGE,
    AsJson,
    Gateway,
    Refused,
    TaskIdArgument,
    Url,
    err,
    fail,
    out,
    path_of,
    print_json,
    refused,
)

_CHUNK_TASKS = 500
_CHUNK_BYTES = 512 * 1024
_LONGEST_WAIT_SECONDS = 50
_COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "processing": "cyan", "retrying": "magenta"}
FINAL = ("completed", "failed", "cancelled")


def enqueue(
    job_type: Annotated[str | None, typer.Argument(help="The queue, such as image_resize.")] = None,
    payload: Annotated[str, typer.Argument(help="JSON; - reads it from standard input.")] = "null",
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="NDJSON: a task a line, as for POST /tasks; - reads standard input."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="A title for people.")] = None,
    priority: Annotated[str | None, typer.Option(help="low, normal, high or critical.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds to wait before it may start.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Most attempts, 1 to 1000.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="name:value; may be repeated.")] = None,
    wait: Annotated[float | None, typer.Option(help="Wait so many seconds for its end.")] = None,
    url: Url = None,
    json_: AsJson = False,
) -> None:
    """Enqueue a task and print its id, or many from an NDJSON file."""
    gateway = Gateway(url)
    if file is not None:
        _enqueue_file(gateway, file, job_type, as_json=json_)
        return
    if job_type is None and title is None:
        fail("name a job_type (gateway enqueue image_resize '{..}'), a --title, or a --file", USAGE)
    text = sys.stdin.read() if payload == "-" else payload
    try:
        json.loads(text)
    except ValueError as error:
        fail(f"the payload is not JSON: {error}. A text needs its quotes: '\"like this\"'", USAGE)
    options = {
        "job_type": job_type, "title": title, "priority": priority, "delay_seconds": delay,
        "max_attempts": max_attempts, "tags": dict(one.partition(":")[::2] for one in tag) if tag else None,
    }  # fmt: skip
    members = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in options.items() if value is not None]
    # The payload goes as it was typed: 1.0 stays 1.0.
    body = ", ".join([*members, f'"payload": {text}'])
    try:
        task = gateway.ask("POST", "/tasks", f"{{{body}}}".encode())
        if wait is not None:
            task = _await_end(gateway, task["id"], wait)
    except Refused as refusal:
        refused(refusal, as_json=json_)
    if json_:
        print_json(task)
    elif wait is None:
        out.print(task["id"], markup=False, soft_wrap=True)
    else:
        show(task)
    if wait is not None:
        raise typer.Exit(0 if task["status"] == "completed" else REFUSED)


def get(
    task_id: TaskIdArgument,
    wait: Annotated[float | None, typer.Option(help="Wait so many seconds for its end.")] = None,
    url: Url = None,
    json_: AsJson = False,
) -> None:
    """Show a task."""
    gateway = Gateway(url)
    try:
        task = gateway.get(path_of(task_id)) if wait is None else _await_end(gateway, task_id, wait)
    except Refused as refusal:
        refused(refusal, as_json=json_)
    print_json(task) if json_ else show(task)


def list_tasks(
    status: Annotated[str | None, typer.Option(help="One or more states, separated by commas.")] = None,
    job_type: Annotated[str | None, typer.Option("--type", help="One queue only.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="name:value; may be repeated.")] = None,
    worker: Annotated[str | None, typer.Option(help="Tasks that this worker had.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most tasks to list.")] = 50,
    url: Url = None,
    json_: AsJson = False,
) -> None:
    """List tasks, newest first. --json prints a task a line."""
    gateway = Gateway(url)
    try:
        tasks = gateway.pages(limit, status=status, job_type=job_type, tag=tag, worker_id=worker)
        if json_:
            for task in tasks:
                print_json(task)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("id", "status", "attempt", "created", "worker", "title"):
            table.add_column(column, no_wrap=column != "title", overflow="fold" if column == "id" else "ellipsis")
        for task in tasks:
            table.add_row(
                task["id"],
                painted(task["status"]),
                f"{task['attempt']}/{task['max_attempts']}",
                task["created_at"][:19].replace("T", " "),
                task.get("worker_id", ""),
                task.get("title", ""),
            )
    except Refused as refusal:
        refused(refusal, as_json=json_)
    out.print(table if table.row_count else "[dim]no tasks[/]", soft_wrap=True)


def wait(
    task_id: TaskIdArgument,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait at most.")] = 3600.0,
    url: Url = None,
    json_: AsJson = False,
) -> None:
    """Wait for a task's end. Exits 0 when it completed, 1 when it did not."""
    gateway = Gateway(url)
    try:
        task = _await_end(gateway, task_id, timeout)
    except Refused as refusal:
        refused(refusal, as_json=json_)
    print_json(task) if json_ else show(task)
    raise typer.Exit(0 if task["status"] == "completed" else REFUSED)


def cancel(task_id: TaskIdArgument, url: Url = None, json_: AsJson = False) -> None:
    """Cancel a task: at once while it waits; a running one when its worker hears of it."""
    _change("DELETE", path_of(task_id), url, as_json=json_)


def retry(task_id: TaskIdArgument, url: Url = None, json_: AsJson = False) -> None:
    """Send a failed or cancelled task back to its queue, with fresh attempts."""
    _change("POST", path_of(task_id, "retry"), url, as_json=json_)


def show(task: dict[str, Any]) -> None:
    """Print a task, a member a line."""
    for name, value in task.items():
        if name == "attempts":
            for one in value:
                error = one.get("error")
                text = f"{one['attempt']} by {one['worker_id']}: {one['outcome']}"
                out.print(
                    f"{'attempt':16} {text}{' ' + json.dumps(error) if error else ''}", markup=False, soft_wrap=True
                )
        elif name == "log":
            for line in value:
                out.print(f"{'log':16} {line['at'][11:23]} {line['line']}", markup=False, soft_wrap=True)
        elif name == "status":
            out.print(f"{name:16} {painted(value)}", soft_wrap=True)
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            out.print(f"{name:16} {text}", markup=False, soft_wrap=True)


def painted(status: str) -> str:
    """A status in its colour."""
    colour = _COLOURS.get(status)
    return f"[{colour}]{status}[/]" if colour else status


def _change(method: str, path: str, url: str | None, *, as_json: bool) -> None:
    try:
        task = Gateway(url).ask(method, path)
    except Refused as refusal:
        refused(refusal, as_json=as_json)
    if as_json:
        print_json(task)
    else:
        asked = " (its worker was asked to stop)" if task.get("cancel_requested") else ""
        out.print(f"{task['id']} is {painted(task['status'])}{asked}", soft_wrap=True)


def _await_end(gateway: Gateway, task_id: str, seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        left = max(deadline - time.monotonic(), 0.0)
        task = gateway.get(path_of(task_id), wait=round(min(left, _LONGEST_WAIT_SECONDS), 3))
        if task["status"] in FINAL or left <= 0:
            return task


def _enqueue_file(gateway: Gateway, file: str, job_type: str | None, *, as_json: bool) -> None:
    try:
        lines = sys.stdin.buffer.read().splitlines() if file == "-" else Path(file).read_bytes().splitlines()
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", USAGE)
    lines = [line for line in lines if line.strip()]
    if job_type is not None:
        # Lines are payloads then.
        start = b'{"job_type": ' + json.dumps(job_type).encode() + b', "payload": '
        lines = [start + line + b"}" for line in lines]
    stored = wrong = 0
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err,
        disable=not err.is_terminal,
    ) as progress:  # fmt: skip
        bar = progress.add_task("enqueuing", total=len(lines))
        number = 0
        for chunk in _chunks(lines):
            status, answer = gateway.request(
                "POST", "/tasks", b"\n".join(chunk), {"Content-Type": "application/x-ndjson"}
            )
            while status == 503 and answer.get("code") == "queue_full":
                # A full queue drains; a pipeline waits.
                time.sleep(1)
                status, answer = gateway.request(
                    "POST", "/tasks", b"\n".join(chunk), {"Content-Type": "application/x-ndjson"}
                )
            if status >= 400:
                refused(Refused(status, answer), as_json=as_json)
            entries = (
                [{"status": 201, "task": task} for task in answer["tasks"]] if status == 201 else answer["results"]
            )
            for entry in entries:
                number += 1
                if entry["status"] == 201:
                    stored += 1
                    if as_json:
                        print_json(entry["task"])
                else:
                    wrong += 1
                    err.print(f"line {number}: {entry['error']['detail']}", markup=False, soft_wrap=True)
            progress.advance(bar, len(chunk))
    if not as_json:
        out.print(f"{stored} enqueued" + (f", {wrong} refused" if wrong else ""))
    raise typer.Exit(REFUSED if wrong else 0)


def _chunks(lines: list[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        if chunk and (len(chunk) >= _CHUNK_TASKS or size + len(line) > _CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += len(line) + 1
    if chunk:
        yield chunk
