"""`python -m benchmarks.profile`: where the gateway's process and Redis spend a task's time under load.

The gateway is sampled by py-spy (an ordinary package, on PATH or named by --py-spy) while it is busy; a sample counts
for the innermost part that it is in. Redis's time and its commands a task are its own count (INFO commandstats).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import PAYLOAD_BYTES
from benchmarks.http_server import ROOT, HttpServer, start_gateway
from benchmarks.load_client import LoadClient
from benchmarks.processes import end_in_order_on_sigterm
from benchmarks.redis_server import RedisServer, find_binary
from benchmarks.sections import PROFILE
from benchmarks.tables import markdown, spell

_SAMPLES_PER_SECOND = 250
_SHOWN_COMMANDS = 14
# Parts of the gateway, by what a frame of py-spy ends with. The first that fits counts.
_PARTS = {
    "HTTP: writing the reply": ("gateway/reply_writer.py",),
    "HTTP: reading and parsing": ("uvicorn/", "gateway/protocol_guard.py", "gateway/connection.py"),
    "calls to Redis: writing": ("asyncio/streams.py",),
    "calls to Redis: packing, reading, sharing": ("gateway/store/", "redis/", "hiredis/"),
    "routing, checking, handlers": ("gateway/api/", "gateway/app.py", "gateway/tasks.py"),
    "handing tasks to polls": ("gateway/task_manager.py",),
}
# What is profiled: the load client's command, about what it does in a second, and its flags.
_LOADS: tuple[tuple[str, str, int, dict[str, object]], ...] = (
    ("`POST`, one by one", "post", 12_000, {"connections": 64}),
    ("life with `next`", "work", 7_000, {"connections": 64, "job_type": "life"}),
    ("life in batches of 100", "work", 15_000, {"connections": 8, "max": 100, "job_type": "batches"}),
)
_LOOP = "the event loop (uvloop): reading sockets, turning"


@dataclass(frozen=True)
class Profile:
    """Of one kind of load. parts: samples of the gateway. usec, calls: of Redis, by command, for so many `tasks`."""

    what: str
    parts: dict[str, int]
    usec: dict[str, int]
    calls: dict[str, int]
    tasks: int


def parts_of(samples: str) -> dict[str, int]:
    """Count py-spy's raw lines (`frame;frame;.. count`, outermost first) by part."""
    found: Counter[str] = Counter()
    for line in samples.splitlines():
        stack, _, count = line.rpartition(" ")
        found[_part_of(stack.split(";"))] += int(count)
    return dict(found)


def _part_of(frames: list[str]) -> str:
    for frame in reversed(frames):
        for part, places in _PARTS.items():
            if any(place in frame for place in places):
                return part
    return _LOOP


def section(profiles: list[Profile]) -> str:
    """Both tables, as Markdown."""
    names = [profile.what for profile in profiles]
    texts = []
    if any(profile.parts for profile in profiles):
        rows = []
        for part in (*_PARTS, _LOOP):
            shares = [profile.parts.get(part, 0) / max(sum(profile.parts.values()), 1) for profile in profiles]
            rows.append([part, *(f"{100 * share:.0f} %" for share in shares)])
        texts.append("Of the gateway's process, while it is busy:\n\n" + markdown(["part", *names], rows))
    most: Counter[str] = Counter()
    for profile in profiles:
        most.update({name: round(1000 * count / profile.tasks) for name, count in profile.calls.items()})
    rows = [
        [f"`{name}`", *(_per_task(profile, name) for profile in profiles)]
        for name, _ in most.most_common(_SHOWN_COMMANDS)
    ]
    rows.insert(0, ["**all scripts**, µs", *(_script_us(profile) for profile in profiles)])
    texts.append(
        "Of Redis, for each task: the time in scripts, and the commands inside and beside them (calls, and µs in "
        "brackets; commands are counted into their script's time):\n\n" + markdown(["command", *names], rows)
    )
    return "\n\n".join(texts)


def _per_task(profile: Profile, command: str) -> str:
    calls, usec = profile.calls.get(command, 0), profile.usec.get(command, 0)
    return f"{calls / profile.tasks:.2f} ({spell(usec / profile.tasks)})" if calls else ""


def _script_us(profile: Profile) -> str:
    return spell(sum(profile.usec.get(name, 0) for name in ("eval", "evalsha")) / profile.tasks)


class _Stand:
    """A gateway, its Redis and the means to sample both."""

    def __init__(self, load: LoadClient, redis: RedisServer, gateway: HttpServer, py_spy: str | None) -> None:
        self._load, self._redis, self._gateway, self._py_spy = load, redis, gateway, py_spy

    def fill(self, job_type: str, tasks: int) -> None:
        """Enqueue tasks, unsampled."""
        self._load.run(
            "post", self._gateway.url, tasks=tasks, batch=1000, connections=2, duration="5m", job_type=job_type,
            payload_bytes=PAYLOAD_BYTES,
        )  # fmt: skip

    def profile(self, what: str, command: str, tasks: int, directory: Path, **flags: object) -> Profile:
        """Run a load of so many tasks twice: once for Redis's count, once with py-spy."""
        flags |= {"payload_bytes": PAYLOAD_BYTES, "duration": "5m"}
        self._load.warm_up(command, self._gateway.url, **flags | {"duration": "1s"})
        before, begun = self._stats(), time.monotonic()
        self._load.run(command, self._gateway.url, tasks=tasks, **flags)
        after, took_seconds = self._stats(), time.monotonic() - begun
        grown = {
            field: {name: row[field] - before.get(name, {}).get(field, 0) for name, row in after.items()}
            for field in ("calls", "usec")
        }
        parts: dict[str, int] = {}
        if self._py_spy:
            raw = directory / "samples"
            running = self._load.start(command, self._gateway.url, tasks=tasks, **flags)
            subprocess.run(
                [
                    *(self._py_spy, "record", "--pid", str(self._gateway.process.pid), "--format", "raw"),
                    *("--duration", str(max(int(took_seconds), 1)), "--rate", str(_SAMPLES_PER_SECOND)),
                    *("--output", str(raw)),
                ],
                check=True, capture_output=True,
            )  # fmt: skip
            running.wait()
            parts = parts_of(raw.read_text())
        return Profile(what, parts, grown["usec"], grown["calls"], tasks)

    def _stats(self) -> dict[str, dict[str, int]]:
        rows = self._redis.client.info("commandstats")
        return {name.removeprefix("cmdstat_"): row for name, row in rows.items() if name != "cmdstat_info"}


def measure(seconds: float, py_spy: str | None) -> list[Profile]:
    """Profile enqueueing, a life with `next`, and batches of 100, one after the other on one gateway."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        load = LoadClient(directory)
        redis = RedisServer(find_binary(), directory, "always")
        try:
            gateway = start_gateway([sys.executable, "-m", "gateway", "serve"], redis.url, directory, {})
            try:
                stand = _Stand(load, redis, gateway, py_spy)
                found = []
                for what, command, rate, flags in _LOADS:
                    tasks = int(rate * seconds)
                    if command == "work":
                        # For the warm-up, which goes as fast as it can, and for both runs.
                        stand.fill(str(flags["job_type"]), 2 * tasks + 3 * rate)
                    found.append(stand.profile(what, command, tasks, directory, **flags))
                return found
            finally:
                gateway.stop()
        finally:
            redis.stop()


def main() -> int:
    """Parse the command line, measure, print. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description="Profile the gateway and Redis.")
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long each load lasts (5)")
    parser.add_argument("--py-spy", default=shutil.which("py-spy"), help="the py-spy to use (the one on PATH)")
    parser.add_argument("--write-docs", action="store_true", help="write the tables into docs/performance.md")
    options = parser.parse_args()
    end_in_order_on_sigterm()
    profiles = measure(options.seconds, options.py_spy)
    text = section(profiles)
    if not options.py_spy:
        text += "\n\npy-spy is not on this machine: the gateway's process was not sampled."
    print(text)
    if options.write_docs:
        PROFILE.write(ROOT / "docs" / "performance.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
