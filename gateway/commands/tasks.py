"""Commands about tasks: enqueue, get, list, wait."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from gateway.commands.bearer import TokenFile
from gateway.commands.choices import JobType, Status, Tag, Worker, tags_of
from gateway.commands.client import Answer, Gateway, Refused, TaskIdArgument, Url, path_of
from gateway.commands.output import (
    REFUSED,
    USAGE,
    AsJson,
    Column,
    Listing,
    age,
    err,
    fail,
    painted,
    plain,
    print_lines,
    print_raw,
    say,
    terminal_width,
)

FINAL = ("completed", "failed", "cancelled")
_CHUNK_TASKS = 500
_CHUNK_BYTES = 512 * 1024
_LONGEST_WAIT_SECONDS = 50
_LABEL_CELLS = 16
_INDEX = re.compile(r"\[\d+\](?:\.|: )")
# Nothing was stored, and waiting helps.
_FOR_A_WHILE = ("queue_full", "rate_limited", "quota_exceeded")
_Wait = Annotated[float | None, typer.Option(min=0, help="Wait so many seconds for its end.")]


def enqueue(
    job_type: Annotated[str | None, typer.Argument(help="The queue, such as image_resize.")] = None,
    payload: Annotated[
        str | None, typer.Argument(help="JSON; - reads it from standard input.", show_default="null")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            help="NDJSON: a task a line, as for POST /tasks; with a job_type a payload a line, each with the options "
            "beside it. - reads standard input.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="A title for people.")] = None,
    priority: Annotated[str | None, typer.Option(help="low, normal, high or critical.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds to wait before it may start.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Most attempts, 1 to 1000.")] = None,
    tag: Tag = None,
    wait: _Wait = None,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Enqueue a task and print its id, or many from an NDJSON file."""
    gateway = Gateway(url, token_file)
    options = {
        "job_type": job_type, "title": title, "priority": priority, "delay_seconds": delay,
        "max_attempts": max_attempts, "tags": tags_of(tag),
    }  # fmt: skip
    members = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in options.items() if value is not None]
    if file is not None:
        if wait is not None or payload is not None:
            fail("--file goes with neither --wait nor a payload", USAGE)
        if job_type is None and members:
            fail("with --file, options are for lines that are payloads: name their job_type, too", USAGE)
        _enqueue_file(gateway, file, members, as_json=json_)
        return
    if job_type is None and title is None:
        fail("name a job_type (gateway enqueue image_resize '{..}'), a --title, or a --file", USAGE)
    text = sys.stdin.read() if payload == "-" else payload or "null"
    try:
        json.loads(text)
    except ValueError as error:
        fail(f"the payload is not JSON: {error}. A text needs its quotes: '\"like this\"'", USAGE)
    # The payload goes as it was typed: 1.0 stays 1.0.
    body = ", ".join([*members, f'"payload": {text}'])
    # What stores a task may wait for its end, too: no scope to read is needed for the first minute.
    prefer = None if wait is None else {"Prefer": f"wait={min(int(wait), _LONGEST_WAIT_SECONDS)}"}
    begun = time.monotonic()
    answer = gateway.ask("POST", "/tasks", f"{{{body}}}".encode(), prefer)
    if wait is not None and answer.json()["status"] not in FINAL:
        task_id = answer.json()["id"]
        try:
            answer = _await_end(gateway, task_id, max(begun + wait - time.monotonic(), 0.0))
        except Refused:
            err.print(f"stored as {task_id}, but it cannot be waited for:", markup=False)
            raise
    task = answer.json()
    if json_:
        print_raw(answer.raw)
    elif wait is None:
        say(task["id"])
    else:
        show(answer.raw)
    if wait is not None:
        raise typer.Exit(0 if task["status"] == "completed" else REFUSED)


def get(
    task_id: TaskIdArgument,
    wait: _Wait = None,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Show a task: everything that is known of it, its history and its log."""
    gateway = Gateway(url, token_file)
    answer = gateway.get(path_of(task_id)) if wait is None else _await_end(gateway, task_id, wait)
    print_raw(answer.raw) if json_ else show(answer.raw)


def list_tasks(
    status: Status = None,
    job_type: JobType = None,
    tag: Tag = None,
    worker: Worker = None,
    limit: Annotated[int, typer.Option(min=1, help="Most tasks to list.")] = 50,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """List tasks, newest first. --json prints a task a line."""
    tags = [f"{name}:{value}" for name, value in (tags_of(tag) or {}).items()]
    pages = Gateway(url, token_file).pages(limit, status=status, job_type=job_type, tag=tags, worker_id=worker)
    if json_:
        for page in pages:
            for task in page:
                print_raw(task)
        return
    width = terminal_width()
    created = Column("created", 4) if width is None else Column("age", 4, right=True)
    listing = Listing(
        [Column("id"), Column("status", 1), Column("attempt", 5, right=True), created, Column("worker", 3),
         Column("title", 2, flexible=True)],
        width,
    )  # fmt: skip
    found = False
    for page in pages:
        if page:
            found = True
            print_lines(listing.lines([_row(json.loads(task), for_people=width is not None) for task in page]))
    if not found:
        err.print("[dim]no tasks[/]")


def wait(
    task_id: TaskIdArgument,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait at most.")] = 3600.0,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Wait for a task's end. Exits 0 when it completed, 1 when it did not."""
    answer = _await_end(Gateway(url, token_file), task_id, timeout)
    print_raw(answer.raw) if json_ else show(answer.raw)
    raise typer.Exit(0 if answer.json()["status"] == "completed" else REFUSED)


def show(raw: bytes) -> None:
    """Print a task, a member a line."""
    for name, value in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).items():
        if name == "attempts":
            for one in json.loads(bytes(value)):
                outcome = Text.assemble(f"{one['attempt']} by {plain(one['worker_id'])}: ", _outcome(one["outcome"]))
                _member("attempt", outcome.append(f" {reason(one['error'])}" if "error" in one else ""))
        elif name == "log":
            for line in json.loads(bytes(value)):
                _member("log", Text(f"{line['at'][11:23]} {plain(line['line'])}"))
        elif name == "error":
            error = json.loads(bytes(value))
            _member(name, Text(reason(error), "red"))
            for line in (error.get("stack") or "").splitlines():
                _member("", Text(plain(line), "dim"))
        elif name == "status":
            _member(name, painted(json.loads(bytes(value))))
        else:
            text = bytes(value).decode()
            _member(name, Text(plain(json.loads(text) if text.startswith('"') else text)))


def reason(error: dict[str, Any]) -> str:
    """Why an attempt failed, in a line."""
    text = ": ".join(part for part in (error.get("type"), error.get("message")) if part)
    details = f" {json.dumps(error['details'], ensure_ascii=False)}" if "details" in error else ""
    return plain(text + details) or "no reason given"


def _member(name: str, value: Text) -> None:
    say(Text.assemble((f"{name:{_LABEL_CELLS}} ", "dim"), value))


def _outcome(outcome: str) -> Text:
    return Text(plain(outcome), "green" if outcome == "completed" else "red" if outcome != "released" else "")


def _row(task: dict[str, Any], *, for_people: bool) -> list[str | Text]:
    created = task["created_at"]
    if for_people:
        created = age((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
    return [
        task["id"], painted(task["status"]), f"{task['attempt']}/{task['max_attempts']}", created,
        task.get("worker_id", ""), task.get("title", ""),
    ]  # fmt: skip


def _await_end(gateway: Gateway, task_id: str, seconds: float) -> Answer:
    deadline = time.monotonic() + seconds
    while True:
        left = max(deadline - time.monotonic(), 0.0)
        answer = gateway.get(path_of(task_id), wait=round(min(left, _LONGEST_WAIT_SECONDS), 3))
        if answer.json()["status"] in FINAL or left <= 0:
            return answer


class _Line(msgspec.Struct):
    """A line of a file that is no blank one: the task in it, and its number, from 1 on."""

    number: int
    task: bytes


def _enqueue_file(gateway: Gateway, file: str, members: list[str], *, as_json: bool) -> None:
    """Enqueue a task a line. members: of each task, whose payloads the lines are then; none: lines are whole tasks."""
    try:
        texts = sys.stdin.buffer.read().splitlines() if file == "-" else Path(file).read_bytes().splitlines()
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", USAGE)
    start, end = (f'{{{", ".join(members)}, "payload": '.encode(), b"}") if members else (b"", b"")
    lines = [_Line(number, start + text + end) for number, text in enumerate(texts, 1) if text.strip()]
    stored = known = wrong = 0
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err,
        disable=not err.is_terminal,
    ) as progress:  # fmt: skip
        bar = progress.add_task("enqueuing", total=len(lines))
        chunks = deque(_chunks(lines))
        while chunks:
            chunk = chunks.popleft()
            try:
                answer = _enqueue_chunk(gateway, chunk)
            except Refused as refusal:
                most = refusal.problem.get("limit")
                if refusal.code != "batch_too_large" or not isinstance(most, int) or not 0 < most < len(chunk):
                    raise
                # The tenant sends smaller batches.
                chunks.extendleft(reversed([chunk[at : at + most] for at in range(0, len(chunk), most)]))
                continue
            while isinstance(answer, Refused):
                # A full queue drains, a limit lets in again; a pipeline waits.
                progress.update(bar, description=f"waiting: {answer.problem.get('title', answer.code).lower()}")
                time.sleep(answer.retry_after_seconds or 1)
                answer = _enqueue_chunk(gateway, chunk)
            for line, entry in zip(chunk, _entries(answer), strict=True):
                if entry.status >= 400:
                    wrong += 1
                    problem = json.loads(bytes(entry.error))
                    # Its place in the request that it went in says nothing to who reads the file.
                    detail = _INDEX.sub("", problem["detail"], count=1)
                    err.print(f"line {line.number}: {plain(detail)}", markup=False, soft_wrap=True)
                    continue
                stored, known = stored + (entry.status == 201), known + (entry.status != 201)
                if as_json:
                    print_raw(bytes(entry.task))
            progress.update(bar, advance=len(chunk), description="enqueuing")
    if not as_json:
        found = f", {known} known by unique key" if known else ""
        say(f"{stored} enqueued{found}" + (f", {wrong} refused" if wrong else ""))
    raise typer.Exit(REFUSED if wrong else 0)


class _Stored(msgspec.Struct):
    tasks: list[msgspec.Raw]


class _Entry(msgspec.Struct):
    status: int
    task: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


class _Entries(msgspec.Struct):
    results: list[_Entry]


def _enqueue_chunk(gateway: Gateway, chunk: list[_Line]) -> Answer | Refused:
    """Enqueue some lines. Refused: there is no room for any of them now. Raises Refused for all else."""
    try:
        body = b"\n".join(line.task for line in chunk)
        return gateway.ask("POST", "/tasks", body, {"Content-Type": "application/x-ndjson"})
    except Refused as refusal:
        if refusal.code in _FOR_A_WHILE:
            return refusal
        raise


def _entries(answer: Answer) -> list[_Entry]:
    """What became of each line: 201 with its task, 200 with the one that holds its unique key, or its problem."""
    if answer.status == 201:
        return [_Entry(201, task) for task in msgspec.json.decode(answer.raw, type=_Stored).tasks]
    return msgspec.json.decode(answer.raw, type=_Entries).results


def _chunks(lines: list[_Line]) -> Iterator[list[_Line]]:
    chunk: list[_Line] = []
    size = 0
    for line in lines:
        if chunk and (len(chunk) >= _CHUNK_TASKS or size + len(line.task) > _CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += len(line.task) + 1
    if chunk:
        yield chunk
