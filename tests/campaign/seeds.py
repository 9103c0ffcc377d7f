"""Campaigns that once found something, kept to be run again: `python -m tests.campaign --kept`, `make campaign-kept`.

A seed fixes what is asked and what is broken when, not how processes interleave, and the load has grown since: each
defect has a test of its own besides, which fails for certain where it comes back. Names of faults are spelled out, as
they were then: sets of them grow, and a seed draws from them.
"""

from __future__ import annotations

import msgspec

_USUAL = (
    "gateway_kill,gateway_term,gateway_stop,worker_kill,worker_stop,producer_kill,redis_kill,redis_restart,"
    "redis_torn_tail,redis_stop,redis_sleep,client_kill,client_pause,script_flush,aof_rewrite,redis_full,store_link,"
    "client_link"
)
_NETWORK = "clocks,packet_loss,partition,one_way"
_POWER = "power_cut,gateway_kill,worker_kill,store_link"
_NODES = "primary_kill,primary_stop,primary_restart,replica_kill,slot_move,node_clients,node_scripts"
_CLUSTER = f"gateway_kill,gateway_term,gateway_stop,worker_kill,worker_stop,producer_kill,client_link,{_NODES}"
_LATER_CLUSTER = (
    "gateway_kill,gateway_term,gateway_stop,gateway_files,worker_kill,worker_stop,producer_kill,client_link,"
    f"repartition,{_NODES}"
)


class Kept(msgspec.Struct, frozen=True):
    """A campaign as the command line takes it, and what it found."""

    arguments: str
    found: tuple[str, ...]


# How long the first four were, and with how many clients, was not noted.
KEPT = (
    Kept(
        "--seed 1 --faults none --seconds 60 --clients 12",
        ("a fail after the last lease had lapsed was answered as accepted",),
    ),
    Kept(
        f"--seed 2 --faults {_USUAL} --seconds 60 --clients 12",
        (
            "a release after an accepted fail was answered as accepted",
            "store_full for tasks that were stored, when only their Idempotency-Key did not fit",
            "the rechecks of all queues ended when Redis was full",
            "a task that replaced another one was handed out above its max_attempts",
        ),
    ),
    Kept(
        f"--seed 101 --faults {_USUAL} --seconds 60 --clients 12",
        ("a repeated enqueue told a later run_at than the task's own",),
    ),
    Kept(
        "--seed 1 --faults power_cut --seconds 60 --clients 12",
        ("a repeated enqueue told a future run_at for a task that was final",),
    ),
    Kept(
        f"--seed 201 --faults {_USUAL},{_NETWORK} --seconds 90 --clients 100 --pause 0.3 1.5",
        ("a request without an answer, refused by a full Redis when it was repeated, lost its Idempotency-Key",),
    ),
    Kept(
        f"--seed 202 --faults {_POWER} --seconds 45 --clients 100 --pause 0.5 2",
        ("a request of on_conflict: replace, repeated 12 s later, made its task again; not promised",),
    ),
    Kept(
        f"--seed 300 --faults {_USUAL},{_NETWORK} --seconds 150 --clients 150 --pause 0.2 1.2",
        ("a mistake of the checker, which judged order while a gateway was stopped",),
    ),
    Kept(
        f"--seed 300 --faults {_POWER} --seconds 60 --clients 150 --pause 0.3 1.5",
        ("a mistake of the checker, which took a repeated hand-out's lease for longer than it was",),
    ),
    Kept(
        f"--seed 702 --faults {_USUAL} --seconds 75 --clients 100 --pause 0.2 1.0",
        ("a refused repetition freed the key of a try that was still on its way, and was stored",),
    ),
    Kept(
        f"--seed 702 --faults {_USUAL} --seconds 75 --clients 100",
        ("store_full for a task that was stored, when the gateway's own repetition met a full Redis",),
    ),
    Kept(
        f"--cluster --seed 810 --faults {_CLUSTER} --seconds 180 --clients 60",
        ("an Idempotency-Key noted by a primary that was replaced, and vouched for by its heir",),
    ),
    Kept(
        f"--cluster --seed 821 --faults {_LATER_CLUSTER} --seconds 180 --clients 60",
        ("a queue's bound overshot while partitions from before were worked off; not promised",),
    ),
    Kept(
        f"--cluster --durability local --seed 822 --faults {_LATER_CLUSTER} --seconds 60 --clients 60",
        ("the same; and twelve hand-outs forgotten by failovers, not promised either",),
    ),
)
