"""What `python -m tests.failover` calls broken, on books written by hand, in seconds from their start."""

from __future__ import annotations

import pytest

from tests.failover_books import Judgement, Lease, Told, judge

_NAMES = ("lost", "outcomes_lost", "outcomes_twice", "leases_twice", "stale")


class Books:
    """What clients were told of one task with leases of eight seconds."""

    def __init__(self) -> None:
        self.told = Told(stored={"a": 0.0})
        self.found = {"a": "completed"}

    def lease(self, token: str, sent: float, answered: float, side: str = "here") -> Books:
        """A worker gets the task."""
        self.told.leases["a"].append(Lease(token, side, sent, answered, 8.0))
        return self

    def accept(self, token: str, sent: float) -> Books:
        """A report is accepted."""
        self.told.accepted["a"][token] = sent
        return self

    def judged(self) -> Judgement:
        """What is made of it."""
        return judge(self.told, self.found)

    def broken(self) -> set[str]:
        """What is broken where nothing may be lost."""
        judged = self.judged()
        assert judged.broken(False) == []
        assert judged.broken(True) == [f"{name}: 1" for name in _NAMES if getattr(judged, name)]
        return {name for name in _NAMES if getattr(judged, name)}


def _straight() -> Books:
    return Books().lease("t1", 1, 2).accept("t1", 3)


def test_a_straight_life_breaks_nothing_and_is_counted() -> None:
    books = _straight()
    assert books.broken() == set()
    judged = books.judged()
    assert (judged.acknowledged, judged.leases, judged.outcomes) == (1, 1, 1)


def test_an_outcome_accepted_on_each_side_of_a_split_is_told() -> None:
    # The other side's worker had it when the first lease was over, so nothing else is wrong.
    books = _straight().lease("t2", 11, 12, "there").accept("t2", 13)
    assert books.broken() == {"outcomes_twice"}


def test_an_outcome_accepted_twice_under_one_token_is_one() -> None:
    assert _straight().accept("t1", 5).broken() == set()


@pytest.mark.parametrize(("answered", "broken"), [(8.9, {"leases_twice"}), (9.1, set())])
def test_a_second_lease_within_the_seconds_of_the_first_is_told(answered: float, broken: set[str]) -> None:
    """The first was given when its poll was sent, at the earliest: at 1."""
    assert Books().lease("t1", 1, 2).lease("t2", 8, answered, "there").broken() == broken


def test_two_leases_of_polls_under_way_at_once_are_told_whatever_their_order() -> None:
    assert Books().lease("t2", 1, 4, "there").lease("t1", 2, 3).broken() == {"leases_twice"}


@pytest.mark.parametrize(("sent", "broken"), [(13, {"stale"}), (11, set())])
def test_an_outcome_accepted_from_who_had_lost_the_task_is_told(sent: float, broken: set[str]) -> None:
    """At 12 another worker is told that it has the task; before that nobody knows."""
    assert Books().lease("t1", 1, 2).lease("t2", 10, 12, "there").accept("t1", sent).broken() == broken


def test_a_lost_task_and_a_lost_outcome_are_told() -> None:
    books = _straight()
    books.found = {"a": "processing"}
    assert books.broken() == {"outcomes_lost"}
    books.found = {}
    assert books.broken() == {"lost", "outcomes_lost"}


@pytest.mark.parametrize(
    ("answer", "promised", "broken"),
    [
        ("503 not_replicated", True, False),
        ("500 internal", False, True),
        ("ReadTimeout", False, True),
        ("404 task_not_found", False, False),
        ("404 task_not_found", True, True),
    ],
)
def test_only_answers_that_are_promised_may_come(answer: str, promised: bool, broken: bool) -> None:
    books = _straight()
    books.told.answers["200"] = books.told.answers[answer] = 1
    assert books.judged().broken(promised) == ([f"answer: {answer}"] if broken else [])
