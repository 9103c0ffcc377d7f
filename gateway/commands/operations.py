"""Commands for operators: health, queues, workers, drain."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from gateway.commands.client import REFUSED, AsJson, Gateway, Refused, Url, out, print_json, refused


def health(url: Url = None, json_: AsJson = False) -> None:
    """Ask the gateway how it is. Exits 0 when it can serve, 1 when it cannot, 3 when it does not answer."""
    status, body = Gateway(url).request("GET", "/health")
    if json_:
        print_json(body)
    else:
        out.print(f"[{'green' if status == 200 else 'red'}]{body.get('status', 'unknown')}[/]")
        for name, value in body.items():
            if name != "status":
                out.print(f"  {name:24} {value}", markup=False)
    raise typer.Exit(0 if status == 200 else REFUSED)


def queues(url: Url = None, json_: AsJson = False) -> None:
    """List the queues and their counts."""
    try:
        found = Gateway(url).get("/queues")["queues"]
    except Refused as refusal:
        refused(refusal, as_json=json_)
    if json_:
        print_json(found)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ("pending", "scheduled", "processing", "completed", "failed", "cancelled")
    table.add_column("queue", overflow="fold")
    for column in (*columns, "oldest"):
        table.add_column(column, justify="right")
    for queue in found:
        counts = [str(queue[column]) for column in columns]
        table.add_row(queue["job_type"], *counts, f"{queue['oldest_pending_seconds']:.1f} s")
    out.print(table if found else "[dim]no queues yet[/]")


def workers(url: Url = None, json_: AsJson = False) -> None:
    """List the workers that polled lately."""
    try:
        found = Gateway(url).get("/workers")["workers"]
    except Refused as refusal:
        refused(refusal, as_json=json_)
    if json_:
        print_json(found)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("worker", "leases", "last seen", "directive", "types"):
        table.add_column(column, overflow="fold", justify="right" if column == "leases" else "left")
    for worker in found:
        seen = f"{worker['last_seen_seconds']:.0f} s ago"
        table.add_row(worker["id"], str(worker["leases"]), seen, worker["directive"], " ".join(worker["task_types"]))
    out.print(table if found else "[dim]no workers lately[/]")


def drain(
    worker_id: Annotated[str, typer.Argument(help="The worker's id.", show_default=False)],
    stop: Annotated[bool, typer.Option("--stop", help="Tell it to stop at once instead of finishing.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take the directive back.")] = False,
    url: Url = None,
    json_: AsJson = False,
) -> None:
    """Tell a worker to finish what it has and take no more. It hears of it in its next poll or heartbeat."""
    directive = "run" if undo else "stop" if stop else "drain"
    try:
        answer = Gateway(url).ask("POST", f"/workers/{worker_id}/{directive}")
    except Refused as refusal:
        refused(refusal, as_json=json_)
    print_json(answer) if json_ else out.print(f"{answer['id']} will hear: {answer['directive']}")
