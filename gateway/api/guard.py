"""The door in front of every handler: whose page sent it, who asks, may they, and not too often.

Nothing behind it runs for a request that is not let in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import msgspec
from starlette.types import Scope

from gateway.api.large_bodies import LargeBodies
from gateway.authentication import Authenticator
from gateway.errors import (
    ForbiddenForward,
    ForbiddenHost,
    ForbiddenOrigin,
    InvalidToken,
    StoreUnavailable,
    Unauthenticated,
)
from gateway.identity import ADMIN, NOBODY, READ, WORK, WRITE, Identity

Header = tuple[bytes, bytes]
_PREFLIGHT_SECONDS = 600
_ADDRESS = re.compile(rb"[0-9]{1,3}(\.[0-9]{1,3}){3}")
_MOST_HOSTS = 1000


class Door(msgspec.Struct, frozen=True):
    """What a route asks of who comes. scope '': nothing, not even a token. bucket: which rate limit it spends of."""

    scope: str
    bucket: str = "requests"


OPEN = Door("")
WRITES, READS, WORKS, ADMINS = Door(WRITE), Door(READ), Door(WORK), Door(ADMIN)
# Producers cannot stop workers from reporting: reports are counted by themselves.
REPORTS = Door(WORK, "reports")


class Counter(Protocol):
    """Who counts requests (see limits.py)."""

    @property
    def idle(self) -> bool:
        """Whether nobody has a limit."""

    def spend_stored(self, tenant: str, bucket: str) -> tuple[Header, ...] | None:
        """Spend one request that is in store. None: there is none."""

    async def take(self, whose: str, bucket: str) -> tuple[Header, ...]:
        """Spend one request. Returns headers for the reply; raises RateLimited."""


class Guard:
    """Lets requests in. by_address: count who has no valid token by client address.

    origins: pages of these may ask from a browser (`https://host`, no path); pages of other sites may not.
    hosts: names with a dot that a gateway which asks for no token answers to. said_open: to ask nobody was said aloud
    (AUTH=none); otherwise what a proxy passes on is refused, since it may come from anywhere.
    """

    def __init__(
        self, authenticator: Authenticator, counter: Counter, *, by_address: bool = False, origins: Sequence[str] = (),
        hosts: Sequence[str] = (),
        said_open: bool = True,
    ) -> None:  # fmt: skip
        self._authenticator = authenticator
        self._counter = counter
        self._by_address = by_address
        self._hosts = frozenset(host.lower().encode() for host in hosts)
        self._forwarded = frozenset(() if said_open else (b"x-forwarded-for", b"x-forwarded-host", b"forwarded"))
        self._known_hosts: dict[bytes, bool] = {}
        self.large_bodies = LargeBodies()
        # Why nobody may be let in, or ''.
        self.refusal = ""
        self._origins = frozenset(origin.encode() for origin in origins)

    def wave_through(self, headers: dict[bytes, bytes], door: Door) -> tuple[Identity, tuple[Header, ...]] | None:
        """Let in at once whom nothing speaks against, as nearly everybody. None: ask `admit`."""
        if self._origins or b"origin" in headers or b"sec-fetch-site" in headers or self.refusal:
            return None
        if self._authenticator.open and (
            not self._known_hosts.get(headers.get(b"host", b""), False) or not self._forwarded.isdisjoint(headers)
        ):
            return None
        identity = self._authenticator.known(headers.get(b"authorization"))
        if identity is None or (door.scope not in identity.scopes and ADMIN not in identity.scopes):
            return None
        if self._counter.idle:
            return identity, ()
        if self._by_address and self._authenticator.open:
            return None
        left = self._counter.spend_stored(identity.tenant, door.bucket)
        return None if left is None else (identity, left)

    async def admit(self, scope: Scope, headers: dict[bytes, bytes], door: Door) -> tuple[Identity, tuple[Header, ...]]:
        """Say who asks, and what headers the reply gets. Raises the refusal of who is not let in."""
        if b"origin" in headers or b"sec-fetch-site" in headers:
            self._check_origin(headers)
        if not door.scope:
            return NOBODY, ()
        if self.refusal:
            raise StoreUnavailable(self.refusal)
        if self._authenticator.open and not self._goes_by(headers.get(b"host", b"")):
            raise ForbiddenHost()
        if self._authenticator.open and not self._forwarded.isdisjoint(headers):
            raise ForbiddenForward()
        authorization = headers.get(b"authorization")
        identity = self._authenticator.known(authorization)
        if identity is None:
            identity = await self._identify(scope, authorization)
        identity.require(door.scope)
        if self._counter.idle:
            return identity, ()
        anonymous = self._by_address and self._authenticator.open
        whose = f"address:{address_of(scope)}" if anonymous else f"tenant:{identity.tenant}"
        return identity, await self._counter.take(whose, door.bucket)

    async def confirm(self, headers: dict[bytes, bytes]) -> None:
        """Ask again whether who waited long may still come in. Raises as `Authenticator.identify`."""
        await self._authenticator.identify(headers.get(b"authorization"))

    async def visitor(self, headers: dict[bytes, bytes]) -> Identity:
        """Who asks for what is open to everybody: whose token it is, nobody without a valid one."""
        try:
            return await self._authenticator.identify(headers.get(b"authorization"))
        except (Unauthenticated, InvalidToken):
            return NOBODY

    def cors(self, headers: dict[bytes, bytes]) -> tuple[Header, ...]:
        """What tells a browser that the page which asked may read the reply. Source: the Fetch standard."""
        if not self._origins:
            return ()
        origin = headers.get(b"origin", b"")
        if origin not in self._origins:
            return ((b"vary", b"origin"),)
        return (
            (b"vary", b"origin"),
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"*"),
        )

    def preflight(self, headers: dict[bytes, bytes], methods: str) -> tuple[Header, ...] | None:
        """Answer a browser that asks before it asks. None: it is no such question, or not from a page that may."""
        if b"access-control-request-method" not in headers or headers.get(b"origin", b"") not in self._origins:
            return None
        return (
            *self.cors(headers),
            (b"access-control-allow-methods", methods.encode()),
            (b"access-control-allow-headers",
             b"authorization, content-type, idempotency-key, if-none-match, last-event-id, prefer, traceparent, "
             b"tracestate, x-request-id"),
            (b"access-control-max-age", b"%d" % _PREFLIGHT_SECONDS),
        )  # fmt: skip

    async def _identify(self, scope: Scope, authorization: bytes | None) -> Identity:
        try:
            return await self._authenticator.identify(authorization)
        except (Unauthenticated, InvalidToken):
            if self._by_address and not self._counter.idle:
                await self._counter.take(f"address:{address_of(scope)}", "requests")
            raise

    def _goes_by(self, host: bytes) -> bool:
        """Whether nobody can have rebound this name to us: it is an address, has no dot, or was configured."""
        known = self._known_hosts.get(host)
        if known is None:
            name = host.lower() if host.startswith(b"[") else host.lower().rpartition(b":")[0] or host.lower()
            known = name.startswith(b"[") or b"." not in name or _ADDRESS.fullmatch(name) is not None
            known = known or name in self._hosts
            if len(self._known_hosts) >= _MOST_HOSTS:
                self._known_hosts.clear()
            self._known_hosts[host] = known
        return known

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """Refuse what a page of another site sent: it may ride on a network that reaches us, or on no token at all."""
        origin = headers.get(b"origin")
        if origin is not None and origin in self._origins:
            return
        site = headers.get(b"sec-fetch-site", b"none" if origin is None else b"")
        if site in (b"same-origin", b"none"):
            return
        if site == b"" and origin is not None:
            _, scheme_ends, place = origin.partition(b"://")
            if scheme_ends and place == headers.get(b"host", b""):
                return
        raise ForbiddenOrigin()


def address_of(scope: Scope) -> str:
    """The client's address as the server saw it: of IPv6 its network of 64 bits, which one client has to itself."""
    client = scope.get("client")
    address = str(client[0]) if isinstance(client, tuple | list) and client else "unknown"
    if ":" not in address:
        return address
    return ":".join(address.split("%")[0].split(":")[:4])
