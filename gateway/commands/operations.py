"""Commands for operators: health, queues, workers, drain."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import msgspec
import typer
from rich.text import Text

from gateway.commands.bearer import TokenFile
from gateway.commands.client import Gateway, Url
from gateway.commands.output import (
    REFUSED,
    AsJson,
    Column,
    Listing,
    err,
    print_lines,
    print_raw,
    say,
    terminal_width,
)

COUNTS = ("pending", "scheduled", "processing", "completed", "failed", "cancelled")


def health(url: Url = None, token_file: TokenFile = None, json_: AsJson = False) -> None:
    """Ask the gateway how it is. Exits 0 when it can serve, 1 when it cannot, 3 when it does not answer."""
    answer = Gateway(url, token_file).request("GET", "/health")
    if json_:
        print_raw(answer.raw)
    else:
        body = answer.json()
        say(Text(body.pop("status", "unknown"), "green" if answer.status == 200 else "red"))
        for name, value in body.items():
            for one in value if isinstance(value, list) else [value]:
                say(f"  {name:24} {one}")
    raise typer.Exit(0 if answer.status == 200 else REFUSED)


def queues(url: Url = None, token_file: TokenFile = None, json_: AsJson = False) -> None:
    """List the queues, their counts, and which are paused."""
    answer = Gateway(url, token_file).get("/queues")
    if json_:
        print_raw(_inner(answer.raw, "queues"))
        return
    listing = Listing(
        [
            Column("queue"), Column("pending", 1, right=True), Column("scheduled", 4, right=True),
            Column("processing", 3, right=True), Column("completed", 6, right=True), Column("failed", 2, right=True),
            Column("cancelled", 8, right=True), Column("oldest", 5, right=True), Column("paused", 7),
        ],
        terminal_width(),
    )  # fmt: skip
    found = answer.json()["queues"]
    rows: list[list[str | Text]] = [
        [
            one["job_type"], *(str(one.get(name, 0)) for name in COUNTS),
            f"{one.get('oldest_pending_seconds', 0):.1f}s", Text("yes" if one.get("paused") else "", "yellow"),
        ]
        for one in found
    ]  # fmt: skip
    print_lines(listing.lines(rows)) if rows else err.print("[dim]no queues yet: enqueue a task first[/]")


def workers(url: Url = None, token_file: TokenFile = None, json_: AsJson = False) -> None:
    """List the workers that polled lately."""
    answer = Gateway(url, token_file).get("/workers")
    if json_:
        print_raw(_inner(answer.raw, "workers"))
        return
    listing = Listing(
        [Column("worker"), Column("leases", 1, right=True), Column("seen", 3, right=True), Column("directive", 4),
         Column("types", 2, flexible=True)],
        terminal_width(),
    )  # fmt: skip
    rows = [
        [
            one["id"],
            str(one["leases"]),
            f"{one['last_seen_seconds']:.0f}s",
            one["directive"],
            ",".join(one["task_types"]),
        ]
        for one in answer.json()["workers"]
    ]
    print_lines(listing.lines(rows)) if rows else err.print("[dim]no workers lately: start one[/]")


def drain(
    worker_id: Annotated[str, typer.Argument(help="The worker's id.", show_default=False)],
    stop: Annotated[bool, typer.Option("--stop", help="Tell it to stop at once instead of finishing.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take the directive back.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Tell a worker to finish what it has and take no more. It hears of it in its next poll or heartbeat."""
    directive = "run" if undo else "stop" if stop else "drain"
    answer = Gateway(url, token_file).ask("POST", f"/workers/{quote(worker_id, safe='')}/{directive}")
    if json_:
        print_raw(answer.raw)
    else:
        told = answer.json()
        say(f"{told['id']} will hear: {told['directive']}")


def _inner(raw: bytes, name: str) -> bytes:
    return bytes(msgspec.json.decode(raw, type=dict[str, msgspec.Raw])[name])
