"""The worker's heart: one batched request keeps all leases, carries progress and log lines, and hears of
cancellation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Raw

from workers_sdk.backoff import Backoff
from workers_sdk.errors import GatewayError, Unreachable
from workers_sdk.lease import Lease
from workers_sdk.transport import Transport
from workers_sdk.wire import HeartbeatsReply, ItemResult, LeaseToKeep, batches, decode_heartbeats, encode

log = logging.getLogger("workers_sdk")
_MOST_SECONDS = 10.0
_NEWS_SECONDS = 1.0
_LISTEN_SECONDS = 2.0
_MAX_LINES = 100


class Heart:
    """Beats for every lease that is held. on_directive: told what the gateway tells the worker.

    listening: beat every few seconds even with empty hands: a drained worker does not poll, and has to hear when it
    may again.
    """

    def __init__(self, worker_id: str, transport: Transport, on_directive: Callable[[str], None]) -> None:
        self._worker_id = worker_id
        self._transport = transport
        self._on_directive = on_directive
        self._leases: dict[str, Lease] = {}
        self._wake = asyncio.Event()
        self._wake_at = float("inf")
        self._news_at = float("inf")
        self._beat_at = 0.0
        self._retry_after_seconds: float | None = None
        self.listening = False

    def hold(self, lease: Lease) -> None:
        """Keep this lease from now on."""
        self._leases[lease.task.lease_token] = lease
        if lease.beat_at < self._wake_at:
            self._wake.set()

    def drop(self, lease: Lease) -> None:
        """Keep it no longer."""
        self._leases.pop(lease.task.lease_token, None)

    def tell(self) -> None:
        """There is progress or a log line to send: soon, but not each by itself."""
        if self._news_at == float("inf"):
            self._news_at = max(asyncio.get_running_loop().time(), self._beat_at + _NEWS_SECONDS)
            self._wake.set()

    def listen(self, listening: bool) -> None:
        """Beat with empty hands, or stop that."""
        self.listening = listening
        self._wake.set()

    async def run(self) -> None:
        """Beat for ever. Cancel it to stop."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(most_seconds=3.0)
        not_before = 0.0
        while True:
            self._wake_at = max(self._due_at(), not_before)
            if not await self._sleep_until(self._wake_at):
                continue
            self._news_at = float("inf")
            self._beat_at = loop.time()
            if await self._beat(list(self._leases.values())):
                backoff.succeeded()
                not_before = 0.0
            else:
                not_before = loop.time() + backoff.failed(self._retry_after_seconds)

    async def flush(self, lease: Lease) -> None:
        """Send what this task's handler left to be told, before its outcome. Gives up when the lease is over."""
        backoff = Backoff(most_seconds=3.0)
        while lease.context.has_news and not lease.lost and not lease.over:
            if not await self._beat([lease]):
                await asyncio.sleep(backoff.failed(self._retry_after_seconds))

    def _due_at(self) -> float:
        beats = [lease.beat_at for lease in self._leases.values()]
        if self.listening:
            beats.append(self._beat_at + _LISTEN_SECONDS)
        return min([*beats, self._news_at])

    async def _sleep_until(self, at: float) -> bool:
        """Whether the time came; False: it may have changed."""
        seconds = at - asyncio.get_running_loop().time()
        if seconds <= 0:
            return True
        try:
            async with asyncio.timeout(None if at == float("inf") else seconds):
                await self._wake.wait()
        except TimeoutError:
            return True
        self._wake.clear()
        return False

    async def _beat(self, leases: list[Lease]) -> bool:
        """Send one heartbeat for these leases. False: some have to be sent again soon."""
        items = []
        self._retry_after_seconds = None
        for lease in leases:
            progress, lines = lease.context.take_news(_MAX_LINES)
            item = LeaseToKeep(
                id=lease.task.id,
                lease_token=lease.task.lease_token,
                progress=None if progress is None else Raw(progress),
                log=lines or None,
            )
            items.append(((lease, progress, lines), encode(item)))
        done = True
        for batch in batches(items) if items else [[]]:
            held = [item for item, _ in batch]
            try:
                done = await self._send([lease for lease, _, _ in held], [text for _, text in batch]) and done
            except GatewayError as error:
                done = False
                self._retry_after_seconds = error.retry_after_seconds
                if error.retryable:
                    log.info("missed a heartbeat", extra={"leases": len(batch), "code": error.code})
                    for lease, progress, lines in held:
                        lease.context.put_news_back(progress, lines)
                    continue
                log.warning(
                    "dropped progress and log lines that were refused", extra={"leases": len(batch), "code": error.code}
                )
                done = await self._beat_bare([lease for lease, _, _ in held]) and done
        return done and not any(lease.context.has_news for lease in leases)

    async def _beat_bare(self, leases: list[Lease]) -> bool:
        """Without news: one task's refused progress must not cost the others their leases."""
        bare = [encode(LeaseToKeep(id=lease.task.id, lease_token=lease.task.lease_token)) for lease in leases]
        try:
            return await self._send(leases, bare)
        except GatewayError as error:
            log.warning("missed a heartbeat", extra={"leases": len(leases), "code": error.code})
            return False

    async def _send(self, leases: list[Lease], items: Iterable[bytes]) -> bool:
        loop = asyncio.get_running_loop()
        since = loop.time()
        body = b'{"worker_id":%b,"leases":[%b]}' % (encode(self._worker_id), b",".join(items))
        # Waiting long for one reply could cost the leases: rather ask again.
        patience_seconds = min([_MOST_SECONDS, *(max(1.0, lease.task.lease_seconds / 3) for lease in leases)])
        reply = await self._transport.request("POST", "/heartbeats", body, timeout_seconds=patience_seconds)
        if reply.status != 200:
            raise reply.error()
        try:
            found: HeartbeatsReply = decode_heartbeats(reply.body)
        except msgspec.DecodeError as error:
            raise Unreachable(f"the reply to a heartbeat was not understood: {error}", sent=True) from error
        self._on_directive(found.directive)
        kept = True
        for lease, result in zip(leases, found.leases, strict=False):
            kept = self._hear(lease, result, since) and kept
        return kept

    def _hear(self, lease: Lease, result: ItemResult, since: float) -> bool:
        if result.status == 200:
            lease.extend(since, result.lease_seconds)
            if result.cancel_requested:
                lease.interrupt("cancelled")
        elif result.status in (404, 409):
            lease.lose()
        else:
            code = (result.error or {}).get("code")
            log.info("missed a heartbeat", extra={"task_id": lease.task.id, "code": code})
            return False
        return True
