"""`gateway queue`: what an operator sets and does to one queue."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from gateway.commands.bearer import TokenFile
from gateway.commands.changes import DryRun, Yes, confirm, tell_counts
from gateway.commands.choices import Tag, tags_of
from gateway.commands.client import Answer, Command, Gateway, Url
from gateway.commands.output import USAGE, AsJson, fail, print_raw, say

app = typer.Typer(no_args_is_help=True, help="Set, pause, resume, purge or redrive one queue.")
Name = Annotated[str, typer.Argument(help="The queue: a job_type.", show_default=False)]
_LIMITS = ("max_pending", "max_processing", "rate_per_second", "max_processing_per_key", "partitions")
_DEFAULTS = ("lease_seconds", "max_attempts", "retention_seconds", "timeout_seconds")


@app.command(cls=Command)
def show(name: Name, url: Url = None, token_file: TokenFile = None, json_: AsJson = False) -> None:
    """Show a queue's settings."""
    _show(Gateway(url, token_file).get(_path(name, "settings")), as_json=json_)


@app.command("set", cls=Command)
def set_(
    name: Name,
    max_pending: Annotated[str | None, typer.Option(help="Waiting tasks; more are refused.")] = None,
    max_processing: Annotated[str | None, typer.Option(help="Tasks being worked on at a time.")] = None,
    rate_per_second: Annotated[str | None, typer.Option(help="Tasks handed out in a second.")] = None,
    max_processing_per_key: Annotated[
        str | None, typer.Option(help="Tasks of one concurrency_key being worked on at a time.")
    ] = None,
    partitions: Annotated[str | None, typer.Option(help="Over how many parts new tasks are spread.")] = None,
    lease_seconds: Annotated[str | None, typer.Option(help="Lease of tasks that ask for none.")] = None,
    max_attempts: Annotated[str | None, typer.Option(help="Most attempts, likewise.")] = None,
    retention_seconds: Annotated[str | None, typer.Option(help="How long they stay readable, likewise.")] = None,
    timeout_seconds: Annotated[str | None, typer.Option(help="Limit of one attempt, likewise.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Change some of a queue's settings; `none` takes one back. What is not named stays."""
    limits = {
        "max_pending": max_pending, "max_processing": max_processing, "rate_per_second": rate_per_second,
        "max_processing_per_key": max_processing_per_key, "partitions": partitions,
    }  # fmt: skip
    defaults = {
        "lease_seconds": lease_seconds, "max_attempts": max_attempts, "retention_seconds": retention_seconds,
        "timeout_seconds": timeout_seconds,
    }  # fmt: skip
    changes: dict[str, Any] = {one: number(one, text) for one, text in limits.items() if text is not None}
    given = {one: number(one, text) for one, text in defaults.items() if text is not None}
    if not changes and not given:
        fail("say what to set, such as --rate-per-second 5", USAGE)
    gateway = Gateway(url, token_file)
    if given:
        # The gateway takes the defaults as a whole: those that are not named go along as they are.
        known = gateway.get(_path(name, "settings")).json()["defaults"]
        changes["defaults"] = {one: value for one, value in (known | given).items() if value is not None}
    _show(gateway.ask("PATCH", _path(name), json.dumps(changes).encode()), as_json=json_)


@app.command(cls=Command)
def pause(
    name: Name,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="For so long.", show_default="until it is resumed")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Until a time, such as 2030-01-31T08:00:00Z.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Hand nothing out for a while. Tasks are still taken in, and workers finish what they hold."""
    if seconds is not None and until is not None:
        fail("give --seconds or --until, not both", USAGE)
    body = {one: value for one, value in (("seconds", seconds), ("until", until)) if value is not None}
    answer = Gateway(url, token_file).ask("POST", _path(name, "pause"), json.dumps(body).encode())
    print_raw(answer.raw) if json_ else say(f"{name} is paused{_until(answer.json())}")


@app.command(cls=Command)
def resume(name: Name, url: Url = None, token_file: TokenFile = None, json_: AsJson = False) -> None:
    """Hand tasks out again."""
    answer = Gateway(url, token_file).ask("POST", _path(name, "resume"))
    print_raw(answer.raw) if json_ else say(f"{name} goes on")


@app.command(cls=Command)
def purge(name: Name, yes: Yes = False, url: Url = None, token_file: TokenFile = None, json_: AsJson = False) -> None:
    """Forget all that waits in a queue, for good. What workers hold and what is final stays."""
    gateway = Gateway(url, token_file)
    if not yes:
        counts = gateway.get(_path(name)).json()
        confirm(f"forget {counts['pending'] + counts['scheduled']} waiting tasks of {name} for good?")
    answer = gateway.ask("POST", _path(name, "purge"))
    print_raw(answer.raw) if json_ else say(f"{answer.json()['purged']} tasks are gone")


@app.command(cls=Command)
def redrive(
    name: Name,
    rate: Annotated[
        float | None, typer.Option(help="Tasks a second that become due.", show_default="all at once")
    ] = None,
    tag: Tag = None,
    dry_run: DryRun = False,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Send a queue's failed tasks back to it, with fresh attempts."""
    tags = tags_of(tag)
    body: dict[str, Any] = {"rate_per_second": rate, "filter": {"tags": tags} if tags else None, "dry_run": dry_run}
    given = json.dumps({one: value for one, value in body.items() if value is not None}).encode()
    answer = Gateway(url, token_file).ask("POST", _path(name, "redrive"), given)
    tell_counts(answer, "" if dry_run else "sent back", as_json=json_)


def number(name: str, text: str) -> float | None:
    """Read a setting as it is typed: a number, or `none`, which takes it back."""
    if text.strip().lower() == "none":
        return None
    try:
        value = float(text)
        return int(value) if value.is_integer() else value
    except (ValueError, OverflowError):
        fail(f"--{name.replace('_', '-')} {text}: give a number, or `none`", USAGE)


def _path(name: str, verb: str = "") -> str:
    return f"/queues/{quote(name, safe=':')}{'/' + verb if verb else ''}"


def _show(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        print_raw(answer.raw)
        return
    found = answer.json()
    say(found["job_type"])
    say(f"  {'paused':24} {'yes' + _until(found) if found['paused'] else 'no'}")
    for one in _LIMITS:
        say(f"  {one:24} {_shown(found[one])}")
    defaults = found["defaults"]
    for one in _DEFAULTS:
        say(f"  {one:24} {_shown(defaults.get(one))}")
    retry = defaults.get("retry")
    say(f"  {'retry':24} {_shown(None if retry is None else json.dumps(retry))}")


def _until(settings: dict[str, Any]) -> str:
    return f" until {settings['paused_until']}" if settings["paused_until"] else " until it is resumed"


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
