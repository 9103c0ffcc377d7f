"""`gateway top`: a live view of queues, rates, workers and latency, on the terminal's second screen."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from gateway.commands.bearer import TokenFile
from gateway.commands.client import Gateway, Refused, Unreachable, Url
from gateway.commands.output import AsJson, Column, Listing, age, out, plain, print_lines, print_raw, terminal_width
from gateway.commands.snapshot import Look, Snapshot, compare, encode, look

_QUEUES = (
    Column("QUEUE", flexible=True), Column("PENDING", 1, right=True), Column("SCHEDULED", 7, right=True),
    Column("PROCESSING", 2, right=True), Column("FAILED", 3, right=True), Column("IN/S", 5, right=True),
    Column("DONE/S", 4, right=True), Column("OLDEST", 6, right=True),
)  # fmt: skip
_WORKERS = (
    Column("WORKER", flexible=True), Column("LEASES", 1, right=True), Column("SEEN", 2, right=True),
    Column("DIRECTIVE", 4), Column("TYPES", 3),
)  # fmt: skip
_LEAST_WORKER_LINES = 4
_FACT_GAP = 3


def top(
    interval: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two frames.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame, and end.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Watch queues, rates, workers and latency live. q or Ctrl+C ends.

    Rates and latencies are those of the time since the last frame. Without a terminal, with --once and with --json it
    looks twice, an interval apart (a second, unless given), and prints what it saw.
    """
    gateway = Gateway(url, token_file, timeout_seconds=5)
    first = look(gateway)
    if once or json_ or not (sys.stdout.isatty() and sys.stdin.isatty()):
        time.sleep(min(interval, 1.0))
        snapshot = compare(first, look(gateway))
        print_raw(encode(snapshot)) if json_ else print_lines(frame(snapshot, gateway.url, terminal_width(), None))
        return
    with contextlib.suppress(KeyboardInterrupt):
        _watch(gateway, first, interval)


def frame(snapshot: Snapshot, url: str, width: int | None, height: int | None, note: str = "") -> list[Text]:
    """Draw a frame: lines for a terminal of that size; None: as much as there is."""
    lines = _summary(snapshot, url, width, note)
    health, queues = snapshot.look.health, snapshot.look.queues
    lines += [Text(f"warning: {plain(one)}", "yellow") for one in health.get("warnings", [])]
    room = None if height is None else max(height - len(lines) - 2, 4)
    busiest = sorted(queues.values(), key=lambda one: (-one["pending"] - one["processing"], one["job_type"]))
    queue_lines = Listing(_QUEUES, width).lines([_queue_row(one, snapshot) for one in busiest])
    worker_lines = Listing(_WORKERS, width).lines([_worker_row(one) for one in snapshot.look.workers])
    if room is not None:
        workers_room = max(room - len(queue_lines), min(_LEAST_WORKER_LINES, room // 2))
        worker_lines = _fitted(worker_lines, workers_room)
        queue_lines = _fitted(queue_lines, room - len(worker_lines))
    if not queues:
        queue_lines.append(Text("no tasks yet: gateway enqueue default --title 'My first task'", "dim"))
    if not snapshot.look.workers:
        worker_lines.append(Text("no workers lately", "dim"))
    return [*lines, Text(), *queue_lines, Text(), *worker_lines]


def _summary(snapshot: Snapshot, url: str, width: int | None, note: str) -> list[Text]:
    health, total = snapshot.look.health, snapshot.total()
    status = health.get("status", "unknown")
    head = Text.assemble(
        ("tasks-gateway", "bold"), f" {health.get('version', '')}  {url}  ",
        (note or status, "red" if note or status != "ok" else "green"),
        ("" if not note else "  (what was seen last)", "dim"),
    )  # fmt: skip
    waiting = health.get("queue_depth", 0) - health.get("scheduled", 0)
    counts = [
        ("pending", waiting), ("scheduled", health.get("scheduled", 0)), ("processing", health.get("processing", 0)),
        ("failed", health.get("failed", 0)), ("workers", health.get("workers", 0)),
        ("open polls", health.get("open_polls", 0)),
    ]  # fmt: skip
    rates = [
        ("enqueued", f"{total.enqueued:.1f}/s"), ("done", f"{total.done:.1f}/s"), ("failed", f"{total.failed:.1f}/s"),
        ("oldest waits", _seconds(health.get("oldest_pending_seconds", 0))),
        ("dispatch p50", _seconds(snapshot.p50)), ("p99", _seconds(snapshot.p99)),
    ]  # fmt: skip
    return [head, *_facts(counts, width), *_facts(rates, width)]


def _facts(pairs: Sequence[tuple[str, object]], width: int | None) -> list[Text]:
    lines = [Text()]
    for name, value in pairs:
        fact = Text.assemble((f"{name} ", "dim"), (str(value), "bold"))
        if lines[-1] and width is not None and lines[-1].cell_len + _FACT_GAP + fact.cell_len > width:
            lines.append(Text())
        lines[-1].append(" " * _FACT_GAP if lines[-1] else "").append_text(fact)
    return lines


def _queue_row(queue: dict[str, Any], snapshot: Snapshot) -> list[str | Text]:
    rates, failed = snapshot.rates[queue["job_type"]], queue.get("failed", 0)
    return [
        queue["job_type"], str(queue.get("pending", 0)), str(queue.get("scheduled", 0)),
        Text(str(queue.get("processing", 0)), "cyan" if queue.get("processing") else ""),
        Text(str(failed), "red" if failed else ""), f"{rates.enqueued:.1f}", f"{rates.done:.1f}",
        _seconds(queue.get("oldest_pending_seconds", 0)),
    ]  # fmt: skip


def _worker_row(worker: dict[str, Any]) -> list[str | Text]:
    directive = worker["directive"]
    return [
        worker["id"], str(worker["leases"]), age(worker["last_seen_seconds"]),
        Text(directive, "" if directive == "run" else "yellow"), ",".join(worker["task_types"]),
    ]  # fmt: skip


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 60:
        return age(value)
    return f"{value * 1000:.1f}ms" if 0 < value < 0.1 else f"{value:.1f}s"


def _fitted(lines: list[Text], room: int) -> list[Text]:
    if len(lines) <= room:
        return lines
    kept = max(room - 1, 1)
    return [*lines[:kept], Text(f"and {len(lines) - kept} more", "dim")]


class _Frame:
    """A frame on the screen: made for the size that the terminal has when it is drawn."""

    def __init__(self, snapshot: Snapshot, url: str, note: str) -> None:
        self._snapshot = snapshot
        self._url = url
        self._note = note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = console.size
        lines = frame(self._snapshot, self._url, width, height - 1, self._note)[: height - 1]
        lines += [Text()] * (height - 1 - len(lines))
        for line in [*lines, Text("q quits", "dim")]:
            line = line.copy()
            line.truncate(width, overflow="ellipsis")
            yield from console.render(line, options.update(no_wrap=True, overflow="ignore", height=None))


def _watch(gateway: Gateway, before: Look, interval: float) -> None:
    from rich.live import Live

    shown = compare(before, before)
    note = ""
    with _keys() as wait_for_key, Live(console=out, screen=True, auto_refresh=False) as live:
        due = time.monotonic() + min(interval, 1.0)  # the first rates soon
        while True:
            live.update(_Frame(shown, gateway.url, note), refresh=True)
            while (left := due - time.monotonic()) > 0:
                key = wait_for_key(left)
                if key in (b"q", b"Q", b"\x03", b"\x04"):
                    return
                live.refresh()  # a new size, or a key that means nothing
            pause = interval
            try:
                now = look(gateway)
                shown, before, note = compare(before, now), now, ""
            except Unreachable:
                note = "no gateway answers"
            except Refused as refusal:
                note = f"refused ({refusal.code}): {refusal}"
                pause = max(pause, float(refusal.retry_after_seconds or 0))
            due = time.monotonic() + pause


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """Read keys as they are pressed. Yields a function that waits so many seconds for one; b"": none, or a new size."""
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    bell, wakeup = socket.socketpair()
    with bell, wakeup:
        bell.setblocking(False)
        wakeup.setblocking(False)
        old_handler = signal.signal(signal.SIGWINCH, lambda *_: None)
        old_wakeup = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)

        def wait_for_key(seconds: float) -> bytes:
            ready, _, _ = select.select([terminal, bell], [], [], seconds)
            if bell in ready:
                bell.recv(1024)
            if terminal not in ready:
                return b""
            return os.read(terminal, 1) or b"q"  # the terminal is gone

        try:
            tty.setcbreak(terminal)
            yield wait_for_key
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
            signal.set_wakeup_fd(old_wakeup)
            signal.signal(signal.SIGWINCH, old_handler)
