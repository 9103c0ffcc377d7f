"""How commands choose tasks: the options that say which ones, and the protocol's filter made of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.commands.output import USAGE, fail

Status = Annotated[str | None, typer.Option(help="One or more states, separated by commas.")]
JobType = Annotated[str | None, typer.Option("--type", help="One queue only.")]
Tag = Annotated[list[str] | None, typer.Option(help="name:value; may be repeated.")]
Worker = Annotated[str | None, typer.Option(help="Tasks that this worker had.")]
After = Annotated[str | None, typer.Option("--created-after", help="A time, such as 2030-01-31T08:00:00Z.")]
Before = Annotated[str | None, typer.Option("--created-before", help="A time, likewise.")]


def filter_of(
    status: str | None,
    job_type: str | None,
    tag: list[str] | None,
    worker: str | None,
    created_after: str | None = None,
    created_before: str | None = None,
) -> dict[str, Any]:
    """What was chosen, as the protocol's filter."""
    given = {
        "status": status.split(",") if status else None, "job_type": job_type, "tags": tags_of(tag),
        "worker_id": worker, "created_after": created_after, "created_before": created_before,
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None}


def tags_of(tag: list[str] | None) -> dict[str, str] | None:
    """Tags as they are typed, name:value. None: there are none. Ends the command for one that is no tag, and for a name
    with two values, which no task has."""
    tags: dict[str, str] = {}
    for one in tag or []:
        name, mark, value = one.partition(":")
        if not name or not mark:
            fail(f"--tag {one}: give name:value", USAGE)
        if tags.setdefault(name, value) != value:
            fail(f"--tag {one}: {name} has the value {tags[name]} already; a task has one value a name", USAGE)
    return tags or None
