"""What was acknowledged, what became of it, how long things took, and what must not have happened."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable

log = logging.getLogger(__name__)

FINAL = ("completed", "failed", "cancelled")
_MOST_COMPLETED = 10_000


class Ledger:
    """Books about a run, kept by its clients.

    counts: what was asked and answered, by name. doubtful: tasks of enqueues without a clear answer, which may or may
    not be stored. unseen: tasks that ended out of our sight, as when a machine stood still for longer than they are
    kept. violations: promises that were broken, in words.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.acknowledged = 0
        self.ended = 0
        self.sent_back = 0
        self.unseen = 0
        self.doubtful = 0
        self.violations: list[str] = []
        self.open: dict[str, float] = {}
        self._early: dict[str, str] = {}
        # The last of them, in the order of their reports.
        self._completed: dict[str, None] = {}
        self._seconds: dict[str, list[float]] = {}

    def stored(self, task_id: str) -> None:
        """A 201 came: from now on the task must exist until it ends."""
        self.acknowledged += 1
        self._opened(task_id)

    def reopened(self, task_id: str) -> None:
        """A finished task was sent back."""
        self.sent_back += 1
        if task_id in self._completed:
            # A worker was quicker than the answer to who sent it back, and nobody had seen the end before: the report
            # was taken for that one. What is completed is never sent back, so it was the last.
            self._early.pop(task_id, None)
            self.ended += 1
        else:
            self._opened(task_id)

    def _opened(self, task_id: str) -> None:
        # A worker may hear of a task's end before its producer hears that it is stored.
        if self._early.pop(task_id, None) is None:
            self.open[task_id] = time.monotonic()
        else:
            self.ended += 1

    def reported(self, task_id: str, status: str) -> None:
        """A report or a cancellation was answered with the task's status."""
        if status not in FINAL:
            return
        self.counts[f"accepted {status}"] += 1
        if status == "completed":
            self._completed[task_id] = None
            if len(self._completed) > _MOST_COMPLETED:
                del self._completed[next(iter(self._completed))]
        if self.open.pop(task_id, None) is None:
            self._early[task_id] = status
        else:
            self.ended += 1

    def seen(self, task_id: str, status: str) -> None:
        """A list or a read showed the task. One that ended by itself is found out so."""
        if status in FINAL and self.open.pop(task_id, None) is not None:
            self.ended += 1

    def lost_sight(self, task_id: str) -> None:
        """Nobody can tell any more from the outside what became of the task: the queues' totals must do."""
        if self.open.pop(task_id, None) is not None:
            self.unseen += 1

    def violation(self, what: str) -> None:
        """Note a broken promise; the first hundred are kept, and told at once: a run may be broken off."""
        self.counts["violations"] += 1
        if len(self.violations) < 100:
            self.violations.append(what)
            log.warning("violation: %s", what)

    def took(self, what: str, seconds: float) -> None:
        """Note how long something took, for the sample under way."""
        self._seconds.setdefault(what, []).append(seconds)

    def take_seconds(self) -> dict[str, list[float]]:
        """Give out the durations since the last call, sorted, by name."""
        taken, self._seconds = self._seconds, {}
        return {name: sorted(values) for name, values in taken.items()}


def quantile(ordered: list[float], share: float) -> float | None:
    """Take the value below which a share of a sorted list lies. None: the list is empty."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def balance(ledger: Ledger, totals: Iterable[dict[str, int]]) -> list[str]:
    """Compare the books with the queues' own totals, after everything ended. Returns what does not agree."""
    sums: Counter[str] = Counter()
    for one in totals:
        sums.update(one)
    wrong = []
    if not ledger.acknowledged <= sums["enqueued"] <= ledger.acknowledged + ledger.doubtful:
        wrong.append(
            f"{ledger.acknowledged} tasks acknowledged ({ledger.doubtful} in doubt), but {sums['enqueued']} enqueued"
        )
    for status in FINAL:
        if ledger.counts[f"accepted {status}"] > sums[status]:
            wrong.append(f"{ledger.counts[f'accepted {status}']} answers said {status}, but {sums[status]} tasks are")
    ends = sum(sums[status] for status in FINAL)
    begun = sums["enqueued"] + sums["redriven"]
    if ends != begun:
        wrong.append(f"{begun} lives begun (enqueued and sent back), but {ends} ended")
    return wrong
