"""Procedural textures, one function a family: linear RGB (S, S, 3) float32 and a name."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from ttt_core.scenes.colour import Palette
from ttt_core.scenes.config import KEPT_OUT_TEXTURE
from ttt_core.scenes.types import Array


class Noise:
    """Tileable noise fields of one size, made once a scene and re-used shifted and turned."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.size = size
        frequency = np.hypot(
            np.fft.fftfreq(size)[:, None] * size, np.fft.rfftfreq(size)[None] * size
        )
        frequency[0, 0] = 1.0
        self._fields = []
        for power in (0.9, 1.4, 2.0):
            shape = (size, size // 2 + 1)
            spectrum = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
            spectrum *= frequency**-power
            spectrum[0, 0] = 0.0
            field = np.fft.irfft2(spectrum, s=(size, size))
            self._fields.append((field / field.std()).astype(np.float32))

    def __call__(self, rng: np.random.Generator, smooth: int = 1) -> Array:
        """(S, S) noise of unit deviation; `smooth` 0 is rough, 2 is cloudy."""
        field = self._fields[smooth]
        field = np.roll(field, tuple(rng.integers(0, self.size, 2)), (0, 1))
        return np.ascontiguousarray(field.T if rng.random() < 0.5 else field[::-1])


def _mix(low: Array, high: Array, weight: Array) -> Array:
    return low + (high - low) * weight[..., None]


def _step(field: Array, edge: float, softness: float) -> Array:
    return np.clip((field - edge) / softness + 0.5, 0.0, 1.0)


def _grid(size: int) -> tuple[Array, Array]:
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.broadcast_to(line[None], (size, size)), np.broadcast_to(line[:, None], (size, size))


def _noise(rng: np.random.Generator, palette: Palette, noise: Noise) -> Array:
    colours = palette.colours(rng, 3)
    smooth = int(rng.integers(0, 3))
    picture = _mix(colours[0], colours[1], _step(noise(rng, smooth), 0.0, rng.uniform(0.5, 4.0)))
    mask = _step(noise(rng, int(rng.integers(0, 3))), rng.uniform(0.2, 1.2), rng.uniform(0.1, 1.0))
    return _mix(picture, colours[2], mask)


def _leaves(rng: np.random.Generator, palette: Palette, noise: Noise) -> Array:
    size = noise.size
    colours = palette.colours(rng, 8, 0.25)
    picture = np.ascontiguousarray(np.broadcast_to(colours[0], (size, size, 3)))
    count = int(rng.integers(120, 320))
    radii = size * np.clip(0.02 * rng.pareto(1.5, count) + 0.012, 0.0, 0.16)
    shape = int(rng.integers(3))
    for radius in -np.sort(-radii):
        x, y = rng.integers(0, size, 2)
        colour = tuple(float(c) for c in colours[rng.integers(8)] * rng.uniform(0.8, 1.2))
        reach = max(int(radius), 1)
        angle = float(rng.uniform(0, 180))
        for shift in ((0, 0), (size, 0), (-size, 0), (0, size), (0, -size)):
            centre = (int(x + shift[0]), int(y + shift[1]))
            if shape == 0:
                cv2.circle(picture, centre, reach, colour, -1)
            elif shape == 1:
                axes = (reach, max(reach // 2, 1))
                cv2.ellipse(picture, centre, axes, angle, 0, 360, colour, -1)
            else:
                corner = (centre[0] + reach * 2, centre[1] + reach)
                cv2.rectangle(picture, centre, corner, colour, -1)
    return picture


def _bricks(rng: np.random.Generator, palette: Palette, noise: Noise) -> Array:
    x, y = _grid(noise.size)
    rows = int(rng.integers(3, 9)) * 2
    columns = int(rng.integers(2, 7))
    shift = 0.5 if rng.random() < 0.7 else 0.0
    row = np.floor(y * rows)
    across = x * columns + shift * (row % 2)
    brick = (row * columns + np.floor(across) % columns).astype(np.int64)
    colours = palette.colours(rng, 3, 0.1)
    tone = rng.uniform(0, 1, rows * columns).astype(np.float32)[brick]
    picture = _mix(colours[0], colours[1], tone)
    gap = rng.uniform(0.03, 0.12)
    edge = np.minimum(
        np.minimum(across % 1.0, 1 - across % 1.0) / columns,
        np.minimum(y * rows % 1.0, 1 - y * rows % 1.0) / rows,
    )
    joint = 1.0 - _step(edge * rows, gap, 0.06)
    picture = picture * (1 + 0.12 * noise(rng, 0)[..., None])
    return _mix(picture, colours[2], joint)


def _wood(rng: np.random.Generator, palette: Palette, noise: Noise) -> Array:
    x, _ = _grid(noise.size)
    planks = int(rng.integers(1, 7))
    plank = np.floor(x * planks)
    offset = rng.uniform(0, 10, planks)[plank.astype(np.int64)].astype(np.float32)
    cell = noise(rng, 2)
    grain = np.sin((x * rng.uniform(8, 30) + 0.25 * cell + offset) * 2 * np.pi)
    fibre = cv2.blur(noise(rng, 0), (1, max(noise.size // 8, 1)), borderType=cv2.BORDER_REFLECT)
    colours = palette.colours(rng, 2, 0.12)
    picture = _mix(colours[0], colours[1], 0.5 + 0.25 * grain + 0.6 * fibre)
    tone = rng.uniform(0.75, 1.15, planks)[plank.astype(np.int64)].astype(np.float32)
    crack = 1.0 - 0.7 * (1.0 - _step(np.minimum(x * planks % 1, 1 - x * planks % 1), 0.02, 0.02))
    return picture * (tone * (crack if planks > 1 else 1.0))[..., None]


def _checks(rng: np.random.Generator, palette: Palette, noise: Noise) -> Array:
    x, y = _grid(noise.size)
    colours = palette.colours(rng, 3, 0.2)
    count = int(rng.integers(2, 9))
    first, second = np.floor(x * 2 * count), np.floor(y * 2 * count)
    style = int(rng.integers(4))
    if style == 0:
        pattern = (first + second) % 2
    elif style == 1:
        pattern = first % 2
    elif style == 2:
        edge = np.minimum(x * count % 1, y * count % 1)
        pattern = (edge < rng.uniform(0.05, 0.25)).astype(np.float32)
    else:
        pattern = 0.5 * (first % 2) + 0.5 * (second % 2)
    tile = rng.uniform(0.85, 1.15, (count, count)).astype(np.float32)
    tone = tile[(y * count).astype(np.int64), (x * count).astype(np.int64)]
    return _mix(colours[0], colours[1], pattern.astype(np.float32)) * tone[..., None]


def _voronoi(rng: np.random.Generator, palette: Palette, noise: Noise) -> Array:
    size = noise.size
    count = int(rng.integers(20, 70))
    points = rng.integers(0, size, (count, 2))
    # A period of two in both directions, of which the middle is kept, makes the cells tile.
    cell = np.full((size, size), -1)
    cell[points[:, 0], points[:, 1]] = np.arange(count)
    cell = np.tile(cell, (2, 2))
    distance, label = cv2.distanceTransformWithLabels(
        (cell < 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner = np.zeros(int(label.max()) + 1, np.int64)
    owner[label[cell >= 0]] = cell[cell >= 0]
    middle = slice(size // 2, size // 2 + size)
    distance, cell = distance[middle, middle], owner[label][middle, middle]
    picture = palette.colours(rng, 6, 0.2)[cell % 6]
    edges = cv2.Laplacian(cell.astype(np.float32), cv2.CV_32F) != 0
    shade = 1.1 - 0.4 * distance / max(float(distance.max()), 1.0)
    picture = picture * shade[..., None]
    return _mix(picture, palette.colours(rng, 1)[0], 0.8 * edges.astype(np.float32))


def _text(rng: np.random.Generator, palette: Palette, noise: Noise) -> Array:
    size = noise.size
    colours = palette.colours(rng, 5, 0.3)
    picture = np.ascontiguousarray(np.broadcast_to(colours[0], (size, size, 3)))
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHKLMNPRSTUVXZ0123456789 "))
    y = 0
    while y < size:
        scale = float(rng.uniform(0.4, 2.2)) * size / 256
        y += int(26 * scale) + int(rng.integers(2, 10))
        line = "".join(rng.choice(letters, 20))
        colour = colours[rng.integers(1, 5)]
        start = (int(rng.integers(-20, size // 4)), y)
        thick = max(int(rng.integers(1, 3) * scale), 1)
        ink = np.zeros((size, size), np.uint8)
        cv2.putText(ink, line, start, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick)
        picture = _mix(picture, colour, ink.astype(np.float32) / 255)
        if rng.random() < 0.3:
            corner = (int(rng.integers(0, size)), y)
            reach = int(rng.integers(size // 12, size // 3))
            far = (corner[0] + reach, corner[1] + reach // 2)
            cv2.rectangle(picture, corner, far, tuple(float(c) for c in colour), -1)
    return picture


def _facade(rng: np.random.Generator, palette: Palette, noise: Noise) -> Array:
    size = noise.size
    colours = palette.colours(rng, 3, 0.2)
    picture = np.ascontiguousarray(np.broadcast_to(colours[0], (size, size, 3)))
    columns, rows = (int(n) for n in rng.integers(2, 7, 2))
    wide, high = size / columns, size / rows
    margin, sill = rng.uniform(0.12, 0.35, 2)
    for row in range(rows):
        for column in range(columns):
            corner = (int((column + margin) * wide), int((row + sill) * high))
            far = (int((column + 1 - margin) * wide), int((row + 1 - sill) * high))
            glass = colours[1] * rng.uniform(0.5, 1.6)
            cv2.rectangle(picture, corner, far, tuple(float(c) for c in glass), -1)
            cv2.rectangle(picture, corner, far, tuple(float(c) for c in colours[2]), 2)
            middle = (corner[0] + far[0]) // 2
            cv2.line(picture, (middle, corner[1]), (middle, far[1]), tuple(map(float, colours[2])))
    return picture


def _paint(rng: np.random.Generator, palette: Palette, noise: Noise) -> Array:
    colours = palette.colours(rng, 2, 0.08)
    picture = _mix(colours[0], colours[1], 0.15 * noise(rng, 2) + 0.04 * noise(rng, 0))
    marks = _step(noise(rng, 0), rng.uniform(2.2, 3.2), 0.4)
    return _mix(picture, 0.6 * colours[1], 0.6 * marks)


FAMILIES: dict[str, Callable[[np.random.Generator, Palette, Noise], Array]] = {
    "noise": _noise,
    "leaves": _leaves,
    "bricks": _bricks,
    "wood": _wood,
    "checks": _checks,
    "voronoi": _voronoi,
    "text": _text,
    "facade": _facade,
    "paint": _paint,
}
_WEIGHTS = {"noise": 2.0, "leaves": 1.2, "wood": 1.2, "paint": 2.4, "facade": 0.5, "checks": 0.7}


def make_textures(
    rng: np.random.Generator, count: int, size: int, *, kept_out: bool
) -> tuple[Array, tuple[str, ...]]:
    """Textures of one scene: (count, S, S, 3) linear RGB in 0…1, and their families.

    Every second texture of a `kept_out` scene is of `KEPT_OUT_TEXTURE`; no other scene has one.
    """
    palette, noise = Palette(rng), Noise(rng, size)
    names = [name for name in FAMILIES if name != KEPT_OUT_TEXTURE]
    weights = np.array([_WEIGHTS.get(name, 1.0) for name in names])
    families, pictures = [], []
    for index in range(count):
        name = str(rng.choice(names, p=weights / weights.sum()))
        if kept_out and index % 2 == 0:
            name = KEPT_OUT_TEXTURE
        picture = FAMILIES[name](rng, palette, noise)
        if rng.random() < 0.2:  # a second coat shows through where the first has worn off
            mask = _step(noise(rng, 1), rng.uniform(0.3, 1.0), rng.uniform(0.05, 0.5))
            picture = _mix(picture, _noise(rng, palette, noise), mask)
        picture = picture * (1 + rng.uniform(0.01, 0.1) * noise(rng, 0)[..., None])
        families.append(name)
        pictures.append(np.clip(_relief(rng, picture), 0.005, 0.95))
    return np.stack(pictures).astype(np.float32), tuple(families)


def _relief(rng: np.random.Generator, picture: Array) -> Array:
    """Light and dark sides of what stands out, painted on: the same from every view."""
    height = picture.mean(-1)
    height = height / max(float(height.mean()), 1e-3)
    slope = np.roll(height, 1, (0, 1)) - height
    return picture * (1 + np.clip(rng.uniform(0, 1.0) * slope, -0.4, 0.4))[..., None]
