"""Curves as SVG, drawn with nothing but text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

COLOURS = ("#8a8a8a", "#0f8b8d", "#d1495b", "#3066be", "#e08e0b", "#6d4c9f", "#3a7d44")
_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 168, 26, 40
_LABEL_HEIGHT = 15.0


@dataclass(frozen=True, slots=True)
class Curve:
    """Points (x, y) by rising x, and the number of the colour in `COLOURS`."""

    label: str
    colour: int
    points: Sequence[tuple[float, float]]


def chart(title: str, x_label: str, curves: Sequence[Curve]) -> str:
    """An <svg> element with axes, grid and a label at the end of every curve; empty without any."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return ""
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    x_ticks, y_ticks = ticks(min(0.0, *xs), max(xs)), ticks(min(ys), max(ys))
    x_low, x_high = min(0.0, *xs), max(max(xs), x_ticks[-1])
    y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)

    def place_x(x: float) -> float:
        return _LEFT + (x - x_low) / (x_high - x_low or 1.0) * (_WIDTH - _LEFT - _RIGHT)

    def place_y(y: float) -> float:
        return (
            _HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low or 1.0) * (_HEIGHT - _TOP - _BOTTOM)
        )

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>',
    ]
    right = _WIDTH - _RIGHT
    for y in y_ticks:
        at = place_y(y)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}">{y:g}</text>')
    bottom = _HEIGHT - _BOTTOM
    for x in x_ticks:
        at = place_x(x)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick x" x="{at:.1f}" y="{bottom + 16}">{x:g}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text class="tick x" x="{middle}" y="{_HEIGHT - 6}">{escape(x_label)}</text>')
    ends = _spread([place_y(curve.points[-1][1]) for curve in curves])
    for curve, label_y in zip(curves, ends, strict=True):
        colour = COLOURS[curve.colour % len(COLOURS)]
        placed = [(place_x(x), place_y(y)) for x, y in curve.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        dot = 3.5 if len(placed) <= 12 else 1.8
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{dot}" fill="{colour}"/>' for x, y in placed
        ]
        parts.append(
            f'<text class="label" x="{right + 10}" y="{label_y + 4:.1f}" style="fill:{colour}">'
            f"{escape(curve.label)}</text>"
        )
    return "\n".join([*parts, "</svg>"])


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from `low` down to a step to `high` up to a step."""
    span = high - low
    if not span > 0.0:
        span = max(abs(high), 1.0) * 0.1
    power = 10.0 ** math.floor(math.log10(span / 4.0))
    step = min((s * power for s in (1.0, 2.0, 2.5, 5.0, 10.0)), key=lambda s: abs(span / s - 4.0))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def _spread(heights: Sequence[float]) -> list[float]:
    """The same places, moved apart until labels do not cover each other."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + _LABEL_HEIGHT)
    overhang = max(0.0, max(placed) - (_HEIGHT - _BOTTOM))
    return [place - overhang for place in placed]
