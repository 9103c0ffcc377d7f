"""The `gateway` command.

Exit codes: 0 done, 1 refused (no such task, a full queue, an unhealthy gateway, ..), 2 wrong usage or settings,
3 the gateway or Redis cannot be reached.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from gateway import __version__
from gateway.config import ConfigError, Settings, load

app = typer.Typer(
    no_args_is_help=True, add_completion=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
    help="Background jobs over plain HTTP: producers POST, workers in any language long-poll.",
)  # fmt: skip
out, err = Console(highlight=False), Console(stderr=True, highlight=False)
Url = Annotated[
    str | None, typer.Option("--url", envvar="GATEWAY_URL", help="Where the gateway is. [default: from HOST and PORT]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def main() -> None:
    """Run the command."""
    app()


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit()


@app.command()
def serve(
    processes: Annotated[int, typer.Option("--processes", min=1, max=64, help="Processes that share the port.")] = 1,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: HOST, or 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [default: PORT, or 8080]")] = None,
) -> None:
    """Run the gateway. Settings come from the environment and .env; see the README's table."""
    settings = _settings(host, port)
    _run(settings, pool_size=settings.task_workers or 0, processes=processes)


@app.command()
def run(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: HOST, or 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [default: PORT, or 8080]")] = None,
) -> None:
    """Run everything at once: the gateway, an embedded Redis, and a small pool for the `default` queue."""
    settings = _settings(host, port)
    pool_size = 5 if settings.task_workers is None else settings.task_workers

    def announce(url: str) -> None:
        out.print(_WELCOME.format(url=url, pool=pool_size), soft_wrap=True)

    _run(settings, pool_size=pool_size, announce=announce)


@app.command()
def health(url: Url = None, json_: AsJson = False) -> None:
    """Ask the gateway how it is. Exits 0 when it can serve, 1 when it cannot, 3 when it does not answer."""
    status, body = _request("GET", _base(url) + "/health")
    if json_:
        _print_json(body)
    else:
        colour = "green" if status == 200 else "red"
        out.print(f"[{colour}]{body.get('status', 'unknown')}[/]")
        for name, value in body.items():
            if name != "status":
                out.print(f"  {name:24} {value}")
    raise typer.Exit(0 if status == 200 else 1)


@app.command()
def enqueue(
    job_type: Annotated[str, typer.Argument(help="The queue, such as image_resize.")],
    payload: Annotated[str, typer.Argument(help="JSON; - reads it from standard input.")] = "null",
    title: Annotated[str | None, typer.Option(help="A title for people.")] = None,
    priority: Annotated[str | None, typer.Option(help="low, normal, high or critical.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds to wait before it may start.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Most attempts, 1 to 1000.")] = None,
    wait: Annotated[float | None, typer.Option(help="Wait so many seconds for its end (at most 55).")] = None,
    url: Url = None,
    json_: AsJson = False,
) -> None:
    """Enqueue a task and print its id."""
    text = sys.stdin.read() if payload == "-" else payload
    try:
        json.loads(text)
    except ValueError as error:
        _fail(f"the payload is not JSON: {error}. A text needs its quotes: '\"like this\"'", 2)
    options = {"title": title, "priority": priority, "delay_seconds": delay, "max_attempts": max_attempts}
    members = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in options.items() if value is not None]
    # The payload goes as it was typed: 1.0 stays 1.0.
    body = ", ".join([f'"job_type": {json.dumps(job_type)}', *members, f'"payload": {text}'])
    headers = {} if wait is None else {"Prefer": f"wait={int(wait)}"}
    status, task = _request("POST", _base(url) + "/tasks", f"{{{body}}}".encode(), headers)
    if status >= 400:
        _refused(status, task, json_)
    if json_:
        _print_json(task)
    elif wait is None:
        out.print(task["id"])
    else:
        _print_task(task)


@app.command()
def get(
    task_id: Annotated[str, typer.Argument(help="The task's id.")],
    wait: Annotated[float | None, typer.Option(help="Wait so many seconds for its end (at most 55).")] = None,
    url: Url = None,
    json_: AsJson = False,
) -> None:
    """Show a task."""
    query = "" if wait is None else f"?wait={wait:g}"
    status, task = _request("GET", f"{_base(url)}/tasks/{task_id}{query}")
    if status >= 400:
        _refused(status, task, json_)
    if json_:
        _print_json(task)
    else:
        _print_task(task)


_WELCOME = """
[bold]tasks-gateway[/] is up at [bold]{url}[/], with {pool} bundled workers for the queue [bold]default[/].
Try, in another terminal:

  [dim]# a task for the bundled pool (it takes 1-5 seconds), and its result[/]
  curl -s {url}/tasks -H 'Content-Type: application/json' -H 'Prefer: wait=10' -d '{{"title": "My first task"}}'

  [dim]# a task for a worker of yours, and the worker[/]
  curl -s {url}/tasks -H 'Content-Type: application/json' -d '{{"job_type": "demo", "payload": {{"hello": "world"}}}}'
  curl -s '{url}/poll?worker_id=me&task_type=demo'

  [dim]# how it is doing[/]
  curl -s {url}/health

The API is described at {url}/docs. Ctrl+C stops; tasks are kept in ./data.
"""


def _settings(host: str | None, port: int | None) -> Settings:
    import msgspec

    try:
        settings = load()
    except ConfigError as error:
        _fail(str(error), 2)
    changes: dict[str, Any] = {}
    if host is not None:
        changes["host"] = host
    if port is not None:
        changes["port"] = port
    return msgspec.structs.replace(settings, **changes)


def _run(
    settings: Settings, *, pool_size: int, processes: int = 1, announce: Callable[[str], None] | None = None
) -> None:
    from gateway.embedded import EmbeddedRedisError
    from gateway.processes import CannotListen
    from gateway.serving import serve as serve_gateway

    try:
        code = serve_gateway(settings, pool_size=pool_size, processes=processes, announce=announce)
    except (EmbeddedRedisError, CannotListen) as error:
        _fail(str(error), 3)
    raise typer.Exit(code)


def _base(url: str | None) -> str:
    if url is not None:
        return url.rstrip("/")
    settings = _settings(None, None)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _request(
    method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    if not url.startswith(("http://", "https://")):
        _fail(f"{url} is no http or https address", 2)
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **(headers or {})}, method=method)  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=65) as reply:  # noqa: S310 - checked above
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            try:
                return error.code, json.load(error)
            except ValueError:
                _fail(f"{url} answered {error.code}, and not as a gateway does; is the address right?", 3)
    except (urllib.error.URLError, OSError, ValueError) as error:
        _fail(
            f"no gateway answers at {url}: {getattr(error, 'reason', error)}. "
            "Start one with `gateway run`, or name it with --url",
            3,
        )


def _print_task(task: dict[str, Any]) -> None:
    for name, value in task.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        out.print(f"{name:16} {text}", markup=False, soft_wrap=True)


def _print_json(value: Any) -> None:
    out.print(json.dumps(value, ensure_ascii=False), markup=False, soft_wrap=True)


def _refused(status: int, problem: dict[str, Any], as_json: bool) -> NoReturn:
    if as_json:
        _print_json(problem)
        raise typer.Exit(1)
    _fail(f"refused ({problem.get('code', status)}): {problem.get('detail', '')}", 1)


def _fail(message: str, code: int) -> NoReturn:
    err.print(f"[red]error:[/] {message}", soft_wrap=True, markup=True)
    raise typer.Exit(code)
