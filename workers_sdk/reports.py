"""The worker's outbox: outcomes go out in batches, each until the gateway has accepted it or its lease is over.

While one request is under way the next outcomes collect, so that a busy worker's batches grow by themselves. A request
also asks for the next tasks. Both are safe to repeat: reports by their tokens, the poll by its id.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from workers_sdk.backoff import Backoff
from workers_sdk.errors import GatewayError, NotAllowed, Unreachable
from workers_sdk.lease import Lease
from workers_sdk.outcomes import Outcome, failed_for_good
from workers_sdk.tasks import LeasedTask
from workers_sdk.transport import Reply, Transport
from workers_sdk.wire import ItemResult, Poll, batches, decode_outcomes, encode

log = logging.getLogger("workers_sdk")
_REPLY_SECONDS = 30.0
_WORDS = {
    "completed": "completed a task",
    "failed": "failed a task",
    "retrying": "failed an attempt",
    "cancelled": "cancelled a task",
}


class Claims(Protocol):
    """Who asks for tasks."""

    def begin(self, *, wait: bool) -> Poll | None:
        """Reserve the free slots for a poll; None: there is nothing to ask for now."""

    def end(self, tasks: list[LeasedTask] | None) -> None:
        """The poll brought these tasks; None: no reply came."""

    def hear(self, reply: Reply) -> None:
        """Take note of a reply's directive."""

    def refused(self, error: NotAllowed) -> None:
        """The gateway refused the token, or what it may do."""


class Outbox:
    """Sends outcomes. claims: asked for a poll to go with each request; on_settled: told of each lease that is done
    with."""

    def __init__(
        self, worker_id: str, transport: Transport, claims: Claims, on_settled: Callable[[Lease], None]
    ) -> None:
        self._worker_id = worker_id
        self._transport = transport
        self._claims = claims
        self._on_settled = on_settled
        self._waiting: deque[tuple[Lease, Outcome]] = deque()
        self._wake = asyncio.Event()
        self._sending = 0
        self._backoff = Backoff(most_seconds=3.0)
        self._retry_after_seconds: float | None = None
        # Reports that were refused as a part of a batch go one by one, to find the one at fault.
        self._one_by_one = 0

    def __len__(self) -> int:
        """Outcomes that are not accepted yet."""
        return len(self._waiting) + self._sending

    @property
    def waiting(self) -> bool:
        """Whether there are outcomes that no request carries yet."""
        return bool(self._waiting)

    def add(self, lease: Lease, outcome: Outcome) -> None:
        """Send this outcome."""
        outcome.id, outcome.lease_token = lease.task.id, lease.task.lease_token
        self._waiting.append((lease, outcome))
        self._wake.set()

    async def run(self) -> None:
        """Send for ever. Cancel it to stop."""
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            if not await self._send(self._take()):
                await asyncio.sleep(self._backoff.failed(self._retry_after_seconds))

    def _take(self) -> list[tuple[tuple[Lease, Outcome], bytes]]:
        ready = []
        while self._waiting:
            lease, outcome = self._waiting.popleft()
            if lease.over:
                self._settle(
                    lease, logging.WARNING, "lost the lease of a task before its outcome was confirmed", outcome
                )
            else:
                ready.append(((lease, outcome), encode(outcome)))
                if self._one_by_one:
                    self._one_by_one -= 1
                    break
        if not ready:
            return []
        first, *rest = batches(ready)
        self._waiting.extendleft(item for batch in reversed(rest) for item, _ in reversed(batch))
        return first

    async def _send(self, batch: list[tuple[tuple[Lease, Outcome], bytes]]) -> bool:
        """Send these outcomes. False: some have to be sent again, but not at once."""
        if not batch:
            return True
        items = [item for item, _ in batch]
        self._retry_after_seconds = None
        self._sending = len(items)
        poll = self._claims.begin(wait=False)
        tasks: list[LeasedTask] | None = None
        try:
            body = b'{"worker_id":%b,"outcomes":[%b]%b}' % (
                encode(self._worker_id),
                b",".join(text for _, text in batch),
                b"" if poll is None else b',"next":' + encode(poll),
            )
            reply = await self._transport.request("POST", "/outcomes", body, timeout_seconds=_REPLY_SECONDS)
            if reply.status != 200:
                raise reply.error()
            try:
                found = decode_outcomes(reply.body)
            except msgspec.DecodeError as error:
                raise Unreachable(f"the reply to a report was not understood: {error}", sent=True) from error
            if len(found.outcomes) != len(items):
                raise Unreachable("the reply to a report had not one entry for each", sent=True)
            tasks = found.tasks or []
            self._claims.hear(reply)
            again = [item for item, result in zip(items, found.outcomes, strict=True) if not self._hear(*item, result)]
            self._waiting.extendleft(reversed(again))
            if not again:
                self._backoff.succeeded()
            return not again
        except GatewayError as error:
            return self._refused(items, error)
        finally:
            self._sending = 0
            if poll is not None:
                self._claims.end(tasks)

    def _refused(self, items: list[tuple[Lease, Outcome]], error: GatewayError) -> bool:
        """The request as a whole came to nothing."""
        self._retry_after_seconds = error.retry_after_seconds
        if isinstance(error, NotAllowed):
            self._claims.refused(error)
        if error.retryable or isinstance(error, NotAllowed) or error.status >= 500:
            level = logging.WARNING if self._backoff.failures == 0 else logging.INFO
            log.log(level, "could not report yet", extra={"outcomes": len(items), "code": error.code})
            self._waiting.extendleft(reversed(items))
            return False
        if len(items) > 1:
            self._one_by_one = len(items)
            self._waiting.extendleft(reversed(items))
        else:
            self._replace(*items[0], error)
        return True

    def _replace(self, lease: Lease, outcome: Outcome, error: GatewayError) -> None:
        """This report can never be accepted as it is."""
        if outcome.outcome == "complete":
            log.warning("failed a task whose result was refused", extra={**_facts(lease), "code": error.code})
            self.add(
                lease, failed_for_good("ResultRefused", f"the gateway refused the result: {error.detail or error.code}")
            )
        elif outcome.error is not None and outcome.error.stack is not None:
            outcome.error.stack = None
            self.add(lease, outcome)
        else:
            self._settle(lease, logging.ERROR, "left a task to lapse: its report was refused", outcome, error.code)

    def _hear(self, lease: Lease, outcome: Outcome, result: ItemResult) -> bool:
        """Take note of one report's reply. False: it has to be sent again."""
        if result.status == 200:
            # After earlier attempts a task that is given back may be `retrying`, too.
            released = outcome.outcome == "release" and result.task_status != "cancelled"
            word = "released a task" if released else _WORDS.get(result.task_status or "", "reported on a task")
            level = logging.INFO if outcome.error is None else logging.WARNING
            self._settle(lease, level, word, outcome)
            return True
        problem = result.error or {}
        code = str(problem.get("code") or f"http_{result.status}")
        if result.status in (404, 409):
            self._settle(
                lease, logging.WARNING, "lost the lease of a task before its outcome was confirmed", outcome, code
            )
        elif problem.get("retryable") or result.status >= 500:
            return False
        else:
            self._replace(lease, outcome, GatewayError(code, str(problem.get("detail", "")), status=result.status))
        return True

    def _settle(self, lease: Lease, level: int, phrase: str, outcome: Outcome, code: str | None = None) -> None:
        lease.settle()
        self._on_settled(lease)
        if not log.isEnabledFor(level):
            return
        facts = _facts(lease)
        if code is not None:
            facts["code"] = code
        if outcome.error is not None:
            facts["error_type"] = outcome.error.type
        log.log(level, phrase, extra=facts)


def _facts(lease: Lease) -> dict[str, object]:
    """What a log line says of a task."""
    seconds = asyncio.get_running_loop().time() - lease.begun_at
    task = lease.task
    return {"task_id": task.id, "job_type": task.job_type, "attempt": task.attempt, "seconds": round(seconds, 3)}
