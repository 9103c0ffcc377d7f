"""The store after the last task ended: every key has an owner or a TTL, and what is listed is there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.campaign.contents import FINAL, Contents
from tests.campaign.timeline import place_of
from tests.campaign.violations import Violation

_ONLY_LIVE = ("arq:job:", "arq:in-progress:", "arq:retry:")
# Of a queue: kept for ever, one each; and those that must be gone, or go by themselves.
_OF_QUEUE = re.compile(r"tg:\{[^{}:]*:[^{}]*\}:(?P<part>[a-z]+)(:.*)?", re.DOTALL)
_KEPT = ("completed", "failed", "cancelled", "expiry", "seq", "totals", "settings", "pace")
_GONE = ("live", "expires", "unique", "running", "heldby")
_WITH_TTL = ("waiting", "wants", "watch", "trail", "log", "poll", "replicated")
_LEAST_RESULT_MS = 10_000
_KEPT_ELSEWHERE = re.compile(r"tg:\{(queues|schema|keys|tenants|alarms|workers:[^{}]*)\}(:\w+)?")


def check(contents: Contents) -> Iterator[Violation]:
    """Yield keys that have neither an owner nor a TTL, and lists that do not agree with the results."""
    if any(stored.status not in FINAL for stored in contents.tasks.values()):
        return  # told as stuck; what belongs to the living is not judged here
    for name in contents.strays:
        yield Violation("key at a node that does not serve it", "", name[:120])
    for name, members in contents.live.items():
        if members:
            yield Violation("live task that no list shows", members[0], f"{len(members)} in {name}")
    results = set()
    for name, (_, ttl_ms) in contents.keys.items():
        # Lists drop a task at the end of its retention; for repeated reports its result stays ten seconds at least.
        if name.startswith("arq:result:") and ttl_ms > _LEAST_RESULT_MS:
            results.add(name.removeprefix("arq:result:"))
        problem = _problem(name, ttl_ms)
        if problem:
            yield Violation(problem, "", name[:120])
    listed = {_arq_id(task) for task in contents.tasks}
    for arq_id in sorted(results - listed):
        yield Violation("result that no list shows", "", arq_id)


def _arq_id(task: str) -> str:
    return f"{{default:{place_of(task)}}}{task.rpartition('~')[2].rpartition('.')[2]}"


def _problem(name: str, ttl_ms: int) -> str:
    """What is wrong with a key, or nothing."""
    if ttl_ms == -2:
        return ""  # it went while we looked
    if name.startswith(_ONLY_LIVE):
        return "key without an owner"
    if name.startswith("arq:queue:") or _KEPT_ELSEWHERE.fullmatch(name):
        return ""
    if name.startswith(("arq:result:", "tg:{idempotency:", "tg:{limit:")):
        return "" if ttl_ms >= 0 else "key without a TTL"
    match = _OF_QUEUE.fullmatch(name)
    part = match["part"] if match else ""
    if part in _GONE:
        return "key without an owner"
    if part in _WITH_TTL:
        return "" if ttl_ms >= 0 else "key without a TTL"
    return "" if part in _KEPT else "unknown key"
