"""The books of a failover's clients: what they were told on both sides of a split, and what of it breaks a promise."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field

# Whatever Redis does, clients get no other answer than these.
_ANSWERS = frozenset(("200", "201", "204", "409 lease_lost", "503 not_replicated", "503 store_unavailable"))
# Nor this one, but of a task that was lost.
_FORGOTTEN = "404 task_not_found"


@dataclass(frozen=True)
class Lease:
    """A lease that a worker was told of. sent, answered: its poll's, monotonic; seconds: how long the reply said."""

    token: str
    side: str
    sent: float
    answered: float
    seconds: float


@dataclass
class Told:
    """What the clients of one round were told.

    stored: task id -> when; leases: by task id; accepted: task id -> token -> when its accepted report was sent;
    answers: how many by status and code; first_after: side -> its first acknowledgement after the election.
    """

    stored: dict[str, float] = field(default_factory=dict)
    leases: dict[str, list[Lease]] = field(default_factory=lambda: defaultdict(list))
    accepted: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    answers: Counter[str] = field(default_factory=Counter)
    first_after: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What came of a round, in tasks. leases and outcomes: that clients were told of.

    leases_twice: given while another worker held the task; outcomes_twice: accepted under two tokens; stale: accepted
    from a worker that had lost its lease to another one; unexpected: answers that nobody promised.
    """

    acknowledged: int
    lost: int
    outcomes: int
    outcomes_lost: int
    outcomes_twice: int
    leases: int
    leases_twice: int
    stale: int
    unexpected: list[str]

    def broken(self, promised: bool) -> list[str]:
        """Name the promises that were broken. promised: nothing may be lost, and so nothing done twice."""
        names = ("lost", "outcomes_lost", "outcomes_twice", "leases_twice", "stale") if promised else ()
        allowed = () if promised else (_FORGOTTEN,)
        return [f"{name}: {getattr(self, name)}" for name in names if getattr(self, name)] + [
            f"answer: {answer}" for answer in self.unexpected if answer not in allowed
        ]


def judge(told: Told, found: dict[str, str]) -> Judgement:
    """Hold what clients were told against itself, and against what is there. found: task id -> its status."""
    return Judgement(
        acknowledged=len(told.stored),
        lost=sum(id not in found for id in told.stored),
        outcomes=len(told.accepted),
        outcomes_lost=sum(found.get(id) != "completed" for id in told.accepted),
        outcomes_twice=sum(len(tokens) > 1 for tokens in told.accepted.values()),
        leases=sum(map(len, told.leases.values())),
        leases_twice=sum(_held_twice(leases) for leases in told.leases.values()),
        stale=sum(_stale(told.leases[id], tokens) for id, tokens in told.accepted.items()),
        unexpected=sorted(told.answers.keys() - _ANSWERS),
    )


def _held_twice(leases: list[Lease]) -> bool:
    """Whether a task was given while another lease of it was alive for certain.

    Nobody gives a task back here, so a lease is alive from its poll on until its seconds are over: it was given no
    earlier than its poll was sent, and the next one no later than that was answered.
    """
    ordered = sorted(leases, key=lambda lease: lease.answered)
    return any(after.answered < before.sent + before.seconds for before, after in itertools.pairwise(ordered))


def _stale(leases: list[Lease], accepted: dict[str, float]) -> bool:
    """Whether a report was accepted that was sent when a later worker was known to have the task."""
    by_token = {lease.token: lease for lease in leases}
    return any(
        other.sent >= by_token[token].answered and sent >= other.answered
        for token, sent in accepted.items()
        for other in leases
    )
