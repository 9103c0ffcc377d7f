"""The sweeper, where more is due at once than one sweep takes."""

from __future__ import annotations

from tests.harness import LiveGateway, wait_until

_BATCH = 1000
_BATCHES = 3  # fifteen sweeps' worth: one a second, as without alarms, would take longer than this test waits


async def test_leases_that_end_at_one_moment_all_go_back_at_once(gateway: LiveGateway) -> None:
    """Each sweep leaves some behind, and the next follows by itself."""
    tasks = [{"job_type": "demo", "payload": number} for number in range(_BATCH)]
    poll = {"worker_id": "w", "task_type": "demo", "max": _BATCH, "lease_seconds": 1, "wait": 0}
    for _ in range(_BATCHES):
        assert (await gateway.post("/tasks", tasks)).status_code == 201
        assert len((await gateway.post("/poll", poll)).json()["tasks"]) == _BATCH

    async def all_pending() -> bool:
        return bool((await gateway.get("/queues/demo")).json()["pending"] == _BATCH * _BATCHES)

    await wait_until(all_pending, seconds=8.0)
