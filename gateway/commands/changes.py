"""Commands that change tasks, one by its id or all that a filter meets: cancel, retry, delete."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.text import Text

from gateway.commands.bearer import TokenFile
from gateway.commands.choices import After, Before, JobType, Status, Tag, Worker, filter_of
from gateway.commands.client import Answer, Gateway, Url, path_of
from gateway.commands.output import USAGE, AsJson, err, fail, painted, print_raw, say

TaskId = Annotated[str | None, typer.Argument(help="One task; without it, those chosen.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All there are, in every queue.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many there are.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether it is meant.")]


def cancel(
    task_id: TaskId = None,
    status: Status = None,
    job_type: JobType = None,
    tag: Tag = None,
    worker: Worker = None,
    created_after: After = None,
    created_before: Before = None,
    all_: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Cancel a task, or all that are chosen: at once while they wait; running ones when their workers hear of it."""
    gateway = Gateway(url, token_file)
    filter = filter_of(status, job_type, tag, worker, created_after, created_before)
    if _is_one(task_id, filter, everything=all_):
        _one(gateway, "DELETE", path_of(task_id or ""), as_json=json_)
        return
    _many(gateway, "cancel", filter, dry_run=dry_run, sure=yes, as_json=json_)


def retry(
    task_id: TaskId = None,
    status: Status = None,
    job_type: JobType = None,
    tag: Tag = None,
    worker: Worker = None,
    created_after: After = None,
    created_before: Before = None,
    all_: All = False,
    dry_run: DryRun = False,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Send failed or cancelled tasks back to their queues, with fresh attempts: one, or all that are chosen."""
    gateway = Gateway(url, token_file)
    filter = filter_of(status, job_type, tag, worker, created_after, created_before)
    if _is_one(task_id, filter, everything=all_):
        _one(gateway, "POST", path_of(task_id or "", "retry"), as_json=json_)
        return
    _many(gateway, "retry", filter, dry_run=dry_run, sure=True, as_json=json_)


def delete(
    status: Status = None,
    job_type: JobType = None,
    tag: Tag = None,
    worker: Worker = None,
    created_after: After = None,
    created_before: Before = None,
    all_: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Forget all tasks that are chosen, for good, whether they wait or are final. Those being worked on stay."""
    gateway = Gateway(url, token_file)
    filter = filter_of(status, job_type, tag, worker, created_after, created_before)
    if not filter and not all_:
        fail("choose which (--type, --status, --tag, ..), or say --all", USAGE)
    _many(gateway, "delete", filter, dry_run=dry_run, sure=yes, as_json=json_)


def confirm(question: str) -> None:
    """Ask whether it is meant; exit when it is not, or when nobody is there to ask."""
    if not sys.stdin.isatty():
        fail(f"{question} Nobody is there to ask: say --yes", USAGE)
    if not typer.confirm(question, err=True):
        err.print("nothing was changed")
        raise typer.Exit(1)


def tell_counts(answer: Answer, did: str, *, as_json: bool) -> None:
    """Print how many a request met and changed. did: what it did to them, "" if it only looked."""
    if as_json:
        print_raw(answer.raw)
        return
    counts = answer.json()
    matched, changed = counts["matched"], counts["changed"]
    more = "; there are more: repeat it" if counts.get("more") and did else " or more" if counts.get("more") else ""
    say(f"{changed} of {matched} {did}{more}" if did else f"{matched}{more}")


def _is_one(task_id: str | None, filter: dict[str, Any], *, everything: bool) -> bool:
    if task_id is None and not filter and not everything:
        fail("name a task, choose which (--type, --status, --tag, ..), or say --all", USAGE)
    if task_id is not None and (filter or everything):
        fail("name a task, or choose by --type, --status, --tag, ..; not both", USAGE)
    return task_id is not None


def _one(gateway: Gateway, method: str, path: str, *, as_json: bool) -> None:
    answer = gateway.ask(method, path)
    task = answer.json()
    if as_json:
        print_raw(answer.raw)
    else:
        asked = " (its worker was asked to stop)" if task.get("cancel_requested") else ""
        say(Text.assemble(f"{task['id']} is ", painted(task["status"]), asked))


def _many(gateway: Gateway, verb: str, filter: dict[str, Any], *, dry_run: bool, sure: bool, as_json: bool) -> None:
    def ask(*, dry: bool) -> Answer:
        return gateway.ask("POST", f"/tasks/{verb}", json.dumps({"filter": filter, "dry_run": dry}).encode())

    if not dry_run and not sure:
        counts = ask(dry=True).json()
        if counts["matched"]:
            confirm(f"{verb} {counts['matched']}{' or more' if counts.get('more') else ''} tasks?")
    answer = ask(dry=dry_run)
    did = {"cancel": "cancelled", "retry": "sent back", "delete": "deleted"}[verb]
    tell_counts(answer, "" if dry_run else did, as_json=as_json)
