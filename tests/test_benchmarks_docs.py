"""What runs of `python -m benchmarks` become: tables and pictures of the page, and the table of goals."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import document, goals, profile, tables
from benchmarks.figures import Findings, Goal, Row, at_least
from benchmarks.peers.contenders import GATEWAY
from benchmarks.peers.samples import BATCHED
from benchmarks.report import whole
from benchmarks.sections import BENCH, GOALS, PEERS, PROFILE

ROOT = Path(__file__).parents[1]
ABOUT = {
    "at": "2000-01-01T00:00:00+00:00",
    "commit": None,
    "cores": 2,
    "kernel": "6",
    "python": "3",
    "redis": "7",
    "settings": {"rounds": "3", "seconds": "1", "quick": "False"},
    "load_average": 0.1,
    "disk_sync_ms": {"p50": 0.1, "p99": 0.2},
}


@pytest.fixture
def ours() -> dict[str, Any]:
    """A run in which POST reaches its goal, the batches miss theirs by a hair, and nothing else was measured."""
    findings = {name: Findings(list(rows)) for name, rows in ROWS.items()}
    dispatch = {"count": 9, "mean": 1.0, "min": 0.5, "p50": 1.0, "p90": 2.0, "p99": 4.0, "p99.9": 9.0, "max": 9.0}
    report = {"tasks": 2000, "requests": 2000, "latency_ms": {"dispatch": dispatch}}
    used = {"load": 1.0, "gateway": 2.0, "redis": 4.0}
    for case, contender in (("post", "gateway"), ("latency", "gateway"), ("loaded", "50 %"), ("loaded", "80 %")):
        sample = {"contender": contender, "round": 0, "cpu_seconds": used, "report": report}
        findings.setdefault(case, Findings([])).raw.append(sample)
    findings["post"].problems.append("3 x timeout")
    return whole(ABOUT, findings)


ROWS = {
    "post": [
        Row("echo", "requests/s", [20000.0, 21000.0, 22000.0], key="echo"),
        Row("POST", "requests/s", [15000.0, 16000.0, 17000.0], key="post"),
        Row("against echo", "", [0.7, 0.75, 0.9], at_least(0.75), "against echo"),
    ],
    "batch": [Row("against raw", "", [0.9, 0.79, 0.78], at_least(0.8), "against raw/100")],
    "million": [
        *(Row(f"script {depth}", "us", [50.0], key=f"script/{depth}") for depth in (100, 1000, 1_000_000)),
        *(Row(f"poll {depth}", "ms", [0.5], key=f"poll/{depth}") for depth in (100, 1000, 1_000_000)),
        *(Row(f"memory {depth}", "bytes", [600.0], key=f"memory/{depth}") for depth in (10_000, 1_000_000)),
    ],
    "job-types": [
        *(Row(f"post {types}", "requests/s", [9000.0], key=f"post/{types}") for types in (1, 1000)),
        *(Row(f"life {types}", "tasks/s", [5000.0], key=f"life/{types}") for types in (1, 1000)),
    ],
}

PEER_RATES = {
    (GATEWAY, "process"): [800.0, 900.0, 1000.0],
    (GATEWAY, "enqueue"): [10.0, 10.0, 10.0],
    (GATEWAY, "enqueue_100"): [30.0, 30.0, 30.0],
    (BATCHED, "process"): [2000.0, 2000.0, 2000.0],
    ("arq", "process"): [10.0, 100.0, 50.0],
    ("arq, tuned", "process"): [100.0, 10.0, 50.0],
    ("BullMQ", "process"): [1000.0, 1000.0, 1000.0],
    ("BullMQ", "enqueue_100"): [10.0, 15.0, 20.0],
    ("ocypod", "process"): [1.0, 1.0, 1.0],
    ("ocypod", "enqueue"): [20.0, 20.0, 20.0],
}


@pytest.fixture
def theirs() -> dict[str, Any]:
    """A run beside four peers: ocypod enqueues faster than the gateway and dispatches later."""
    samples: list[dict[str, Any]] = [
        {"contender": name, "measure": measure, "durability": "always", "round": number, "per_second": value}
        for (name, measure), values in PEER_RATES.items()
        for number, value in enumerate(values)
    ]
    samples += [
        {
            "contender": name, "measure": "latency", "durability": "always", "round": 0,
            "latency_ms": {"p50": value, "p99": 2 * value},
        }
        for name, value in ((GATEWAY, 1.0), ("ocypod", 50.0))
    ]  # fmt: skip
    named = {"contenders": {key: {} for key in ("arq", "arq, tuned", "BullMQ", "ocypod")}}
    return ABOUT | named | {"samples": samples, "not_run": {"lmstfy": "no running server was named"}}


def goal_rows(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, list[str]]:
    """The cells behind each row's first, by that."""
    lines = [line for line in goals.section(ours, theirs).splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {what: cells for what, *cells in table[2:]}


def test_goals_are_worked_out_from_both_runs(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    rows = goal_rows(ours, theirs)
    assert rows["`POST /tasks`, 64 connections, against starlette's echo"] == [
        "at least 0.75", "0.75 (0.7 .. 0.9)", "yes",
    ]  # fmt: skip
    batches = "whole life in batches of 100 against raw Redis (the three scripts alone, same batch)"
    assert rows[batches] == ["at least 0.8", "0.79 (0.78 .. 0.9)", "**no**"]
    # Against the better of arq's two, round by round: 8, 9 and 20.
    arq = "life, one task per request with `next`, against native arq's worker (the better of two settings)"
    assert rows[arq] == ["at least 8", "9 (8 .. 20)", "yes"]
    bullmq = "life, one task per request with `next`, against BullMQ's native processing"
    assert rows[bullmq] == ["at least 0.9", "0.9 (0.8 .. 1)", "yes"]
    added = "the same with enqueueing in batches of 100 added to ours, not to BullMQ's"
    assert rows[added][2] == "**no**"
    assert rows["enqueue in batches of 100 against BullMQ's `addBulk`"][1:] == ["2 (1.5 .. 3)", "yes"]


def test_every_http_peer_has_its_rows(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    rows = goal_rows(ours, theirs)
    assert rows["enqueue, one per call, against ocypod"] == ["at least 1", "0.5 (0.5 .. 0.5)", "**no**"]
    assert rows["process, one per call, against ocypod"][2] == "yes"
    assert rows["dispatch latency when idle, p99, against ocypod's"] == ["at most 1", "0.02", "yes"]
    assert rows["ahead of lmstfy on every row"][1] == "not measured: no running server was named"


def test_what_was_not_measured_is_said(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    rows = goal_rows(ours, theirs)
    assert rows["dispatch latency when idle, p50, ms"] == ["at most 1.5", "not measured", ""]
    nothing = {"settings": {}, "benchmarks": {}}
    assert "No run is at hand." in goals.section(nothing, theirs)


def test_goals_and_pictures_ask_for_rows_that_the_benchmarks_make() -> None:
    asked = {(line.case, line.key) for _, _, line in goals.LINES if isinstance(line, goals.OwnRow)}
    asked |= {place for bars in document.PANELS.values() for place in bars.values()}
    assert len(asked) > 20
    for case, key in asked:
        source = (ROOT / "benchmarks" / "cases" / f"{case}.py").read_text()
        # Some keys are put together from a word and a number, or a share and a percentile.
        word, _, number = key.partition("/")
        assert f'"{key}"' in source or (number and (f'"{word}/' in source or f'"{word}"' in source)), (case, key)


def test_tables_pictures_and_troubles_of_a_run(tmp_path: Path, ours: dict[str, Any]) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BENCH.begin}\nold\n{BENCH.end}\nbetween\n{PEERS.begin}\npeers\n{PEERS.end}\nafter\n")
    document.write(tmp_path, ours)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"between\n{PEERS.begin}\npeers\n{PEERS.end}\nafter\n")
    assert "\nold\n" not in text
    assert "| against raw | 0.79 (0.78 .. 0.9) |  | at least 0.8 | **no** |" in text
    assert "| `post` | gateway | 0.500 | 1.000 | 2.000 |" in text
    assert "- `post`: 3 x timeout" in text
    drawn = {path.name: ElementTree.parse(path) for path in (tmp_path / "performance").glob("*.svg")}
    assert set(drawn) == {"rates.svg", "dispatch.svg", "claims.svg", "job-types.svg", "memory.svg"}
    assert all(f"performance/{name}" in text for name in drawn)
    assert "at 80 %" in "".join(drawn["dispatch.svg"].getroot().itertext())


def test_a_run_of_some_benchmarks_has_what_it_measured(ours: dict[str, Any]) -> None:
    part = deepcopy(ours)
    part["benchmarks"] = {"batch": part["benchmarks"]["batch"]}
    section = document.section(part)
    assert "(`batch`)" in section
    assert "(`post`)" not in section
    assert "claims.svg" not in section


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"{GOALS.begin}\n no end")
    with pytest.raises(ValueError, match="lacks the markers"):
        GOALS.write(page, "text")
    assert page.read_text() == f"{GOALS.begin}\n no end"


def test_the_page_of_the_project_has_every_marker_once() -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    for part in (GOALS, BENCH, PEERS, PROFILE):
        assert text.count(part.begin) == text.count(part.end) == 1
        assert text.index(part.begin) < text.index(part.end)


@pytest.mark.parametrize(
    ("values", "words"), [([], ""), ([0.12345], "0.123"), ([3.0, 1.0, 2000.0], "3 (1 .. 2,000)")]
)  # fmt: skip
def test_figures_have_few_digits(values: list[float], words: str) -> None:
    assert tables.spread(values) == words


def test_messages_on_the_page_name_no_folders_of_the_machine() -> None:
    words = 'failed in "/opt/some/where/gateway/app.py", line 3;\n all in /opt/some/results/gateway-1.log'
    assert tables.without_folders(words) == 'failed in "app.py", line 3; all in gateway-1.log'
    assert tables.without_folders("GET http://127.0.0.1:80/tasks/x 1/2") == "GET http://127.0.0.1:80/tasks/x 1/2"


def test_goals_hold_at_their_bound() -> None:
    assert Goal("at least", 0.8).reached_by(0.8)
    assert not Goal("at least", 0.8).reached_by(0.7999)
    assert Goal("at most", 5).reached_by(5.0)
    assert not Goal("at most", 5).reached_by(5.001)


def test_a_sample_counts_for_the_innermost_part_of_the_gateway() -> None:
    samples = """\
run (asyncio/runners.py:118) 3
run (asyncio/runners.py:118);run_asgi (uvicorn/protocols/http/httptools_impl.py:1);body (gateway/api/codec.py:2) 5
run (asyncio/runners.py:118);_drain (gateway/store/batching.py:9);writelines (asyncio/streams.py:4) 7
run (asyncio/runners.py:118);_commit (gateway/store/batching.py:9);loads (json/decoder.py:4) 1"""
    parts = profile.parts_of(samples)
    assert parts["routing, checking, handlers"] == 5
    assert parts["calls to Redis: writing"] == 7
    assert parts["calls to Redis: packing, reading, sharing"] == 1
    assert sum(parts.values()) == 16
    assert len(parts) == 4


def test_the_profile_tells_shares_and_commands_a_task() -> None:
    found = profile.Profile(
        "POST", {"routing, checking, handlers": 30, "handing tasks to polls": 10}, {"evalsha": 2000, "zadd": 500},
        {"evalsha": 10, "zadd": 200}, 100,
    )  # fmt: skip
    section = profile.section([found])
    assert "| routing, checking, handlers | 75 % |" in section
    assert "| **all scripts**, µs | 20 |" in section
    assert "| `zadd` | 2.00 (5) |" in section
