"""The fault campaign's checker on histories told by hand: what a kind of violation tells, and what it does not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.campaign.history import Fault
from tests.campaign.stories import TASK, Story

_ROOT = Path(__file__).parents[1]
_CAMPAIGN = _ROOT / "tests/campaign"


def _leased() -> Story:
    """A task in a worker's hands from second 3 to 13."""
    return Story().enqueue(0, 1).poll(2, 3)


# Ends


@pytest.mark.parametrize(
    ("status", "code", "told"), [(None, "", True), (200, "", False), (0, "", False), (409, "already_finished", True)]
)
def test_a_task_that_nobody_cancelled_is_told(status: int | None, code: str, told: bool) -> None:
    story = Story().enqueue(0, 1).ends("cancelled", 0)
    if status is not None:
        story.add("cancel", 2, 3, status, {"id": TASK}, {"code": code} if code else {})
    assert story.kinds() == ({"cancelled by nobody"} if told else set())


@pytest.mark.parametrize("reason", ["Trouble", "", "whatever"])
def test_a_task_that_nobody_failed_is_told(reason: str) -> None:
    story = _leased().report(5, "release").ends("failed", 0, error_type=reason)
    assert story.kinds() == {"failed by nobody"}


@pytest.mark.parametrize(("reason", "kinds"), [("Trouble", set()), ("whatever", {"failed by nobody"})])
def test_a_task_fails_for_the_reason_that_was_reported(reason: str, kinds: set[str]) -> None:
    story = _leased().report(5, "fail", status=0).saying(retryable=False).ends("failed", error_type=reason)
    assert story.kinds() == kinds


def test_a_task_that_nobody_completed_is_told() -> None:
    assert _leased().report(5, status=409).ends("completed").kinds() == {"completed by nobody"}


def test_a_task_that_is_handed_out_after_its_end_is_told() -> None:
    assert "handed out after its end" in _leased().report(5).poll(15, 16, "t2", 2).kinds()
    story = _leased().report(5, "fail").saying(retryable=False)
    story.operations[-1].reply["status"] = "failed"
    story.add("retry", 14, 14.5, 200, {"id": TASK}).poll(15, 16, "t2", 1).report(17, token="t2")
    assert story.ends("completed", result="done by t2").kinds() == set()


# Attempts


@pytest.mark.parametrize(("asked", "attempt"), [(1, 2), (2, 0), (2, 3)])
def test_an_attempt_beyond_those_asked_for_is_told(asked: int, attempt: int) -> None:
    story = Story().enqueue(0, 1, max_attempts=asked).lost_poll(1, 1.5).poll(2, 3, attempt=attempt).report(5)
    assert "attempt out of bounds" in story.kinds()


def test_more_attempts_than_asked_for_in_the_lists_are_told() -> None:
    story = Story().enqueue(0, 1, max_attempts=1).lost_poll(2, 3).lost_poll(4, 5)
    story.ends("failed", 2, error_type="lease_lapsed")
    assert story.kinds() == {"attempt out of bounds"}


def test_fewer_attempts_than_asked_for_are_told_although_the_gateway_says_that_there_are_no_more() -> None:
    story = Story().enqueue(0, 1, max_attempts=25).poll(2, 3)
    story.operations[-1].reply["tasks"][0][4] = 1
    story.ends("failed", max_attempts=1, error_type="lease_lapsed", finished=113.1)
    assert story.kinds() == {"attempt out of bounds", "failed too soon"}


def test_a_task_that_took_anothers_place_may_have_that_ones_attempts() -> None:
    story = Story().enqueue(0, 1, max_attempts=1, unique_key="k", on_conflict="replace").poll(2, 3).report(5)
    assert story.kinds() == set()


_LOST = [(None, 0, True), ("mixed-a", 0, True), ("mixed-a", 503, True), ("order", 0, False), ("order", 503, False)]


@pytest.mark.parametrize(("queue", "status", "told"), _LOST)
def test_a_first_attempt_that_is_none_is_told_unless_a_poll_of_its_queue_was_lost(
    queue: str | None, status: int, told: bool
) -> None:
    story = Story().enqueue(0, 1)
    if queue is not None:
        story.lost_poll(1.1, 1.2, queue, status)
    assert story.poll(2, 3, attempt=2).report(5).ends("completed", 2, result="done by t1").kinds() == (
        {"attempt without a hand-out"} if told else set()
    )


@pytest.mark.parametrize(("queue", "status", "told"), _LOST)
def test_an_attempt_that_is_skipped_is_told_unless_a_poll_of_its_queue_was_lost(
    queue: str | None, status: int, told: bool
) -> None:
    story = Story().enqueue(0, 1, max_attempts=3).poll(2, 3)
    if queue is not None:
        story.lost_poll(13.1, 13.2, queue, status)
    story.poll(24, 25, "t2", 3).report(26, token="t2").ends("completed", 3, max_attempts=3, result="done by t2")
    for poll in story.operations:
        for given in poll.reply.get("tasks", ()) if poll.op == "poll" else ():
            given[4] = 3
    assert story.kinds() == ({"attempt without a hand-out"} if told else set())


@pytest.mark.parametrize(("queue", "status", "told"), _LOST)
def test_a_last_attempt_that_nobody_saw_is_told_unless_a_poll_of_its_queue_was_lost(
    queue: str | None, status: int, told: bool
) -> None:
    story = _leased()
    if queue is not None:
        story.lost_poll(13.1, 13.2, queue, status)
    story.ends("failed", 2, error_type="lease_lapsed")
    assert story.kinds() == ({"attempt without a hand-out"} if told else set())


@pytest.mark.parametrize(("at", "told"), [(0.9, True), (1.2, False)])
def test_an_attempt_that_nobody_saw_takes_at_least_the_shortest_lease(at: float, told: bool) -> None:
    story = Story().enqueue(0, 0.1).lost_poll(0.1, 0.2).poll(at - 0.1, at, attempt=2).report(5)
    assert ("attempt without a hand-out" in story.kinds()) == told


# Contents


def _swapped() -> Story:
    """Two tasks, each handed out with the other's payload."""
    story = Story().enqueue(0, 1).enqueue(0, 1, payload="p2").poll(2, 3).report(5)
    story.operations[2].reply["tasks"][0][6] = "p2"
    return story


def test_a_hand_out_with_anothers_payload_is_told() -> None:
    assert "payload changed" in _swapped().kinds()
    story = _swapped()
    for enqueued in story.operations[:2]:
        enqueued.facts["items"][0]["unique_key"] = "k"
    assert "payload changed" not in story.kinds()


def test_a_stored_payload_that_is_anothers_is_told() -> None:
    story = Story().enqueue(0, 1).enqueue(0, 1, payload="p2").poll(2, 3).report(5)
    story.left[0].payload = "p2"
    assert "payload changed" in story.kinds()


def test_a_task_that_was_handed_out_and_is_gone_is_told() -> None:
    story = Story().enqueue(0, 1, status=0).poll(2, 3)
    story.left, story.keys = [], {}
    assert story.kinds() == {"handed out task lost"}


@pytest.mark.parametrize(("own_retention", "told"), [(60, True), (0, False)])
def test_a_task_with_a_unique_key_is_lost_like_any_other(own_retention: int, told: bool) -> None:
    story = Story().enqueue(0, 1, unique_key="k0", retention_seconds=own_retention)
    story.enqueue(2, 3, payload="p2", job_type="mixed-b", unique_key="k0", retention_seconds=0)
    story.left, story.keys = [], {}
    assert ("acknowledged task lost" in story.kinds()) == told


def test_what_a_list_shows_twice_and_what_stands_at_a_wrong_node_is_told() -> None:
    story = _leased().report(5)
    story.listed_twice.append(TASK)
    assert story.kinds() == {"listed twice"}
    story.listed_twice.clear()
    story.strays.append("tg:{default:order}:seq")
    assert story.kinds() == {"key at a node that does not serve it"}
    story.strays.clear()
    story.live["arq:queue:{default:order}"] = ["2"]
    assert story.kinds() == {"live task that no list shows"}


# The bound


@pytest.mark.parametrize(
    ("queue", "status", "killed", "told"),
    [
        (None, 0, False, True),
        ("mixed-a", 0, False, True),
        ("order", 0, False, False),
        ("order", 503, False, True),
        ("order", 0, True, True),
    ],
)
def test_only_a_poll_that_may_have_put_tasks_back_casts_doubt_on_a_bound(
    queue: str | None, status: int, killed: bool, told: bool
) -> None:
    story = Story()
    for number in range(1, 6):
        story.enqueue(0, 1, payload=f"p{number}")
    for number in range(1, 6):
        story.poll(4, 5 + number / 10, f"t{number}", payload=f"p{number}")
    if queue is not None:
        story.lost_poll(0.5, 0.6, queue, status, most=5)
    if killed:
        story.faults.append(Fault("gateway_kill", "gateway-0", 100.55, 100.6))
    assert ("queue bound overshot" in story.kinds(queue_size=2)) == told


def test_a_poll_that_a_stopping_gateway_sent_home_casts_doubt_on_a_bound() -> None:
    story = Story().enqueue(0, 1).enqueue(2, 3, payload="p2")
    story.add("poll", 2, 2.5, 204, {"task_type": ["order"], "max": 1}).poll(4, 5).poll(6, 7, "t2", payload="p2")
    assert "queue bound overshot" in story.kinds(queue_size=1)
    story.faults.append(Fault("gateway_term", "gateway-0", 102.2, 102.9))
    assert "queue bound overshot" not in story.kinds(queue_size=1)


# Times


@pytest.mark.parametrize(
    ("verb", "members", "asked"),
    [
        ("release", {"delay_seconds": 30}, {}),
        ("fail", {"retry_in_seconds": 30}, {}),
        ("fail", {}, {"retry": {"backoff": "fixed", "base_seconds": 30, "jitter": False}}),
    ],
)
@pytest.mark.parametrize("repeated_with", ["the same", "another", None])
def test_a_hand_out_before_the_time_that_a_report_asked_for_is_told(
    verb: str, members: dict[str, Any], asked: dict[str, Any], repeated_with: str | None
) -> None:
    """Whatever the gateway says: it answers that the task is due at once."""
    story = Story().enqueue(0, 1, **asked).poll(2, 3).report(4, verb, run_at=104.05).saying(**members)
    if repeated_with is not None:
        story.report(4.2, verb, run_at=104.05).saying(**members)
    if repeated_with == "another":
        story.saying(delay_seconds=0, retry_in_seconds=0)
    attempt = 1 if verb == "release" else 2
    story.poll(5, 6, "t2", attempt).report(7, token="t2").ends("completed", attempt, result="done by t2")
    assert story.kinds() == (set() if repeated_with == "another" else {"handed out early"})


def test_a_lease_that_began_after_it_was_told_is_told() -> None:
    story = _leased().report(5)
    story.operations[1].reply["tasks"][0][2] = 104.0
    assert story.kinds() == {"lease from the future"}


@pytest.mark.parametrize(("start", "kinds"), [(12, set()), (14, {"stale report accepted"})])
def test_a_heartbeat_that_revives_a_lapsed_lease_is_told(start: float, kinds: set[str]) -> None:
    story = _leased()
    beat = {"id": TASK, "lease_token": "t1"}
    story.add("heartbeat", start, start + 0.1, 200, beat, {"leases": [[200, 10.0, ""]]})
    assert story.report(start + 1).kinds() == kinds


def test_a_heartbeat_without_an_answer_may_have_kept_a_lease() -> None:
    story, beat = _leased(), {"id": TASK, "lease_token": "t1"}
    story.add("heartbeat", 12, 12.5, 0, beat, {"cause": "_NoAnswer hung up: close"})
    story.add("heartbeat", 14, 14.1, 200, beat, {"leases": [[200, 10.0, ""]]})
    assert story.report(15).kinds() == set()


@pytest.mark.parametrize(
    ("finished", "fault", "told"),
    [
        (115.9, None, False),
        (116.1, None, True),
        (140.0, Fault("redis_stop", "redis", 112.0, 137.0), False),
        (143.0, Fault("redis_stop", "redis", 112.0, 137.0), True),
        (120.0, Fault("worker_kill", "workers-0-1", 112.0, 120.0), True),
    ],
)
def test_a_lapse_that_is_noticed_late_is_told(finished: float, fault: Fault | None, told: bool) -> None:
    story = Story().enqueue(0, 1, max_attempts=1).poll(2, 3)
    story.operations[-1].reply["tasks"][0][4] = 1
    story.faults += [fault] if fault else []
    story.ends("failed", max_attempts=1, error_type="lease_lapsed", finished=finished)
    assert story.kinds() == ({"lapse noticed late"} if told else set())


# Replies


def _batch(op: str, status: int, code: str) -> Story:
    """A batch of which one entry is answered so."""
    story, lease = _leased(), {"id": TASK, "lease_token": "t1"}
    if op == "enqueue":
        items = [{"job_type": "order", "payload": payload} for payload in ("p2", "p3")]
        return story.report(5).add(
            "enqueue", 6, 6.1, 200, {"items": items, "key": None}, {"tasks": [{"status": status, "code": code}] * 2}
        )
    if op == "heartbeats":
        story.add("heartbeats", 4, 4.1, 200, {"leases": [lease]}, {"leases": [[status, 0, code]]})
    else:
        entry = {"status": status, "task_status": None, "run_at": None, "code": code}
        story.add("outcomes", 4, 4.1, 200, {"outcomes": [{**lease, "outcome": "complete"}]}, {"outcomes": [entry]})
    return story.report(5)


@pytest.mark.parametrize(
    ("op", "status", "code", "kinds"),
    [
        ("outcomes", 500, "internal", {"unexpected 5xx"}),
        ("outcomes", 404, "task_not_found", {"404 for a task that exists"}),
        ("outcomes", 418, "teapot", {"unexpected refusal"}),
        ("outcomes", 409, "unique_conflict", {"unexpected refusal"}),
        ("outcomes", 409, "lease_lost", set()),
        ("outcomes", 503, "store_unavailable", set()),
        ("heartbeats", 500, "internal", {"unexpected 5xx"}),
        ("heartbeats", 404, "task_not_found", {"404 for a task that exists"}),
        ("heartbeats", 409, "lease_lost", set()),
        ("enqueue", 500, "internal", {"unexpected 5xx"}),
        ("enqueue", 418, "teapot", {"unexpected refusal"}),
        ("enqueue", 404, "task_not_found", {"unexpected refusal"}),
        ("enqueue", 503, "queue_full", set()),
    ],
)
def test_the_entries_of_a_batch_are_judged_like_single_answers(
    op: str, status: int, code: str, kinds: set[str]
) -> None:
    assert _batch(op, status, code).kinds() == kinds


@pytest.mark.parametrize(
    ("op", "status", "code", "kinds"),
    [
        ("read", 404, "task_not_found", {"404 for a task that exists"}),
        ("read", 409, "lease_lost", {"unexpected refusal"}),
        ("poll", 404, "task_not_found", {"unexpected refusal"}),
        ("cancel", 409, "already_finished", set()),
    ],
)
def test_a_refusal_that_nobody_promised_is_told(op: str, status: int, code: str, kinds: set[str]) -> None:
    facts = {"task_type": ["order"], "max": 1} if op == "poll" else {"id": TASK}
    assert _leased().report(5).add(op, 6, 7, status, facts, {"code": code}).kinds() == kinds


def _silent(cause: str, *faults: Fault) -> Story:
    """A client is answered at the seconds 1 and 3, and at 20 it waits in vain."""
    story = _leased().report(5).add("read", 20, 30, 0, {"id": TASK}, {"cause": cause})
    story.faults += faults
    return story


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        ("IncompleteReadError 0 bytes read", True),
        ("ConnectionResetError [Errno 104]", True),
        ("ConnectionRefusedError [Errno 111]", True),
        ("TimeoutError ", True),
        ("_NoAnswer hung up: reset", False),
        ("", False),
    ],
)
def test_a_request_without_an_answer_is_told_when_nothing_was_broken(cause: str, told: bool) -> None:
    assert ("no answer" in _silent(cause).kinds()) == told


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault("gateway_kill", "gateway-0", 121, 122), False),
        (Fault("gateway_kill", "gateway-1", 121, 122), True),
        (Fault("client_loss", "clients-0", 121, 122), False),
        (Fault("client_link", "clients-0", 121, 122), True),
        (Fault("worker_stop", "w1", 121, 122), False),
        (Fault("redis_kill", "redis", 121, 122), True),
        # The connection that it has kept since second 2 broke meanwhile.
        (Fault("gateway_kill", "gateway-0", 110, 111), False),
        (Fault("gateway_kill", "gateway-0", 99, 100), True),
    ],
)
def test_only_what_is_between_a_client_and_its_gateway_explains_that_there_is_no_answer(
    fault: Fault, told: bool
) -> None:
    assert ("no answer" in _silent("IncompleteReadError", fault).kinds()) == told


@pytest.mark.parametrize(("other_waited", "told"), [(6, False), (2, True)])
def test_patience_that_ends_is_no_answer_lost_where_others_wait_as_long(other_waited: float, told: bool) -> None:
    story = _silent("TimeoutError ").add("read", 22, 22 + other_waited, 200, {"id": TASK}, {"status": "completed"})
    assert ("no answer" in story.kinds()) == told


# Kinds


def _named_in_the_docs() -> set[str]:
    """The kinds that the table of promises names, in its last column."""
    text = (_ROOT / "docs/reliability.md").read_text().partition("## Promises")[2].partition("\n## ")[0]
    cells = [line.split("|")[-2] for line in text.splitlines() if line.startswith("|")]
    return {kind for cell in cells for kind in re.findall("`([^`]+)`", cell)}


def test_the_promises_name_each_kind_of_violation() -> None:
    text = "".join(path.read_text() for path in _CAMPAIGN.glob("c*.py"))
    assert sorted(set(re.findall(r'Violation\(\s*"([^"]+)"', text)) - _named_in_the_docs()) == []


def test_each_kind_of_violation_is_told_by_hand_or_by_a_broken_gateway() -> None:
    text = "".join(path.read_text() for path in (_ROOT / "tests").glob("test_campaign*.py"))
    text += (_CAMPAIGN / "mutants.py").read_text()
    assert [kind for kind in sorted(_named_in_the_docs()) if f'"{kind}"' not in text] == []
