"""Draws figures as small SVG, readable on light and on dark pages, with no library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from benchmarks.tables import spell

_WIDTH = 860
_LEFT = 220  # where names end
_RIGHT = 40
_ROW = 22
_PLOT_LEFT, _PLOT_TOP, _PLOT_BOTTOM, _PLOT_RIGHT = 76, 62, 330, 640
_MOST_MARKS = 6
_STYLE = """
.page{fill:#ffffff}.ink{fill:#1f2328}.dim{fill:#59636e}.rule{stroke:#d1d9e0;stroke-width:1;fill:none}
.own{fill:#0969da;stroke:#0969da}.other{fill:#8c959f;stroke:#8c959f}
.line0{stroke:#0969da}.line1{stroke:#bc4c00}.line2{stroke:#1a7f37}.line3{stroke:#8250df}.line4{stroke:#cf222e}
@media(prefers-color-scheme:dark){.page{fill:#0d1117}.ink{fill:#f0f6fc}.dim{fill:#9198a1}.rule{stroke:#3d444d}
.own{fill:#4493f8;stroke:#4493f8}.other{fill:#656c76;stroke:#656c76}
.line0{stroke:#4493f8}.line1{stroke:#f0883e}.line2{stroke:#3fb950}.line3{stroke:#ab7df8}.line4{stroke:#f85149}}
text{font:13px system-ui,sans-serif;stroke:none}.title{font-size:15px;font-weight:600}.small{font-size:11px}
.curve{fill:none;stroke-width:2}
"""


def bars(title: str, panels: Mapping[str, Mapping[str, float]], own: str) -> str:
    """One panel of horizontal bars per entry, each on its own linear scale from zero; `own` is set off by colour."""
    body, y = [], 52
    for heading, values in panels.items():
        if not values:
            continue
        body.append(_text(16, y, heading, "title ink"))
        y += 12
        room = (_WIDTH - _LEFT - _RIGHT - 70) / max(values.values())
        for name, value in sorted(values.items(), key=lambda row: -row[1]):
            kind = "own" if name.startswith(own) else "other"
            body.append(_text(_LEFT - 8, y + 15, name, "ink", "end"))
            body.append(
                f'<rect class="{kind}" x="{_LEFT}" y="{y + 4}" width="{max(value * room, 1):.1f}" height="14" rx="2"/>'
            )
            body.append(_text(_LEFT + max(value * room, 1) + 6, y + 15, f"{spell(value)}", "dim"))
            y += _ROW
        y += 34
    return _svg(title, y - 14, body)


def spans(title: str, values: Mapping[str, Mapping[str, float]], own: str) -> str:
    """For each name a line from the least value to p99.9 and a bar from p50 to p99, on a logarithmic axis."""
    low = math.floor(math.log10(min(each["min"] for each in values.values()) or 0.01))
    high = math.ceil(math.log10(max(each["p99.9"] for each in values.values())))
    step = (_WIDTH - _LEFT - _RIGHT) / max(high - low, 1)

    def at(value: float) -> float:
        return _LEFT + (math.log10(max(value, 10**low)) - low) * step

    bottom = 70 + _ROW * len(values)
    body = []
    for power in range(low, high + 1):
        x = at(10**power)
        body.append(f'<path class="rule" d="M{x:.1f} 56V{bottom}"/>')
        body.append(_text(x, bottom + 16, f"{10**power:g} ms", "dim small", "middle"))
    y = 60
    for name, each in sorted(values.items(), key=lambda row: row[1]["p50"]):
        kind = "own" if name.startswith(own) else "other"
        body.append(_text(_LEFT - 8, y + 15, name, "ink", "end"))
        body.append(f'<path class="{kind}" d="M{at(each["min"]):.1f} {y + 11}H{at(each["p99.9"]):.1f}"/>')
        width = max(at(each["p99"]) - at(each["p50"]), 3)
        body.append(
            f'<rect class="{kind}" x="{at(each["p50"]):.1f}" y="{y + 5}" width="{width:.1f}" height="12" rx="2"/>'
        )
        body.append(_text(at(each["p99.9"]) + 6, y + 15, f"{_brief(each['p50'])} / {_brief(each['p99'])}", "dim small"))
        y += _ROW
    body.append(_text(16, bottom + 36, "line: least to p99.9; bar: p50 to p99; figures: p50 / p99", "dim small"))
    return _svg(title, bottom + 50, body)


def percentiles(title: str, values: Mapping[str, Mapping[str, float]]) -> str:
    """One line for each name over percentiles (`p50`, `p99.9`, ..), each nine as wide as the next; ms, logarithmic."""
    places = {name: -math.log10(1 - float(name[1:]) / 100) for each in values.values() for name in each}
    marks = _powers([value for each in values.values() for value in each.values()])
    low, high = math.log10(marks[0]), math.log10(marks[-1])
    lines = {
        name: [
            (places[at] / max(places.values()), (math.log10(value) - low) / (high - low)) for at, value in each.items()
        ]
        for name, each in values.items()
    }
    across = {name: place / max(places.values()) for name, place in places.items()}
    upwards = {f"{mark:g}": (math.log10(mark) - low) / (high - low) for mark in marks}
    return _plot(title, "percentile", "ms", across, upwards, lines)


def curves(title: str, across: str, upwards: str, values: Mapping[str, Mapping[int, float]]) -> str:
    """One line for each name over a logarithmic axis; the upright one is linear, from zero.

    across, upwards: what the axes say.
    """
    places = sorted({at for each in values.values() for at in each})
    reach = math.log(places[-1] / places[0]) or 1
    marks = _steps(max(value for each in values.values() for value in each.values()))
    lines = {
        name: [(math.log(at / places[0]) / reach, value / marks[-1]) for at, value in sorted(each.items())]
        for name, each in values.items()
    }
    return _plot(
        title,
        across,
        upwards,
        {f"{at:,}": math.log(at / places[0]) / reach for at in places},
        {f"{mark:,.10g}": mark / marks[-1] for mark in marks},
        lines,
    )


def _plot(
    title: str,
    across: str,
    upwards: str,
    across_marks: Mapping[str, float],
    upward_marks: Mapping[str, float],
    lines: Mapping[str, list[tuple[float, float]]],
) -> str:
    """Axes and lines. Every place is a share of its axis."""

    def x_of(share: float) -> float:
        return _PLOT_LEFT + share * (_PLOT_RIGHT - _PLOT_LEFT)

    def y_of(share: float) -> float:
        return _PLOT_BOTTOM - share * (_PLOT_BOTTOM - _PLOT_TOP)

    body = [_text(16, 46, upwards, "small dim")]
    for words, share in upward_marks.items():
        body.append(f'<path class="rule" d="M{_PLOT_LEFT} {y_of(share):.1f}H{_PLOT_RIGHT}"/>')
        body.append(_text(_PLOT_LEFT - 8, y_of(share) + 4, words, "dim small", "end"))
    for words, share in across_marks.items():
        body.append(_text(x_of(share), _PLOT_BOTTOM + 18, words, "dim small", "middle"))
    body.append(_text((_PLOT_LEFT + _PLOT_RIGHT) / 2, _PLOT_BOTTOM + 38, across, "dim small", "middle"))
    lowest = 0.0
    for number, (name, places) in sorted(enumerate(lines.items()), key=lambda row: -row[1][1][-1][1]):
        line = f"line{number % 5}"
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in places)
        body.append(f'<polyline class="curve {line}" points="{points}"/>')
        lowest = max(y_of(places[-1][1]), lowest + 17)  # no name is written over another
        body.append(f'<path class="curve {line}" d="M{_PLOT_RIGHT + 10} {lowest:.1f}h14"/>')
        body.append(_text(_PLOT_RIGHT + 30, lowest + 4, name, "ink"))
    return _svg(title, max(_PLOT_BOTTOM + 54, lowest + 20), body)


def _powers(values: list[float]) -> list[float]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def _steps(most: float) -> list[float]:
    """Even steps of 1, 2 or 5 (times a power of ten) from zero to `most` or beyond, at most six."""
    unit = 10.0 ** math.floor(math.log10(most))
    step = next(unit * share for share in (0.2, 0.5, 1, 2) if most / (unit * share) <= _MOST_MARKS)
    return [number * step for number in range(math.ceil(most / step - 1e-9) + 1)]


def _brief(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(title: str, height: float, body: list[str]) -> str:
    box = f'viewBox="0 0 {_WIDTH} {height:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" aria-label="{escape(title)}">',
            f"<style>{_STYLE}</style>",
            f'<rect class="page" width="{_WIDTH}" height="{height:.0f}"/>',
            _text(16, 26, title, "title ink"),
            *body,
            "</svg>\n",
        ]
    )
