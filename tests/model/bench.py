"""The real side: stores over one private Redis, the calls that the model answers too, and what others hear of them."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway.app import LANES
from gateway.errors import Refusal
from gateway.queue_settings import QueueSettings
from gateway.store import scripts
from gateway.store.batching import Lane
from gateway.store.calls import Claimed, Held, StaleSettings
from gateway.store.connect import Connections
from gateway.store.inspector import Inspector
from gateway.store.keys import Keys
from gateway.store.task_store import TaskStore
from gateway.tasks import Queue, Task
from tests.harness import Clock
from tests.model.contents import Contents, Key

GATEWAYS = ("gw1", "gw2", "gw3")
# gw3 died: nobody listens on its channel.
HEARD = frozenset({"gw1", "gw2"})


class Call(msgspec.Struct, frozen=True):
    """One call of a verb. arguments: as the model takes them, after the time and the gateway."""

    verb: str
    job_type: str
    gateway: str
    arguments: tuple[Any, ...]


class Ears:
    """Hears what a store tells in passing: tasks to claim, alarms."""

    def __init__(self) -> None:
        self.mine = 0
        self.alarms: list[tuple[str, int]] = []

    def ready(self, queue: Queue, tasks: int) -> None:
        self.mine += tasks

    def alarm(self, queue: Queue, at_ms: int) -> None:
        self.alarms.append((queue.job_type, at_ms))

    def spread(self, queue: Queue, partitions: list[Queue]) -> None: ...

    def count(self, name: str, number: int) -> None: ...

    def dispatched(self, waited_ms: int) -> None: ...


class GatewayStore:
    """One gateway's store. change: (verb, source) of a script -> what is run in its place."""

    def __init__(self, url: str, clock: Clock, name: str, change: Callable[[str, str], str]) -> None:
        keys = Keys()
        self.connections = Connections(url)
        loaded = {}
        for verb, script in scripts.load(keys).items():
            source = change(verb, script.source)
            sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest().encode()
            loaded[verb] = scripts.Script(verb, source, sha)
        lanes = {lane: Lane(self.connections.link(), loaded, lambda *_: None) for lane in LANES}
        self._make_tasks = lambda: TaskStore(keys, lanes, name, 0, clock)
        self.begin(Ears(), 0)

    def begin(self, ears: Ears, limit: int) -> None:
        """Start as a gateway that knows of no queue yet. limit: of a queue that has none of its own."""
        self.tasks = self._make_tasks()
        self.tasks.listener, self.tasks.queue_limit = ears, limit
        self.inspector = Inspector(self.tasks)

    async def close(self) -> None:
        """Drop the connections."""
        await self.tasks.close()
        await self.connections.close()


def _unchanged(verb: str, source: str) -> str:
    return source


class Bench:
    """Gateways' stores over one Redis, on an event loop of their own."""

    def __init__(self, url: str, change: Callable[[str, str], str] = _unchanged) -> None:
        self._runner = asyncio.Runner()
        self.calls = 0
        self.seen: Counter[str] = Counter()
        self.clock = Clock()
        self.ears = Ears()
        self._runner.run(self._open(url, change))

    async def _open(self, url: str, change: Callable[[str, str], str]) -> None:
        self.stores = {name: GatewayStore(url, self.clock, name, change) for name in GATEWAYS}
        self.redis = self.stores["gw1"].connections.redis
        self.contents = Contents(self.redis)
        self._channel = self.redis.pubsub()
        await self._channel.subscribe(*(f"tg:ring:{name}" for name in sorted(HEARD)))
        for _ in HEARD:
            await self._channel.get_message(timeout=10)

    def close(self) -> None:
        """Drop the connections."""
        self._runner.run(self._close())
        self._runner.close()

    async def _close(self) -> None:
        await self._channel.aclose()  # type: ignore[no-untyped-call]
        for store in self.stores.values():
            await store.close()

    def run(self, step: Awaitable[Any]) -> Any:
        """Wait for one thing."""
        # The runner's own `run` takes and gives back the handler of SIGINT each time: a quarter of a run.
        return self._runner.get_loop().run_until_complete(step)

    def reset(self, now_ms: int, limit: int) -> None:
        """Begin anew: an empty Redis, another time, another bound."""
        self.clock.now_ms = now_ms
        self.ears.alarms, self.ears.mine = [], 0
        self.contents.forget()
        for store in self.stores.values():
            store.begin(self.ears, limit)
        self.run(self.redis.flushdb())

    def call(self, call: Call) -> Any:
        """Make a call and say what came of it, in the model's words."""
        self.ears.mine = 0
        self.calls += 1
        return self.run(_VERBS[call.verb](self.stores[call.gateway], Queue("default", call.job_type), *call.arguments))

    def heard(self) -> list[tuple[str, str]]:
        """What was published since: (gateway, message)."""
        return self.run(self._heard())

    async def _heard(self) -> list[tuple[str, str]]:
        # What was published before comes before the answer to this.
        await self._channel.ping()
        messages = []
        while True:
            message = await self._channel.get_message(timeout=10)
            assert message is not None, "Redis fell silent"
            if message["type"] == "pong":
                return messages
            messages.append((message["channel"].decode().removeprefix("tg:ring:"), message["data"].decode()))

    def holds(self) -> dict[str, Key]:
        """Everything that Redis holds."""
        return self.run(self.contents.read(self.clock.now_ms))

    def read(self, queue: Queue, task_ids: list[str]) -> list[Task | None]:
        """Read tasks as clients do."""
        return self.run(self._read(queue, task_ids))

    async def _read(self, queue: Queue, task_ids: list[str]) -> list[Task | None]:
        get = self.stores["gw1"].inspector.get
        found = await asyncio.gather(*(get(queue, task_id) for task_id in task_ids), return_exceptions=True)
        return [_sorted(one) if isinstance(one, Task) else _gone(one) for one in found]


def _sorted(task: Task) -> Task:
    # Two attempts of one ms have no order.
    attempts = tuple(sorted(task.attempts, key=lambda one: (one.started_at_ms, one.attempt)))
    return msgspec.structs.replace(task, attempts=attempts)


def _gone(error: object) -> None:
    if not isinstance(error, Refusal):
        raise AssertionError(error)


async def _told(*calls: Awaitable[Any]) -> list[Any]:
    """Make calls at once, so that they share one script call, and say what came of each."""
    outcomes: list[Any] = []
    for one in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(one, BaseException) and not isinstance(one, Refusal):
            raise one
        outcomes.append(("refused", type(one).__name__) if isinstance(one, Refusal) else one)
    return outcomes


async def _enqueue(store: GatewayStore, queue: Queue, calls: Any) -> list[list[Any]]:
    batches = await asyncio.gather(*(
        store.tasks.enqueue(queue, [spec for _, spec in items], atomic=atomic, names=[ulid for ulid, _ in items])
        for items, atomic in calls
    ))  # fmt: skip
    return [[_stored(one) for one in batch] for batch in batches]


def _stored(one: Task | Held | Refusal) -> tuple[Any, ...]:
    if isinstance(one, Task):
        return "stored", one.id, one.status
    return ("held", one.task_id) if isinstance(one, Held) else ("refused", type(one).__name__)


async def _claim(store: GatewayStore, queue: Queue, claims: Any, stays: bool, others: int, waited_ms: int) -> Any:
    claimed: Claimed = await store.tasks.claim(queue, claims, stays=stays, others=others, waited_ms=waited_ms)
    assert not claimed.corrupt
    given = [[(one.task.id, one.token, one.lease_ms, one.task.attempt) for one in tasks] for tasks in claimed.tasks]
    return given, claimed.ready_left, claimed.registered


async def _heartbeat(store: GatewayStore, queue: Queue, reports: Any) -> list[Any]:
    return await _told(*(
        store.tasks.heartbeat(queue, task_id, token, lease_ms=lease_ms, progress=progress, lines=lines)
        for task_id, token, lease_ms, progress, lines in reports
    ))  # fmt: skip


async def _complete(store: GatewayStore, queue: Queue, reports: Any) -> list[Any]:
    return await _told(*(store.tasks.complete(queue, *report) for report in reports))


async def _fail(store: GatewayStore, queue: Queue, reports: Any) -> list[Any]:
    return await _told(*(
        store.tasks.fail(
            queue, task_id, token, error, brief, "no", retryable=retryable, retry_in_ms=retry_in_ms, pause_ms=pause_ms
        )
        for task_id, token, error, brief, retryable, retry_in_ms, pause_ms in reports
    ))  # fmt: skip


async def _release(store: GatewayStore, queue: Queue, reports: Any) -> list[Any]:
    return await _told(*(
        store.tasks.release(queue, task_id, token, delay_ms=delay_ms, front=front, poll=" ".join(poll or ()))
        for task_id, token, delay_ms, front, poll in reports
    ))  # fmt: skip


async def _expire(store: GatewayStore, queue: Queue, limit: int) -> Any:
    return await store.tasks.expire(queue, limit)


async def _cancel(store: GatewayStore, queue: Queue, task_ids: Any) -> list[Any]:
    return await _told(*(store.tasks.cancel(queue, task_id) for task_id in task_ids))


async def _retry(store: GatewayStore, queue: Queue, task_ids: Any) -> list[Any]:
    return await _told(*(store.tasks.retry(queue, task_id) for task_id in task_ids))


async def _patch(
    store: GatewayStore, queue: Queue, task_id: str, changes: dict[str, Any], due: bytes | int | None
) -> Any:
    (outcome,) = await _told(
        store.tasks.patch(queue, task_id, lambda spec: msgspec.structs.replace(spec, **changes), due)
    )
    return outcome


async def _delete(store: GatewayStore, queue: Queue, task_ids: Any) -> list[Any]:
    return await _told(*(store.tasks.delete(queue, task_id) for task_id in task_ids))


async def _purge(store: GatewayStore, queue: Queue) -> int:
    return await store.tasks.purge(queue)


async def _configure(
    store: GatewayStore, queue: Queue, settings: QueueSettings | None, version: int | None, pause: bytes | int
) -> Any:
    try:
        return await store.tasks.configure(queue, settings, version=version, pause=pause)
    except StaleSettings:
        return "refused", "StaleSettings"


async def _watch(store: GatewayStore, queue: Queue, task_id: str, ttl_ms: int) -> bool:
    return await store.tasks.watch(queue, task_id, ttl_ms)


async def _ring(store: GatewayStore, queue: Queue) -> None:
    await store.tasks.pass_ring_on(queue)


_VERBS: dict[str, Callable[..., Awaitable[Any]]] = {
    "enqueue": _enqueue, "claim": _claim, "heartbeat": _heartbeat, "complete": _complete, "fail": _fail,
    "release": _release, "expire": _expire, "cancel": _cancel, "retry": _retry, "patch": _patch, "delete": _delete,
    "purge": _purge, "configure": _configure, "watch": _watch, "ring": _ring,
}  # fmt: skip
