"""Draws curves as small SVG over a logarithmic axis, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

_WIDTH, _LEFT, _TOP, _BOTTOM, _RIGHT = 860, 76, 56, 330, 640
_STYLE = """
.page{fill:#ffffff}.ink{fill:#1f2328}.dim{fill:#59636e}.rule{stroke:#d1d9e0;stroke-width:1;fill:none}
.line0{stroke:#0969da}.line1{stroke:#bc4c00}.line2{stroke:#1a7f37}.line3{stroke:#8250df}.line4{stroke:#cf222e}
@media(prefers-color-scheme:dark){.page{fill:#0d1117}.ink{fill:#f0f6fc}.dim{fill:#9198a1}.rule{stroke:#3d444d}
.line0{stroke:#4493f8}.line1{stroke:#f0883e}.line2{stroke:#3fb950}.line3{stroke:#ab7df8}.line4{stroke:#f85149}}
text{font:13px system-ui,sans-serif}.title{font-size:15px;font-weight:600}.small{font-size:11px}
.curve{fill:none;stroke-width:2}
"""
Curve = Mapping[float, float]


def curves(title: str, across: str, upwards: str, values: Mapping[str, Curve], *, logarithmic: bool = False) -> str:
    """Draw one line for each name. across, upwards: what the axes say; logarithmic: the upright one, too."""
    places = sorted({at for curve in values.values() for at in curve})
    heights = [value for curve in values.values() for value in curve.values()]
    marks = _powers(heights) if logarithmic else _steps(max(heights))
    low, high = _height(marks[0], logarithmic), _height(marks[-1], logarithmic)

    def x_of(at: float) -> float:
        return _LEFT + math.log(at / places[0]) / math.log(places[-1] / places[0]) * (_RIGHT - _LEFT)

    def y_of(value: float) -> float:
        return _BOTTOM - (_height(value, logarithmic) - low) / (high - low) * (_BOTTOM - _TOP)

    body = [_text(16, 26, title, "title ink"), _text(16, 46, upwards, "small dim")]
    for mark in marks:
        body.append(f'<path class="rule" d="M{_LEFT} {y_of(mark):.1f}H{_RIGHT}"/>')
        body.append(_text(_LEFT - 8, y_of(mark) + 4, f"{mark:,.10g}", "dim small", "end"))
    for at in places:
        body.append(_text(x_of(at), _BOTTOM + 18, f"{at:,.10g}", "dim small", "middle"))
    body.append(_text((_LEFT + _RIGHT) / 2, _BOTTOM + 38, across, "dim small", "middle"))
    lowest = 0.0
    for number, (name, curve) in sorted(enumerate(values.items()), key=lambda row: -row[1][1][max(row[1][1])]):
        points = " ".join(f"{x_of(at):.1f},{y_of(value):.1f}" for at, value in sorted(curve.items()))
        body.append(f'<polyline class="curve line{number % 5}" points="{points}"/>')
        lowest = max(y_of(curve[max(curve)]), lowest + 17)  # no name is written over another
        body.append(f'<path class="curve line{number % 5}" d="M{_RIGHT + 10} {lowest:.1f}h14"/>')
        body.append(_text(_RIGHT + 30, lowest + 4, name, "ink"))
    box = f'viewBox="0 0 {_WIDTH} {_BOTTOM + 54}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" aria-label="{escape(title)}">',
            f"<style>{_STYLE}</style>",
            f'<rect class="page" width="{_WIDTH}" height="{_BOTTOM + 54}"/>',
            *body,
            "</svg>\n",
        ]
    )


def _height(value: float, logarithmic: bool) -> float:
    return math.log10(value) if logarithmic else value


def _powers(heights: list[float]) -> list[float]:
    low, high = math.floor(math.log10(min(heights))), math.ceil(math.log10(max(heights)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def _steps(most: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10(most))
    step = step / 5 if most / step < 2 else step / 2 if most / step < 5 else step
    return [number * step for number in range(math.ceil(most / step - 1e-9) + 1)]


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
