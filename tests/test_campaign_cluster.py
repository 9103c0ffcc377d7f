"""The fault campaign over a Redis Cluster in short, and what a failover may take with it, on histories told by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign import campaign, failovers
from tests.campaign.arena import Size
from tests.campaign.history import Fault, Operation
from tests.campaign.violations import Violation

_ROOT = Path(__file__).parents[1]
_KILLED = Fault("primary_kill", "cluster", 10.0, 16.0, queues=["order"], replaced=12.5)


def _stored(start: float, task: str) -> Operation:
    queue, _, payload = task.partition("~")
    made = {"status": 201, "id": task, "payload": payload, "task_status": "pending", "run_at": start}
    facts = {"items": [{"job_type": queue, "payload": payload}], "key": None}
    return Operation(task, "p1", "enqueue", 0, start, start + 0.1, 201, facts, {"tasks": [made]})


@pytest.mark.parametrize(
    ("kind", "task", "start", "excused"),
    [
        ("acknowledged task lost", "order~1", 9.5, True),
        ("acknowledged task lost", "order~1", 5.0, False),
        ("acknowledged task lost", "order~1", 20.0, False),
        ("acknowledged task lost", "other~1", 9.5, False),
        ("payload changed", "order~1", 9.5, False),
        ("key without an owner", "", 9.5, False),
    ],
)
def test_only_what_a_failover_of_its_queue_explains_is_excused(
    kind: str, task: str, start: float, excused: bool
) -> None:
    violation = Violation(kind, task, "")
    told = failovers.unpromised([violation], [_stored(start, task or "order~1")], [_KILLED], 1)
    assert told == (([], [violation]) if excused else ([violation], []))


def test_an_outage_lasts_until_the_next_task_of_a_queue_that_was_taken_over() -> None:
    operations = [_stored(11.0, "order~1"), _stored(12.6, "other~2"), _stored(13.0, "order~3")]
    ((name, replaced, served),) = failovers.outages(operations, [_KILLED])
    assert (name, replaced, round(served, 3)) == ("primary_kill", 2.5, 0.6)


async def test_a_killed_primary_and_a_moved_slot_break_no_promise(tmp_path: Path) -> None:
    plan = campaign.Plan(
        seconds=1, seed=5, source=_ROOT, folder=tmp_path / "run", size=Size(gateways=2, workers=1, clients=8),
        faults=("primary_kill", "slot_move", "gateway_kill"), pause_seconds=(0.1, 0.3), cluster=True,
        durability="replicated",
    )  # fmt: skip
    report = await campaign.run(plan)
    assert report.verdict.violations == []
    assert min(report.faults.get(name, 0) for name in plan.faults) >= 1, report.faults
    assert report.verdict.acknowledged > 50
    assert report.outages
