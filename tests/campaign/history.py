"""The history: one JSON line when a request goes out, one when its answer came or did not.

Lines are written unbuffered, so that a client killed with -9 leaves all that it had sent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

NO_ANSWER = 0
_encode = msgspec.json.Encoder().encode


class Sent(msgspec.Struct, tag="sent"):
    """A request: when it went out (unix seconds), who sent it to which door, and its facts."""

    id: str
    at: float
    client: str
    op: str
    door: int
    facts: dict[str, Any]


class Answered(msgspec.Struct, tag="answered"):
    """What became of it. status 0: no answer, or half of one; then `reply` says why."""

    id: str
    at: float
    status: int
    reply: dict[str, Any]


class Fault(msgspec.Struct, tag="fault"):
    """Something the nemesis did. replaced: when another server took over these queues, 0 where none did."""

    name: str
    target: str
    at: float
    until: float
    note: str = ""
    queues: list[str] = []
    replaced: float = 0.0


class Operation(msgspec.Struct):
    """A request with its answer. end: infinite when none came, since it may take effect whenever it likes."""

    id: str
    client: str
    op: str
    door: int
    start: float
    end: float
    status: int
    facts: dict[str, Any]
    reply: dict[str, Any]


class Log:
    """Where one process writes its part of the history."""

    def __init__(self, path: Path, name: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._name = name
        self._number = 0

    def sent(self, client: str, op: str, door: int, facts: dict[str, Any]) -> str:
        """Note a request that is about to go out. Returns its id."""
        self._number += 1
        number = f"{self._name}-{self._number}"
        self.write(Sent(number, time.time(), client, op, door, facts))
        return number

    def answered(self, number: str, status: int, reply: dict[str, Any]) -> None:
        """Note what came back."""
        self.write(Answered(number, time.time(), status, reply))

    def write(self, line: Sent | Answered | Fault) -> None:
        """Add a line."""
        os.write(self._file, _encode(line) + b"\n")


def read(folder: Path) -> tuple[list[Operation], list[Fault]]:
    """Read every `*.jsonl` of a folder. Operations by start; a line that was cut by a kill is passed over.

    Raises ValueError when two requests have one id: what the first one did would be forgotten.
    """
    operations: dict[str, Operation] = {}
    faults: list[Fault] = []
    for line in _lines(folder):
        if isinstance(line, Fault):
            faults.append(line)
        elif isinstance(line, Sent):
            if line.id in operations:
                raise ValueError(f"{folder}: two requests have the id {line.id}")
            operations[line.id] = Operation(
                line.id, line.client, line.op, line.door, line.at, float("inf"), NO_ANSWER, line.facts, {}
            )
        elif line.id in operations:
            operation = operations[line.id]
            operation.status, operation.reply = line.status, line.reply
            operation.end = line.at
    return sorted(operations.values(), key=lambda operation: operation.start), faults


def _lines(folder: Path) -> Iterator[Sent | Answered | Fault]:
    decode = msgspec.json.Decoder(Sent | Answered | Fault).decode
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"}\n"):
                    yield decode(line)
