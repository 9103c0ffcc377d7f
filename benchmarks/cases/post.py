"""`POST /tasks`, one task per request on 64 connections, against an echo of the same body by the same server."""

from __future__ import annotations

from benchmarks.bench import Bench, interleaved
from benchmarks.figures import Row, at_least, ratios
from benchmarks.load_client import Report

_CONNECTIONS = 64


def run(bench: Bench) -> list[Row]:
    """Measure both contenders, round by round."""
    reports: dict[str, list[Report]] = {"gateway": [], "echo": []}
    for round_number in range(bench.rounds):
        for contender in interleaved(round_number, list(reports)):
            measure = _gateway if contender == "gateway" else _echo
            reports[contender].append(measure(bench, round_number))
    rates = {contender: [report["requests_per_second"] for report in found] for contender, found in reports.items()}
    return [
        Row("echo of the same POST", "requests/s", rates["echo"], key="echo"),
        Row("POST /tasks", "requests/s", rates["gateway"], key="post"),
        Row(
            "POST /tasks against echo", "", ratios(rates["gateway"], rates["echo"]), at_least(0.75), key="against echo"
        ),
        Row("POST /tasks p50", "ms", [report["latency_ms"]["request"]["p50"] for report in reports["gateway"]]),
        Row("POST /tasks p99", "ms", [report["latency_ms"]["request"]["p99"] for report in reports["gateway"]]),
    ]


def _gateway(bench: Bench, round_number: int) -> Report:
    with bench.redis() as redis, bench.gateway(redis) as gateway:
        return bench.measure(
            "gateway", round_number, [gateway, redis], "post", gateway.url, connections=_CONNECTIONS, **bench.span()
        )


def _echo(bench: Bench, round_number: int) -> Report:
    with bench.echo() as echo:
        return bench.measure(
            "echo",
            round_number,
            [echo],
            "post",
            echo.url,
            path="/echo",
            expect=200,
            connections=_CONNECTIONS,
            **bench.span(),
        )
