"""The yardstick of batches does what it says: it enqueues, claims and completes every task."""

from __future__ import annotations

import redis

from benchmarks import scripts


async def test_the_scripts_alone_complete_every_task(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        found = await scripts.run(redis_url, tasks=300, batch=100, callers=2)
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert found["tasks"] == 300
    assert found["enqueue_seconds"] > 0
    assert found["work_seconds"] > 0
    assert 3 <= calls <= 60  # shared by the tasks of a batch
