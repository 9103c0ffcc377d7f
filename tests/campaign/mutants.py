"""Gateways broken on purpose, and a store: a checker that passes one of them proves nothing.

python -m tests.campaign.mutants [NAME ..]: run a short campaign against each and say what caught it.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from tests.campaign.arena import Size
from tests.campaign.campaign import Plan, run

_ROOT = Path(__file__).parents[2]
_LUA = "gateway/store/lua/"


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """One mistake: text of a file and what stands there instead. caught_as: kinds of violations that tell of it.

    Without a file the gateway is whole, and the mistake is the store's: one of `faults`.
    """

    caught_as: frozenset[str]
    file: str = ""
    old: str = ""
    new: str = ""
    faults: tuple[str, ...] = ()
    seconds: float = 5.0
    queue_size: int = 100


def _lua(verb: str, old: str, new: str, *caught_as: str, queue_size: int = 100, seconds: float = 5.0) -> Mutant:
    file, kinds = f"{_LUA}{verb}.lua", frozenset(caught_as)
    return Mutant(file=file, old=old, new=new, caught_as=kinds, queue_size=queue_size, seconds=seconds)


_STALE = ("stale report accepted", "two outcomes accepted")
_UNCOUNTED = ("attempt not counted",)
MUTANTS = {
    "no token check": _lua(
        "prelude", "if not lease or lease[TOKEN] ~= token then", "if not lease then", *_STALE
    ),
    "a final task accepts any token": _lua(
        "prelude", "if facts and facts[2] == token and words[facts[1]]", "if facts and words[facts[1]]", *_STALE
    ),
    "tokens that return": _lua(
        "claim", "local token = number == 0 and seed or seed .. '.' .. number", "local token = 'of ' .. #id",
        "token given twice",
    ),
    "pop, then register": _lua(
        "claim", "call_all(places, 'ZADD', QUEUE)", "call_all(places, 'ZREM', QUEUE)",
        "stuck", "key without an owner",
    ),
    "no due-time check": _lua(
        "prelude", "exclusive(math.min(now + 1,", "exclusive(math.min(now + 4000,", "handed out early"
    ),
    "attempt not counted": _lua(
        "claim", "record, RETRY .. id, attempt\n", "record, RETRY .. id, attempt - 1\n", *_UNCOUNTED
    ),
    "lapsed lease not counted": _lua(
        "expire", "redis.call('DEL', PROGRESS .. id)", "redis.call('DEL', PROGRESS .. id, RETRY .. id)", *_UNCOUNTED
    ),
    "sweep takes live leases": _lua(
        "expire", "exclusive(LEASED + now)", "exclusive(LEASED + now + 700)", "two leases at once"
    ),
    "lock before check": _lua(
        "enqueue", "if not holder then return nil, nil, key end",
        "if not holder then redis.call('SET', UNIQUE .. key, argument(i, 1)) return nil, nil, key end",
        "key without an owner", queue_size=10,
    ),
    "unique key ignored": _lua(
        "enqueue", "if stored(i) then return nil end", "if i then return nil end", "unique key held twice",
        seconds=10,
    ),
    "bound ignored": _lua(
        "enqueue", "return room == 0 or taken + room <= limit, room", "return true, room", "queue bound overshot"
    ),
    "FIFO reversed": _lua(
        "prelude", "return priority * PRIORITY_WIDTH + sequence / SEQUENCE_STEP",
        "return (priority + 1) * PRIORITY_WIDTH - sequence / SEQUENCE_STEP", "FIFO broken",
    ),
    "priority ignored": _lua(
        "prelude", "return priority * PRIORITY_WIDTH + sequence", "return 2 * PRIORITY_WIDTH + sequence",
        "priority ignored",
    ),
    "concurrency key ignored": _lua(
        "claim", ">= settings().max_processing_per_key then", ">= 1000 then", "concurrency key passed"
    ),
    "concurrency key not let go by a lapse": _lua(
        "expire", "let_go(id, lease[KEY])", "tostring(lease[KEY])", "not drained", "key without an owner"
    ),
    "held tasks let go from the end": _lua(
        "prelude", "redis.call('ZPOPMIN', HELDBY .. key)", "redis.call('ZPOPMAX', HELDBY .. key)",
        "FIFO broken", "priority ignored", seconds=10,
    ),
    "max_processing ignored": _lua(
        "claim", "local free, resumes_at = room(now)", "local free, resumes_at = 1000, 0", "max_processing passed",
        seconds=10,
    ),
    "rate ignored": _lua(
        "claim", "spend(now, handed)", "spend(now, 0)", "rate passed", seconds=10
    ),
    "pause ignored": _lua(
        "fail", "if pause_ms > 0 and", "if pause_ms > 9e9 and", "handed out while paused", seconds=10
    ),
    "time to start by forgotten by a release": _lua(
        "release", "if lease[EXPIRES_AT] then", "if not lease then", "handed out too old", seconds=20
    ),
    "results that stay for ever": _lua(
        "prelude", "redis.call('SET', RESULT .. id, record, 'PX', ttl)", "redis.call('SET', RESULT .. id, record)",
        "key without a TTL",
    ),
    "bodies that expire": _lua(
        "enqueue", "call_all(bodies, 'MSET')",
        "for i = 1, #bodies, 2 do redis.call('SET', bodies[i], bodies[i + 1], 'PX', 400) end",
        "acknowledged task lost", "failed too soon",
    ),
    "report without an effect": _lua(
        "complete", "finish(now, id, 'completed', lease", "tostring(lease", "stuck", "accepted outcome lost"
    ),
    "acknowledged before stored": Mutant(
        file="gateway/store/enqueuing.py",
        old='now_ms, depth, dues = await self._caller.submit("enqueue",',
        new="def unheard(*given):\n"
        "            self._caller.submit(*given).add_done_callback(lambda done: done.exception())\n"
        "            return self._caller.now_ms(), 0, [0] * len(items)\n\n"
        '        now_ms, depth, dues = unheard("enqueue",',
        caught_as=frozenset(("acknowledged task lost",)),
    ),
    "a store that does not sync": Mutant(
        caught_as=frozenset(("acknowledged task lost",)), faults=("power_cut_unsynced",), seconds=3.0
    ),
    "attempts that nobody made": _lua(
        "claim", "local attempt = attempts_in(attempts) + 1", "local attempt = attempts_in(attempts) + 2",
        "attempt without a hand-out",
    ),
    "max_attempts forgotten": Mutant(
        file="gateway/api/requests.py", old="25 if new.max_attempts is None else new.max_attempts", new="25",
        caught_as=frozenset(("attempt out of bounds",)),
    ),
    "the first task's body for all": _lua(
        "claim", "found[place - 1] or nil, found[place]", "found[1] or nil, found[place]", "payload changed"
    ),
    "unique keys' tasks forgotten": _lua(
        "prelude", "local ttl = math.max(status",
        "local ttl = options.unique and #options.unique < 3 and 1000 or math.max(status", "acknowledged task lost",
        seconds=10,
    ),
    "what is too old is cancelled": _lua(
        "expire", "finish(now, id, 'failed', nil, text, n, nil, 'expired')",
        "finish(now, id, 'cancelled', nil, text, n, nil, 'expired')", "cancelled by nobody",
    ),
    "a reason that nobody gave": _lua(
        "expire", "local kind, outcome, message = 'lease_lapsed',", "local kind, outcome, message = 'Trouble',",
        "failed by nobody",
    ),
    "delay of a release forgotten": _lua(
        "release", "or 'scheduled', now + delay_ms", "or 'scheduled', now", "handed out early"
    ),
    "delay of a fail forgotten": _lua(
        "fail", "due = now + delay_ms", "due = now", "handed out early"
    ),
    "heartbeats revive leases": _lua(
        "heartbeat", "lease = held(id, token, now, lease)", "lease = held(id, token, 0, lease)",
        "stale report accepted", seconds=15,
    ),
    "lapses noticed four seconds late": _lua(
        "expire", "exclusive(LEASED + now)", "exclusive(LEASED + now - 4000)", "lapse noticed late", seconds=8
    ),
    "entries of a batch answered 500": Mutant(
        file="gateway/api/workers.py", old="return OutcomeResult(id=one.id, status=200,",
        new='return OutcomeResult(id=one.id, error=Raw(b\'{"code":"internal"}\'), status=500,',
        caught_as=frozenset(("unexpected 5xx",)),
    ),
    "replies without a member": Mutant(
        file="gateway/api/replies.py", old="if task.run_at_ms:", new="if task.run_at_ms % 7:",
        caught_as=frozenset(("unreadable answer",)),
    ),
    "connections closed without an answer": Mutant(
        file="gateway/reply_writer.py", old="cycle.transport.write(head + body)",
        new='cut = cycle.scope["method"] == "POST" and len(body) % 40 == 1\n'
        "        cycle.transport.close() if cut else cycle.transport.write(head + body)",
        caught_as=frozenset(("no answer",)),
    ),
    "a stop that ends badly": Mutant(
        file="gateway/server.py", old="if self._captured_signals and (self.force_exit or not self.started):",
        new="if self._captured_signals:", caught_as=frozenset(("gateway died",)), faults=("gateway_term",),
    ),
    "idempotency key ignored": Mutant(
        file="gateway/api/enqueue.py", old="key = _idempotency_key(call)", new="key = None",
        caught_as=frozenset(("stored twice", "one key, two tasks")), faults=("client_link", "gateway_kill"),
        seconds=12.0,
    ),
}  # fmt: skip


def break_gateway(mutant: Mutant, source: Path, folder: Path) -> Path:
    """Copy the gateway and make the mistake in the copy. Returns the copy's tree; ValueError: the text has changed."""
    tree = folder / "source"
    shutil.copytree(source / "gateway", tree / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    if not mutant.file:
        return tree
    path = tree / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.file} has {text.count(mutant.old)} times: {mutant.old}")
    path.write_text(text.replace(mutant.old, mutant.new))
    return tree


async def hunt(mutant: Mutant, source: Path, folder: Path, seed: int = 1) -> dict[str, int]:
    """Run a short campaign against a broken gateway. Returns how many violations of each kind it was caught by."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        seconds=mutant.seconds, seed=seed, source=break_gateway(mutant, source, folder), folder=folder / "run",
        faults=mutant.faults, size=Size(gateways=2, workers=1, clients=16, queue_size=mutant.queue_size),
        drain_seconds=8,
    )  # fmt: skip
    report = await run(plan)
    found: dict[str, int] = {}
    for violation in report.verdict.violations:
        found[violation.kind] = found.get(violation.kind, 0) + 1
    return found


def main() -> int:
    """Hunt each mutant that is named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--source", type=Path, default=_ROOT)
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in MUTANTS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known:" + "".join(f"\n  {shlex.quote(name)}" for name in MUTANTS))
    escaped = []
    for name in given.names or MUTANTS:
        folder = Path(tempfile.mkdtemp(prefix="campaign-mutant-"))
        started = time.monotonic()
        found = asyncio.run(hunt(MUTANTS[name], given.source.resolve(), folder))
        caught = MUTANTS[name].caught_as & found.keys()
        if not caught:
            escaped.append(name)
        word = "caught" if caught else "ESCAPED"
        print(f"{word} in {time.monotonic() - started:.0f} s: {name}: {found}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(given.names or MUTANTS) - len(escaped)} caught, {len(escaped)} escaped")
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
