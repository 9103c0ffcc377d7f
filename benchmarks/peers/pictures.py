"""Draws the figures as small SVG: bars, spans and curves, readable on light and on dark pages, with no library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

_WIDTH = 860
_LEFT = 220  # where names end
_RIGHT = 40
_ROW = 22
_STYLE = """
.page{fill:#ffffff}.ink{fill:#1f2328}.dim{fill:#59636e}.rule{stroke:#d1d9e0;stroke-width:1;fill:none}
.own{fill:#0969da;stroke:#0969da}.other{fill:#8c959f;stroke:#8c959f}
.line0{stroke:#0969da}.line1{stroke:#bc4c00}.line2{stroke:#1a7f37}.line3{stroke:#8250df}
@media(prefers-color-scheme:dark){.page{fill:#0d1117}.ink{fill:#f0f6fc}.dim{fill:#9198a1}.rule{stroke:#3d444d}
.own{fill:#4493f8;stroke:#4493f8}.other{fill:#656c76;stroke:#656c76}
.line0{stroke:#4493f8}.line1{stroke:#f0883e}.line2{stroke:#3fb950}.line3{stroke:#ab7df8}}
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
            body.append(_text(_LEFT + max(value * room, 1) + 6, y + 15, f"{value:,.0f}", "dim"))
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
        body.append(_text(at(each["p99.9"]) + 6, y + 15, f"{_spell(each['p50'])} / {_spell(each['p99'])}", "dim small"))
        y += _ROW
    body.append(_text(16, bottom + 36, "line: least to p99.9; bar: p50 to p99; figures: p50 / p99", "dim small"))
    return _svg(title, bottom + 50, body)


def curves(title: str, values: Mapping[str, Mapping[int, float]], own: str) -> str:
    """One line for each name over a logarithmic axis of concurrency; the vertical axis is linear from zero."""
    left, top, bottom, right = 70, 56, 330, _WIDTH - 150
    places = sorted({at for each in values.values() for at in each})
    most = max(value for each in values.values() for value in each.values())
    unit = 10 ** math.floor(math.log10(most))
    unit = unit / 2 if most / unit < 3 else unit

    def x_of(at: int) -> float:
        share = math.log2(at / places[0]) / max(math.log2(places[-1] / places[0]), 1)
        return left + share * (right - left)

    def y_of(value: float) -> float:
        return bottom - value / most * (bottom - top)

    body = []
    for number in range(int(most / unit) + 1):
        y = y_of(number * unit)
        body.append(f'<path class="rule" d="M{left} {y:.1f}H{right}"/>')
        body.append(_text(left - 8, y + 4, f"{number * unit:,.0f}", "dim small", "end"))
    for at in places:
        body.append(_text(x_of(at), bottom + 18, str(at), "dim small", "middle"))
    body.append(_text((left + right) / 2, bottom + 38, "concurrency of the worker", "dim small", "middle"))
    lowest = 0.0
    for name, each in sorted(values.items(), key=lambda row: -row[1][max(row[1])]):
        line = f"line{list(values).index(name) % 4}"
        points = " ".join(f"{x_of(at):.1f},{y_of(value):.1f}" for at, value in sorted(each.items()))
        body.append(f'<polyline class="curve {line}" points="{points}"/>')
        y = lowest = max(y_of(each[max(each)]), lowest + 16)  # no name is written over another
        body.append(f'<path class="curve {line}" d="M{right + 8} {y:.1f}h14"/>')
        body.append(_text(right + 28, y + 4, name, "ink" if name == own else "dim"))
    return _svg(title, bottom + 54, body)


def _spell(value: float) -> str:
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
