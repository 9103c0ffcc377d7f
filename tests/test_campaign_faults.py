"""What the campaign's nemesis breaks is broken, and whole again afterwards; what it was asked can be repeated."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaign import asked, seeds
from tests.campaign.servers import child_environment

_ROOT = Path(__file__).parents[1]
_DOCUMENT = (_ROOT / "docs" / "reliability.md").read_text()
# In a network namespace of its own: how many connections to a gateway's port failed during a fault, and after it.
_COUNT_FAILURES = """
import asyncio, random, sys
from pathlib import Path
from tests.campaign import faults
from tests.campaign.arena import Arena, Size
from tests.campaign.disks import Disk
from tests.campaign.network import OwnNetwork

async def connects(port):
    try:
        async with asyncio.timeout(0.1):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except TimeoutError:
        return False
    writer.close()
    return True

async def main(folder, source):
    parts = {"disk": Disk(folder / "data"), "network": OwnNetwork(), "skewed_clocks": False}
    arena = Arena(folder, source, Size(gateways=1), 1, **parts)
    try:
        await arena.start()
        port = arena.gateways[0].port
        for name in ("client_loss", "client_partition", "client_one_way"):
            failed, fault = 0, asyncio.create_task(faults.FAULTS[name][0](arena, random.Random(1)))
            while not fault.done():
                failed += not await connects(port)
            await fault
            print(name, failed > 0, all([await connects(port) for _ in range(20)]))
    finally:
        await arena.stop()

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def _lacks_network() -> str:
    """Name what it takes to break a network and is not on this machine; '' where all is."""
    missing = [tool for tool in ("unshare", "ip", "nft") if shutil.which(tool) is None]
    if not missing and subprocess.run(["unshare", "--net", "nft", "list", "ruleset"], capture_output=True).returncode:
        missing = ["the right to make a network namespace with nftables"]
    return ", ".join(missing)


@pytest.mark.skipif(bool(_lacks_network()), reason=f"not on this machine: {_lacks_network()}")
def test_the_network_between_clients_and_a_gateway_is_broken_and_healed(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', sys.executable, "-c",
         _COUNT_FAILURES, str(tmp_path), str(_ROOT)],
        cwd=_ROOT, env=child_environment(_ROOT), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    told = ["client_loss True True", "client_partition True True", "client_one_way True True"]
    assert done.stdout.splitlines() == told, done.stderr


@pytest.mark.parametrize("kept", seeds.KEPT, ids=lambda kept: kept.arguments[:30])
def test_a_kept_campaign_is_spelled_out(kept: seeds.Kept) -> None:
    (one,) = asked.campaigns(asked.parser().parse_args(kept.arguments.split()))
    # Not by a set of faults, whose members may change, nor by what holds where an argument is left out.
    assert one.faults == (",".join(one.names) or "none")
    assert all(f"--{name} " in kept.arguments for name in ("seed", "seconds", "clients"))
    assert asked.campaigns(asked.parser().parse_args(asked.spelled(one).split())) == [one]
    assert all(kept.found)


def test_the_kept_campaigns_are_run_as_they_were_or_shortened() -> None:
    as_they_were = asked.campaigns(asked.parser().parse_args(["--kept"]))
    assert [asked.spelled(one) for one in as_they_were] == [
        asked.spelled(*asked.campaigns(asked.parser().parse_args(kept.arguments.split()))) for kept in seeds.KEPT
    ]
    assert {one.seconds for one in asked.campaigns(asked.parser().parse_args(["--kept", "--seconds", "5"]))} == {5.0}


@pytest.mark.parametrize("arguments", ["--faults nothing", "--faults slot_move", "--cluster --faults redis_kill"])
def test_faults_that_are_not_there_are_refused(arguments: str) -> None:
    with pytest.raises(ValueError, match=r"faults: nothing|with --cluster"):
        asked.campaigns(asked.parser().parse_args(arguments.split()))


def test_the_document_tells_what_each_campaign_of_its_figures_was_asked() -> None:
    figures = _DOCUMENT.partition("## Figures")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| [^|*]+ \| ([0-9a-f]{7}) \| ([\d, ]+) \|", figures, re.MULTILINE)
    told = re.findall(r"^([0-9a-f]{7}): (--.*)$", _DOCUMENT, re.MULTILINE)
    campaigns = [(code, asked.campaigns(asked.parser().parse_args(arguments.split()))) for code, arguments in told]
    assert sorted((code, one.seed) for code, some in campaigns for one in some) == sorted(
        (code, int(seed)) for code, some in rows for seed in some.split(", ")
    )


@pytest.mark.parametrize(
    "arguments", re.findall(r"^python -m tests\.campaign( -.*?)?(?: +#.*)?$", _DOCUMENT, re.MULTILINE)
)
def test_the_documents_commands_are_understood(arguments: str) -> None:
    assert asked.campaigns(asked.parser().parse_args(arguments.split()))
