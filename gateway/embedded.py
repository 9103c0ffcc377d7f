"""The embedded Redis: run a server on a private unix socket, keep it running, stop it.

What a reader must know first:

- Files in the data directory (mode 0700): `owner.lock` (flock; its holder supervises the server), `users.lock` (flock,
  shared by every live gateway; the last one out stops the server), `server.lock` (a POSIX lock held by the server, with
  its pid), `marker`, `redis.log`, and Redis's own append-only file.
- A POSIX lock survives exec, is not inherited by the children that Redis forks, and ends with its process. So
  `server.lock` says exactly whether a server runs on the directory, whoever started it, and two never write one file.
- A server starts on `start.sock`. Only when its data is loaded and its marker found is that renamed to `redis.sock`:
  no client ever writes to a server that came up empty where it should not have.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from gateway import redis_words
from gateway.redis_binary import EmbeddedRedisError, LostDataError, ServerBinary, ServerGoneError, find_server
from gateway.store.keys import MARKER_KEY

STOP_GRACE_SECONDS = 10.0
MIN_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 5.0
HEALTHY_SECONDS = 60.0
SILENCE_SECONDS = 60.0
"""How long a joining gateway waits for a sign of life from a directory that another gateway owns."""

_POLL_SECONDS = 0.1
_LOCK_POLL_SECONDS = 0.25
_NO_SOCKET_SECONDS = 10.0
_TOUCH_SECONDS = 3600.0
_PROGRESS_SECONDS = 5.0
_MAX_LOG_BYTES = 1 << 20
# sun_path holds 104 bytes on macOS and 108 on Linux, the closing NUL included.
_MAX_SOCKET_PATH_BYTES = 103

_PUBLIC = "redis.sock"
_STARTING = "start.sock"
_OUR_FILES = frozenset({"owner.lock", "users.lock", "marker", "appendonlydir", "appendonly.aof"})
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")

# Takes the lock, then becomes Redis; argv is the lock file, then the command. The retries outlast a gateway that just
# looks whether the lock is held.
_LOCK_HELD_STATUS = 75
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
    sys.exit({_LOCK_HELD_STATUS})
os.ftruncate(lock, 0)
os.pwrite(lock, str(os.getpid()).encode(), 0)
os.set_inheritable(lock, True)
os.execv(sys.argv[2], sys.argv[2:])
"""

log = logging.getLogger("gateway.embedded")


class EmbeddedRedis:
    """A Redis server on `data_dir`, shared by every gateway that names the same directory.

    data_dir: made if missing, mode 0700; belongs to this user.
    appendfsync: 'always' (an acknowledged write survives a power cut), 'everysec' or 'no'.
    server: unset: what `find_server` finds.
    accept_empty: go on, once, where the directory's data is gone; what is left of it is set aside, never deleted.

    owner: whether this object supervises the server (it may have been started by a gateway that died since).
    failure: why the supervisor gave up, if it did; the server is stopped then.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        appendfsync: str = "always",
        server: ServerBinary | None = None,
        accept_empty: bool = False,
    ) -> None:
        if appendfsync not in ("always", "everysec", "no"):
            raise ValueError(f"appendfsync is {appendfsync!r}; it must be 'always', 'everysec' or 'no'.")
        self.owner = False
        self.failure: EmbeddedRedisError | None = None
        self._data_dir = data_dir.resolve()
        self._appendfsync = appendfsync
        self._server = server
        self._accept_empty = accept_empty
        self._socket_dir: Path | None = None
        self._users_lock: int | None = None
        self._owner_lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_offset = 0
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = asyncio.Lock()

    @property
    def socket_path(self) -> str:
        """The unix socket to connect to; stays the same over restarts of the server."""
        return str(self._socket(_PUBLIC))

    async def start(self) -> None:
        """Start the server, or join the one that runs on the directory; return when it answers.

        Waits as long as the server loads its data. Does nothing when started already.
        Raises EmbeddedRedisError; LostDataError where it would serve without the data it had.
        """
        if self._users_lock is not None:
            return
        try:
            if self._server is None:
                self._server = await asyncio.to_thread(find_server)
            self.failure = None
            self._prepare()
            await self._enter()
            await self._own_or_join()
        except BaseException as error:
            await self.stop()
            if isinstance(error, OSError):
                raise EmbeddedRedisError(
                    f"The data directory {self._data_dir} cannot be used: {error}. "
                    f"Choose one that this user can write to."
                ) from error
            raise
        self._supervisor = asyncio.create_task(self._supervise(), name="embedded redis")

    async def stop(self) -> None:
        """Leave; another gateway of the directory takes the server over, the last one out stops it.

        Does nothing when stopped already. A server that has not ended after 10 s is killed.
        """
        async with self._stopping:
            if self._supervisor is not None:
                self._supervisor.cancel()
                await asyncio.gather(self._supervisor, return_exceptions=True)
                self._supervisor = None
            try:
                if self._users_lock is None:
                    return
                # Another gateway is still here if its shared lock keeps us from an exclusive one; of two that leave at
                # once at least one gets it, as each drops its shared lock first.
                if _try_flock(self._users_lock, fcntl.LOCK_EX):
                    await self._end_server()
                    log.info("embedded redis stopped", extra=self._fields())
                elif self.owner:
                    log.info("embedded redis handed over", extra=self._fields())
            finally:
                self._leave()

    # Joining and owning

    async def _enter(self) -> None:
        assert self._users_lock is not None
        # Held exclusively by a gateway that is stopping the server just now.
        while not _try_flock(self._users_lock, fcntl.LOCK_SH):  # noqa: ASYNC110  another process tells by its lock only
            await asyncio.sleep(_POLL_SECONDS)

    async def _own_or_join(self) -> None:
        heard = asyncio.get_running_loop().time()
        while not self._try_own():
            self._socket_dir = self._noted_socket_dir()
            answers = [
                await redis_words.ping(self._socket(name))
                for name in (_PUBLIC, _STARTING)
                if self._socket_dir is not None
            ]
            now = asyncio.get_running_loop().time()
            if "PONG" in answers[:1]:
                with suppress(ServerGoneError):
                    await self._report_other_fsync(self._socket(_PUBLIC))
                    log.info("embedded redis joined", extra=self._fields(socket=self.socket_path))
                    return
            elif any(answers):
                heard = now
            elif now - heard > SILENCE_SECONDS:
                raise ServerGoneError(
                    f"Another gateway owns {self._data_dir}, but its Redis gave no answer for {SILENCE_SECONDS:.0f} s. "
                    f"See {self._data_dir / 'redis.log'} and that gateway's log."
                )
            await asyncio.sleep(_POLL_SECONDS)
        await self._launch()

    def _try_own(self) -> bool:
        if not self.owner and self._owner_lock is not None:
            self.owner = _try_flock(self._owner_lock, fcntl.LOCK_EX)
            if self.owner and self._socket_dir is None:
                self._socket_dir = self._noted_socket_dir() or self._make_socket_dir()
        return self.owner

    def _leave(self) -> None:
        if self._process is not None and self._process.poll() is None:
            # Handed over: it is no longer ours to wait for, and must not be reported as forgotten.
            self._process.returncode = 0
        self._process = None
        self.owner = False
        for lock in (self._owner_lock, self._users_lock):
            if lock is not None:
                os.close(lock)
        self._owner_lock = self._users_lock = None

    # Running the server

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        backoff_seconds = MIN_BACKOFF_SECONDS
        running = self.owner
        while not self._try_own():  # noqa: ASYNC110  another process tells by its lock only
            await asyncio.sleep(_LOCK_POLL_SECONDS)
        while True:
            try:
                if not running:
                    await self._launch()
                    running = True
                started = loop.time()
                await self._wait_until_gone()
                running = False
                uptime_seconds = loop.time() - started
                log.error(
                    "embedded redis died",
                    extra=self._fields(exit_status=self._exit_status(), uptime_seconds=round(uptime_seconds, 3)),
                )
                if uptime_seconds >= HEALTHY_SECONDS:
                    backoff_seconds = MIN_BACKOFF_SECONDS
            except LostDataError as error:
                self.failure = error
                self.owner = False
                if self._owner_lock is not None:
                    fcntl.flock(self._owner_lock, fcntl.LOCK_UN)
                log.critical("embedded redis refused to serve", extra=self._fields(reason=str(error)))
                return
            except Exception as error:
                expected = isinstance(error, EmbeddedRedisError | OSError)
                log.error("embedded redis not restarted", extra=self._fields(reason=str(error)), exc_info=not expected)
            await asyncio.sleep(backoff_seconds)
            backoff_seconds = min(2 * backoff_seconds, MAX_BACKOFF_SECONDS)

    async def _launch(self) -> None:
        """Take over the server that runs on the directory, or start one; publish its socket once its data is there."""
        while True:
            socket_path = await self._find_running()
            spawned = socket_path is None
            try:
                if socket_path is None:
                    socket_path = self._spawn()
                await self._wait_ready(socket_path)
                # A published one was seen to have its data when it came up.
                if socket_path.name == _STARTING:
                    await self._check_marker(socket_path)
                if not spawned:
                    await self._report_other_fsync(socket_path)
                break
            except EmbeddedRedisError as error:
                # Another server got the lock first, or the one found was just ending: look again.
                if self._exit_status() == _LOCK_HELD_STATUS or (isinstance(error, ServerGoneError) and not spawned):
                    self._process = None
                    continue
                await self._end_server()
                raise
        if socket_path.name == _STARTING:
            os.replace(socket_path, self._socket(_PUBLIC))
        if spawned:
            self._report_truncation()
        phrase = "embedded redis started" if spawned else "embedded redis taken over"
        log.info(phrase, extra=self._fields(pid=self._running_pid(), socket=self.socket_path))

    async def _find_running(self) -> Path | None:
        """The socket of the server that runs on the directory, whoever started it; None if none does."""
        for _ in range(int(_NO_SOCKET_SECONDS / _POLL_SECONDS)):
            if self._running_pid() is None:
                return None
            for name in (_PUBLIC, _STARTING):
                if redis_words.connects(self._socket(name)):
                    self._process = None
                    return self._socket(name)
            await asyncio.sleep(_POLL_SECONDS)
        log.warning("embedded redis had lost its socket", extra=self._fields(pid=self._running_pid()))
        await self._end_server()
        return None

    def _spawn(self) -> Path:
        assert self._server is not None
        self._refuse_lost_files()
        self._process = None
        # Written whole before Redis starts: one that read half of it, or nothing, would listen on TCP.
        config_read, config_write = os.pipe()
        try:
            os.write(config_write, self._config())
            os.close(config_write)
            with self._open_log() as log_file:
                self._process = subprocess.Popen(  # noqa: S603  found on PATH or named by the operator
                    [sys.executable, "-ISc", _LAUNCHER, str(self._data_dir / "server.lock"), self._server.path, "-"],
                    stdin=config_read,
                    stdout=log_file,
                    stderr=log_file,
                    cwd=self._data_dir,
                    env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
                    # Ctrl-C reaches the whole foreground group: the gateway goes first, then Redis.
                    start_new_session=True,
                    umask=0o077,
                )
        except OSError as error:
            raise EmbeddedRedisError(
                f"{self._server.path} could not be started on {self._data_dir}: {error}. See that both may be used."
            ) from error
        finally:
            os.close(config_read)
        return self._socket(_STARTING)

    def _config(self) -> bytes:
        assert self._server is not None
        lines = [
            b"port 0",
            b"unixsocket " + _quoted(self._socket(_STARTING)),
            b"unixsocketperm 700",
            b"protected-mode yes",
            b"daemonize no",
            b"supervised no",
            b"dir " + _quoted(self._data_dir),
            b'save ""',
            b"appendonly yes",
            b"appendfsync " + self._appendfsync.encode(),
            b"aof-load-truncated yes",
            b"maxmemory-policy noeviction",
            # What a stolen connection could do harm with beyond the data itself.
            b"user default on nopass sanitize-payload ~* &* +@all -module -debug -replicaof -slaveof"
            b" -restore -restore-asking -migrate -config +config|get",
        ]
        if self._server.version >= (7, 0, 0):
            lines += [b"enable-debug-command no", b"enable-module-command no", b"enable-protected-configs no"]
        return b"\n".join(lines) + b"\n"

    async def _wait_ready(self, socket_path: Path) -> None:
        loop = asyncio.get_running_loop()
        next_report = loop.time() + _PROGRESS_SECONDS
        pause_seconds = 0.01
        while True:
            answer = await redis_words.ping(socket_path)
            # MISCONF: the disk is full; what is there can be read.
            if answer is not None and answer.startswith(("PONG", "MISCONF")):
                return
            if not self._is_running():
                raise ServerGoneError(self._exit_report())
            if loop.time() >= next_report:
                log.info("embedded redis not ready yet", extra=self._fields(answer=answer))
                next_report += _PROGRESS_SECONDS
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _POLL_SECONDS)

    async def _wait_until_gone(self) -> None:
        loop = asyncio.get_running_loop()
        next_touch = loop.time()
        while self._is_running():
            if loop.time() >= next_touch:
                self._touch_socket()
                next_touch += _TOUCH_SECONDS
            if not self._socket(_PUBLIC).is_socket():
                log.error("embedded redis lost its socket", extra=self._fields())
                await self._end_server()
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _end_server(self) -> None:
        """Stop the server, whoever started it: SIGTERM, then SIGKILL after a grace. Its socket goes with it."""
        loop = asyncio.get_running_loop()
        kill_at = loop.time() + STOP_GRACE_SECONDS
        signal_number: signal.Signals | None = signal.SIGTERM
        while self._is_running():
            pid = self._process.pid if self._process is not None else self._running_pid()
            if loop.time() >= kill_at:
                log.warning("embedded redis killed", extra=self._fields(pid=pid))
                signal_number, kill_at = signal.SIGKILL, loop.time() + STOP_GRACE_SECONDS
            if pid and signal_number is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal_number)
                signal_number = None
            await asyncio.sleep(0.01)
        if self._socket_dir is not None and self._running_pid() is None:
            for name in (_PUBLIC, _STARTING):
                (self._socket_dir / name).unlink(missing_ok=True)

    def _is_running(self) -> bool:
        return self._process.poll() is None if self._process is not None else self._running_pid() is not None

    def _running_pid(self) -> int | None:
        """The pid of the server on the directory, whoever started it; 0 while it just starts, None if there is none."""
        try:
            lock = _open_lock(self._data_dir / "server.lock")
        except FileNotFoundError:
            return None
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return int(os.pread(lock, 20, 0) or 0)
        finally:
            os.close(lock)
        return None

    # The data directory

    def _prepare(self) -> None:
        directory = self._data_dir
        directory.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        status = directory.stat()
        if status.st_uid != os.geteuid():
            raise EmbeddedRedisError(
                f"The data directory {directory} belongs to user {status.st_uid}, and this gateway runs as user "
                f"{os.geteuid()}. chown it, or choose another."
            )
        if status.st_mode & 0o077:
            names = {entry.name for entry in directory.iterdir()}
            if (names and not names & _OUR_FILES) or status.st_mode & stat.S_ISVTX:
                raise EmbeddedRedisError(
                    f"The data directory {directory} is open to other users and holds other things. "
                    f"Choose one of its own, or chmod 700 it."
                )
            directory.chmod(0o700)
        self._owner_lock = _open_lock(directory / "owner.lock")
        self._users_lock = _open_lock(directory / "users.lock")

    def _socket(self, name: str) -> Path:
        if self._socket_dir is None:
            raise EmbeddedRedisError("The embedded Redis has no socket before it was started: await start() first.")
        return self._socket_dir / name

    def _noted_socket_dir(self) -> Path | None:
        """Where the socket is for every gateway of the directory; None if that was not decided yet, or is gone."""
        if _fits_socket(self._data_dir):
            return self._data_dir
        with suppress(OSError, EmbeddedRedisError):
            noted = Path(os.fsdecode((self._data_dir / "socket-dir").read_bytes()))
            # A copy of a data directory must not share the socket of the original.
            if noted.name == self._socket_dir_name():
                _check_private(noted)
                return noted
        return None

    def _socket_dir_name(self) -> str:
        return f"tasks-gateway-{os.geteuid()}-{hashlib.sha256(os.fsencode(self._data_dir)).hexdigest()[:16]}"

    def _make_socket_dir(self) -> Path:
        """Make a private directory for the socket of a data directory that is too deep for one; note it there."""
        for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108  checked below
            if parent and _fits_socket(chosen := Path(parent) / self._socket_dir_name()):
                with suppress(FileExistsError):
                    chosen.mkdir(mode=0o700)
                _check_private(chosen)
                _write_durably(self._data_dir / "socket-dir", os.fsencode(chosen))
                return chosen
        raise EmbeddedRedisError(
            f"No place for a unix socket: the paths of {self._data_dir} and of the temporary directory are too long. "
            f"Set XDG_RUNTIME_DIR to a directory with a short path."
        )

    def _touch_socket(self) -> None:
        # Cleaners of temporary directories go by age.
        with suppress(OSError):
            os.utime(self._socket(_PUBLIC))
            os.utime(self._socket_dir or self._data_dir)

    def _open_log(self) -> BinaryIO:
        path = self._data_dir / "redis.log"
        with suppress(FileNotFoundError):
            if path.stat().st_size > _MAX_LOG_BYTES:
                os.replace(path, path.with_name("redis.log.1"))
        log_file = open(path, "ab", opener=_open_private)  # noqa: SIM115  the caller closes it
        self._log_offset = log_file.tell()
        return log_file

    def _log_since_start(self) -> str:
        with suppress(OSError), (self._data_dir / "redis.log").open("rb") as file:
            file.seek(self._log_offset)
            return file.read(_MAX_LOG_BYTES).decode(errors="replace")
        return ""

    def _report_truncation(self) -> None:
        if "aof-load-truncated" in self._log_since_start():
            log.warning(
                "embedded redis dropped a half-written end of its append-only file",
                extra=self._fields(log_file=str(self._data_dir / "redis.log")),
            )

    def _exit_status(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def _exit_report(self) -> str:
        assert self._server is not None
        last_lines = " | ".join(self._log_since_start().strip().splitlines()[-6:])
        return (
            f"{self._server} on {self._data_dir} ended with status {self._exit_status()} before it answered. "
            f"Its last words in {self._data_dir / 'redis.log'}: {last_lines or 'none'}. "
            f"If its append-only file is damaged: work on a copy with redis-check-aof, or restore a backup. "
            f"If that is of too new a format: use the Redis that wrote it. If the disk is full: make room."
        )

    async def _report_other_fsync(self, socket_path: Path) -> None:
        reply = await redis_words.command(socket_path, "CONFIG", "GET", "appendfsync")
        found = reply[1] if isinstance(reply, list) and len(reply) == 2 else reply
        if found != self._appendfsync.encode():
            log.warning(
                "embedded redis runs with another appendfsync than this gateway asks for",
                extra=self._fields(asked=self._appendfsync, found=str(found)),
            )

    # The marker

    def _refuse_lost_files(self) -> None:
        """Look before Redis does: it takes a missing manifest for a new directory, and overwrites what is left."""
        assert self._server is not None
        parts = self._data_dir / "appendonlydir"
        wanted = [self._data_dir / "appendonly.aof"]
        if self._server.version >= (7, 0, 0):
            wanted.insert(0, parts / "appendonly.aof.manifest")
        if any(path.exists() for path in wanted):
            return
        left = [path for path in parts.glob("*.incr.aof") if path.stat().st_size > 0]
        if not left and self._read_marker() is None:
            return
        if not self._accept_empty:
            raise LostDataError(
                f"{self._data_dir} held data before, but {wanted[0]} is missing"
                + (f" (while {left[0].name} is there)" if left else "")
                + f": Redis would start empty. {self._remedy()}"
            )
        if parts.exists():
            aside = parts.with_name(f"appendonlydir.set-aside-{int(time.time())}")
            parts.rename(aside)
            log.warning("embedded redis set old files aside", extra=self._fields(aside=str(aside)))

    async def _check_marker(self, socket_path: Path) -> None:
        noted = self._read_marker()
        found = await redis_words.command(socket_path, "GET", MARKER_KEY)
        if noted is not None and noted == found:
            self._accept_empty = False
            return
        if noted is not None:
            if not self._accept_empty:
                keys = await redis_words.command(socket_path, "DBSIZE")
                raise LostDataError(
                    f"Redis came up on {self._data_dir} without the data it had: its key {MARKER_KEY} is "
                    f"{'missing' if found is None else 'of other data'}, against {self._data_dir / 'marker'} "
                    f"({keys!r} keys were loaded). {self._remedy()}"
                )
            log.warning("embedded redis accepted without its former data", extra=self._fields())
        marker = found if isinstance(found, bytes) else uuid.uuid4().hex.encode()
        if found is None:
            await redis_words.command(socket_path, "SET", MARKER_KEY, marker.decode())
        await asyncio.to_thread(self._write_marker, marker)
        self._accept_empty = False

    def _read_marker(self) -> bytes | None:
        try:
            return (self._data_dir / "marker").read_bytes().strip()
        except FileNotFoundError:
            return None

    def _write_marker(self, marker: bytes) -> None:
        # The key must be on the disk before the file is, or a power cut between the two would look like lost data.
        parts = self._data_dir / "appendonlydir"
        for path in (
            self._data_dir / "appendonly.aof",
            *(parts.iterdir() if parts.exists() else ()),
            parts,
            self._data_dir,
        ):
            with suppress(FileNotFoundError):
                _fsync(path)
        _write_durably(self._data_dir / "marker", marker + b"\n")

    def _remedy(self) -> str:
        return (
            f"Look at {self._data_dir / 'appendonlydir'} and {self._data_dir / 'redis.log'}; restore a backup of the "
            f"directory, or start once with ACCEPT_EMPTY=true to go on without the data."
        )

    def _fields(self, **fields: object) -> dict[str, object]:
        return {"data_dir": str(self._data_dir), **fields}


# Files


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _open_lock(path: Path) -> int:
    return _open_private(str(path), os.O_RDWR | os.O_CREAT)


def _try_flock(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_private(directory: Path) -> None:
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != 0o700:
        raise EmbeddedRedisError(
            f"{directory}, meant for the embedded Redis's socket, is not a directory of this user with mode 0700. "
            f"Somebody else may have made it: look, remove it and start again, or set XDG_RUNTIME_DIR to a directory "
            f"that only this user can write to."
        )


def _fits_socket(directory: Path) -> bool:
    return len(os.fsencode(directory / _PUBLIC)) <= _MAX_SOCKET_PATH_BYTES


def _write_durably(path: Path, content: bytes) -> None:
    written = path.with_name(f"{path.name}.new")
    with open(written, "wb", opener=_open_private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(written, path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _quoted(path: Path) -> bytes:
    """Write a path as Redis's configuration wants it: any byte may be given as \\xhh between double quotes."""
    return b'"' + b"".join(b"\\x%02x" % byte for byte in os.fsencode(path)) + b'"'
