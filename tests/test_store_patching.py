"""What a patch says of the time of a waiting task."""

from __future__ import annotations

import msgspec
import pytest

from tests import lives
from tests.harness import Clock, Store


@pytest.mark.parametrize(("due", "after_ms"), [(b"+5000", 5000), (b"+0", 0), (b"0", 0)])
async def test_a_patched_task_says_when_it_is_due_also_when_that_is_over(
    store: Store, clock: Clock, due: bytes, after_ms: int
) -> None:
    task = await lives.enqueue(store, delay_ms=60_000)
    clock.advance(10)
    due_ms = clock.now_ms + after_ms
    await store.tasks.patch(lives.QUEUE, task.id, lambda spec: msgspec.structs.replace(spec, delay_ms=0), due)
    assert (await lives.read(store, task.id)).run_at_ms == due_ms
    clock.advance(9)
    leased = await lives.take_one(store)
    assert leased.task.run_at_ms == due_ms
