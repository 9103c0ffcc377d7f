"""What a run of `python -m benchmarks.peers` becomes: tables that leave out nobody, and sound pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.peers import document
from benchmarks.peers.contenders import GATEWAY, LIBRARIES
from benchmarks.peers.records import percentiles
from benchmarks.sections import PEERS

NAMES = [contender.name for contender in LIBRARIES]


@pytest.fixture
def found() -> dict[str, Any]:
    """A run in which every peer processes more than the gateway does, and answers later."""
    samples = []
    for place, name in enumerate([GATEWAY, *NAMES]):
        about = {"contender": name, "durability": "always", "round": 0, "cpu_seconds_per_1000": {"redis": 1.0 + place}}
        for measure in ("enqueue", "enqueue_100", "process"):
            samples.append(about | {"measure": measure, "per_second": 1000.0 + place})
        shares = percentiles([1.0 + place, 2.0 + place, 30.0 + place])
        samples[-1]["bytes_per_job"] = 600.0 + place
        samples.append(about | {"measure": "latency", "latency_ms": shares, "rate": 50.0})
        for concurrency in (1, 64):
            samples.append(about | {"measure": "scaling", "concurrency": concurrency, "per_second": 10.0 * concurrency})
    return {
        "at": "2000-01-01T00:00:00+00:00",
        "commit": None,
        "cores": 2,
        "kernel": "6",
        "python": "3",
        "redis": "7",
        "packages": dict.fromkeys(("uvicorn", "starlette", "redis", "hiredis"), "1"),
        "settings": {"rounds": "1", "seconds": "1", "quick": "False"},
        "load_average": 0.1,
        "disk_sync_ms": {"p50": 0.1, "p99": 0.2},
        "contenders": {name: {"versions": {"runtime": "any"}, "note": "", "remote": False} for name in NAMES},
        "not_run": {"Faktory": "no running server was named"},
        "samples": samples,
        "problems": [],
    }


def test_every_contender_is_in_the_tables_and_what_was_not_run_is_named(found: dict[str, Any]) -> None:
    section = document.section(found)
    for name in [GATEWAY, *NAMES]:
        assert section.count(f"| {name} |") >= 5
    assert f"| {GATEWAY} | 600 |" in section.partition("### Redis memory of a waiting job")[2]
    assert "- Faktory: no running server was named" in section


def test_a_peer_that_is_faster_is_listed_as_such(found: dict[str, Any]) -> None:
    behind = document.section(found).partition("### Where the gateway is behind")[2]
    for name in NAMES:
        assert f"- process: {name} " in behind
    assert "latency" not in behind


def test_the_page_keeps_its_own_text_and_its_pictures_are_sound(tmp_path: Path, found: dict[str, Any]) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{PEERS.begin}\nold\n{PEERS.end}\nafter\n")
    document.write(tmp_path, found)
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")
    assert "\nold\n" not in page.read_text()
    drawn = {path.name: ElementTree.parse(path) for path in (tmp_path / "performance").glob("*.svg")}
    assert set(drawn) == {"throughput.svg", "latency.svg", "scaling.svg"}
    words = "".join("".join(tree.getroot().itertext()) for tree in drawn.values())
    assert all(name in words for name in NAMES)
