"""A picture of a run: loss over time, and small panels of what was evaluated."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Series = Sequence[tuple[float, float]]

_PANEL_WIDTH, _PANEL_HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 30, 30
_COLUMNS = 3
_INK, _FAINT, _GRID, _BLUE = (40, 40, 40), (225, 190, 150), (235, 235, 235), (180, 90, 20)  # BGR
_SMOOTHING = 0.03  # of the number of steps
_POINTS = 400


def plot_run(lines: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw the lines of `read_log` as a PNG, whole or not at all; nothing where there are none.

    The first panel is the loss of every step (faint) with its running median, on a logarithmic
    axis where it is positive; the others are the evaluated figures in alphabetical order. The
    horizontal axis is training minutes.
    """
    loss = _series(lines, "step", "loss")
    names = sorted(
        {name for line in lines if line["kind"] == "evaluation" for name in line["figures"]}
    )
    panels = [_panel("loss", loss, smooth=True)] if loss else []
    for name in names:
        points = _series(lines, "evaluation", name)
        if points:
            panels.append(_panel(name, points, smooth=False))
    if not panels:
        return
    columns = min(_COLUMNS, len(panels))
    blank = np.full((_PANEL_HEIGHT, _PANEL_WIDTH, 3), 255, np.uint8)
    panels += [blank] * (-len(panels) % columns)
    rows = [np.hstack(panels[i : i + columns]) for i in range(0, len(panels), columns)]
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    encoded = cv2.imencode(".png", np.vstack(rows))[1]
    aside.write_bytes(encoded.tobytes())
    os.replace(aside, path)


def _series(lines: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[tuple[float, float]]:
    points = []
    for line in lines:
        if line["kind"] == kind:
            value = line["figures"].get(name) if kind == "evaluation" else line.get(name)
            if isinstance(value, int | float):
                points.append((line["elapsed"] / 60.0, float(value)))
    return points


def _panel(title: str, points: Series, *, smooth: bool) -> Image:
    image = np.full((_PANEL_HEIGHT, _PANEL_WIDTH, 3), 255, np.uint8)
    x = np.array([point[0] for point in points])
    y = np.array([point[1] for point in points])
    logarithmic = smooth and bool((y > 0).all())
    # single outliers would flatten the curve of the loss
    low, high = (float(np.quantile(y, q)) for q in ((0.01, 0.99) if smooth else (0.0, 1.0)))
    if logarithmic:
        y, low, high = np.log(y), math.log(low), math.log(high)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin
    right = max(float(x.max()), 1e-6)

    def place(px: NDArray[np.float64], py: NDArray[np.float64]) -> NDArray[np.int32]:
        across = _LEFT + px / right * (_PANEL_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (high - py.clip(low, high)) / (high - low) * (_PANEL_HEIGHT - _TOP - _BOTTOM)
        return np.stack([across, down], -1).round().astype(np.int32)

    for level in np.linspace(low + margin, high - margin, 5):
        row = int(place(np.zeros(1), np.array([level]))[0, 1])
        cv2.line(image, (_LEFT, row), (_PANEL_WIDTH - _RIGHT, row), _GRID, 1)
        _text(image, f"{math.exp(level) if logarithmic else level:.4g}", (6, row + 4))
    for share in (0.0, 0.5, 1.0):
        column = _LEFT + int(share * (_PANEL_WIDTH - _LEFT - _RIGHT))
        _text(image, f"{share * right:.3g}", (column - 16, _PANEL_HEIGHT - 10))
    _text(image, f"{title}   (last {points[-1][1]:.5g}; minutes)", (_LEFT, 18), 0.45)
    if smooth:
        cv2.polylines(image, [place(x, y)], False, _FAINT, 1, cv2.LINE_AA)
        x, y = _running_median(x, y)
    cv2.polylines(image, [place(x, y)], False, _BLUE, 2, cv2.LINE_AA)
    if not smooth:
        for column, row in place(x, y).tolist():
            cv2.circle(image, (column, row), 2, _BLUE, -1, cv2.LINE_AA)
    return image


def _running_median(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    half = max(2, int(_SMOOTHING * len(y)))
    centres = np.unique(np.linspace(0, len(y) - 1, min(len(y), _POINTS)).astype(int))
    medians = [np.median(y[max(0, c - half) : c + half + 1]) for c in centres]
    return x[centres], np.array(medians)


def _text(image: Image, text: str, at: tuple[int, int], size: float = 0.36) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1, cv2.LINE_AA)
