"""Logs of `python -m workers_sdk`: a phrase and its facts; a line for people on a terminal, JSON elsewhere."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import msgspec

_OWN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime", "taskName"}


class Formatter(logging.Formatter):
    """json: one object a line; otherwise time, level, phrase and facts."""

    def __init__(self, *, json: bool) -> None:
        super().__init__()
        self._json = json

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; with a traceback more in the form for people."""
        facts = {name: value for name, value in vars(record).items() if name not in _OWN}
        moment = datetime.fromtimestamp(record.created, UTC)
        trace = self.formatException(record.exc_info) if record.exc_info else None
        if self._json:
            line: dict[str, object] = {
                "at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
                **facts,
            }
            if trace is not None:
                line["traceback"] = trace
            return msgspec.json.encode(line, enc_hook=str).decode()
        clock = moment.astimezone().strftime("%H:%M:%S.%f")[:-3]
        told = " ".join(f"{name}={value}" for name, value in facts.items())
        text = f"{clock} {record.levelname.lower():7} {record.getMessage()}{'  ' + told if told else ''}"
        return text if trace is None else f"{text}\n{trace}"


def configure(level: str) -> None:
    """Send all logs to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter(json=not sys.stderr.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
