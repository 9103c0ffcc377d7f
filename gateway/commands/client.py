"""How commands talk to a gateway: one keep-alive connection, JSON in and out, and exit codes that scripts can use."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

import typer
from rich.console import Console

from gateway.config import ConfigError, Settings, load

REFUSED, USAGE, UNREACHABLE = 1, 2, 3
out, err = Console(highlight=False), Console(stderr=True, highlight=False)
Url = Annotated[
    str | None, typer.Option("--url", envvar="GATEWAY_URL", help="Where the gateway is. [default: from HOST and PORT]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
TaskIdArgument = Annotated[str, typer.Argument(help="The task's id.", show_default=False)]


class Refused(Exception):
    """The gateway refused. problem: the RFC 9457 document it answered with."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(problem.get("detail", ""))
        self.status = status
        self.problem = problem


class Gateway:
    """A gateway seen from outside. url: None takes HOST and PORT of the settings."""

    def __init__(self, url: str | None) -> None:
        self.url = url.rstrip("/") if url is not None else _default_url()
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            fail(f"{self.url} is no http or https address", USAGE)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        try:
            self._connection = kind(parts.hostname, parts.port, timeout=65)
        except ValueError as error:
            fail(f"{self.url}: {error}", USAGE)
        self._path = parts.path

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Ask, whatever the answer. Returns status and JSON ({} for none). Exits when no gateway answers."""
        status, raw = self.raw(method, path, body, headers)
        try:
            return status, json.loads(raw) if raw else {}
        except ValueError:
            fail(f"{self.url} answered {status}, and not as a gateway does; is the address right?", UNREACHABLE)

    def raw(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """As `request`, but the answer's bytes."""
        sent = {"Content-Type": "application/json", **(headers or {})} if body is not None else headers or {}
        for attempt in (1, 2):
            try:
                self._connection.request(method, self._path + path, body, sent)
                reply = self._connection.getresponse()
                return reply.status, reply.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
                # A kept connection may have been closed in the meantime; a fresh one decides.
                self._connection.close()
                if attempt == 2 or method not in ("GET", "HEAD"):
                    self._unreachable(error)
            except (OSError, http.client.HTTPException) as error:
                self._unreachable(error)
        raise AssertionError

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Ask for something that should be granted. Raises Refused."""
        status, answer = self.request(method, path, body, headers)
        if status >= 400:
            raise Refused(status, answer)
        return answer

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """GET with a query; None leaves a parameter out. Raises Refused."""
        given = {name: value for name, value in query.items() if value is not None}
        return self.ask("GET", path + ("?" + urlencode(given, doseq=True) if given else ""))

    def pages(self, limit: int, **query: object) -> Iterator[dict[str, Any]]:
        """List tasks, newest first, page by page."""
        cursor = None
        while limit > 0:
            page = self.get("/tasks", **query, limit=min(limit, 200), cursor=cursor)
            yield from page["tasks"]
            limit -= len(page["tasks"])
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def _unreachable(self, error: Exception) -> NoReturn:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        fail(f"no gateway answers at {self.url}: {reason}. Start one with `gateway run`, or name it with --url", 3)


def settings() -> Settings:
    """Read the settings; exit naming the variable that is wrong."""
    try:
        return load()
    except ConfigError as error:
        fail(str(error), USAGE)


def path_of(task_id: str, verb: str = "") -> str:
    """The path of a task."""
    return f"/tasks/{quote(task_id, safe='~:.')}{'/' + verb if verb else ''}"


def print_json(value: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(value, ensure_ascii=False))


def refused(refusal: Refused, *, as_json: bool) -> NoReturn:
    """Say what was refused, and exit with REFUSED."""
    if as_json:
        print_json(refusal.problem)
        raise typer.Exit(REFUSED)
    fail(f"refused ({refusal.problem.get('code', refusal.status)}): {refusal}", REFUSED)


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong and what to do, and exit."""
    err.print("[red]error:[/] ", end="")
    err.print(message, markup=False, soft_wrap=True)
    raise typer.Exit(code)


def on_terminal() -> bool:
    """Whether somebody watches."""
    return sys.stdout.isatty()


def _default_url() -> str:
    chosen = settings()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(chosen.host, chosen.host)  # noqa: S104 - compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{chosen.port}"
