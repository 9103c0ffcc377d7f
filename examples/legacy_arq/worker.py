"""Works on jobs that arq's producers enqueue, without arq: `python -m workers_sdk examples.legacy_arq.worker`.

`count_words` is as it was in the arq application; `serve` calls it as arq's worker did. See docs/legacy-arq.md.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from workers_sdk import Context, GiveUp, Release, Retry, Worker

# What an arq worker had unless it was told otherwise.
JOB_TIMEOUT_SECONDS = 300
MAX_TRIES = 5


class Call(msgspec.Struct):
    """What `enqueue_job` was called with: the payload of every job of arq's."""

    function: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


worker = Worker()


def serve(function: Callable[..., Awaitable[Any]]) -> None:
    """Take the queue with a function's name, and call it with arq's `ctx`, positional and keyword arguments."""

    @worker.task(function.__name__, timeout_seconds=JOB_TIMEOUT_SECONDS)
    async def handler(call: Call, ctx: Context) -> Any:
        if ctx.task.attempt > MAX_TRIES:
            raise GiveUp(f"max {MAX_TRIES} retries exceeded")
        try:
            return await function({"job_id": ctx.task.id, "job_try": ctx.task.attempt}, *call.args, **call.kwargs)
        except (Retry, Release, GiveUp):
            raise
        except Exception as error:
            # arq tries again only where it is asked to by a Retry.
            raise GiveUp(f"{type(error).__name__}: {error}") from error


async def count_words(ctx: dict[str, Any], text: str, most_common: int = 10) -> dict[str, Any]:
    """Count the words of a text."""
    words = text.lower().split()
    return {"words": len(words), "most_common": Counter(words).most_common(most_common)}


serve(count_words)
