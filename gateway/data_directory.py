"""The data directory of an embedded Redis: whether it may be used, its locks, its log, and where its socket is."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from gateway.redis_binary import EmbeddedRedisError

PUBLIC = "redis.sock"
STARTING = "start.sock"
_OUR_FILES = frozenset({"owner.lock", "users.lock", "marker", "appendonlydir", "appendonly.aof"})
_MAX_LOG_BYTES = 1 << 20
# sun_path holds 104 bytes on macOS and 108 on Linux, the closing NUL included.
_MAX_SOCKET_PATH_BYTES = 103


class DataDirectory:
    """A directory that gateways share. socket_dir: where its socket is, once that is known; mostly the directory."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.socket_dir: Path | None = None
        self._log_offset = 0

    def prepare(self) -> None:
        """Make it, for this user only. Raises EmbeddedRedisError where it is somebody else's; OSError."""
        directory = self.path
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

    def socket(self, name: str) -> Path:
        """The path of a socket of this name: PUBLIC or STARTING."""
        if self.socket_dir is None:
            raise EmbeddedRedisError("The embedded Redis has no socket before it was started: await start() first.")
        return self.socket_dir / name

    def noted_socket_dir(self) -> Path | None:
        """Where the socket is for every gateway of the directory; None if that was not decided yet, or is gone."""
        if _fits_socket(self.path):
            return self.path
        with suppress(OSError, EmbeddedRedisError):
            noted = Path(os.fsdecode((self.path / "socket-dir").read_bytes()))
            # A copy of a data directory must not share the socket of the original.
            if noted.name == self._socket_dir_name():
                _check_private(noted)
                return noted
        return None

    def make_socket_dir(self) -> Path:
        """Make a private directory for the socket of a data directory that is too deep for one; note it there."""
        for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108  checked below
            if parent and _fits_socket(chosen := Path(parent) / self._socket_dir_name()):
                with suppress(FileExistsError):
                    chosen.mkdir(mode=0o700)
                _check_private(chosen)
                write_durably(self.path / "socket-dir", os.fsencode(chosen))
                return chosen
        raise EmbeddedRedisError(
            f"No place for a unix socket: the paths of {self.path} and of the temporary directory are too long. "
            f"Set XDG_RUNTIME_DIR to a directory with a short path."
        )

    def touch_socket(self) -> None:
        """Make the socket look new."""
        # Cleaners of temporary directories go by age.
        with suppress(OSError):
            os.utime(self.socket(PUBLIC))
            os.utime(self.socket_dir or self.path)

    def open_log(self) -> BinaryIO:
        """Open Redis's log to write on; where it is long, a new one."""
        path = self.path / "redis.log"
        with suppress(FileNotFoundError):
            if path.stat().st_size > _MAX_LOG_BYTES:
                os.replace(path, path.with_name("redis.log.1"))
        log_file = open(path, "ab", opener=_open_private)  # noqa: SIM115  the caller closes it
        self._log_offset = log_file.tell()
        return log_file

    def log_since_start(self) -> str:
        """What the log says since it was opened last."""
        with suppress(OSError), (self.path / "redis.log").open("rb") as file:
            file.seek(self._log_offset)
            return file.read(_MAX_LOG_BYTES).decode(errors="replace")
        return ""

    def running_pid(self) -> int | None:
        """The pid of the server on the directory, whoever started it; 0 while it just starts, None if there is none."""
        try:
            lock = open_lock(self.path / "server.lock")
        except FileNotFoundError:
            return None
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return int(os.pread(lock, 20, 0) or 0)
        finally:
            os.close(lock)
        return None

    def _socket_dir_name(self) -> str:
        return f"tasks-gateway-{os.geteuid()}-{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]}"


# Files


def open_lock(path: Path) -> int:
    """Open a lock file, made if missing. Returns the descriptor."""
    return _open_private(str(path), os.O_RDWR | os.O_CREAT)


def try_flock(lock: int, kind: int) -> bool:
    """Take a lock (LOCK_SH or LOCK_EX) if it is free now. Returns whether it was."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file by one of this content, whole or not at all; return when it is on the disk."""
    written = path.with_name(f"{path.name}.new")
    with open(written, "wb", opener=_open_private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(written, path)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Return when the file, or the directory's list of files, is on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _check_private(directory: Path) -> None:
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != 0o700:
        raise EmbeddedRedisError(
            f"{directory}, meant for the embedded Redis's socket, is not a directory of this user with mode 0700. "
            f"Somebody else may have made it: look, remove it and start again, or set XDG_RUNTIME_DIR to a directory "
            f"that only this user can write to."
        )


def _fits_socket(directory: Path) -> bool:
    return len(os.fsencode(directory / PUBLIC)) <= _MAX_SOCKET_PATH_BYTES
