"""A process full of producers or workers: what the nemesis kills and stops.

python -m tests.campaign.load ROLE NAME SEED CLIENTS HISTORY HOST:PORT ...; ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

import uvloop

from tests.campaign.history import Log
from tests.campaign.producers import Producer
from tests.campaign.wire import Client
from tests.campaign.workers import Worker


async def main(role: str, name: str, seed: str, clients: str, path: str, *doors: str) -> None:
    """Run so many producers, workers or quiet workers until SIGTERM."""
    log = Log(Path(path), name)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    places = [(host, int(port)) for host, _, port in (door.partition(":") for door in doors)]
    async with asyncio.TaskGroup() as group:
        for number in range(int(clients)):
            own = f"{name}.{number}"
            client = Client(own, places, log, random.Random(f"{seed} {own}"))
            if role == "producers":
                group.create_task(Producer(client, stop).run())
            else:
                group.create_task(Worker(client, stop, quiet=role == "drain").run())


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
