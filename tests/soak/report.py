"""A soak told in Markdown: what was done, what is flat, what was left."""

from __future__ import annotations

import statistics

from tests.soak.flat import WARM_UP, shown, sparkline
from tests.soak.soak import Outcome, Plan

_MIB = 1024 * 1024


def markdown(plan: Plan, outcome: Outcome) -> str:
    """Tell of a run."""
    counts = outcome.counts
    requests = sum(
        number for name, number in counts.items() if name.startswith(("enqueue:", "poll:", "report:", "task:", "read:"))
    )
    lines = [
        f"{plan.seconds / 60:.4g} minutes at {plan.rate:g} tasks/s, seed {plan.seed}, {plan.gateways} gateways, "
        f"{plan.workers} workers, {plan.lurkers} idle pollers: {outcome.acknowledged:,} tasks acknowledged, "
        f"{outcome.ended:,} seen to end, {outcome.unseen:,} more by the totals only; {requests:,} requests, "
        f"{counts.get('handed out', 0):,} hand-outs; "
        f"{counts.get('abandoned', 0):,} leases abandoned, {counts.get('hung up', 0):,} requests hung up, "
        f"{counts.get('heartbeats', 0):,} heartbeats; accepted: {counts.get('accepted completed', 0):,} completed, "
        f"{counts.get('accepted failed', 0):,} failed, {counts.get('accepted cancelled', 0):,} cancelled.",
        "",
        f"**Violations: {len(outcome.violations)}.** Answers 5xx: {_statuses(counts, 500)}; no answer: "
        f"{_statuses(counts, 0)}. Drained in {outcome.drain_seconds:.1f} s; after another "
        f"{outcome.leftover_seconds:.1f} s only {len(outcome.named_keys)} named keys were left. used_memory "
        f"{outcome.memory_before_bytes / _MIB:.2f} MiB before, {outcome.memory_after_bytes / _MIB:.2f} MiB after; open "
        f"files of the gateways {outcome.files_before} before, {outcome.files_after} after.",
        "",
        *(f"- {violation}" for violation in outcome.violations[:30]),
        f"After warm-up (the first {WARM_UP:.0%}), one sample every {plan.sample_seconds:g} s:",
        "",
        "| | median | growth | allowed | | over time | from .. to |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in outcome.series:
        lines.append(
            f"| {one.name} | {_number(statistics.median(one.values))} {one.unit} | {one.growth:+.2f} | "
            f"{one.allowed:.2f} | {one.verdict} | {sparkline(one.values)} | {_range(one.values)} |"
        )
    for name, unit, values in shown(outcome.samples):
        if values:
            lines.append(
                f"| {name} | {_number(statistics.median(values))} {unit} | | | shown | {sparkline(values)} | "
                f"{_range(values)} |"
            )
    return "\n".join(lines) + "\n"


def _statuses(counts: dict[str, int], at_least: int) -> int:
    """Count answers of 500 and above, or, for 0, requests without one."""
    found = 0
    for name, number in counts.items():
        kind, _, status = name.partition(": ")
        if kind in ("enqueue", "poll", "report", "task", "read"):
            found += (
                number if (not status.isdigit() if at_least == 0 else status.isdigit() and int(status) >= 500) else 0
            )
    return found


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _range(values: list[float]) -> str:
    return f"{_number(min(values))} .. {_number(max(values))}"
