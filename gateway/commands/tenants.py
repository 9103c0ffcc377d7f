"""`gateway tenants` and `gateway tenant`: what tenants hold, and what they may."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from gateway.commands.bearer import TokenFile
from gateway.commands.client import Answer, Command, Gateway, Url
from gateway.commands.output import USAGE, AsJson, err, fail, print_raw, say
from gateway.commands.queue import number

app = typer.Typer(no_args_is_help=True, help="Look at a tenant, or set its own limits.")
Name = Annotated[str, typer.Argument(help="The tenant.", show_default=False)]


def tenants(url: Url = None, token_file: TokenFile = None, json_: AsJson = False) -> None:
    """List every tenant that ever had a task, or has limits of its own."""
    answer = Gateway(url, token_file).get("/tenants")
    if json_:
        print_raw(bytes(msgspec.json.decode(answer.raw, type=dict[str, msgspec.Raw])["tenants"]))
        return
    names = answer.json()["tenants"]
    for name in names:
        say(name)
    if not names:
        err.print("[dim]no tenants yet: nobody enqueued a task[/]")


@app.command(cls=Command)
def show(name: Name, url: Url = None, token_file: TokenFile = None, json_: AsJson = False) -> None:
    """Show what a tenant may, and what it holds."""
    _show(Gateway(url, token_file).get(_path(name)), as_json=json_)


@app.command("set", cls=Command)
def set_(
    name: Name,
    rate_limit_per_minute: Annotated[str | None, typer.Option(help="Requests a minute.")] = None,
    max_open_polls: Annotated[str | None, typer.Option(help="Long polls held by one process.")] = None,
    max_pending: Annotated[str | None, typer.Option(help="Waiting tasks over all its queues.")] = None,
    max_stored_bytes: Annotated[str | None, typer.Option(help="Bytes of payloads and results.")] = None,
    max_batch: Annotated[str | None, typer.Option(help="Tasks of a batch.")] = None,
    max_queues: Annotated[str | None, typer.Option(help="Queues that it may use.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Set some of a tenant's own limits; `none` takes one back: that of all tenants holds again."""
    typed = {
        "rate_limit_per_minute": rate_limit_per_minute, "max_open_polls": max_open_polls, "max_pending": max_pending,
        "max_stored_bytes": max_stored_bytes, "max_batch": max_batch, "max_queues": max_queues,
    }  # fmt: skip
    given = {one: number(one, text) for one, text in typed.items() if text is not None}
    if not given:
        fail("say what to set, such as --max-pending 50000", USAGE)
    gateway = Gateway(url, token_file)
    # The gateway takes them as a whole: own limits that are not named go along as they are.
    found = gateway.get(_path(name)).json()
    limits: dict[str, Any] = {one: found["limits"][one] for one in found.get("own", [])} | given
    body = {one: value for one, value in limits.items() if value is not None}
    _show(gateway.ask("PUT", _path(name), json.dumps(body).encode()), as_json=json_)


def _path(name: str) -> str:
    return f"/tenants/{quote(name, safe='')}"


def _show(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        print_raw(answer.raw)
        return
    found = answer.json()
    say(found["tenant"])
    for one in ("queues", "pending", "stored_bytes"):
        say(f"  {one:24} {found.get(one, 0)}")
    for one, value in found["limits"].items():
        say(f"  {one:24} {'none' if value is None else value}{' (its own)' if one in found.get('own', []) else ''}")
