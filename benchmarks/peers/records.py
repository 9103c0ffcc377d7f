"""What the jobs noted of themselves: a file of 16 bytes each, when the payload was made and when the handler had it."""

from __future__ import annotations

import math
import struct
import time
from pathlib import Path

from benchmarks.processes import Process, ProcessFailed

_ENTRY = struct.Struct("<qq")
_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


class Record:
    """One worker's file. Both moments of an entry are monotonic ns, by the clock that all processes share."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def jobs(self) -> int:
        """How many jobs have run."""
        return self.path.stat().st_size // _ENTRY.size if self.path.exists() else 0

    def entries(self) -> list[tuple[int, int]]:
        """(made, ran) of every job."""
        return list(_ENTRY.iter_unpack(self.path.read_bytes()))

    def wait_for(self, jobs: int, worker: Process, timeout_seconds: float = 60.0) -> None:
        """Return when so many jobs have run. Raises ProcessFailed when the worker ends, or takes too long."""
        deadline = time.monotonic() + timeout_seconds
        while self.jobs() < jobs:
            if worker.ended() or time.monotonic() > deadline:
                raise ProcessFailed(worker.name, f"ran {self.jobs()} jobs instead of {jobs}", worker.log)
            time.sleep(0.01)


def percentiles(values_ms: list[float]) -> dict[str, float]:
    """min, p50, p90, p99, p99.9 and max, by rank, as the load client counts them."""
    ordered = sorted(values_ms)
    shares = {name: ordered[max(math.ceil(share * len(ordered)), 1) - 1] for name, share in _SHARES.items()}
    return {"min": ordered[0], **shares, "max": ordered[-1]}
