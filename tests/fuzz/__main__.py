"""Long forms of what the tests do for a few seconds: `python -m tests.fuzz schema|decoders|attacks`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.fuzz import attacks, decoders, schema
from tests.harness import RedisServer, redis_binaries


def main() -> int:
    """Run one of them against a Redis of its own. Returns the exit status: 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", choices=["schema", "decoders", "attacks"])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (schema, decoders); default: 10")
    parser.add_argument("--seed", type=int, default=None, help="repeat the run of that seed")
    chosen = parser.parse_args()
    if chosen.what == "decoders":
        return decoders.main(chosen.minutes * 60, chosen.seed)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        redis = RedisServer(folder / "redis", next(iter(redis_binaries().values())))
        redis.start()
        try:
            if chosen.what == "attacks":
                print(asyncio.run(attacks.measure(redis.url, folder)))
                return 0
            options = () if chosen.seed is None else ("--seed", str(chosen.seed))
            report = asyncio.run(schema.run(redis.url, folder, chosen.minutes * 60, *options))
        finally:
            redis.stop()
    print(report.output)
    print(f"{report.requests} requests in {report.seconds:.0f} s to {len(report.operations)} operations")
    print(f"never reached: {report.unreached or 'none'}; never answered well: {report.unpassed or 'none'}")
    return 0 if report.ok and not report.unreached else 1


if __name__ == "__main__":
    sys.exit(main())
