"""What people and scripts see: aligned columns, colours on terminals only, JSON as the gateway wrote it, errors that
say the next step."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

REFUSED, USAGE, UNREACHABLE, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 130, 141
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "processing": "cyan", "retrying": "magenta"}
_KEPT = "\u200c\u200d"  # joiners, which scripts and emoji need
_GAP = 2
_LEAST_FLEXIBLE, _LEAST_FIRST = 10, 24


class _Output(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


out, err = _Output(highlight=False, emoji=False), _Output(stderr=True, highlight=False, emoji=False)


class Column(NamedTuple):
    """A column. rank: what is dropped first where the terminal is narrow, the highest before the others; 0: never.
    flexible: shortened rather than dropped; at most one."""

    name: str
    rank: int = 0
    right: bool = False
    flexible: bool = False


class Listing:
    """Lays out rows under aligned columns. width: of the terminal, in cells; None: not for a terminal.

    The first column is never cut: where it leaves no room for any other, these go to a line of their own. Not for a
    terminal, nothing is dropped or cut, and an empty cell is `-`, so that `awk '{print $2}'` works.
    """

    def __init__(self, columns: Sequence[Column], width: int | None) -> None:
        self._columns = columns
        self._width = width
        self._widths = [len(column.name) for column in columns]
        self._shown: list[int] | None = None

    def lines(self, rows: Sequence[Sequence[str | Text]]) -> list[Text]:
        """Lay out some rows; the header goes before the first ones. Widths carry on from call to call."""
        cells = [[_cell(cell, self._width is None) for cell in row] for row in rows]
        for row in cells:
            self._widths = [max(known, cell_len(cell.plain)) for known, cell in zip(self._widths, row, strict=True)]
        if self._shown is not None:
            return [line for row in cells for line in self._line(row, self._shown)]
        self._shown = self._choose()
        header = [Text(column.name, "bold") for column in self._columns]
        return [line for row in [header, *cells] for line in self._line(row, self._shown)]

    def _choose(self) -> list[int]:
        shown = list(range(len(self._columns)))
        while self._width is not None and self._needed(shown) > self._width:
            worst = max(shown, key=lambda number: self._columns[number].rank)
            if self._columns[worst].rank == 0:
                break
            shown.remove(worst)
        return shown

    def _needed(self, shown: list[int]) -> int:
        least = [
            min(self._widths[number], _LEAST_FLEXIBLE if number else _LEAST_FIRST)
            if self._columns[number].flexible
            else self._widths[number]
            for number in shown
        ]
        return sum(least) + _GAP * (len(shown) - 1)

    def _line(self, row: list[Text], shown: list[int]) -> list[Text]:
        if shown == [0] and len(row) > 1 and self._width is not None:
            rest = Text("  ").join(cell for cell in row[1:] if cell.plain)
            rest.truncate(max(self._width - _GAP, 1), overflow="ellipsis")
            return [row[0], Text("  ").append_text(rest)]
        room = {number: self._widths[number] for number in shown}
        if self._width is not None:
            for number in shown:
                if self._columns[number].flexible:
                    taken = sum(room.values()) - room[number] + _GAP * (len(shown) - 1)
                    room[number] = max(min(room[number], self._width - taken), 1)
        line = Text()
        for place, number in enumerate(shown):
            cell, width = row[number].copy(), room[number]
            if self._columns[number].flexible and self._width is not None:
                cell.truncate(width, overflow="ellipsis")
            padding = " " * (width - cell_len(cell.plain))
            if self._columns[number].right:
                line.append(padding).append_text(cell)
            else:
                line.append_text(cell)
                line.append("" if place == len(shown) - 1 else padding)
            line.append("" if place == len(shown) - 1 else " " * _GAP)
        return [line]


def terminal_width() -> int | None:
    """Cells in a line of the terminal; None: standard output is none."""
    return out.width if sys.stdout.isatty() else None


def print_lines(lines: Sequence[Text]) -> None:
    """Print lines as they are; the terminal wraps those that are too long for it."""
    for line in lines:
        out.print(line, soft_wrap=True)


def say(text: str | Text) -> None:
    """Print text that is not markup."""
    out.print(text, markup=False, soft_wrap=True)


def plain(text: str) -> str:
    """One harmless line: what clients send may hold characters that a terminal obeys."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in _KEPT else " " if one.isspace() else "\N{REPLACEMENT CHARACTER}"
        for one in text
    )


def painted(status: str) -> Text:
    """A status in its colour."""
    return Text(status, COLOURS.get(status, ""))


def age(seconds: float) -> str:
    """A duration in two to four characters: 0s, 59s, 4m, 3h, 12d."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(int(seconds), 0)}s"


def print_json(value: Any) -> None:
    """Print a line of JSON."""
    print_raw(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def print_raw(document: bytes) -> None:
    """Print a JSON document of the gateway's as one line; its numbers and texts stay byte for byte."""
    sys.stdout.flush()
    # Line ends can only stand between values: inside strings they are escaped.
    sys.stdout.buffer.write(document.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n")
    sys.stdout.buffer.flush()


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong and what to do, and exit."""
    err.print("[red]error:[/] ", end="")
    err.print(plain(message), markup=False, soft_wrap=True)
    raise typer.Exit(code)


def pipe_closed() -> NoReturn:
    """Nobody reads on: end as other programs do, without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise typer.Exit(PIPE_CLOSED)


def _cell(cell: str | Text, for_scripts: bool) -> Text:
    text = Text(plain(cell)) if isinstance(cell, str) else cell
    return Text("-") if for_scripts and not text.plain.strip() else text
