"""The job that every Python contender runs: it does nothing but note that it ran.

Only the standard library is imported: this runs in each contender's own environment.
"""

from __future__ import annotations

import os
import struct
import time

PAYLOAD_BYTES = 100
SOCKET = os.environ["PEER_SOCKET"]
CONCURRENCY = int(os.environ["PEER_CONCURRENCY"])
_STAMP_DIGITS = 20
_record = os.open(os.environ["PEER_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def payload() -> str:
    """A payload of 100 characters that begins with the moment it was made: monotonic ns, by the machine's one clock."""
    return f"{time.monotonic_ns():0{_STAMP_DIGITS}d}".ljust(PAYLOAD_BYTES, "x")


def handle(text: str) -> None:
    """Add 16 bytes to PEER_RECORD: when the payload was made and when it came here, both monotonic ns."""
    os.write(_record, struct.pack("<qq", int(text[:_STAMP_DIGITS]), time.monotonic_ns()))
