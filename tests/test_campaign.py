"""The fault campaign in short: its checker on histories told by hand and on broken gateways, and ours under kills."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.campaign import campaign, mutants
from tests.campaign.arena import Size
from tests.campaign.contents import Stored
from tests.campaign.history import Fault
from tests.campaign.producers import KEYED_QUEUE, LIMITED_QUEUE, PARTITIONED_QUEUE, RATED_QUEUE
from tests.campaign.stories import TASK, Story

_ROOT = Path(__file__).parents[1]


def _straight() -> Story:
    return Story().enqueue(0, 1).poll(2, 3).report(5)


def test_a_straight_life_breaks_no_promise() -> None:
    assert _straight().kinds() == set()


def test_a_report_repeated_after_its_lease_is_no_stale_one() -> None:
    assert Story().enqueue(0, 1).poll(2, 3).report(5, status=0).report(50).kinds() == set()


def test_a_report_first_sent_after_its_lease_and_accepted_is_stale() -> None:
    assert "stale report accepted" in Story().enqueue(0, 1).poll(2, 3).report(14).kinds()


def test_a_second_lease_before_the_end_of_the_first_is_told() -> None:
    story = Story().enqueue(0, 1).poll(2, 3).poll(4, 6, "t2", 2).report(20, token="t2", status=409)
    assert "two leases at once" in story.kinds()


def test_a_second_lease_after_a_release_that_may_have_counted_is_none() -> None:
    story = Story().enqueue(0, 1).poll(2, 3).report(4, "release", status=0).poll(4, 6, "t2", 1)
    story.left[0].result = "done by t2"
    assert story.report(7, token="t2").kinds() == set()


def test_a_refused_connection_has_no_effect() -> None:
    story = Story().enqueue(0, 1).poll(2, 3).report(4, "release", status=0, cause="ConnectionRefusedError")
    assert "two leases at once" in story.poll(4, 6, "t2", 1).kinds()


def test_a_lapse_that_cost_no_attempt_is_told() -> None:
    story = Story().enqueue(0, 1).poll(2, 3).poll(14, 15, "t2", 1)
    story.left[0].result = "done by t2"
    assert story.report(16, token="t2").kinds() == {"attempt not counted"}


def test_a_hand_out_before_its_time_is_told() -> None:
    story = Story().enqueue(0, 1, delay_seconds=5).poll(2, 3).report(5)
    assert story.kinds() == {"handed out early"}


def test_a_repeated_request_may_tell_when_the_task_is_due_after_its_release() -> None:
    story = Story().enqueue(0, 1, 0).poll(2, 3).report(4, "release").enqueue(5, 6, delay_seconds=0)
    story.operations[-1].reply["tasks"][0]["run_at"] = 112.0
    story.left[0].result = "done by t2"
    assert story.poll(13, 14, "t2", 1).report(15, token="t2").kinds() == set()


def test_two_accepted_outcomes_are_told() -> None:
    assert "two outcomes accepted" in _straight().report(6, "fail").kinds()


@pytest.mark.parametrize(("status", "kinds"), [(201, {"acknowledged task lost"}), (0, set()), (503, set())])
def test_only_an_acknowledged_task_can_be_lost(status: int, kinds: set[str]) -> None:
    story = Story().enqueue(0, 1, status)
    if status == 503:
        story.operations[0].reply |= {"code": "queue_full", "retry_after": "1"}
    story.left, story.keys = [], {}
    assert story.kinds() == kinds


def test_a_refused_task_that_is_there_all_the_same_is_told() -> None:
    story = Story().enqueue(0, 1, 503)
    story.operations[0].reply |= {"code": "queue_full", "retry_after": "1"}
    assert "refused task stored" in story.kinds()


def test_a_changed_outcome_a_stuck_task_and_a_stranger_are_told() -> None:
    story = _straight()
    story.left[0].status = "failed"
    assert "accepted outcome lost" in story.kinds()
    story.left[0].status = "processing"
    assert "stuck" in story.kinds()
    story.left[0].payload = "p9"
    assert "task that nobody asked for" in story.kinds()


@pytest.mark.parametrize(
    ("key", "ttl_ms", "kind"),
    [
        ("arq:job:{default:order}1", -1, "key without an owner"),
        ("tg:{default:order}:unique:k", -1, "key without an owner"),
        ("tg:{default:order}:trail:1", -1, "key without a TTL"),
        ("arq:result:{default:order}2", 20_000, "result that no list shows"),
        ("tg:{default:order}:new", -1, "unknown key"),
        ("tg:{default:order}:seq", -1, None),
        ("tg:{default:order}:trail:1", 5000, None),
    ],
)
def test_keys_that_nobody_owns_are_told(key: str, ttl_ms: int, kind: str | None) -> None:
    story = _straight()
    story.keys[key] = ("string", ttl_ms)
    assert story.kinds() == ({kind} if kind else set())


@pytest.mark.parametrize(
    ("priority", "kinds"), [("normal", {"FIFO broken"}), ("high", set()), ("low", {"priority ignored"})]
)
def test_order_is_judged_by_priority_and_time(priority: str, kinds: set[str]) -> None:
    story = Story().enqueue(0, 1).enqueue(2, 3, payload="p2", priority=priority)
    story.poll(4, 5, "t2", payload="p2").poll(6, 7)
    assert story.kinds() & {"FIFO broken", "priority ignored"} == kinds


@pytest.mark.parametrize(("code", "kinds"), [("store_unavailable", {"FIFO broken"}), ("not_replicated", set())])
def test_what_no_replica_confirmed_was_held_for_a_moment_and_put_back(code: str, kinds: set[str]) -> None:
    story = Story().enqueue(0, 1).enqueue(2, 3, payload="p2").lost_poll(3.5, 4.5, status=503, code=code)
    story.poll(4, 5, "t2", payload="p2").poll(6, 7)
    assert story.kinds() & {"FIFO broken", "priority ignored"} == kinds


@pytest.mark.parametrize(("key", "kinds"), [("k", {"FIFO broken"}), ("other", set())])
def test_the_order_of_held_back_tasks_is_judged_by_their_key(key: str, kinds: set[str]) -> None:
    story = Story().enqueue(0, 1, job_type=KEYED_QUEUE, concurrency_key="k")
    story.enqueue(2, 3, payload="p2", job_type=KEYED_QUEUE, concurrency_key=key)
    story.poll(4, 5, "t2", payload="p2").poll(26, 27)
    assert story.kinds() & {"FIFO broken", "priority ignored"} == kinds


@pytest.mark.parametrize(("second", "kinds"), [("p1.2", {"FIFO broken"}), ("p2.2", set()), ("p2", set())])
def test_order_is_judged_within_a_partition(second: str, kinds: set[str]) -> None:
    """Ids name their partition: these are `order~1.1`, and `order~1.2`, `order~2.2` or `order~2`."""
    story = Story().enqueue(0, 1, payload="p1.1").enqueue(2, 3, payload=second)
    story.poll(4, 5, "t2", payload=second).poll(6, 7, payload="p1.1")
    assert story.kinds() & {"FIFO broken", "priority ignored"} == kinds


def test_a_bound_that_is_overshot_and_a_bare_500_are_told() -> None:
    story = Story().enqueue(0, 1).enqueue(2, 3, payload="p2").poll(4, 5).poll(6, 7, "t2", payload="p2")
    assert "queue bound overshot" in story.kinds(queue_size=1)
    assert "unexpected 5xx" in story.add("poll", 8, 9, 500, {"task_type": []}, {"code": "internal"}).kinds()
    story.add("poll", 8, 9, 503, {"task_type": []}, {"code": "store_unavailable"})
    assert "503 without Retry-After" in story.kinds()


@pytest.mark.parametrize(("queue", "told"), [("order", True), (PARTITIONED_QUEUE, False)])
def test_a_bound_that_is_overshot_is_not_told_of_a_queue_whose_partitions_changed(queue: str, told: bool) -> None:
    story = Story().enqueue(0, 1, job_type=queue).enqueue(2, 3, payload="p2", job_type=queue)
    story.poll(4, 5).poll(6, 7, "t2", payload="p2").faults.append(Fault("repartition", queue, 100.5, 100.6))
    assert ("queue bound overshot" in story.kinds(queue_size=1)) == told


def _two(**asked: Any) -> Story:
    """Two tasks of a queue, the second handed out while the first is for certain."""
    story = Story().enqueue(0, 1, **asked).enqueue(2, 3, payload="p2", **asked)
    return story.poll(4, 5).poll(6, 7, "t2", payload="p2")


def test_two_leases_of_one_concurrency_key_are_told() -> None:
    assert "concurrency key passed" in _two(concurrency_key="k").kinds()
    assert "concurrency key passed" not in _two().kinds()
    story = Story().enqueue(0, 1, concurrency_key="k").enqueue(2, 3, payload="p2", concurrency_key="k")
    # The first may have been let go by a report that got no answer.
    story.poll(4, 5).report(5.5, status=0).poll(6, 7, "t2", payload="p2")
    assert "concurrency key passed" not in story.kinds()


def test_a_queue_with_more_in_workers_hands_than_it_may_have_is_told() -> None:
    story = Story()
    for number in range(1, 6):
        story.enqueue(0, 1, payload=f"p{number}", job_type=LIMITED_QUEUE)
    for number in range(1, 5):
        story.poll(2, 3, f"t{number}", payload=f"p{number}")
    assert "max_processing passed" not in story.kinds()
    assert "max_processing passed" in story.poll(4, 5, "t5", payload="p5").kinds()


@pytest.mark.parametrize(("gap_seconds", "told"), [(0.045, True), (0.051, False)])
def test_a_queue_that_hands_out_faster_than_its_rate_is_told(gap_seconds: float, told: bool) -> None:
    """At 20 a second two may come at once, and then one every 50 ms."""
    story = Story()
    for number in range(1, 31):
        at = 2 + max(0, number - 2) * gap_seconds
        story.enqueue(0, 1, payload=f"p{number}", job_type=RATED_QUEUE)
        story.poll(at, at + 0.5, f"t{number}", payload=f"p{number}")
    assert ("rate passed" in story.kinds()) == told


@pytest.mark.parametrize(("repeated_with", "told"), [(5, True), (0, False)])
def test_a_hand_out_while_its_queue_is_paused_is_told(repeated_with: int, told: bool) -> None:
    story = Story().enqueue(0, 1).enqueue(0, 1, payload="p2").poll(2, 3)
    story.report(4, "fail").report(4.2, "fail").poll(5, 6, "t2", payload="p2")
    story.operations[3].facts["pause_queue_seconds"] = 5
    story.operations[4].facts["pause_queue_seconds"] = repeated_with
    assert ("handed out while paused" in story.kinds()) == told


def test_a_task_that_is_handed_out_too_old_after_a_release_is_told() -> None:
    story = Story().enqueue(0, 1, expires_in_seconds=3).poll(2, 3).report(3.2, "release")
    assert "handed out too old" in story.poll(5, 6, "t2").kinds()
    assert (
        "handed out too old" not in Story().enqueue(0, 1, expires_in_seconds=3).poll(2, 3).poll(14, 15, "t2", 2).kinds()
    )


def test_a_task_that_expired_too_soon_or_after_its_start_is_told() -> None:
    story = Story().enqueue(0, 1, expires_in_seconds=30)
    story.left = [Stored(TASK, "order", "failed", "p1", 1, 2, 100.0, 120.0, error_type="expired")]
    assert story.kinds() >= {"expired too soon", "expired after its start"}


def test_every_mutant_still_finds_its_text(tmp_path: Path) -> None:
    for number, mutant in enumerate(mutants.MUTANTS.values()):
        mutants.break_gateway(mutant, _ROOT, tmp_path / str(number))


def test_a_mutant_that_is_none_is_told_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mutants", "rate ignored", "nosuch"])
    with pytest.raises(SystemExit) as ended:
        mutants.main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "unknown: nosuch; known:" in told
    assert all(shlex.quote(name) in told for name in mutants.MUTANTS)


async def test_a_gateway_that_hands_out_early_is_caught(tmp_path: Path) -> None:
    mutant = msgspec.structs.replace(mutants.MUTANTS["no due-time check"], seconds=3)
    found = await mutants.hunt(mutant, _ROOT, tmp_path)
    assert mutant.caught_as & found.keys(), found


async def test_kills_of_gateways_workers_and_redis_break_no_promise(tmp_path: Path) -> None:
    plan = campaign.Plan(
        seconds=5, seed=5, source=_ROOT, folder=tmp_path / "run", size=Size(gateways=2, workers=1, clients=8),
        faults=("gateway_kill", "worker_kill", "redis_kill"), pause_seconds=(0.1, 0.6),
    )  # fmt: skip
    report = await campaign.run(plan)
    assert report.verdict.violations == []
    assert min(report.faults.get(name, 0) for name in plan.faults) >= 1, report.faults
    assert report.verdict.acknowledged > 50
