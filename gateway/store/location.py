"""Where Redis is, spelled as one URL: a server, the sentinels that know it, or the nodes of a cluster.

    redis://, rediss://, unix://                        as redis-py reads them
    redis-sentinel://host:port,host:port/0#master       database and name of the primary may be left out
    redis-cluster://host:port,host:port                 some of its nodes; it tells of the others
With `rediss-` in front instead, the servers (not the sentinels) are spoken to by TLS.
"""

from __future__ import annotations

from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

Address: TypeAlias = tuple[str, int]
SENTINEL_PORT, SERVER_PORT = 26379, 6379
DEFAULT_MASTER = "mymaster"


class Location(msgspec.Struct, frozen=True):
    """What a URL says. addresses: the sentinels, or nodes of a cluster; none for a single server."""

    kind: Literal["server", "sentinel", "cluster"]
    url: str
    addresses: tuple[Address, ...] = ()
    master: str = DEFAULT_MASTER
    db: int = 0
    tls: bool = False


def parse(url: str) -> Location:
    """Read a URL. Raises ValueError when it names no address, or a database in a cluster."""
    parts = urlsplit(url)
    secure, mark, kind = parts.scheme.partition("-")
    if not mark or secure not in ("redis", "rediss") or kind not in ("sentinel", "cluster"):
        return Location("server", url)
    port = SENTINEL_PORT if kind == "sentinel" else SERVER_PORT
    addresses = tuple(address_of(text.strip(), port) for text in parts.netloc.split(",") if text.strip())
    if not addresses:
        raise ValueError("it names no address")
    path = parts.path.strip("/")
    db = int(path) if path else 0
    if kind == "cluster":
        if db:
            raise ValueError("a cluster has database 0 only")
        return Location("cluster", url, addresses, tls=secure == "rediss")
    return Location("sentinel", url, addresses, parts.fragment or DEFAULT_MASTER, db, secure == "rediss")


def address_of(text: str, port: int) -> Address:
    """Read host, host:port or [v6]:port. Raises ValueError for a port that is none."""
    host, mark, number = text.rpartition(":")
    if not mark or (text.startswith("[") and text.endswith("]")):
        host, number = text, str(port)
    if not number.isdigit() or not 0 < int(number) < 65536 or not host:
        raise ValueError(f"{text} is not host:port")
    return host.strip("[]"), int(number)
