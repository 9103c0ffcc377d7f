"""The process of an embedded Redis: what it is told, and how it starts with its lock held."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gateway.data_directory import STARTING, DataDirectory
from gateway.redis_binary import EmbeddedRedisError, ServerBinary

LOCK_HELD_STATUS = 75
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")

# Takes the lock, then becomes Redis; argv is the lock file, then the command. The retries outlast a gateway that just
# looks whether the lock is held.
_LAUNCHER = f"""
import fcntl, os, sys, time
lock = os.open(sys.argv[1], os.O_RDWR)
for attempt in range(20):
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
    except OSError:
        time.sleep(0.02)
else:
    sys.exit({LOCK_HELD_STATUS})
os.ftruncate(lock, 0)
os.pwrite(lock, str(os.getpid()).encode(), 0)
os.set_inheritable(lock, True)
os.execv(sys.argv[2], sys.argv[2:])
"""


def spawn(server: ServerBinary, directory: DataDirectory, appendfsync: str) -> subprocess.Popen[bytes]:
    """Start a server on the directory, on its STARTING socket. Raises EmbeddedRedisError.

    It ends with LOCK_HELD_STATUS where another one runs there.
    """
    # Written whole before Redis starts: one that read half of it, or nothing, would listen on TCP.
    config_read, config_write = os.pipe()
    try:
        os.write(config_write, _config(server, directory, appendfsync))
        os.close(config_write)
        with directory.open_log() as log_file:
            return subprocess.Popen(  # noqa: S603  found on PATH or named by the operator
                [sys.executable, "-ISc", _LAUNCHER, str(directory.path / "server.lock"), server.path, "-"],
                stdin=config_read,
                stdout=log_file,
                stderr=log_file,
                cwd=directory.path,
                env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
                # Ctrl-C reaches the whole foreground group: the gateway goes first, then Redis.
                start_new_session=True,
                umask=0o077,
            )
    except OSError as error:
        raise EmbeddedRedisError(
            f"{server.path} could not be started on {directory.path}: {error}. See that both may be used."
        ) from error
    finally:
        os.close(config_read)


def _config(server: ServerBinary, directory: DataDirectory, appendfsync: str) -> bytes:
    lines = [
        b"port 0",
        b"unixsocket " + _quoted(directory.socket(STARTING)),
        b"unixsocketperm 700",
        b"protected-mode yes",
        b"daemonize no",
        b"supervised no",
        b"dir " + _quoted(directory.path),
        b'save ""',
        b"appendonly yes",
        b"appendfsync " + appendfsync.encode(),
        b"aof-load-truncated yes",
        b"maxmemory-policy noeviction",
        # What a stolen connection could do harm with beyond the data itself.
        b"user default on nopass sanitize-payload ~* &* +@all -module -debug -replicaof -slaveof"
        b" -restore -restore-asking -migrate -config +config|get",
    ]
    if server.version >= (7, 0, 0):
        lines += [b"enable-debug-command no", b"enable-module-command no", b"enable-protected-configs no"]
    return b"\n".join(lines) + b"\n"


def _quoted(path: Path) -> bytes:
    """Write a path as Redis's configuration wants it: any byte may be given as \\xhh between double quotes."""
    return b'"' + b"".join(b"\\x%02x" % byte for byte in os.fsencode(path)) + b'"'
