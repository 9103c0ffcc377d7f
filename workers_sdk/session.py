"""One run of a worker: from its first poll to its sign-off."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from workers_sdk.attempts import Attempts, OnEnd, OnStart
from workers_sdk.backoff import Backoff
from workers_sdk.context import Context, waker
from workers_sdk.errors import GatewayError, NotAllowed, Unreachable
from workers_sdk.handlers import Handler
from workers_sdk.heartbeats import Heart
from workers_sdk.lease import Lease
from workers_sdk.outcomes import Outcome
from workers_sdk.reports import Outbox
from workers_sdk.tasks import LeasedTask
from workers_sdk.threads import Threads
from workers_sdk.transport import Reply, Transport
from workers_sdk.wire import Poll, decode_poll, encode

log = logging.getLogger("workers_sdk")
_REPLY_SECONDS = 10.0
_LAST_REPORTS_SECONDS = 5.0
_SIGN_OFF_SECONDS = 3.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a Worker was told; see there."""

    worker_id: str
    concurrency: int
    wait_seconds: float
    lease_seconds: float | None
    stop_seconds: float
    interrupt_seconds: float


class Session:
    """Polls, runs handlers, reports. on_start, on_end: called around each attempt."""

    def __init__(
        self,
        settings: Settings,
        handlers: Mapping[str, Handler],
        transport: Transport,
        on_start: OnStart | None,
        on_end: OnEnd | None,
    ) -> None:
        self._settings = settings
        self._handlers = handlers
        self._types = list(handlers)
        self._transport = transport
        self._news: Callable[[], None] = lambda: None
        self._threads = Threads(f"{settings.worker_id}-handler")
        self._attempts = Attempts(self._threads, settings.interrupt_seconds, self._freed, on_start, on_end)
        self._heart = Heart(settings.worker_id, transport, self._obey)
        self._outbox = Outbox(settings.worker_id, transport, self, self._settled)
        self._leases: dict[str, Lease] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._claiming = False
        self._poll_id: str | None = None
        self._directive = "run"
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._refusal: NotAllowed | None = None

    async def run(self) -> None:
        """Work until `stop`, then finish or give back what is in hand, and sign off. Raises NotAllowed when that is why
        it stopped."""
        self._news = waker(asyncio.get_running_loop(), self._heart.tell)
        feeding = asyncio.create_task(self._feed(), name="poll for tasks")
        chores = [
            asyncio.create_task(self._outbox.run(), name="report outcomes"),
            asyncio.create_task(self._heart.run(), name="keep leases"),
        ]
        try:
            await self._stopped(feeding, *chores)
        except asyncio.CancelledError:
            self.stop(hurry=True)
            raise
        finally:
            self.stop()
            await _end(feeding)
            await self._finish(*chores)
            await _end(*chores)
            await self._sign_off()
            left = self._threads.close()
            if left:
                log.warning("left handlers running that did not stop", extra={"threads": left})
        if self._refusal is not None:
            raise self._refusal

    def stop(self, *, hurry: bool = False) -> None:
        """Take no more tasks and end. hurry: interrupt handlers at once."""
        self._stopping.set()
        if hurry:
            self._hurry.set()
        self._wake.set()

    # What the outbox asks (reports.Claims)

    def begin(self, *, wait: bool) -> Poll | None:
        """Reserve the free slots for a poll; None: there is nothing to ask for now."""
        free = self._settings.concurrency - self._busy
        if self._claiming or free <= 0 or self._stopping.is_set() or self._directive != "run":
            return None
        self._claiming = True
        # Until its reply is here a poll keeps its id: what it was given stays the same, however often it is asked for.
        self._poll_id = self._poll_id or secrets.token_hex(12)
        return Poll(
            max=min(free, 1000),
            wait=self._settings.wait_seconds if wait else 0.0,
            poll_id=self._poll_id,
            task_type=self._types,
            worker_id=self._settings.worker_id if wait else None,
            lease_seconds=self._settings.lease_seconds,
        )

    def end(self, tasks: list[LeasedTask] | None) -> None:
        """The poll brought these tasks; None: no reply came."""
        self._claiming = False
        if tasks is not None:
            self._poll_id = None
            for task in tasks:
                self._accept(task)
        self._wake.set()

    def hear(self, reply: Reply) -> None:
        """Take note of a reply's directive."""
        directive = reply.headers.get("x-directive")
        if directive is not None:
            self._obey(directive)

    def refused(self, error: NotAllowed) -> None:
        """The gateway does not know us, or not for this: asking again would not change that."""
        if self._refusal is None:
            self._refusal = error
            facts = {"url": self._transport.url, "code": error.code, "detail": error.detail}
            log.error("stops: the gateway refused its token", extra=facts)
        self.stop()

    # Polling

    async def _feed(self) -> None:
        backoff = Backoff()
        while True:
            # Outcomes that wait go first: their request asks for tasks as well.
            poll = None if self._outbox.waiting else self.begin(wait=True)
            if poll is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            tasks: list[LeasedTask] | None = None
            try:
                tasks = await self._poll(poll)
                if backoff.failures:
                    log.info("reached the gateway again", extra={"url": self._transport.url})
                backoff.succeeded()
            except NotAllowed as error:
                self.refused(error)
                return
            except GatewayError as error:
                if backoff.failures == 0:
                    log.warning(
                        "got no tasks", extra={"url": self._transport.url, "code": error.code, "detail": error.detail}
                    )
                await asyncio.sleep(backoff.failed(error.retry_after_seconds))
            finally:
                self.end(tasks)

    async def _poll(self, poll: Poll) -> list[LeasedTask]:
        reply = await self._transport.request("POST", "/poll", encode(poll), timeout_seconds=poll.wait + _REPLY_SECONDS)
        if reply.status == 200:
            try:
                tasks: list[LeasedTask] = decode_poll(reply.body).tasks
            except msgspec.DecodeError as error:
                raise Unreachable(f"the reply to a poll was not understood: {error}", sent=True) from error
        elif reply.status == 204:
            tasks = []
        else:
            raise reply.error()
        self.hear(reply)
        return tasks

    def _obey(self, directive: str) -> None:
        if directive == self._directive or directive not in ("run", "drain", "stop"):
            return
        self._directive = directive
        log.info("was directed", extra={"worker_id": self._settings.worker_id, "directive": directive})
        self._heart.listen(directive == "drain")
        if directive == "stop":
            self.stop()
        self._wake.set()

    # Working

    def _accept(self, task: LeasedTask) -> None:
        former = self._leases.get(task.id)
        if former is not None:
            # We were given it anew: our earlier lease of it is over.
            former.lose()
        lease = Lease(task, Context(task, self._settings.worker_id, self._news))
        self._leases[task.id] = lease
        if self._stopping.is_set() or task.job_type not in self._handlers:
            self._outbox.add(lease, Outcome(outcome="release"))
            return
        self._busy += 1
        self._heart.hold(lease)
        job = asyncio.get_running_loop().create_task(self._work(lease))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _work(self, lease: Lease) -> None:
        """One attempt: hooks, handler, outcome."""
        outcome = await self._attempts.run(self._handlers[lease.task.job_type], lease)
        if lease.context.has_news:
            await self._heart.flush(lease)
        self._heart.drop(lease)
        if lease.lost:
            facts = {"task_id": lease.task.id, "job_type": lease.task.job_type, "attempt": lease.task.attempt}
            log.warning("stopped a task whose lease was lost", extra=facts)
            lease.settle()
            self._settled(lease)
        else:
            self._outbox.add(lease, outcome)
        self._wake.set()

    def _freed(self) -> None:
        self._busy -= 1
        self._wake.set()

    def _settled(self, lease: Lease) -> None:
        if self._leases.get(lease.task.id) is lease:
            del self._leases[lease.task.id]
        self._wake.set()

    # Ending

    async def _stopped(self, *chores: asyncio.Task[None]) -> None:
        """Wait until `stop`. Raises what ended a chore, which nothing should."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait({stopping, *chores}, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            await _end(stopping)

    async def _finish(self, *chores: asyncio.Task[None]) -> None:
        """Let handlers finish, interrupt those that take too long, and report."""
        if self._jobs:
            log.info(
                "waits for tasks in hand", extra={"tasks": len(self._jobs), "seconds": self._settings.stop_seconds}
            )
            hurry = asyncio.create_task(self._hurry.wait())
            everything = asyncio.ensure_future(asyncio.wait(set(self._jobs)))
            either: set[asyncio.Future[Any]] = {hurry, everything}
            await asyncio.wait(either, timeout=self._settings.stop_seconds, return_when=asyncio.FIRST_COMPLETED)
            await _end(hurry)
            for lease in list(self._leases.values()):
                lease.interrupt("stopping")
            await asyncio.wait({everything}, timeout=self._settings.interrupt_seconds + 1.0)
            for job in list(self._jobs):
                job.cancel()
            await asyncio.wait({everything}, timeout=1.0)
            if self._jobs:
                log.warning("left handlers running that did not stop", extra={"tasks": len(self._jobs)})
            await _end(everything)
        until = asyncio.get_running_loop().time() + _LAST_REPORTS_SECONDS
        while len(self._outbox) and asyncio.get_running_loop().time() < until and not all(one.done() for one in chores):
            self._wake.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._wake.wait()
            except TimeoutError:
                break

    async def _sign_off(self) -> None:
        """Tell the gateway, which gives back at once what this worker still holds."""
        path = f"/workers/{quote(self._settings.worker_id, safe='')}"
        for lease in self._leases.values():
            lease.settle()
        try:
            reply = await self._transport.request("DELETE", path, timeout_seconds=_SIGN_OFF_SECONDS)
            if reply.status not in (200, 404):
                raise reply.error()
        except GatewayError as error:
            log.warning("could not sign off", extra={"worker_id": self._settings.worker_id, "code": error.code})


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
