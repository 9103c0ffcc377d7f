"""The network on both sides of the gateways: the loopback of a namespace of our own, broken by nftables.

Each gateway reaches Redis under an address of its own, and its clients reach it at a port of its own, so that a rule
can meet one of them in one direction.
"""

from __future__ import annotations

import os
import subprocess
import sys

_INSIDE = "CAMPAIGN_NETWORK"


class Network:
    """The plain loopback, which nobody breaks."""

    breakable = False

    def redis_addresses(self, gateways: int) -> tuple[str, ...]:
        """Name the addresses that Redis listens on, one a gateway."""
        return ("127.0.0.1",) * gateways

    def heal(self, *places: str) -> None:
        """End the losses and partitions of these places, or of all."""


class OwnNetwork(Network):
    """A namespace's loopback with nftables. See `enter`."""

    breakable = True

    def __init__(self) -> None:
        self._broken: set[str] = set()

    def redis_addresses(self, gateways: int) -> tuple[str, ...]:
        """Name the addresses that Redis listens on, one a gateway."""
        return tuple(f"127.0.2.{number + 1}" for number in range(gateways))

    def drop(self, place: str, match: str) -> None:
        """Drop what an nftables expression meets, for instance `ip daddr 127.0.2.1`, until `place` is healed."""
        self._broken.add(place)
        _nft(f"add table ip {place}")
        _nft(f"add chain ip {place} out {{ type filter hook output priority 0 ; }}")
        _nft(f"add rule ip {place} out {match} drop")

    def heal(self, *places: str) -> None:
        """End the losses and partitions of these places, or of all."""
        for place in places or sorted(self._broken):
            _nft(f"add table ip {place}; delete table ip {place}")
            self._broken.discard(place)


def enter() -> OwnNetwork:
    """Start this program again in a network namespace of its own, unless it is in one. Needs root, unshare, nft."""
    if os.environ.get(_INSIDE) != "1":
        os.environ[_INSIDE] = "1"
        script = 'ip link set lo up && exec "$0" "$@"'
        arguments = ["-m", "tests.campaign", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--net", "sh", "-c", script, sys.executable, *arguments])
    return OwnNetwork()


def _nft(rule: str) -> None:
    done = subprocess.run(["nft", rule], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"nft {rule}: {done.stderr.strip()}")
