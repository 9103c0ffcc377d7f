"""Every Redis key, spelled once. Scripts get their key names from `lua_header`, so Lua spells none.

Tasks of one queue stand under one hash tag, `{tenant:job_type}`, so that a script touches one slot of a Redis Cluster.
Where a queue is spread over partitions, that is the first of them, and `{tenant:job_type/1}` the next.

    arq:queue:{T}          ZSET  arq's queue: every live task; score = its place (see lua/prelude.lua)
    arq:job:<id>           STR   arq's job (msgpack), until the task is final
    arq:in-progress:<id>   STR   the lease: msgpack array, its first element the lease token
    arq:retry:<id>         STR   attempts so far
    arq:result:<id>        STR   arq's result (msgpack) with our facts, until its retention ends
    tg:{T}:live            ZSET  by creation: tasks that are not final (lists)
    tg:{T}:completed       ZSET  by creation: likewise failed, cancelled
    tg:{T}:expiry          ZSET  finished tasks by when they leave the lists (unix ms - 1; fraction: size)
    tg:{T}:expires         ZSET  tasks that must start by a time (unix ms)
    tg:{T}:seq             STR   counter that orders ready tasks
    tg:{T}:waiting         ZSET  gateways with polls waiting here, by how long (unix ms)
    tg:{T}:wants           HASH  gateway -> "<polls>:<registered at>"
    tg:{T}:watch           SET   "<gateway> <id>": who waits for the end of which task
    tg:{T}:totals          HASH  outcomes since ever, and bytes kept now
    tg:{T}:settings        HASH  what an operator set
    tg:{T}:pace            STR   when the next hand-out is due by rate_per_second (unix ms)
    tg:{T}:running:<key>   SET   tasks of a concurrency key that are leased
    tg:{T}:heldby:<key>    ZSET  ready ones of that key held back meanwhile, by rank
    tg:{T}:trail:<entry>   HASH  what happened to a task beyond the straight way: history, progress, last report
    tg:{T}:log:<entry>     LIST  a task's log lines
    tg:{T}:poll:<w> <p>    STR   what a poll_id got
    tg:{T}:unique:<key>    STR   arq's id of the task that holds a unique key
    tg:{queues}            SET   tags of all queues that ever held a task
    tg:{workers:T}:seen    ZSET  workers by last poll (unix ms); :facts HASH, :directives HASH
    tg:{idempotency:T}:<h> STR   what an Idempotency-Key made; by the key's hash, 24 h
    tg:{schema}            STR   version of what is stored (SCHEMA); a gateway that does not know it refuses to serve
    tg:{keys}:api          HASH  SHA-256 of an API key -> its record
    tg:{tenants}:limits    HASH  tenant -> its own limits (msgpack)
    tg:{alarms}:next       ZSET  tags of queues by when they need a sweep (unix ms): a hint that outlives who noted it
    tg:{limit:W}:<bucket>  STR   arrival time of a rate limit; W: `tenant:<name>` or `address:<client>`
    tg:{embedded}:marker   STR   of an embedded Redis: the same as in its data directory's file `marker`
    tg:{T}:replicated      STR   written before a WAIT; 60 s
    tg:{T}:fence           never there; declared with each script in a cluster (see internals, "Redis Cluster")
    tg:ring:<gateway>      channel (in a cluster one for each queue, tg:ring:<gateway>:{T}); tg:directives channel
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import msgspec
from redis.crc import key_slot

from gateway.tasks import MAX_ID_CHARS, Queue

_TAG = re.compile(rb"\{[^}]*\}")
_PART = re.compile(r"[1-9][0-9]{0,3}")
_ARQ_QUEUE = "arq:queue:"
_QUEUE_KEYS = (
    "live",
    "completed",
    "failed",
    "cancelled",
    "expiry",
    "expires",
    "seq",
    "waiting",
    "wants",
    "watch",
    "totals",
    "settings",
    "pace",
)
_TASK_KEYS = ("trail", "log", "poll", "unique", "running", "heldby")
MARKER_KEY = "tg:{embedded}:marker"
LOG_LINES = 200
# The form of everything below. Whoever changes it so that an older gateway would misread it counts this up, and lets
# `Registry.meet_schema` bring older data into the new form.
SCHEMA = 1


class QueueKeys(msgspec.Struct, frozen=True):
    """One queue's hash tag and the keys that scripts are called with.

    declared: what follows a script's name: how many keys, the queue's ZSET, and in a cluster a key that never exists.
    replicated_key: written where replicas are waited for. slot: of a cluster. tenant: whose it
    is, for fair turns.
    """

    tag: str
    queue_key: bytes
    declared: tuple[int | bytes, ...]
    replicated_key: bytes
    slot: int
    tenant: str


class Keys:
    """Spells keys under one prefix. prefix: `tg` unless several deployments share a Redis. cluster: it is one."""

    def __init__(self, prefix: str = "tg", *, cluster: bool = False) -> None:
        self.prefix = prefix
        self._cluster = cluster
        self._tag_start = "" if prefix == "tg" else f"{prefix}/"
        self.queues = f"{prefix}:{{queues}}"
        self.schema = f"{prefix}:{{schema}}"
        self.api_keys = f"{prefix}:{{keys}}:api"
        self.tenants = f"{prefix}:{{tenants}}:limits"
        self.directive_channel = f"{prefix}:directives"
        self.of = lru_cache(maxsize=10_000)(self._of)

    def _of(self, queue: Queue) -> QueueKeys:
        part = f"/{queue.partition}" if queue.partition else ""
        tag = f"{{{self._tag_start}{queue.tenant}:{queue.job_type}{part}}}"
        return self._called(tag, f"{_ARQ_QUEUE}{tag}", queue.tenant)

    def _called(self, tag: str, key: str, tenant: str) -> QueueKeys:
        first = key.encode()
        # While a slot moves, half of a queue's keys are here and half are there. A cluster refuses a call of several
        # keys unless all of them are in one place; since one of these never exists, it refuses until the move is over.
        declared = (2, first, f"{self.prefix}:{tag}:fence".encode()) if self._cluster else (1, first)
        return QueueKeys(tag, first, declared, f"{self.prefix}:{tag}:replicated".encode(), key_slot(first), tenant)

    def may_hold(self, queue: Queue, arq_id: bytes) -> bool:
        """Whether a queue can have a task of this id: in a cluster the id must hold the queue's tag."""
        found = _TAG.search(arq_id)
        return not self._cluster or (found is not None and found[0] == self.of(queue).tag.encode())

    def queue_of(self, tag: str) -> Queue | None:
        """Read a tag back. None: it is not one of this prefix."""
        inner = tag[1:-1]
        if not inner.startswith(self._tag_start):
            return None
        tenant, mark, rest = inner[len(self._tag_start) :].partition(":")
        job_type, _, part = rest.partition("/")
        if not mark or "/" in tenant or (part and not _PART.fullmatch(part)):
            return None
        return Queue(tenant, job_type, int(part or 0))

    def ring_channel(self, gateway: str, tag: str = "") -> str:
        """The channel on which one gateway hears of ready tasks and final ones. tag: of a queue, in a cluster."""
        return f"{self.prefix}:ring:{gateway}{':' if tag else ''}{tag}"

    def workers_seen(self, tenant: str) -> str:
        """ZSET of worker ids by last poll."""
        return f"{self.prefix}:{{workers:{tenant}}}:seen"

    def worker_facts(self, tenant: str) -> str:
        """HASH of worker id -> what it polls for (msgpack)."""
        return f"{self.prefix}:{{workers:{tenant}}}:facts"

    def worker_directives(self, tenant: str) -> str:
        """HASH of worker id -> `drain` or `stop`."""
        return f"{self.prefix}:{{workers:{tenant}}}:directives"

    def idempotency(self, tenant: str, key: str) -> str:
        """STR of what a request with this Idempotency-Key made. Keys are clients' text: their hash stands here."""
        return f"{self.prefix}:{{idempotency:{tenant}}}:{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"

    def bucket(self, whose: str, name: str) -> QueueKeys:
        """STR of one rate limit's bucket; whose: `tenant:<name>` or `address:<client>`."""
        tag = f"{{limit:{whose}}}"
        return self._called(tag, f"{self.prefix}:{tag}:{name}", whose)

    def alarms(self) -> QueueKeys:
        """ZSET of queues' tags by their next alarm."""
        tag = "{alarms}"
        return self._called(tag, f"{self.prefix}:{tag}:next", "")

    def replicated(self, key: str) -> str:
        """The key to write where replicas are waited for, in the slot of another."""
        return f"{self.prefix}:{key[key.index('{') : key.index('}') + 1]}:replicated"

    def lua_header(self) -> str:
        """The first lines of every script: its key names, derived from KEYS[1], the queue's ZSET."""
        lines = [
            "local QUEUE = KEYS[1]",
            f"local TAG = string.sub(QUEUE, {len(_ARQ_QUEUE) + 1})",
            "local JOB, PROGRESS, RETRY, RESULT = 'arq:job:', 'arq:in-progress:', 'arq:retry:', 'arq:result:'",
            f"local OURS = '{self.prefix}:' .. TAG .. ':'",
            f"local RING, LOG_LINES, MAX_ID_CHARS = '{self.ring_channel('')}', {LOG_LINES}, {MAX_ID_CHARS}",
            # A cluster's own PUBLISH goes to every node, and counts the receivers at one: useless for what is aimed.
            "local CLUSTER, PUBLISH, RING_END = true, 'SPUBLISH', ':' .. TAG"
            if self._cluster
            else "local CLUSTER, PUBLISH, RING_END = false, 'PUBLISH', ''",
        ]
        lines += [f"local {name.upper()} = OURS .. '{name}'" for name in _QUEUE_KEYS]
        lines += [f"local {name.upper()} = OURS .. '{name}:'" for name in _TASK_KEYS]
        return "\n".join(lines) + "\n"
