"""The long form: `python -m tests.model --minutes 10 --seed 7`. Prints the shortest failing run that it finds.

The same seed makes the same runs. Without a seed it takes one by chance and says which.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.harness import RedisServer, redis_binaries
from tests.model.bench import Bench
from tests.model.machine import StoreMachine


def main() -> int:
    """Run examples, in rounds of one seed each, until the time is over or one fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the first round")
    parser.add_argument("--examples", type=int, default=200, help="in each round")
    parser.add_argument("--steps", type=int, default=80, help="of each example")
    parser.add_argument("--as-found", action="store_true", help="print the first failing run, not the shortest")
    chosen = parser.parse_args()
    phases = (Phase.generate,) if chosen.as_found else (Phase.generate, Phase.shrink)
    chosen_settings = settings(
        max_examples=chosen.examples, stateful_step_count=chosen.steps, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=phases,
    )  # fmt: skip
    logging.basicConfig(format="%(message)s %(verb)s %(error)s", level=logging.ERROR)
    ends_at = time.monotonic() + chosen.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder), next(iter(redis_binaries().values())))
        server.start()
        bench = Bench(server.url)
        try:
            number = chosen.seed
            while time.monotonic() < ends_at:
                print(f"seed {number}: {chosen.examples} examples of up to {chosen.steps} steps", flush=True)
                run_state_machine_as_test(seed(number)(StoreMachine.over(bench)), settings=chosen_settings)
                number += 1
        finally:
            bench.close()
            server.stop()
    for words, times in sorted(bench.seen.items()):
        print(f"{times:8} {words}")
    print(f"{number - chosen.seed} rounds, {bench.calls} calls, all as the model says")
    return 0


if __name__ == "__main__":
    sys.exit(main())
