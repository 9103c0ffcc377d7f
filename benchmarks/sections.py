"""The parts of a page that a command writes: what stands between two markers, and nothing beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Section:
    """One such part. name: what its markers call it. command: what writes it, for who reads the page's source."""

    name: str
    command: str

    @property
    def begin(self) -> str:
        """The marker in front."""
        return f"<!-- {self.name}: begin, written by `{self.command}` -->"

    @property
    def end(self) -> str:
        """The marker behind."""
        return f"<!-- {self.name}: end -->"

    def write(self, page: Path, text: str) -> None:
        """Replace what stands between the markers. Raises ValueError when the page lacks them."""
        before, begin, rest = page.read_text().partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not begin or not end:
            raise ValueError(f"{page} lacks the markers {self.begin} and {self.end}")
        page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


GOALS = Section("goals", "python -m benchmarks.goals --write-docs")
BENCH = Section("bench", "python -m benchmarks --write-docs")
PEERS = Section("peers", "python -m benchmarks.peers --write-docs")
PROFILE = Section("profile", "python -m benchmarks.profile --write-docs")
