"""Seeds that once found a defect, kept to be run again: `python -m tests.campaign --kept`.

A seed fixes what is asked and what is broken when, not how processes interleave, and the load has grown since: each
defect has a test of its own besides, which fails for certain where it comes back.
"""

from __future__ import annotations

import msgspec


class Kept(msgspec.Struct, frozen=True):
    """A seed, its faults as the command line takes them, what it found, and whether it was over a cluster."""

    seed: int
    faults: str
    found: str
    cluster: bool = False


KEPT = (
    Kept(1, "none", "a fail after the last lease had lapsed was answered as accepted"),
    Kept(2, "usual", "a release after an accepted fail was answered as accepted"),
    Kept(2, "usual", "store_full for tasks that were stored, when only their Idempotency-Key did not fit"),
    Kept(2, "usual", "the rechecks of all queues ended when Redis was full"),
    Kept(2, "usual", "a task that replaced another one was handed out above its max_attempts"),
    Kept(101, "usual", "a repeated enqueue told a later run_at than the task's own"),
    Kept(1, "power_cut", "a repeated enqueue told a future run_at for a task that was final"),
    Kept(702, "usual", "a refused repetition freed the key of a try that was still on its way, and was stored"),
    Kept(702, "usual", "store_full for a task that was stored, when the gateway's own repetition met a full Redis"),
    Kept(810, "cluster", "an Idempotency-Key noted by a primary that was replaced, and vouched for by its heir", True),
    Kept(821, "cluster", "a queue's bound overshot while partitions from before were worked off; not promised", True),
)
