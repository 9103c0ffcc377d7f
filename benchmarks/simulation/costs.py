"""What the simulated parts cost: seconds of Redis for each script, and the ways between processes."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds that one Redis, which does one thing at a time, spends; and seconds on the way.

    pipeline_s: on reading and answering one pipeline. *_call_s: on a script call, whatever it carries. *_task_s,
    claim_poll_s: on each task or poll in it besides. way_s: from a process to Redis or back. jitter_s: mean of what is
    added to each way, exponential. turn_s: from a reply or a ring in a gateway to the next thing it does. http_s:
    between a client and its gateway. look_s: on a call of the index of alarms that notes or settles something.

    The defaults were measured with `python -m benchmarks.simulation costs` (script calls of 1 and of 100 tasks); the
    ways are those of one machine. A data centre has 100 to 500 us instead.
    """

    pipeline_s: float = 20e-6
    enqueue_call_s: float = 64e-6
    enqueue_task_s: float = 11e-6
    claim_call_s: float = 40e-6
    claim_poll_s: float = 1e-6
    claim_task_s: float = 19e-6
    complete_call_s: float = 46e-6
    complete_task_s: float = 34e-6
    pass_on_s: float = 11e-6
    expire_s: float = 28e-6
    look_s: float = 8e-6
    way_s: float = 60e-6
    jitter_s: float = 40e-6
    turn_s: float = 80e-6
    http_s: float = 200e-6


DEFAULT_COSTS = Costs()
