"""What Redis must hold, to the last key, when the model stands as it does; and what must be true of any model."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gateway.store import arq_format
from gateway.store.settings_format import read_settings
from gateway.tasks import FINAL, TRANSITIONS, Status
from tests.model.contents import Key
from tests.model.model import QueueModel
from tests.model.states import ModelTask

READY_END, HELD, LEASED = 2**40, 2**49, 2**50
_FRACTION = {0: 0.25, 1: 0.5, 2: 0.0, 3: 0.75}
_LETTER = {Status.COMPLETED: "c", Status.FAILED: "f", Status.CANCELLED: "x"}
_unpack = msgspec.msgpack.decode


def check_keys(queues: list[QueueModel], held: dict[str, Key], now_ms: int) -> None:
    """Compare every key with what the models call for: none is missing, none is left over, each has its time to live.

    Raises AssertionError.
    """
    called_for: dict[str, int] = {}
    for queue in queues:
        called_for |= _check_queue(queue, held, now_ms)
    until = {name: key.until_ms for name, key in held.items()}
    assert until == called_for, f"keys and when they end: {_difference(until, called_for)}"


def of_tasks(totals: dict[str, int]) -> dict[str, int]:
    """The totals that count tasks: how large they are on the wire is not the model's business."""
    return {name: number for name, number in totals.items() if name != "bytes"}


def _difference(found: dict[str, int], wanted: dict[str, int]) -> str:
    lines = [f"{name}: {found[name]}, none called for" for name in found.keys() - wanted.keys()]
    lines += [f"{name}: missing, {wanted[name]}" for name in wanted.keys() - found.keys()]
    lines += [
        f"{name}: {found[name]}, not {wanted[name]}" for name in found.keys() & wanted if found[name] != wanted[name]
    ]
    return "; ".join(lines)


def _check_queue(queue: QueueModel, held: dict[str, Key], now_ms: int) -> dict[str, int]:
    """Check one queue's keys by value. Returns the names of its keys, and when each ends."""
    tag = f"{{default:{queue.job_type}}}"
    ours = f"tg:{tag}:"
    names: dict[str, int] = {}

    def value(name: str, until_ms: int = 0) -> Any:
        names[name] = until_ms
        assert name in held, f"{name} is missing"
        return held[name].value

    def same(name: str, wanted: Any, until_ms: int = 0) -> None:
        if wanted:
            found = value(name, until_ms)
            assert found == wanted, f"{name}: {found}, not {wanted}"

    tasks = list(queue.tasks.values())
    keys = {task.spec.concurrency_key for task in tasks} - {None}
    back: dict[bytes, float] = {}
    for key in keys:
        same(f"{ours}running:{key}", {f"{tag}{task.ulid}".encode() for task in queue.running(str(key))})
        if any(task.held and task.spec.concurrency_key == key for task in tasks):
            back |= value(f"{ours}heldby:{key}")
    _check_places(queue, tag, held.get(f"arq:queue:{tag}"), back)
    if queue.limits.settings.version:
        settings = read_settings(value(f"{ours}settings"))
        assert settings == queue.limits.settings, f"settings: {settings}, not {queue.limits.settings}"
    if (until_ms := queue.limits.paid_until_ms) > now_ms:
        # How long it stays when all is paid is the scripts' own.
        paid = float(value(f"{ours}pace", held[f"{ours}pace"].until_ms if f"{ours}pace" in held else 0))
        assert abs(paid - until_ms) < 0.01, f"pace: {paid}, not {until_ms}"
        assert names[f"{ours}pace"] >= until_ms, f"pace ends at {names[f'{ours}pace']}, before {until_ms}"
    elif until_ms and f"{ours}pace" in held:
        names[f"{ours}pace"] = held[f"{ours}pace"].until_ms
    if any(task.ending is None for task in tasks):
        names[f"arq:queue:{tag}"] = 0
    same(f"{ours}live", {_entry(task): 0.0 for task in tasks if task.ending is None})
    for status in _LETTER:
        listed = [task for task in tasks if task.ending is not None and task.ending.status is status]
        same(f"{ours}{status.value}", {_entry(task): 0.0 for task in listed})
    ended = [(task, task.ending) for task in tasks if task.ending is not None]
    if ended:
        # A fraction below the ms is the scripts' own.
        ends = {name: math.ceil(score) for name, score in value(f"{ours}expiry").items()}
        wanted = {_LETTER[ending.status].encode() + _entry(task): ending.record_until_ms for task, ending in ended}
        assert ends == wanted, f"expiry: {ends}, not {wanted}"
    same(
        f"{ours}expires",
        {f"{tag}{task.ulid}".encode(): float(task.expires_at_ms) for task in tasks if task.expires_at_ms is not None},
    )
    if queue.totals:
        totals = {name.decode(): int(number) for name, number in value(f"{ours}totals").items()}
        assert of_tasks(totals) == queue.totals, f"totals: {totals}, not {queue.totals}"
    if queue.sequence or f"{ours}seq" in held:
        names[f"{ours}seq"] = 0
    for key, (task_id, until_ms) in queue.unique.items():
        same(f"{ours}unique:{key}", f"{tag}{task_id.partition('~')[2]}".encode(), until_ms or 0)
    registered = queue.registered
    same(
        f"{ours}waiting",
        {n.encode(): float(r.waits_since_ms) for n, r in registered.items()},
        queue.registered_until_ms,
    )
    same(
        f"{ours}wants",
        {n.encode(): b"%d:%d" % (r.polls, r.at_ms) for n, r in registered.items()},
        queue.registered_until_ms,
    )
    watched = {f"{gateway} {tag}{task_id.partition('~')[2]}".encode() for gateway, task_id in queue.watchers}
    same(f"{ours}watch", watched, queue.watched_until_ms)
    for (worker_id, poll_id), poll in queue.polls.items():
        record = _unpack(value(f"{ours}poll:{worker_id} {poll_id}", poll.until_ms))
        assert record["recalled"] == poll.recalled, f"poll {poll_id}: {record}"
        given = [[f"{tag}{task_id.partition('~')[2]}", token] for task_id, token in poll.leases]
        assert record["given"] == given, f"poll {poll_id}: {record}"
    for task in tasks:
        names |= _check_task(task, tag, ours, value, now_ms)
    return names


def _entry(task: ModelTask) -> bytes:
    return task.ulid.encode()


def _check_places(queue: QueueModel, tag: str, key: Key | None, back: dict[bytes, float]) -> None:
    """The one ZSET: who is ready, in which order, who waits for which ms, whose lease ends when.

    back: where those stood that are held back.
    """
    scores = {name.decode().removeprefix(tag): score for name, score in (key.value if key else {}).items()}
    ready = sorted((score, ulid) for ulid, score in scores.items() if score < READY_END)
    found = [ulid for _, ulid in ready]
    wanted = [task.ulid for task in queue.ready()]
    assert found == wanted, f"ready: {found}, not {wanted}"
    ready = sorted([*ready, *((score, name.decode().removeprefix(tag)) for name, score in back.items())])
    found = [ulid for _, ulid in ready]
    wanted = [task.ulid for task in queue.ranked()]
    assert found == wanted, f"ready and held back: {found}, not {wanted}"
    for score, ulid in ready:
        priority = queue.tasks[f"{queue.job_type}~{ulid}"].spec.priority
        assert int(score // 2**38) == priority, f"{ulid} stands in the wrong priority: {score}"
    rest = {ulid: score for ulid, score in scores.items() if score >= READY_END}
    others = {}
    for task in queue.tasks.values():
        if task.held:
            others[task.ulid] = float(HELD)
        elif task.due_ms is not None:
            others[task.ulid] = task.due_ms + _FRACTION[task.spec.priority]
        elif task.lease is not None:
            others[task.ulid] = float(LEASED + task.lease.ends_at_ms)
    assert rest == others, f"due and leased: {rest}, not {others}"


def _check_task(task: ModelTask, tag: str, ours: str, value: Any, now_ms: int) -> dict[str, int]:
    """Check a task's own keys. Returns their names and when each ends; `value` notes those that it reads."""
    names: dict[str, int] = {}
    arq_id, ending, lease = f"{tag}{task.ulid}", task.ending, task.lease
    until_ms = 0
    if ending is None:
        body = arq_format.decode_record(value(f"arq:job:{arq_id}"))
        assert body.et == task.created_at_ms, f"{task.id}: enqueued at {body.et}"
    elif ending.record_until_ms > now_ms:
        until_ms = ending.record_until_ms
        names[f"arq:result:{arq_id}"] = until_ms
    else:
        return {}
    if task.attempts:
        assert value(f"arq:retry:{arq_id}") == b"%d" % task.attempts, f"{task.id}: attempts"
    if lease is not None:
        found = arq_format.decode_lease(value(f"arq:in-progress:{arq_id}"))
        wanted = (
            lease.token, lease.worker_id, lease.attempt, lease.started_at_ms, lease.lease_ms, lease.deadline_ms,
            lease.ends_at_ms, lease.cancel_requested, task.spec.max_attempts, task.spec.priority,
        )  # fmt: skip
        assert (
            found.token, found.worker_id, found.attempt, found.started_at_ms, found.lease_ms, found.deadline_ms,
            found.ends_at_ms, found.cancel_requested, found.max_attempts, found.priority,
        ) == wanted, f"{task.id}: {found}, not {wanted}"  # fmt: skip
    if task.has_trail:
        names[f"{ours}trail:{task.ulid}"] = until_ms
    if task.log:
        names[f"{ours}log:{task.ulid}"] = until_ms
    return names


def check_sense(queue: QueueModel, now_ms: int) -> None:
    """What the design promises of any queue at any time, said without the verbs. Raises AssertionError."""
    keys = set()
    for task in queue.tasks.values():
        places = [task.rank, task.due_ms, task.lease, task.ending]
        assert sum(place is not None for place in places) == 1, f"{task.id} stands in {places}"
        assert task.attempts <= task.spec.max_attempts, f"{task.id} had {task.attempts} attempts"
        unique = task.spec.unique
        if task.ending is None and task.keyed is not None and unique is not None and unique.until == "finished":
            assert task.keyed not in keys, f"two tasks hold {task.keyed}"
            keys.add(task.keyed)
            held = queue.unique.get(task.keyed)
            assert held == (task.id, None), f"{task.id} lost its key {task.keyed} to {held}"
    for key in {task.spec.concurrency_key for task in queue.tasks.values() if task.held}:
        ready = [task for task in queue.ready() if task.spec.concurrency_key == key]
        next_up = len(queue.running(str(key))) + len(ready)
        assert next_up >= queue.limits.most_of_a_key(), f"tasks of {key} are held back, and only {next_up} may run"


def check_moves(before: dict[str, Status], after: dict[str, Status], verb: str, gone: bool) -> None:
    """Compare what a verb did with the table of moves. gone: whether it may make tasks disappear.

    Raises AssertionError.
    """
    for task_id, status in before.items():
        now = after.get(task_id)
        if now is status:
            continue
        if now is None:
            assert gone, f"{verb} lost {task_id}, {status}"
            assert status in FINAL or verb in ("delete", "purge"), f"{verb} lost {task_id}, {status}"
            continue
        moves = {after for at in _ways(status, verb) for after in TRANSITIONS.get(verb, {}).get(at, frozenset())}
        # What is due is pending for whoever looks, before anything moved it.
        assert now in moves or (verb in ("patch", "enqueue") and status not in FINAL and now not in FINAL), (
            f"{verb} took {task_id} from {status} to {now}"
        )


def _ways(status: Status, verb: str) -> list[Status]:
    """The states that a verb may find a task in: a claim promotes first, a sweep lets leases lapse first."""
    return [status, Status.PENDING] if verb == "claim" and status in (Status.SCHEDULED, Status.RETRYING) else [status]
