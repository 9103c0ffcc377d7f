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
import logging
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from gateway import redis_words
from gateway.data_directory import PUBLIC, STARTING, DataDirectory, open_lock, try_flock
from gateway.marker import Marker
from gateway.redis_binary import EmbeddedRedisError, LostDataError, ServerBinary, ServerGoneError, find_server
from gateway.redis_process import LOCK_HELD_STATUS, spawn

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
        self._directory = DataDirectory(data_dir)
        self._appendfsync = appendfsync
        self._server = server
        self._marker = Marker(self._directory.path, accept_empty)
        self._users_lock: int | None = None
        self._owner_lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = asyncio.Lock()

    @property
    def socket_path(self) -> str:
        """The unix socket to connect to; stays the same over restarts of the server."""
        return str(self._directory.socket(PUBLIC))

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
            self._directory.prepare()
            self._owner_lock = open_lock(self._directory.path / "owner.lock")
            self._users_lock = open_lock(self._directory.path / "users.lock")
            await self._enter()
            await self._own_or_join()
        except BaseException as error:
            await self.stop()
            if isinstance(error, OSError):
                raise EmbeddedRedisError(
                    f"The data directory {self._directory.path} cannot be used: {error}. "
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
                if try_flock(self._users_lock, fcntl.LOCK_EX):
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
        while not try_flock(self._users_lock, fcntl.LOCK_SH):  # noqa: ASYNC110  another process tells by its lock only
            await asyncio.sleep(_POLL_SECONDS)

    async def _own_or_join(self) -> None:
        heard = asyncio.get_running_loop().time()
        while not self._try_own():
            self._directory.socket_dir = self._directory.noted_socket_dir()
            answers = [
                await redis_words.ping(self._directory.socket(name))
                for name in (PUBLIC, STARTING)
                if self._directory.socket_dir is not None
            ]
            now = asyncio.get_running_loop().time()
            if "PONG" in answers[:1]:
                with suppress(ServerGoneError):
                    await self._report_other_fsync(self._directory.socket(PUBLIC))
                    log.info("embedded redis joined", extra=self._fields(socket=self.socket_path))
                    return
            elif any(answers):
                heard = now
            elif now - heard > SILENCE_SECONDS:
                raise ServerGoneError(
                    f"Another gateway owns {self._directory.path}, but its Redis gave no answer for "
                    f"{SILENCE_SECONDS:.0f} s. "
                    f"See {self._directory.path / 'redis.log'} and that gateway's log."
                )
            await asyncio.sleep(_POLL_SECONDS)
        await self._launch()

    def _try_own(self) -> bool:
        if not self.owner and self._owner_lock is not None:
            self.owner = try_flock(self._owner_lock, fcntl.LOCK_EX)
            if self.owner and self._directory.socket_dir is None:
                self._directory.socket_dir = self._directory.noted_socket_dir() or self._directory.make_socket_dir()
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
                if socket_path.name == STARTING:
                    await self._marker.check(socket_path)
                if not spawned:
                    await self._report_other_fsync(socket_path)
                break
            except EmbeddedRedisError as error:
                # Another server got the lock first, or the one found was just ending: look again.
                if self._exit_status() == LOCK_HELD_STATUS or (isinstance(error, ServerGoneError) and not spawned):
                    self._process = None
                    continue
                await self._end_server()
                raise
        if socket_path.name == STARTING:
            os.replace(socket_path, self._directory.socket(PUBLIC))
        if spawned:
            self._report_truncation()
        phrase = "embedded redis started" if spawned else "embedded redis taken over"
        log.info(phrase, extra=self._fields(pid=self._directory.running_pid(), socket=self.socket_path))

    async def _find_running(self) -> Path | None:
        """The socket of the server that runs on the directory, whoever started it; None if none does."""
        for _ in range(int(_NO_SOCKET_SECONDS / _POLL_SECONDS)):
            if self._directory.running_pid() is None:
                return None
            for name in (PUBLIC, STARTING):
                if redis_words.connects(self._directory.socket(name)):
                    self._process = None
                    return self._directory.socket(name)
            await asyncio.sleep(_POLL_SECONDS)
        log.warning("embedded redis had lost its socket", extra=self._fields(pid=self._directory.running_pid()))
        await self._end_server()
        return None

    def _spawn(self) -> Path:
        assert self._server is not None
        self._marker.refuse_lost_files(self._server)
        self._process = None
        self._process = spawn(self._server, self._directory, self._appendfsync)
        return self._directory.socket(STARTING)

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
                self._directory.touch_socket()
                next_touch += _TOUCH_SECONDS
            if not self._directory.socket(PUBLIC).is_socket():
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
            pid = self._process.pid if self._process is not None else self._directory.running_pid()
            if loop.time() >= kill_at:
                log.warning("embedded redis killed", extra=self._fields(pid=pid))
                signal_number, kill_at = signal.SIGKILL, loop.time() + STOP_GRACE_SECONDS
            if pid and signal_number is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal_number)
                signal_number = None
            await asyncio.sleep(0.01)
        if self._directory.socket_dir is not None and self._directory.running_pid() is None:
            for name in (PUBLIC, STARTING):
                (self._directory.socket_dir / name).unlink(missing_ok=True)

    def _is_running(self) -> bool:
        return self._process.poll() is None if self._process is not None else self._directory.running_pid() is not None

    def _report_truncation(self) -> None:
        if "aof-load-truncated" in self._directory.log_since_start():
            log.warning(
                "embedded redis dropped a half-written end of its append-only file",
                extra=self._fields(log_file=str(self._directory.path / "redis.log")),
            )

    def _exit_status(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def _exit_report(self) -> str:
        assert self._server is not None
        last_lines = " | ".join(self._directory.log_since_start().strip().splitlines()[-6:])
        return (
            f"{self._server} on {self._directory.path} ended with status {self._exit_status()} before it answered. "
            f"Its last words in {self._directory.path / 'redis.log'}: {last_lines or 'none'}. "
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

    def _fields(self, **fields: object) -> dict[str, object]:
        return {"data_dir": str(self._directory.path), **fields}
