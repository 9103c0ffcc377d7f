"""`gateway keys`: make, list and revoke API keys, over HTTP or, to begin with, straight in the gateway's Redis."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from gateway.commands.bearer import TokenFile
from gateway.commands.client import Command, Gateway, Url, settings
from gateway.commands.output import (
    REFUSED,
    AsJson,
    Column,
    Listing,
    err,
    fail,
    plain,
    print_json,
    print_lines,
    print_raw,
    say,
    terminal_width,
)
from gateway.identity import READ, WORK, WRITE

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
Local = Annotated[
    bool,
    typer.Option("--local", help="Without asking a gateway: in the Redis of the settings, on the server's machine."),
]
_USUAL = [WRITE, READ, WORK]


@app.command(cls=Command)
def create(
    name: Annotated[str, typer.Argument(help="What it is for, such as ci.", show_default=False)],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="tasks:write, tasks:read, work or admin; may be repeated.", show_default="all but admin"),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Its tenant.", show_default="yours")] = None,
    job_type: Annotated[
        list[str] | None, typer.Option(help="Only these: a name, or prefix.*; may be repeated.")
    ] = None,
    expires_in: Annotated[
        float | None, typer.Option(min=1, help="Seconds until it ends.", show_default="never")
    ] = None,
    local: Local = False,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Make an API key. It is printed this once, alone on standard output."""
    wanted = {
        "name": name, "scopes": scope or _USUAL, "tenant": tenant, "job_types": job_type or None,
        "expires_in_seconds": expires_in,
    }  # fmt: skip
    given = {one: value for one, value in wanted.items() if value is not None}
    if local:
        from gateway.commands.local_keys import create_locally

        made = asyncio.run(create_locally(given))
        if not settings().authenticates():
            err.print("[yellow]the settings ask nobody for a key yet: set API_KEYS=true[/]", soft_wrap=True)
        raw = json.dumps(made).encode()
    else:
        raw = Gateway(url, token_file).ask("POST", "/keys", json.dumps(given).encode()).raw
        made = json.loads(raw)
    if json_:
        print_raw(raw)
        return
    err.print(plain(f"key {made['id']}: {_about(made)}. It is shown this once:"), markup=False, soft_wrap=True)
    say(made["key"])


@app.command("list", cls=Command)
def list_keys(local: Local = False, url: Url = None, token_file: TokenFile = None, json_: AsJson = False) -> None:
    """List API keys, also those that are over. Their secrets are kept nowhere."""
    keys: list[dict[str, Any]]
    if local:
        from gateway.commands.local_keys import list_locally

        keys = asyncio.run(list_locally())
    else:
        keys = Gateway(url, token_file).get("/keys").json()["keys"]
    if json_:
        print_json(keys)
        return
    listing = Listing(
        [Column("id"), Column("name", 1, flexible=True), Column("tenant", 2), Column("scopes", 3),
         Column("job_types", 4), Column("created", 6), Column("ends", 5)],
        terminal_width(),
    )  # fmt: skip
    rows: list[list[str | Text]] = [
        [
            one["id"], one["name"], one["tenant"], ",".join(one["scopes"]), ",".join(one.get("job_types") or []),
            one["created_at"], Text("over", "red") if one.get("expired") else one.get("expires_at", ""),
        ]
        for one in keys
    ]  # fmt: skip
    print_lines(listing.lines(rows)) if rows else err.print("[dim]no keys yet: gateway keys create NAME[/]")


@app.command(cls=Command)
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, of `gateway keys list`.", show_default=False)],
    local: Local = False,
    url: Url = None,
    token_file: TokenFile = None,
    json_: AsJson = False,
) -> None:
    """Revoke an API key; every gateway refuses it within two seconds."""
    if local:
        from gateway.commands.local_keys import revoke_locally

        if not asyncio.run(revoke_locally(key_id)):
            fail(f"no API key has the id {key_id}; `gateway keys list --local` shows those there are", REFUSED)
        raw = json.dumps({"id": key_id, "revoked": True}).encode()
    else:
        raw = Gateway(url, token_file).ask("DELETE", f"/keys/{quote(key_id, safe='')}").raw
    print_raw(raw) if json_ else say(f"{key_id} is revoked")


def _about(made: dict[str, Any]) -> str:
    only = f", only {' '.join(made['job_types'])}" if made.get("job_types") else ""
    ends = f", ends {made['expires_at']}" if made.get("expires_at") else ""
    return f"{made['name']}, tenant {made['tenant']}, scopes {' '.join(made['scopes'])}{only}{ends}"
