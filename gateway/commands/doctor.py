"""`gateway doctor`: looks at everything the gateway needs here, and says what to do."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import platform
import re
import resource
import shutil
import stat
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from gateway import __version__
from gateway.commands.access_checks import check_access
from gateway.commands.bearer import token_of
from gateway.commands.client import Gateway, local_url
from gateway.commands.findings import Finding, Level, ok, problem, warning
from gateway.commands.output import REFUSED, AsJson, plain, print_json, say
from gateway.config import ConfigError, Settings, load

_COLOURS: dict[Level, str] = {"ok": "green", "warning": "yellow", "problem": "red"}
_PACKAGE = "tasks-gateway"
_LITTLE_SPACE_BYTES, _NO_SPACE_BYTES = 1 << 30, 100 << 20
_SPARE_FILES = 200
_PROBE_SECONDS = 3
_BOUND = re.compile(r"(>=|<=|==|<|>)\s*([0-9][0-9.]*)")


def doctor(json_: AsJson = False) -> None:
    """Check settings, Redis, port, limits and versions, and say what to do. Exits 1 when there is a problem."""
    # What a check passes over it says itself.
    logging.disable(logging.CRITICAL)
    found = []
    for finding in _checks():
        found.append(finding)
        if not json_:
            _print(finding)
    levels = [finding.level for finding in found]
    healthy = "problem" not in levels
    if json_:
        checks = [{"level": one.level, "check": one.check, "text": one.text, "do": one.do} for one in found]
        print_json({"ok": healthy, "version": __version__, "checks": checks})
    else:
        counts = [f"{levels.count(one)} {one}{'s' if levels.count(one) != 1 else ''}" for one in ("problem", "warning")]
        say(Text(f"{', '.join(counts)}", "bold green" if healthy else "bold red"))
    raise typer.Exit(0 if healthy else REFUSED)


def _checks() -> Iterator[Finding]:
    yield _python()
    yield from _dependencies()
    try:
        settings = load()
    except ConfigError as error:
        yield problem("settings", str(error), "correct it in the environment or in .env, and run this again")
        return
    yield from _settings(settings)
    if settings.embedded_redis():
        yield from _embedded(settings)
    else:
        from gateway.commands.redis_checks import check_redis

        yield from asyncio.run(check_redis(settings))
    yield from _port(settings)
    yield _open_files(settings)


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return warning("python", f"{text}: not one of those it is tested with", "use Python 3.11, 3.12 or 3.13")
    return ok("python", text)


def _dependencies() -> Iterator[Finding]:
    try:
        required = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        yield warning(
            "packages", f"{_PACKAGE} {__version__} is not installed as a package", "pip install tasks-gateway"
        )
        return
    versions = []
    for line in required:
        wanted, _, marker = line.partition(";")
        name = re.split(r"[\s<>=!~\[(]", wanted.strip(), maxsplit=1)[0]
        if "extra ==" in marker:
            continue
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if not marker:
                yield problem("packages", f"{name} is missing", f"pip install '{wanted.strip()}'")
            continue
        if all(_holds(version, sign, bound) for sign, bound in _BOUND.findall(wanted)):
            versions.append(f"{name} {version}")
        else:
            yield warning("packages", f"{name} {version} is installed", f"pip install '{wanted.strip()}'")
    yield ok("packages", f"{_PACKAGE} {__version__}, {', '.join(versions)}")


def _settings(settings: Settings) -> Iterator[Finding]:
    where = "from the environment" + (" and .env" if Path(".env").is_file() else "")
    yield ok("settings", f"read {where}; no contradictions")
    if settings.database_url is not None:
        yield warning("settings", "DATABASE_URL is not used: tasks are kept in Redis", "unset it")
    yield from check_access(settings)


def _embedded(settings: Settings) -> Iterator[Finding]:
    from gateway.redis_binary import EmbeddedRedisError, find_server

    try:
        yield ok("redis", f"embedded, {find_server()}")
    except EmbeddedRedisError as error:
        yield problem("redis", str(error), "install a redis-server, or set REDIS_URL")
    fsync = "a power cut loses nothing" if settings.appendfsync == "always" else "a power cut may lose the last second"
    yield ok("persistence", f"append-only file, APPENDFSYNC={settings.appendfsync}: {fsync}")
    yield from _data_dir(Path(settings.data_dir).resolve())


def _data_dir(folder: Path) -> Iterator[Finding]:
    check, advice = "data directory", "set DATA_DIR to a directory that this user owns"
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        yield problem(check, f"{existing} is no directory", advice)
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        yield problem(check, f"{existing} cannot be written by this user", advice)
        return
    status = existing.stat()
    if existing != folder:
        yield ok(check, f"{folder} will be made")
    elif status.st_uid != os.geteuid():
        yield problem(check, f"{folder} belongs to another user", advice)
    elif stat.S_IMODE(status.st_mode) & 0o077 and not any(
        (folder / name).exists() for name in ("marker", "owner.lock")
    ):
        if any(folder.iterdir()):
            yield problem(check, f"{folder} is open to other users and holds other things", "choose one of its own")
        else:
            yield ok(check, f"{folder} is empty; its mode will become 700")
    else:
        yield ok(check, str(folder))
    free = shutil.disk_usage(existing).free
    text = f"{free / (1 << 30):.1f} GiB free"
    if free < _NO_SPACE_BYTES:
        yield problem("disk space", f"{text} at {existing}", "make room: without it no task can be stored")
    elif free < _LITTLE_SPACE_BYTES:
        yield warning("disk space", f"{text} at {existing}", "make room")
    else:
        yield ok("disk space", text)


def _port(settings: Settings) -> Iterator[Finding]:
    from gateway.processes import CannotListen, listen

    if settings.port == 0:
        yield ok("port", "any that is free")
        return
    where = f"{settings.host} port {settings.port}"
    try:
        listen(settings.host, settings.port).close()
    except CannotListen as error:
        health = _health_of(settings)
        if health is None:
            yield problem("port", str(error), "stop that program, or set PORT or HOST")
            return
    else:
        yield ok("port", f"{where} is free: no gateway runs there now")
        return
    status, version = health.get("status"), health.get("version")
    if status == "ok":
        yield ok("gateway", f"{version} runs at {local_url(settings.host, settings.port)} and is well")
    else:
        yield problem("gateway", f"{version} at {where} is {status}", "look at its log; `gateway health` shows more")
    if version != __version__:
        yield warning("gateway", f"{version} runs, {__version__} is installed", "restart it")
    yield from _token(settings)
    for one in health.get("warnings", []):
        if one in settings.warnings():
            continue  # said above, as a matter of access
        yield warning("gateway", plain(str(one)), "see the checks of Redis above, or the gateway's log")


def _token(settings: Settings) -> Iterator[Finding]:
    """Whether that gateway takes the token which commands here would send."""
    if token_of(os.environ.get("GATEWAY_TOKEN_FILE")) is None:
        if settings.authenticates():
            yield warning("token", "there is none for commands to send", "set GATEWAY_TOKEN; `gateway token` makes one")
        return
    answer = Gateway(
        local_url(settings.host, settings.port), os.environ.get("GATEWAY_TOKEN_FILE"), timeout_seconds=_PROBE_SECONDS
    ).request("GET", "/queues")
    if answer.status == 401:
        yield warning("token", "that gateway refuses it", "set another as GATEWAY_TOKEN; `gateway token` makes one")
    elif answer.status < 500:
        yield ok("token", "that gateway takes it")


def _health_of(settings: Settings) -> dict[str, Any] | None:
    """Ask who listens there. None: it is no gateway."""
    host, port = local_url(settings.host, settings.port).removeprefix("http://").rsplit(":", 1)
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_PROBE_SECONDS)
    try:
        connection.request("GET", "/health")
        health = json.loads(connection.getresponse().read(1 << 20))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return health if isinstance(health, dict) and "open_polls" in health else None


def _open_files(settings: Settings) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_open_polls + _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return ok("open files", f"{'no limit' if soft == resource.RLIM_INFINITY else soft}")
    remedy = f"ulimit -n {wanted}" if hard == resource.RLIM_INFINITY or hard >= wanted else "raise LimitNOFILE"
    return warning(
        "open files",
        f"the limit is {soft}, each long poll needs one: MAX_OPEN_POLLS={settings.max_open_polls} is out of reach",
        f"{remedy} before the gateway starts, or set MAX_OPEN_POLLS={max(soft - _SPARE_FILES, 1)}",
    )


def _holds(version: str, sign: str, bound: str) -> bool:
    have, want = (tuple(int(part) for part in re.findall(r"\d+", text)[:4]) for text in (version, bound))
    length = max(len(have), len(want))
    have, want = have + (0,) * (length - len(have)), want + (0,) * (length - len(want))
    return {">=": have >= want, "<=": have <= want, "==": have == want, "<": have < want, ">": have > want}[sign]


def _print(finding: Finding) -> None:
    say(Text.assemble((f"{finding.level:8}", _COLOURS[finding.level]), f"  {finding.check:17} {plain(finding.text)}"))
    if finding.do:
        say(Text.assemble(" " * 28, ("do: ", "bold"), plain(finding.do)))
