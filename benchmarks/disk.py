"""How long the disk takes to keep what is written: with `appendfsync always` every figure holds that."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

_SECONDS = 1.0
_PAUSE_SECONDS = 0.002
_RECORD = b"x" * 600  # about what Redis appends for one task


def sync_ms(directory: Path) -> dict[str, float]:
    """Append and fdatasync for a second, as Redis does. Returns p50, p90, p99 and max in ms."""
    took_ms: list[float] = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            file.write(_RECORD)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            took_ms.append((time.perf_counter() - begun) * 1000)
            time.sleep(_PAUSE_SECONDS)
    took_ms.sort()
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(took_ms[min(int(share * len(took_ms)), len(took_ms) - 1)], 3) for name, share in shares.items()}
