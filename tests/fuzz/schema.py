"""Schemathesis against a gateway that asks for tokens: it answers as `/openapi.json` says, whatever is sent.

Checked of every reply: no 5xx but 503, status, content type, headers and body as documented, bad data refused, methods
that are not documented refused, nothing answered without a token, `Allow` right, what was deleted gone.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.credentials import SECRET, token
from tests.harness import GatewayProcess

FOLDER = Path(__file__).parent
_REQUEST_SECONDS = 10
# A schema cannot say all: that one of two members is enough, what a cursor or a time looks like, that 2.0 is no count.
_UNCHECKED = "positive_data_acceptance"
# How long the phases before the timed ones, and the end of the last one, may go on beyond the given time.
_GRACE_SECONDS = 240


class Report(NamedTuple):
    """What came of it. statuses: by operation (`GET /tasks`), how often each status was answered."""

    ok: bool
    operations: frozenset[str]
    statuses: dict[str, collections.Counter[int]]
    seconds: float
    output: str

    @property
    def unreached(self) -> list[str]:
        """Operations that no request got into: none was answered but by the door (401, 403, 405).

        The document itself does not count: every run begins with reading it.
        """
        wanted = self.operations - {"GET /openapi.json"}
        return sorted(name for name in wanted if not set(self.statuses.get(name, ())) - {401, 403, 405})

    @property
    def unpassed(self) -> list[str]:
        """Operations that never answered 2xx or 3xx."""
        wanted = self.operations - {"GET /openapi.json"}
        return sorted(name for name in wanted if min(self.statuses.get(name, (999,))) >= 400)

    @property
    def requests(self) -> int:
        """How many requests were answered."""
        return sum(sum(one.values()) for one in self.statuses.values())


async def run(redis_url: str, folder: Path, seconds: float | None, *options: str) -> Report:
    """Fuzz a gateway of its own. folder: for its files. options: more of `schemathesis run`.

    seconds: about how long; None: once through every phase, however long that takes here.
    """
    gateway = GatewayProcess(redis_url, folder, JWT_SECRET=SECRET, LOG_LEVEL="warning")
    await gateway.start()
    try:
        return _run(gateway.url, folder, seconds, options)
    finally:
        await gateway.end()


def _run(url: str, folder: Path, seconds: float | None, options: tuple[str, ...]) -> Report:
    events = folder / "events.ndjson"
    bearer = token(scope="admin", exp=int(time.time() + (seconds or 0)) + 3600)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(FOLDER / "schemathesis.toml"), "--no-color",
        "run", f"{url}/openapi.json", "--checks", "all", "--exclude-checks", _UNCHECKED,
        *(() if seconds is None else ("--max-time", str(max(1, round(seconds))))),
        "--request-timeout", str(_REQUEST_SECONDS), "--continue-on-failure", "--generation-database", "none",
        "--report", "ndjson", "--report-ndjson-path", str(events),
        "-H", f"Authorization: Bearer {bearer}", *options,
    ]  # fmt: skip
    environ = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks", "PYTHONPATH": str(FOLDER.parents[1]),
               "FUZZED_URL": url, "FUZZED_AUTHORIZATION": f"Bearer {bearer}"}  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=(seconds or 0) + _GRACE_SECONDS
    )
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    operations = frozenset(f"{method.upper()} {path}" for path, one in paths.items() for method in one)
    taken = time.monotonic() - started
    return Report(done.returncode == 0, operations, _statuses(events), taken, done.stdout + done.stderr)


def _statuses(events: Path) -> dict[str, collections.Counter[int]]:
    found: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    for line in events.read_text().splitlines() if events.exists() else ():
        scenario = json.loads(line).get("ScenarioFinished")
        if scenario is None:
            continue
        recorder = scenario["recorder"]
        for case_id, interaction in recorder.get("interactions", {}).items():
            case, response = recorder["cases"][case_id]["value"], interaction.get("response")
            if response is not None:
                found[f"{case['method'].upper()} {case['path']}"][response["status_code"]] += 1
    return found
