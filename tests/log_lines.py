"""What the gateway logs, as its two formats write it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from typing import Any

from gateway.logs import JsonFormatter, TextFormatter


class LogLines(logging.Handler):
    """Keeps every line that the gateway logs at any level. The tests' own HTTP client does not count."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.json: list[str] = []
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record both ways; what cannot be written fails the test that asks for it."""
        if not record.name.startswith(("httpx", "httpcore")):
            self.json.append(JsonFormatter().format(record))
            self.text.append(TextFormatter().format(record))

    def audited(self) -> list[dict[str, Any]]:
        """The audit log, a dictionary a line."""
        return [line for line in map(json.loads, self.json) if line["logger"] == "gateway.audit"]


@contextlib.contextmanager
def log_lines() -> Iterator[LogLines]:
    """Keep what is logged in the block."""
    lines, root = LogLines(), logging.getLogger()
    level = root.level
    root.addHandler(lines)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.removeHandler(lines)
        root.setLevel(level)
