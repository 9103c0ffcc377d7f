"""Connections to the Redis of the settings: every setting that says how to talk to it counts, whoever connects."""

from __future__ import annotations

from gateway.config import Settings
from gateway.store.connect import Connections


def connect(settings: Settings, url: str) -> Connections:
    """Make what talks to Redis. url: where it is, `Settings.redis_location` or the embedded one's socket.

    Raises ValueError when the URL cannot be read.
    """
    return Connections(
        url,
        settings.redis_password,
        sentinel_password=settings.redis_sentinel_password,
        replicas=settings.durability_replicas if settings.durability == "replicated" else 0,
    )
