"""Processes: each runs until it is told to end, obeys, and says nothing of a defect meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.campaign.servers import GatewayNode, LoadNode
from tests.campaign.violations import Violation


def check(gateways: Sequence[GatewayNode], clients: Sequence[LoadNode]) -> Iterator[Violation]:
    """Yield every process that ended by itself or did not obey a SIGTERM, and what gateways logged of defects.

    Clients that are gone ask for nothing, and what nobody asks for breaks no promise: theirs count as much.
    """
    for node in gateways:
        for death in node.deaths:
            yield Violation("gateway died", "", death)
        text = node.log.read_text(errors="replace") if node.log.exists() else ""
        lines = [line for line in text.splitlines() if "Traceback" in line or '"level":"error"' in line]
        if lines:
            yield Violation("defect in a gateway's log", "", f"{node.name}: {lines[0][:500]}")
    for client in clients:
        for death in client.deaths:
            yield Violation("client died", "", death)
