"""TaskManager: the bridge from arq's pull queue to long polls.

Open polls wait here in memory; Redis knows only that this gateway waits for a queue. A ring, a new poll, or now and
then a recheck starts a claim for that queue, which serves as many polls as there are tasks, the longest waiting first.
Idle polls cost Redis nothing but the rechecks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

import msgspec

from gateway.attendance import Attendance
from gateway.ends import Ends
from gateway.errors import Refusal, ShuttingDown, StoreUnavailable, TooManyPolls
from gateway.store.calls import Claim, anew
from gateway.store.registry import Registry
from gateway.store.task_store import TaskStore
from gateway.tasks import LeasedTask, Queue

log = logging.getLogger("gateway.polls")
_POLLS_PER_CLAIM = 200
# While several tenants poll, so that one with many polls does not make the others wait for a long claim.
_POLLS_PER_FAIR_CLAIM = 8
_RECHECK_SECONDS = 1.0
_RECHECKS_PER_SECOND = 10.0
_DIRECTED_SECONDS = 1.0
_PASS_OVER_SECONDS = 1.0


class PollRequest(msgspec.Struct, frozen=True):
    """One poll: whole queues in strict order of preference. lease_ms 0: each task's own. poll_id '': none."""

    tenant: str
    worker_id: str
    queues: tuple[Queue, ...]
    max: int = 1
    wait_seconds: float = 25.0
    lease_ms: int = 0
    poll_id: str = ""


class _Poll:
    """An open poll. `busy`: a claim for it is under way; nobody else may claim for it then.

    queues: what it asks for, of a spread queue each partition. It may grow.
    """

    __slots__ = ("busy", "claim", "expired", "future", "hung_up", "queues", "request", "since")

    def __init__(self, request: PollRequest, queues: list[Queue], future: asyncio.Future[list[LeasedTask]]) -> None:
        self.request = request
        self.queues = queues
        self.future = future
        self.claim = Claim(request.worker_id, request.max, request.lease_ms, request.poll_id)
        self.since = time.monotonic()
        self.busy = False
        self.expired = False
        self.hung_up = False


class _Bell:
    """One queue's open polls, in order of arrival. armed: Redis knows that we wait; rung: something may be ready."""

    __slots__ = ("armed", "pumping", "queue", "rung", "waiting")

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.waiting: OrderedDict[_Poll, None] = OrderedDict()  # a dict slows down when it is used up from its front
        self.armed = False
        self.pumping = False
        self.rung = 0


class TaskManager:
    """Holds the open polls of this process and hands them tasks.

    max_open_polls: more are refused; limit_of: likewise, of one tenant. Hears the store's rings (`ready`, `final`, ..)
    and alarms (passed to `on_alarm`).
    """

    def __init__(
        self, store: TaskStore, registry: Registry, max_open_polls: int, limit_of: Callable[[str], int] | None = None
    ) -> None:
        self._limit_of = limit_of
        self._of_tenant: dict[str, int] = {}
        self._store = store
        self._registry = registry
        self._max_open_polls = max_open_polls
        self._bells: dict[Queue, _Bell] = {}
        self._polls: set[_Poll] = set()
        self._by_worker: dict[tuple[str, str], set[_Poll]] = {}
        self._ends = Ends(store)
        self._attendance = Attendance(registry, store.now_ms, self.send_home, self._held)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closed = False
        self.on_alarm: Callable[[Queue, int], None] = lambda queue, at_ms: None
        self.on_count: Callable[[str, int], None] = lambda name, number: None
        self.on_dispatch: Callable[[int], None] = lambda waited_ms: None
        # Handed through as they are: a method in between would cost each poll a call.
        self.wait_final, self.final = self._ends.wait_final, self._ends.final
        self.directive, self.forget_worker = self._attendance.directive, self._attendance.forget_worker

    # Polls

    @property
    def open_polls(self) -> int:
        """How many polls wait here now."""
        return len(self._polls)

    def open_polls_of(self, tenant: str) -> int:
        """How many polls of one tenant wait here now."""
        return self._of_tenant.get(tenant, 0)

    def poll(self, request: PollRequest) -> OpenPoll:
        """Open a poll. Await its `tasks`, tell it when its client hung up.

        Raises ShuttingDown while draining, TooManyPolls above the bound.
        """
        if self.closed:
            raise ShuttingDown()
        if len(self._polls) >= self._max_open_polls:
            raise TooManyPolls(self._max_open_polls)
        self._count_in(request.tenant)
        asked = [part for queue in request.queues for part in self._store.partitions.in_turn(queue)]
        poll = _Poll(request, asked, asyncio.get_running_loop().create_future())
        self._polls.add(poll)
        self._by_worker.setdefault((request.tenant, request.worker_id), set()).add(poll)
        self._attendance.see(request.tenant, request.worker_id, request.queues)
        return OpenPoll(self, poll)

    @contextlib.contextmanager
    def holding(self, tenant: str) -> Iterator[None]:
        """Count a request that is held open for something else than tasks. Raises TooManyPolls."""
        self._count_in(tenant)
        try:
            yield
        finally:
            self._count_out(tenant)

    def _count_in(self, tenant: str) -> None:
        mine = self._of_tenant.get(tenant, 0)
        if self._limit_of is not None and mine >= self._limit_of(tenant):
            raise TooManyPolls(self._limit_of(tenant), "of this tenant ")
        self._of_tenant[tenant] = mine + 1

    def _count_out(self, tenant: str) -> None:
        left = self._of_tenant[tenant] - 1
        if left:
            self._of_tenant[tenant] = left
        else:
            del self._of_tenant[tenant]

    def send_home(self, tenant: str, worker_id: str) -> None:
        """End a worker's open polls with nothing: it has a directive to hear."""
        for poll in list(self._by_worker.get((tenant, worker_id), ())):
            self._resolve(poll, [])

    def close(self) -> None:
        """Send every open poll home with nothing and take no more."""
        self.closed = True
        for poll in list(self._polls):
            self._resolve(poll, [])
        self._ends.close()

    async def settle(self) -> None:
        """Wait until the claims that are under way now are done, and the hand-backs that come of them.

        Once closed, until nothing is under way any more.
        """
        rounds = 0
        while self._tasks and (self.closed or rounds < 2):
            await asyncio.wait(self._tasks)
            rounds += 1

    # What the store says

    def ready(self, queue: Queue, tasks: int) -> None:
        """Claim for polls that wait on this queue: so many tasks are ready for us."""
        bell = self._bells.get(queue)
        if bell is None or not bell.waiting:
            if bell is not None:
                bell.armed = False
            self._spawn(self._pass_on(queue))
            return
        bell.armed = False
        bell.rung += tasks
        self._pump(bell)

    def heard(self, queue: Queue) -> None:
        """Rings of this queue are heard from now on: look at it once, and at what is awaited."""
        bell = self._bells.get(queue)
        if bell is not None and bell.waiting:
            self._look_again(bell)
        self._ends.wake()

    def alarm(self, queue: Queue, at_ms: int) -> None:
        """Pass an alarm to the sweep."""
        self.on_alarm(queue, at_ms)

    def spread(self, queue: Queue, partitions: list[Queue]) -> None:
        """Let the polls that wait on a queue ask for all its partitions, and see that each of these is noted."""
        unknown = {part for part in partitions if not self._registry.knows(part)}
        if unknown:
            # Whoever noted them may be gone by the time that a replica takes over without them.
            self._spawn(self._register(unknown))
        bell = self._bells.get(queue)
        for poll in list(bell.waiting) if bell is not None else ():
            for part in partitions:
                if part not in poll.queues:
                    poll.queues.append(part)
                    other = self._bell(part)
                    other.waiting[poll] = None
                    other.rung += 1
        for part in partitions:
            if part in self._bells:
                self._pump(self._bells[part])

    def count(self, name: str, number: int) -> None:
        """Pass an outcome to the metrics."""
        self.on_count(name, number)

    def dispatched(self, waited_ms: int) -> None:
        """Pass a dispatch latency to the metrics."""
        self.on_dispatch(waited_ms)

    def directives_changed(self) -> None:
        """Read the directives again."""
        self._attendance.directives_changed()

    def resumed(self) -> None:
        """Rings may have been missed: look at every queue, every directive and every awaited end once."""
        doubted = self._registry.doubt()
        if doubted:
            # A replica that took over may have a queue's last task, but not its name.
            self._spawn(self._register(doubted))
        self._attendance.directives_changed()
        for bell in self._bells.values():
            self._look_again(bell)
        self._ends.wake()

    # Chores

    async def run(self) -> None:
        """Rechecks, directives and the list of workers, for ever. Cancel it to stop."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._recheck())
            group.create_task(self._attendance.read_directives())
            group.create_task(self._attendance.note_workers())

    async def _recheck(self) -> None:
        """Look at each waited-for queue now and then: rings can be lost, and plain arq producers do not ring."""
        while True:
            queues = sum(1 for bell in self._bells.values() if bell.waiting)
            await asyncio.sleep(max(_RECHECK_SECONDS, queues / _RECHECKS_PER_SECOND))
            for bell in self._bells.values():
                if bell.waiting and not bell.pumping:
                    self._look_again(bell)
            for queue, bell in list(self._bells.items()):
                # Should Redis still ring for it, the ring is passed on.
                if not bell.waiting and not bell.pumping:
                    del self._bells[queue]

    # Claiming

    async def serve(self, poll: _Poll) -> list[LeasedTask]:
        """Get tasks for a poll: at once where there are some, otherwise when they come, or nothing after its wait."""
        request = poll.request
        stays = request.wait_seconds > 0
        directed = self.directive(request.tenant, request.worker_id) != "run"
        poll.busy = True
        try:
            for queue in poll.queues if not directed else ():
                self._bell(queue).waiting[poll] = None
            if request.poll_id and (directed or len(poll.queues) > 1 or not self._knows(poll)):
                await self._recall(poll)
            if directed and not poll.future.done():
                # It is to take nothing more and hears so by this answer. The pause is for one that does not listen.
                await asyncio.wait([poll.future], timeout=min(request.wait_seconds, _DIRECTED_SECONDS))
                return []
            await self._look(poll, poll.queues if not stays else self._unarmed(poll.queues))
            if not poll.future.done() and stays and not self.closed:
                left = request.wait_seconds - (time.monotonic() - poll.since)
                timer = asyncio.get_running_loop().call_later(max(left, 0.0), self._time_out, poll)
                self._free(poll)
                try:
                    await asyncio.shield(poll.future)
                finally:
                    timer.cancel()
            return poll.future.result() if poll.future.done() else []
        except asyncio.CancelledError:
            self.hang_up(poll)
            raise
        finally:
            self._leave(poll)

    def hang_up(self, poll: _Poll) -> None:
        """The poll's client is gone: it gets nothing, and what was claimed for it goes back."""
        if poll.hung_up:
            return
        poll.hung_up = True
        if poll.future.done():
            self.hand_back(poll.request, poll.future.result())
        else:
            self._resolve(poll, [])

    def hand_back(self, request: PollRequest, tasks: list[LeasedTask]) -> None:
        """Put claimed tasks back where they stood, as if they had never been claimed."""
        for leased in tasks:
            queue = self._store.queue_of(request.tenant, leased.task.id)
            self._spawn(self._store.put_back(queue, leased, request.worker_id, request.poll_id))

    async def _recall(self, poll: _Poll) -> None:
        """Give a poll what an earlier one of its id got and still holds, in whichever of its queues that stands.

        One queue, given by the id, keeps a note of each id that was asked for: where that is new, no other is asked.
        Raises StoreUnavailable.
        """
        if not self._knows(poll):
            await self._look(poll, poll.queues[:1], recall=True)  # tells how many partitions there are
        if len(poll.queues) > 1:
            known = sorted(poll.queues, key=lambda queue: (queue.job_type, queue.partition))
            first = known[zlib.crc32(poll.request.poll_id.encode()) % len(known)]
            if await self._look(poll, [first], recall=True):
                return
            await self._look(poll, [queue for queue in known if queue != first], recall=True)

    async def _look(self, poll: _Poll, queues: Iterable[Queue], *, recall: bool = False) -> bool:
        """Claim for one poll, queue by queue. recall: only what its poll_id got before.

        In a cluster one queue's node may be away while others serve: it is passed over, unless it keeps us waiting, or
        may hold what the poll got before. Returns whether the last one asked had not heard of the poll's id (recall).
        Raises StoreUnavailable when no queue answers.
        """
        failed: StoreUnavailable | None = None
        answered = fresh = False
        started = time.monotonic()
        claim = poll.claim if not recall else msgspec.structs.replace(poll.claim, max=0)
        for queue in queues:
            if poll.future.done():
                return False
            bell = self._bell(queue)
            waited_ms = int((time.monotonic() - poll.since) * 1000)
            stays = poll.request.wait_seconds > 0 and not recall
            try:
                claimed = await self._store.claim(queue, [claim], stays=stays, others=0, waited_ms=waited_ms)
            except StoreUnavailable as refusal:
                failed, poll.claim = refusal, anew(poll.claim)
                if recall or time.monotonic() - started > _PASS_OVER_SECONDS:
                    break
                continue
            answered, fresh = True, claimed.fresh
            bell.armed = bell.armed or claimed.registered
            self._deliver(poll, queue, claimed.tasks[0])
        if failed is not None and (recall or not answered) and not poll.future.done():
            raise failed
        return fresh

    def _knows(self, poll: _Poll) -> bool:
        """Whether it is known how many partitions the poll's queues have."""
        return all(self._store.partitions.knows(queue) for queue in poll.request.queues)

    def _unarmed(self, queues: Iterable[Queue]) -> Iterable[Queue]:
        """The queues of which we do not know that they are empty. Where we stand registered, a ring would have come."""
        for queue in queues:
            bell = self._bell(queue)
            if not bell.armed or bell.rung or len(bell.waiting) == 1:
                yield queue

    def _look_again(self, bell: _Bell) -> None:
        """Doubt what is known of a queue: claim for its polls although nothing rang."""
        bell.armed = False
        if bell.waiting:
            bell.rung += 1
            self._pump(bell)

    def _pump(self, bell: _Bell) -> None:
        if not bell.pumping:
            bell.pumping = True
            self._spawn(self._serve_waiting(bell))

    async def _serve_waiting(self, bell: _Bell) -> None:
        """Claim for the longest waiting free polls of a queue, until nothing is ready or nobody free waits."""
        try:
            while bell.rung and bell.waiting:
                polls = []
                most = _POLLS_PER_CLAIM if len(self._of_tenant) == 1 else _POLLS_PER_FAIR_CLAIM
                for poll in bell.waiting:
                    if not poll.busy and not poll.future.done():
                        polls.append(poll)
                        if len(polls) >= min(bell.rung, most):
                            break
                if not polls:
                    # Everybody is busy elsewhere; whoever becomes free looks at `rung`.
                    return
                bell.rung = 0
                for poll in polls:
                    poll.busy = True
                ready_left = 0
                waited_ms = int((time.monotonic() - polls[0].since) * 1000)
                others = len(bell.waiting) - len(polls)
                try:
                    claimed = await self._store.claim(
                        bell.queue, [poll.claim for poll in polls], stays=True, others=others, waited_ms=waited_ms
                    )
                except Refusal:
                    # Redis is away: the polls wait on, the next recheck looks again.
                    for poll in polls:
                        poll.claim = anew(poll.claim)
                        self._free(poll)
                    return
                ready_left = claimed.ready_left
                bell.armed = claimed.registered
                for poll, tasks in zip(polls, claimed.tasks, strict=True):
                    self._deliver(poll, bell.queue, tasks)
                for poll in polls:
                    self._free(poll)
                bell.rung = max(bell.rung, ready_left)
            if bell.rung:
                bell.rung = 0
                self._spawn(self._pass_on(bell.queue))
        finally:
            bell.pumping = False

    async def _pass_on(self, queue: Queue) -> None:
        try:
            await self._store.pass_ring_on(queue)
        except Refusal:
            pass
        bell = self._bells.get(queue)
        if bell is not None:
            # It struck this gateway off, and with it the polls that came meanwhile and relied on being known.
            self._look_again(bell)

    def _deliver(self, poll: _Poll, queue: Queue, tasks: list[LeasedTask]) -> None:
        if not tasks:
            return
        if not self._registry.knows(queue):
            # A plain arq producer does not register what it makes.
            self._spawn(self._register({queue}))
        if poll.future.done():
            self.hand_back(poll.request, tasks)
        else:
            self._resolve(poll, tasks)
        if len(poll.queues) > 1:
            self._pass_rings_on(poll)

    def _pass_rings_on(self, poll: _Poll) -> None:
        """Its other queues may have been rung for while it was busy: with nobody left here, others must hear of it."""
        for queue in poll.queues:
            bell = self._bells.get(queue)
            if bell is not None and bell.rung and not bell.waiting and not bell.pumping:
                bell.rung = 0
                self._spawn(self._pass_on(queue))

    async def _register(self, queues: set[Queue]) -> None:
        try:
            await self._registry.register(queues)
        except Refusal:
            pass

    def _free(self, poll: _Poll) -> None:
        """A claim for this poll is over: end it if its time came meanwhile, else let its other queues have it."""
        poll.busy = False
        if poll.future.done():
            return
        if poll.expired:
            self._resolve(poll, [])
            return
        for queue in poll.queues:
            bell = self._bells.get(queue)
            if bell is not None and bell.rung:
                self._pump(bell)

    def _time_out(self, poll: _Poll) -> None:
        poll.expired = True
        if not poll.busy:
            self._resolve(poll, [])

    def _resolve(self, poll: _Poll, tasks: list[LeasedTask]) -> None:
        if not poll.future.done():
            poll.future.set_result(tasks)
        for queue in poll.queues:
            bell = self._bells.get(queue)
            if bell is not None:
                bell.waiting.pop(poll, None)

    def _leave(self, poll: _Poll) -> None:
        self._resolve(poll, [])
        self._polls.discard(poll)
        self._count_out(poll.request.tenant)
        key = (poll.request.tenant, poll.request.worker_id)
        mates = self._by_worker.get(key)
        if mates is not None:
            mates.discard(poll)
            if not mates:
                del self._by_worker[key]

    def _held(self) -> Iterator[tuple[str, str, tuple[Queue, ...]]]:
        """Of each open poll: tenant, worker, queues."""
        for poll in self._polls:
            yield poll.request.tenant, poll.request.worker_id, poll.request.queues

    def _bell(self, queue: Queue) -> _Bell:
        bell = self._bells.get(queue)
        if bell is None:
            bell = self._bells[queue] = _Bell(queue)
        return bell

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a claim failed", exc_info=task.exception())


class OpenPoll:
    """A poll that waits. Use it once."""

    __slots__ = ("_manager", "_poll")

    def __init__(self, manager: TaskManager, poll: _Poll) -> None:
        self._manager = manager
        self._poll = poll

    async def tasks(self) -> list[LeasedTask]:
        """Wait for tasks. Empty: none came in time, the gateway drains, or the client hung up.

        Raises StoreUnavailable when Redis did not answer the first look; later absences are waited out.
        """
        return await self._manager.serve(self._poll)

    def hang_up(self) -> None:
        """The client is gone. Safe to call at any time, also after `tasks` returned."""
        self._manager.hang_up(self._poll)
