"""A file system in user space that loses what was not synced when it is killed: a power cut for one folder.

Writes stay in memory until fsync or fdatasync of their file, which copies them to the backing folder. Names (create,
rename, remove) reach the backing folder at once, as on a journalled disk in order. Needs mfusepy and libfuse.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections import defaultdict
from typing import Any

import mfusepy as fuse


class PowerFS(fuse.Operations):
    """Passes everything to `backing`, writes only when they are synced."""

    def __init__(self, backing: str) -> None:
        self._backing = backing
        self._lock = threading.RLock()
        # By inode: writes in order, (offset, bytes), or (length, None) for a truncation.
        self._unsynced: dict[int, list[tuple[int, bytes | None]]] = defaultdict(list)

    def _real(self, path: str) -> str:
        return self._backing + path

    def _size(self, inode: int, size: int) -> int:
        for offset, data in self._unsynced.get(inode, ()):
            size = offset if data is None else max(size, offset + len(data))
        return size

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Attributes, with the size that unsynced writes make."""
        try:
            stat = os.lstat(self._real(path))
        except OSError as error:
            raise fuse.FuseOSError(error.errno) from None
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_atime", "st_mtime", "st_ctime", "st_ino")
        with self._lock:
            return {name: getattr(stat, name) for name in names} | {"st_size": self._size(stat.st_ino, stat.st_size)}

    def readdir(self, path: str, fh: int) -> list[str]:
        """Names in a folder."""
        return [".", "..", *os.listdir(self._real(path))]

    def open(self, path: str, flags: int) -> int:
        """Open a file; appending is the kernel's own business."""
        plain = flags & ~(os.O_APPEND | os.O_TRUNC | os.O_EXCL | os.O_CREAT | os.O_ACCMODE) | os.O_RDWR
        descriptor = os.open(self._real(path), plain)
        if flags & os.O_TRUNC:
            self.truncate(path, 0, descriptor)
        return descriptor

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        """Make a file."""
        return os.open(self._real(path), os.O_RDWR | os.O_CREAT, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Read, with what was not synced."""
        with self._lock:
            stat = os.fstat(fh)
            pending = self._unsynced.get(stat.st_ino)
            if not pending:
                return os.pread(fh, size, offset)
            length = stat.st_size
            seen = bytearray(os.pread(fh, size, offset).ljust(size, b"\0"))
            for at, data in pending:
                if data is None:
                    length, first = at, max(0, at - offset)
                    seen[first:] = bytes(max(0, size - first))
                    continue
                length = max(length, at + len(data))
                first, last = max(at, offset), min(at + len(data), offset + size)
                if first < last:
                    seen[first - offset : last - offset] = data[first - at : last - at]
            return bytes(seen[: max(0, length - offset)])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """Keep it in memory."""
        with self._lock:
            self._unsynced[os.fstat(fh).st_ino].append((offset, bytes(data)))
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """Keep it in memory, too."""
        with self._lock:
            self._unsynced[os.stat(self._real(path)).st_ino].append((length, None))
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """Let what was written so far reach the disk."""
        with self._lock:
            for at, data in self._unsynced.pop(os.fstat(fh).st_ino, ()):
                if data is None:
                    os.ftruncate(fh, at)
                else:
                    os.pwrite(fh, data, at)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        """Names are on the disk already."""
        return 0

    def flush(self, path: str, fh: int) -> int:
        """Closing a file syncs nothing."""
        return 0

    def release(self, path: str, fh: int) -> int:
        """Close a file; what was not synced stays in memory."""
        os.close(fh)
        return 0

    def rename(self, old: str, new: str) -> int:
        """Rename."""
        os.rename(self._real(old), self._real(new))
        return 0

    def unlink(self, path: str) -> int:
        """Remove a file."""
        with self._lock:
            self._unsynced.pop(os.stat(self._real(path)).st_ino, None)
            os.unlink(self._real(path))
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        """Make a folder."""
        os.mkdir(self._real(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        """Remove a folder."""
        os.rmdir(self._real(path))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        """Change a mode."""
        os.chmod(self._real(path), mode)
        return 0

    def utimens(self, path: str, times: Any = None) -> int:
        """Change times."""
        os.utime(self._real(path), times)
        return 0

    def statfs(self, path: str) -> dict[str, Any]:
        """Tell how much room there is."""
        stat = os.statvfs(self._backing)
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize")
        return {name: getattr(stat, name) for name in names}


if __name__ == "__main__":
    if not os.path.isdir(sys.argv[1]):
        sys.exit(errno.ENOENT)
    fuse.FUSE(PowerFS(sys.argv[1]), sys.argv[2], foreground=True, nothreads=True, direct_io=True)
