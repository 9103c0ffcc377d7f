"""The marker: tells an embedded Redis that lost its data from a new one, by a key of Redis and a file beside it."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import suppress
from pathlib import Path

from gateway import redis_words
from gateway.data_directory import fsync, write_durably
from gateway.redis_binary import LostDataError, ServerBinary
from gateway.store.keys import MARKER_KEY

log = logging.getLogger("gateway.embedded")


class Marker:
    """The marker of one data directory. accept_empty: take it, once, that the directory's data is gone."""

    def __init__(self, data_dir: Path, accept_empty: bool) -> None:
        self._data_dir = data_dir
        self._accept_empty = accept_empty

    def refuse_lost_files(self, server: ServerBinary) -> None:
        """Look before Redis does: it takes a missing manifest for a new directory, and overwrites what is left."""
        parts = self._data_dir / "appendonlydir"
        wanted = [self._data_dir / "appendonly.aof"]
        if server.version >= (7, 0, 0):
            wanted.insert(0, parts / "appendonly.aof.manifest")
        if any(path.exists() for path in wanted):
            return
        left = [path for path in parts.glob("*.incr.aof") if path.stat().st_size > 0]
        if not left and self._read() is None:
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

    async def check(self, socket_path: Path) -> None:
        """Compare key and file; write what is missing of both. Raises LostDataError."""
        noted = self._read()
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
        await asyncio.to_thread(self._write, marker)
        self._accept_empty = False

    def _read(self) -> bytes | None:
        try:
            return (self._data_dir / "marker").read_bytes().strip()
        except FileNotFoundError:
            return None

    def _write(self, marker: bytes) -> None:
        # The key must be on the disk before the file is, or a power cut between the two would look like lost data.
        parts = self._data_dir / "appendonlydir"
        for path in (
            self._data_dir / "appendonly.aof",
            *(parts.iterdir() if parts.exists() else ()),
            parts,
            self._data_dir,
        ):
            with suppress(FileNotFoundError):
                fsync(path)
        write_durably(self._data_dir / "marker", marker + b"\n")

    def _remedy(self) -> str:
        return (
            f"Look at {self._data_dir / 'appendonlydir'} and {self._data_dir / 'redis.log'}; restore a backup of the "
            f"directory, or start once with ACCEPT_EMPTY=true to go on without the data."
        )

    def _fields(self, **fields: object) -> dict[str, object]:
        return {"data_dir": str(self._data_dir), **fields}
