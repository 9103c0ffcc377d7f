"""A producer that speaks arq, as it was but for the lines marked `new`."""

import asyncio
import json
import os
import sys
from pathlib import Path

import msgspec.msgpack
from arq import create_pool
from arq.connections import RedisSettings

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
RESULT_SECONDS = 60


async def main(path: Path) -> None:
    """Enqueue two jobs about a file and print what came of them."""
    redis = await create_pool(
        RedisSettings.from_dsn(REDIS_URL),
        job_serializer=msgspec.msgpack.encode,  # new
        job_deserializer=msgspec.msgpack.decode,  # new
    )
    try:
        words = await redis.enqueue_job(
            "count_words",
            path.read_text(),
            most_common=3,
            _queue_name="arq:queue:{default:count_words}",  # new
        )
        checksum = await redis.enqueue_job(
            "checksum",
            str(path.absolute()),
            _queue_name="arq:queue:{default:checksum}",  # new
        )
        assert words is not None  # arq: None where the _job_id is taken
        assert checksum is not None
        # Raises arq.jobs.SerializationError, with the handler's words, when a job failed.
        found = {
            "count_words": await words.result(timeout=RESULT_SECONDS),
            "checksum": await checksum.result(timeout=RESULT_SECONDS),
        }
    finally:
        await redis.aclose()
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else "LICENSE")))
