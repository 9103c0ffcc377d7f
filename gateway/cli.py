"""The `gateway` command.

Exit codes: 0 done; 1 refused (no such task, a full queue, an unhealthy gateway, ..); 2 wrong usage or settings; 3 the
gateway or Redis cannot be reached; 130 ended by Ctrl+C; 141 nobody reads on (`gateway list | head -1`).
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import typer

from gateway import __version__
from gateway.commands import changes, keys, operations, queue, tasks, tenants
from gateway.commands.client import Command, settings
from gateway.commands.demo.story import demo
from gateway.commands.doctor import doctor
from gateway.commands.output import UNREACHABLE, USAGE, fail, out
from gateway.commands.tail import tail
from gateway.commands.token import token
from gateway.commands.top import top
from gateway.config import ConfigError, Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Background jobs over plain HTTP: producers POST, workers in any language long-poll.",
)
Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="HOST, or 127.0.0.1")]
Port = Annotated[int | None, typer.Option(help="Port to listen on.", show_default="PORT, or 8080", min=0, max=65535)]

_WELCOME = """
[bold]tasks-gateway[/] is up at [bold]{url}[/], with {pool} bundled workers for the queue [bold]default[/].{token}
Try, in another terminal:

  [dim]# a task for the bundled pool (it takes 1-5 seconds), and its result[/]
  curl -s {url}/tasks{bearer} -H 'Content-Type: application/json' -H 'Prefer: wait=10' -d '{{"title": "My first task"}}'

  [dim]# a task for a worker of yours, and the worker[/]
  curl -s {url}/tasks{bearer} -H 'Content-Type: application/json' -d '{{"job_type": "demo", "payload": {{"a": 1}}}}'
  curl -s '{url}/poll?worker_id=me&task_type=demo'{bearer}

  [dim]# how it is doing[/]
  curl -s {url}/health

The API is described at {url}/docs. Ctrl+C stops; tasks are kept in {data}.
"""


def main() -> None:
    """Run the command."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows fewer characters than we print gets question marks, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit()


@app.command(cls=Command, rich_help_panel="Server")
def run(host: Host = None, port: Port = None) -> None:
    """Run everything at once: the gateway, an embedded Redis, and a small pool for the `default` queue."""
    chosen = _settings(host, port)
    pool_size = 5 if chosen.task_workers is None else chosen.task_workers

    def announce(url: str) -> None:
        kept = chosen.data_dir if chosen.embedded_redis() else "your Redis"
        bearer = ' -H "Authorization: Bearer $GATEWAY_TOKEN"' if chosen.authenticates() else ""
        words = {"url": url, "pool": pool_size, "data": kept, "bearer": bearer, "token": _where_tokens_are(chosen)}
        out.print(_WELCOME.format(**words), soft_wrap=True)

    _run(chosen, pool_size=pool_size, announce=announce)


@app.command(cls=Command, rich_help_panel="Server")
def serve(
    processes: Annotated[int, typer.Option("--processes", min=1, max=64, help="Processes that share the port.")] = 1,
    host: Host = None,
    port: Port = None,
) -> None:
    """Run the gateway. Settings come from the environment and .env; see the README's table."""
    chosen = _settings(host, port)
    _run(chosen, pool_size=chosen.task_workers or 0, processes=processes)


app.command(cls=Command, rich_help_panel="Server")(demo)
_command: Callable[..., None]
for _command in (tasks.enqueue, tasks.get, tasks.wait, changes.cancel, changes.retry, changes.delete):
    app.command(cls=Command, rich_help_panel="Tasks")(_command)
app.command("list", cls=Command, rich_help_panel="Tasks")(tasks.list_tasks)
app.command(cls=Command, rich_help_panel="Tasks")(tail)
for _command in (top, operations.health, operations.queues, operations.workers, operations.drain, doctor):
    app.command(cls=Command, rich_help_panel="Operators")(_command)
app.add_typer(queue.app, name="queue", rich_help_panel="Operators")
app.command(cls=Command, rich_help_panel="Access")(token)
app.add_typer(keys.app, name="keys", rich_help_panel="Access")
app.command(cls=Command, rich_help_panel="Access")(tenants.tenants)
app.add_typer(tenants.app, name="tenant", rich_help_panel="Access")


def _where_tokens_are(chosen: Settings) -> str:
    if not chosen.authenticates():
        return ""
    gateway = "gateway" if shutil.which("gateway") else sys.argv[0]
    if chosen.jwt_secret is not None:
        how = f"export GATEWAY_TOKEN=$({gateway} token)"
        return f"\nIt asks for a token: [bold]{how}[/] (where JWT_SECRET is the same)"
    if chosen.api_keys:
        return f"\nIt asks for a key: [bold]export GATEWAY_TOKEN=$({gateway} keys create me --scope admin --local)[/]"
    return "\nIt asks for a token of your issuer, in GATEWAY_TOKEN."


def _settings(host: str | None, port: int | None) -> Settings:
    changes: dict[str, Any] = {"host": host, "port": port}
    return msgspec.structs.replace(settings(), **{name: value for name, value in changes.items() if value is not None})


def _run(
    chosen: Settings, *, pool_size: int, processes: int = 1, announce: Callable[[str], None] | None = None
) -> None:
    # What only the server needs is imported here, so that other commands start at once.
    from gateway.processes import CannotListen
    from gateway.redis_binary import EmbeddedRedisError
    from gateway.serving import serve as serve_gateway

    try:
        chosen.check_exposure()
    except ConfigError as error:
        fail(str(error), USAGE)
    try:
        code = serve_gateway(chosen, pool_size=pool_size, processes=processes, announce=announce)
    except (EmbeddedRedisError, CannotListen) as error:
        fail(str(error), UNREACHABLE)
    raise typer.Exit(code)
