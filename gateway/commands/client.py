"""How commands talk to a gateway: one keep-alive connection, JSON in and out."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import typer
from typer.core import TyperCommand

from gateway.commands.bearer import token_of
from gateway.commands.output import (
    INTERRUPTED,
    REFUSED,
    UNREACHABLE,
    USAGE,
    fail,
    pipe_closed,
    print_raw,
)
from gateway.config import ConfigError, Settings, load

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="GATEWAY_URL", help="Where the gateway is.", show_default="from HOST and PORT"),
]
TaskIdArgument = Annotated[str, typer.Argument(help="The task's id.", show_default=False)]
_PAGE = 200
_NO_GATEWAY = "what answers there is no gateway; look at the address (--url, GATEWAY_URL, or HOST and PORT)"
_NEXT_STEPS = {
    "task_not_found": "`gateway list` shows those there are",
    "invalid_id": "`gateway list` shows the ids there are",
    "already_finished": "`gateway get` shows how it ended; `gateway retry` sends a failed or cancelled one back",
    "not_finished": "`gateway get` shows where it stands; `gateway cancel` takes it back",
    "worker_not_found": "`gateway workers` shows those there are",
    "queue_full": "start more workers, or raise TASK_QUEUE_SIZE; `gateway top` shows how fast it drains",
    "store_unavailable": "`gateway doctor` looks at Redis",
    "store_full": "give Redis more memory; `gateway doctor` shows how much it has",
    "unauthenticated": "set GATEWAY_TOKEN, or name a file with --token-file; `gateway keys create` and `gateway token` "
    "make one",
    "invalid_token": "take another: `gateway keys list` shows which keys there are, `gateway token` makes one",
    "insufficient_scope": "use a token that has it, made with --scope",
    "forbidden_job_type": "name a job_type that the token is made for, or use a token without --job-type",
    "forbidden_tenant": "use a token of that tenant, or one of the tenant `default` with the scope admin",
    "identity_unavailable": "see that the gateway reaches JWKS_URL; its log says what went wrong",
    "rate_limited": "{wait}; an administrator raises it with `gateway tenant set`",
    "quota_exceeded": "{wait}, or let workers catch up; `gateway tenant show` tells what is held",
    "key_not_found": "`gateway keys list` shows those there are",
    "settings_changed": "repeat it",
    "queue_not_found": "`gateway queues` shows those there are",
}


class Refused(Exception):
    """The gateway refused. problem: the RFC 9457 document it answered with."""

    def __init__(self, status: int, raw: bytes, retry_after_seconds: int | None = None) -> None:
        try:
            problem = json.loads(raw)
        except ValueError:
            problem = None
        self.status = status
        self.raw = raw
        self.retry_after_seconds = retry_after_seconds
        self.problem: dict[str, Any] = problem if isinstance(problem, dict) else {}
        super().__init__(self.problem.get("detail", f"status {status}"))

    @property
    def code(self) -> str:
        """The protocol's word for it; the status where what answered is no gateway."""
        return str(self.problem.get("code", self.status))

    @property
    def advice(self) -> str | None:
        """What to do about it."""
        known = _NEXT_STEPS.get(self.code)
        return None if known is None else known.format(wait=f"wait {self.retry_after_seconds or 1} s")


class Unreachable(Exception):
    """No gateway answers; the message says where and what to do."""


class Answer:
    """What the gateway answered. raw: the body's bytes; etag: to ask whether it changed; retry_after_seconds: how long
    to wait before asking again, where it said so."""

    def __init__(self, status: int, raw: bytes, etag: str | None = None, retry_after: str | None = None) -> None:
        self.status = status
        self.raw = raw
        self.etag = etag
        self.retry_after_seconds = int(retry_after) if retry_after is not None and retry_after.isdecimal() else None

    def granted(self) -> Answer:
        """This answer. Raises Refused when it is none that was hoped for."""
        if self.status >= 400:
            raise Refused(self.status, self.raw, self.retry_after_seconds)
        return self

    def json(self) -> Any:
        """Read the body; to print it, take `raw`, which keeps every digit. Raises Unreachable: it is no JSON."""
        try:
            return json.loads(self.raw)
        except ValueError:
            raise Unreachable(_NO_GATEWAY) from None


class _Page(msgspec.Struct):
    tasks: list[msgspec.Raw]
    next_cursor: str | None = None


class Command(TyperCommand):
    """A command whose end is always one of the documented exit codes, and never a traceback for what users do."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            pipe_closed()
        except Unreachable as error:
            fail(str(error), UNREACHABLE)
        except Refused as refusal:
            if ctx.params.get("json_"):
                print_raw(refusal.raw)
                raise typer.Exit(REFUSED) from None
            fail(f"refused ({refusal.code}): {refusal}{f'. Next: {refusal.advice}' if refusal.advice else ''}", REFUSED)


class Gateway:
    """A gateway seen from outside. url: None takes HOST and PORT of the settings. token_file: see `token_of`.
    timeout_seconds: how long it may be silent, which must be longer than what it is asked to wait.
    anonymous: send no token, as to a gateway that was started for the moment.

    Every call raises Unreachable when no gateway answers.
    """

    def __init__(
        self, url: str | None, token_file: str | None = None, *, timeout_seconds: float = 65, anonymous: bool = False
    ) -> None:
        token = None if anonymous else token_of(token_file)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.url = url.rstrip("/") if url is not None else _default_url()
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            fail(f"{self.url} is no http or https address, such as http://127.0.0.1:8080", USAGE)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        try:
            self._connection = kind(parts.hostname, parts.port, timeout=timeout_seconds)
        except ValueError as error:
            fail(f"{self.url}: {error}", USAGE)
        self._path = parts.path

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Ask, whatever the answer."""
        media = {} if body is None else {"Content-Type": "application/json"}
        sent = {**self._headers, **media, **(headers or {})}
        for attempt in (1, 2):
            try:
                self._connection.request(method, self._path + path, body, sent)
                reply = self._connection.getresponse()
                return Answer(reply.status, reply.read(), reply.headers["ETag"], reply.headers["Retry-After"])
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
                # A kept connection may have been closed in the meantime; a fresh one decides.
                self._connection.close()
                if attempt == 2 or method not in ("GET", "HEAD"):
                    raise self._unreachable(error) from error
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                raise self._unreachable(error) from error
        raise AssertionError

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """Ask for something that should be granted. Raises Refused."""
        answer = self.request(method, path, body, headers).granted()
        if answer.raw and answer.raw.lstrip()[:1] not in (b"{", b"["):
            raise Unreachable(_NO_GATEWAY)
        return answer

    def get(self, path: str, **query: object) -> Answer:
        """GET with a query; None leaves a parameter out. Raises Refused."""
        given = {name: value for name, value in query.items() if value is not None}
        return self.ask("GET", path + ("?" + urlencode(given, doseq=True) if given else ""))

    def pages(self, limit: int, *, most_requests: int = sys.maxsize, **query: object) -> Iterator[list[bytes]]:
        """List tasks, newest first: a page after the other, each task's JSON by itself. Raises Refused."""
        cursor = None
        while limit > 0 and most_requests > 0:
            most_requests -= 1
            page = msgspec.json.decode(
                self.get("/tasks", **query, limit=min(limit, _PAGE), cursor=cursor).raw, type=_Page
            )
            yield [bytes(task) for task in page.tasks]
            limit -= len(page.tasks)
            cursor = page.next_cursor
            if cursor is None:
                return

    def _unreachable(self, error: Exception) -> Unreachable:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        return Unreachable(
            f"no gateway answers at {self.url}: {reason}. Start one with `gateway run`, or name it with --url"
        )


def settings() -> Settings:
    """Read the settings; exit naming the variable that is wrong."""
    try:
        return load()
    except ConfigError as error:
        fail(str(error), USAGE)


def path_of(task_id: str, verb: str = "") -> str:
    """The path of a task."""
    return f"/tasks/{quote(task_id, safe='~:.')}{'/' + verb if verb else ''}"


def local_url(host: str, port: int) -> str:
    """The address under which this machine reaches a gateway that listens there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _default_url() -> str:
    chosen = settings()
    return local_url(chosen.host, chosen.port)
