"""The story that `gateway demo` tells, step by step; each step checks that what it tells came true."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

import typer
from rich.text import Text

from gateway.commands.client import Gateway, Refused, Unreachable, path_of
from gateway.commands.demo.stage import Stage, StepFailed, Worker, languages
from gateway.commands.output import (
    REFUSED,
    AsJson,
    Column,
    Listing,
    fail,
    out,
    painted,
    plain,
    print_json,
    print_lines,
    say,
    terminal_width,
)

_FILES = ("app.py", "cli.py", "config.py", "tasks.py", "server.py", "store/keys.py", "store/task_store.py",
          "store/lua/claim.lua", "store/lua/enqueue.lua", "api/workers.py", "api/openapi.py", "py.typed")  # fmt: skip
_PATIENCE_SECONDS = 12.0
_LABELS = {"python": "Python", "bash": "bash and curl", "node": "Node"}


def demo(json_: AsJson = False) -> None:
    """See it work: real files, workers in several languages, retries, a killed worker, priorities, a cancel.

    Starts a gateway of its own on a free port, and leaves nothing behind. Takes about ten seconds.
    """
    told = signal.signal(signal.SIGTERM, _stop)
    story = _Story(silent=json_)
    try:
        with Stage() as stage:
            story.tell(stage)
            with story.cleaning():
                stage.close()
    except (StepFailed, Refused, Unreachable) as error:
        story.failed(str(error))
    finally:
        signal.signal(signal.SIGTERM, told)
    story.end()


class _Story:
    """Tells the steps and remembers how they went."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._started = time.monotonic()
        self._steps: list[dict[str, Any]] = []
        self._tasks: list[dict[str, Any]] = []
        self._gateway: Gateway
        self._stage: Stage

    def tell(self, stage: Stage) -> None:
        """Play every step. Raises StepFailed at the first that does not come true."""
        self._stage = stage
        for title, play in (
            ("A gateway of its own starts, with an embedded Redis", self._start),
            ("Real files, worked on in several languages", self._files),
            ("A task that fails twice, then succeeds", self._retries),
            ("A worker is killed in the middle of a task", self._crash),
            ("Priorities and a delay", self._order),
            ("A cancel that reaches a running worker", self._cancel),
        ):
            with self._step(title):
                play()

    @contextmanager
    def cleaning(self) -> Iterator[None]:
        """The last step: everything ends."""
        with self._step("Everything ends: workers, gateway, Redis, files"):
            yield

    def failed(self, why: str) -> NoReturn:
        """Say where the story broke off, and exit."""
        if self._silent:
            print_json({"ok": False, "error": why, "steps": self._steps})
            raise typer.Exit(REFUSED)
        fail(f"{why}. `gateway doctor` checks this machine", REFUSED)

    def end(self) -> None:
        """Sum up."""
        seconds = round(time.monotonic() - self._started, 1)
        if self._silent:
            names = ("id", "title", "status", "attempt", "worker_id")
            tasks = [{name: task[name] for name in names if name in task} for task in self._tasks]
            print_json({"ok": True, "seconds": seconds, "steps": self._steps, "tasks": tasks})
            return
        say("")
        listing = Listing(
            [Column("task"), Column("status", 1), Column("attempts", 2, right=True), Column("worker", 3),
             Column("took", 4, right=True)],
            terminal_width(),
        )  # fmt: skip
        print_lines(listing.lines([_row(task) for task in self._tasks]))
        say(Text.assemble(("\nAll of it in ", ""), (f"{seconds} s", "bold"), ". Your turn: ", ("gateway run", "bold")))

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        started = time.monotonic()
        number = len(self._steps) + 1
        self._say(Text.assemble(f"\n{number}. " if number > 1 else f"{number}. ", (title, "bold")))
        with out.status("", spinner="dots") if out.is_terminal and not self._silent else _nothing():
            yield
        seconds = round(time.monotonic() - started, 2)
        self._steps.append({"step": title, "ok": True, "seconds": seconds})
        self._say(Text.assemble(("   done", "green"), (f" in {seconds:.1f} s", "dim")))

    def _say(self, text: Text | str) -> None:
        if not self._silent:
            say(text)
            sys.stdout.flush()

    def _tell(self, *parts: str | Text | tuple[str, str]) -> None:
        self._say(Text.assemble("   ", *parts))

    # The steps

    def _start(self) -> None:
        self._gateway = self._stage.start_gateway()
        self._tell(f"it listens at {self._gateway.url}")

    def _files(self) -> None:
        workers = [self._worker(language, "file_process") for language in languages()]
        self._until_polling(len(workers))
        self._tell("workers: ", ", ".join(_LABELS[worker.language] for worker in workers), "; no SDK, only HTTP")
        files = [name for name in _FILES if (self._stage.package / name).is_file()]
        batch = [{"job_type": "file_process", "payload": {"path": f"package/{name}"}, "title": name} for name in files]
        ids = [task["id"] for task in self._post("/tasks", batch)["tasks"]]
        by: dict[str, int] = {}
        for task_id, name in zip(ids, files, strict=True):
            task = self._ended(task_id, "completed")
            data = (self._stage.package / name).read_bytes()
            if task["result"]["sha256"] != hashlib.sha256(data).hexdigest():
                raise StepFailed(f"{task['worker_id']} hashed {name} wrongly")
            by[task["worker_id"]] = by.get(task["worker_id"], 0) + 1
            facts = f"{task['result']['lines']:4} lines  sha256 {task['result']['sha256'][:12]}"
            self._tell(f"{name:22} {facts}  by ", (task["worker_id"], "cyan"))
        self._tasks.append({**task, "title": f"{len(files)} files hashed", "worker_id": ", ".join(sorted(by))})
        self._tell(
            "checked: each hash is right; ", ", ".join(f"{name} did {count}" for name, count in sorted(by.items()))
        )

    def _retries(self) -> None:
        self._worker(list(languages())[-1], "late_file")
        task = self._enqueue("late_file", {"path": "report.csv"}, "report.csv, which comes late",
                             max_attempts=5, retry={"delays_seconds": [0.3, 1.2]})  # fmt: skip
        self._tell("the file is not there yet; after a failure wait 0.3 s, then 1.2 s")
        for number in (1, 2):
            attempt = self._look(task["id"], partial(_attempt, number=number), "no attempt failed")
            reason = attempt.get("error", {})
            self._tell(f"attempt {number} by {attempt['worker_id']}: ", ("failed", "red"), f", {_reason(reason)}")
        (self._stage.folder / "report.csv").write_text("month,orders\nmay,1200\njune,1314\n")
        self._tell("report.csv arrives")
        task = self._ended(task["id"], "completed")
        self._expect(task["attempt"] == 3, f"it took {task['attempt']} attempts, not 3")
        self._tell("attempt 3: ", ("completed", "green"), f", {task['result']['lines']} lines")
        self._tasks.append(task)

    def _crash(self) -> None:
        names = list(languages())
        victim = self._worker("python", "long_job")
        task = self._enqueue("long_job", {"path": "package/server.py", "seconds": 1.5}, "a long job", lease_seconds=1)
        self._look(task["id"], lambda seen: seen["status"] == "processing", "nobody took the task")
        self._tell((victim.name, "cyan"), " works on it; its lease ends 1 s after its last heartbeat")
        victim.kill()
        killed = time.monotonic()
        self._tell(("kill -9 ", "red"), (victim.name, "cyan"))
        heir = self._worker(names[1 % len(names)], "long_job")
        self._look(
            task["id"],
            lambda seen: seen["status"] == "processing" and seen["worker_id"] == heir.name,
            "nobody took over",
        )
        self._tell((heir.name, "cyan"), f" has it {time.monotonic() - killed:.1f} s later")
        task = self._ended(task["id"], "completed")
        self._expect(task["worker_id"] == heir.name, f"{task['worker_id']} finished it")
        history = [f"{one['attempt']} by {one['worker_id']} {one['outcome']}" for one in task["attempts"]]
        self._tell("its history: ", ", ".join(history))
        self._tasks.append(task)

    def _order(self) -> None:
        wanted = ("critical", "high", "normal", "low")
        ids = []
        delayed = self._enqueue("ordered", {"path": "package/cli.py"}, "delayed by 1 s", priority="critical",
                                delay_seconds=1)  # fmt: skip
        for priority in reversed(wanted):
            ids.append(self._enqueue("ordered", {"path": "package/cli.py"}, priority, priority=priority)["id"])
        self._tell("enqueued while no worker is there: low, normal, high, critical, and one for in a second")
        self._worker("python", "ordered")
        tasks = [self._ended(task_id, "completed") for task_id in (*ids, delayed["id"])]
        tasks.sort(key=lambda task: (task["started_at"], task["finished_at"]))
        order = [task["title"] for task in tasks]
        self._expect(order == [*wanted, "delayed by 1 s"], f"the order was {', '.join(order)}")
        waited = datetime.fromisoformat(tasks[-1]["started_at"]) - datetime.fromisoformat(tasks[-1]["created_at"])
        self._expect(waited.total_seconds() >= 1, "the delayed task came early")
        self._tell("started: ", ", ".join(order), f" (after {waited.total_seconds():.2f} s)")
        self._tasks.append({**tasks[-1], "title": "priorities and a delay"})

    def _cancel(self) -> None:
        worker = self._worker("python", "long_read")
        task = self._enqueue("long_read", {"path": "package/app.py", "seconds": 60}, "a minute's work", lease_seconds=1)
        self._look(task["id"], lambda seen: seen["status"] == "processing", "nobody took the task")
        self._tell((worker.name, "cyan"), " works on a task of a minute")
        cancelled = time.monotonic()
        self._gateway.ask("DELETE", path_of(task["id"]))
        self._tell("cancelled by its producer; the worker hears of it in its next heartbeat")
        task = self._ended(task["id"], "cancelled")
        self._tell(f"{time.monotonic() - cancelled:.1f} s later it is ", painted("cancelled"))
        self._tasks.append(task)

    # What steps are made of

    def _worker(self, language: str, job_type: str) -> Worker:
        return self._stage.start_worker(self._gateway.url, language, job_type)

    def _until_polling(self, number: int) -> None:
        def polling() -> bool:
            return bool(self._gateway.get("/health").json()["open_polls"] >= number)

        self._stage.wait_for(polling, _PATIENCE_SECONDS, f"not all of {number} workers polled")

    def _post(self, path: str, body: Any) -> Any:
        return self._gateway.ask("POST", path, json.dumps(body).encode()).json()

    def _enqueue(self, job_type: str, payload: Any, title: str, **members: Any) -> dict[str, Any]:
        task: dict[str, Any] = self._post(
            "/tasks", {"job_type": job_type, "payload": payload, "title": title, **members}
        )
        return task

    def _look(self, task_id: str, condition: Callable[[dict[str, Any]], Any], complaint: str) -> Any:
        return self._stage.wait_for(
            lambda: condition(self._gateway.get(path_of(task_id)).json()), _PATIENCE_SECONDS, complaint
        )

    def _ended(self, task_id: str, status: str) -> dict[str, Any]:
        task: dict[str, Any] = self._gateway.get(path_of(task_id), wait=_PATIENCE_SECONDS).json()
        if task["status"] != status:
            why = _reason(task["error"]) if "error" in task else self._stage.last_words()
            raise StepFailed(f"{task['title']} is {task['status']}, not {status}: {why}")
        return task

    def _expect(self, true: bool, otherwise: str) -> None:
        if not true:
            raise StepFailed(otherwise)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _row(task: dict[str, Any]) -> list[str | Text]:
    took = datetime.fromisoformat(task["finished_at"]) - datetime.fromisoformat(task["created_at"])
    return [
        plain(task["title"]), painted(task["status"]), str(task["attempt"]), task.get("worker_id", ""),
        f"{took.total_seconds():.2f}s",
    ]  # fmt: skip


def _attempt(task: dict[str, Any], number: int) -> dict[str, Any] | None:
    attempts: list[dict[str, Any]] = task.get("attempts", [])
    return attempts[number - 1] if len(attempts) >= number else None


def _reason(error: dict[str, Any]) -> str:
    kind, message = error.get("type", ""), error.get("message", "")
    return plain(message if message.startswith(kind) else f"{kind}: {message}")


def _stop(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)
