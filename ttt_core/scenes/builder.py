"""Draws the things that scenes are furnished with: solids and how they look."""

from __future__ import annotations

import numpy as np

from ttt_core.scenes.colour import oklab
from ttt_core.scenes.solids import BOX, ELLIPSOID, FRUSTUM, Look, Solid, any_turn, yaw
from ttt_core.scenes.types import Array


class Builder:
    """Draws solids with looks from one random stream."""

    def __init__(self, rng: np.random.Generator, textures: int) -> None:
        self.rng, self.textures, self.solids = rng, textures, list[Solid]()

    def look(self, size: float = 1.0) -> Look:
        rng = self.rng
        tint = oklab(*rng.uniform([[0.75], [0.0], [0.0]], [[1.0], [0.03], [6.28]]))[0]
        shiny = rng.random() < 0.3
        return Look(
            texture=int(rng.integers(self.textures)),
            scale=float(np.exp(rng.normal(0, 0.4)) * 0.55 / max(size, 0.15) ** 0.6),
            tint=(float(tint[0]), float(tint[1]), float(tint[2])),
            specular=float(rng.uniform(0.1, 0.6)) if shiny else 0.0,
            gloss=float(rng.uniform(8, 60)),
        )

    def add(
        self, shape: int, centre: Array, half: Array, turn: Array, look: Look, top: float = 1.0
    ) -> Solid:
        solid = Solid(shape=shape, centre=centre, half=half, turn=turn, look=look, top=top)
        self.solids.append(solid)
        return solid

    def cut(self, solid: Solid) -> None:
        """Takes a box or an ellipsoid out of a box, through one of its sides."""
        rng = self.rng
        axis, side = int(rng.integers(3)), float(rng.choice([-1.0, 1.0]))
        at = rng.uniform(-0.4, 0.4, 3)
        at[axis] = side
        half = solid.half * rng.uniform(0.3, 0.65, 3)
        half[axis] = solid.half[axis] * rng.uniform(0.3, 2.2)
        solid.cutter = Solid(
            shape=BOX if rng.random() < 0.6 else ELLIPSOID,
            centre=solid.centre + solid.turn @ (at * solid.half),
            half=half,
            turn=solid.turn @ (yaw(rng.uniform(0, 0.8)) if rng.random() < 0.3 else np.eye(3)),
        )

    def thing(self, x: float, y: float, floor: float, size: float) -> None:
        """One solid that stands (mostly) on the floor."""
        rng = self.rng
        shape = int(rng.choice([BOX, ELLIPSOID, FRUSTUM], p=[0.55, 0.2, 0.25]))
        half = size * np.exp(rng.normal(0, 0.4, 3)) * 0.5
        if rng.random() < 0.15:  # thin and flat ones
            half[rng.integers(3)] *= rng.uniform(0.05, 0.2)
        turn = yaw(rng.uniform(0, 2 * np.pi))
        rise = half[2]
        if rng.random() < 0.12:
            turn = any_turn(rng)
            rise = float(np.abs(turn[2] * half).sum())
        if shape == FRUSTUM:
            half[1] = half[0]
        if shape == ELLIPSOID and rng.random() < 0.3:
            rise *= 0.6  # half sunk, like a mound
        centre = np.array([x, y, floor + rise])
        top = float(rng.choice([1.0, 0.9, 0.6, 0.15, 0.02]))
        solid = self.add(shape, centre, half, turn, self.look(size), top)
        if shape == BOX and rng.random() < 0.45:
            self.cut(solid)
        if shape == BOX and rng.random() < 0.35:  # something on top of it
            small = size * rng.uniform(0.2, 0.5)
            peak = floor + rise + float(np.abs(turn[2] * half).sum())
            self.thing_on(x, y, peak, small)

    def thing_on(self, x: float, y: float, floor: float, size: float) -> None:
        """A small solid on something else."""
        rng = self.rng
        shape = int(rng.integers(3))
        half = size * np.exp(rng.normal(0, 0.3, 3)) * 0.5
        if shape == FRUSTUM:
            half[1] = half[0]
        centre = np.array([x, y, floor + half[2]])
        turn = yaw(rng.uniform(0, 2 * np.pi))
        self.add(shape, centre, half, turn, self.look(size), rng.uniform(0.2, 1))

    def table(self, x: float, y: float, floor: float) -> None:
        """A top on four legs with things on it."""
        rng = self.rng
        wide, deep, high = rng.uniform(0.35, 0.9), rng.uniform(0.3, 0.6), rng.uniform(0.45, 1.0)
        turn, thick, leg = yaw(rng.uniform(0, 2 * np.pi)), 0.025, rng.uniform(0.02, 0.05)
        look, legs = self.look(), self.look(0.4)
        origin = np.array([x, y, floor])
        top = np.array([wide, deep, thick])
        self.add(BOX, origin + np.array([0.0, 0.0, high - thick]), top, turn, look)
        for sx, sy in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            at = turn @ np.array([sx * (wide - leg), sy * (deep - leg), 0.5 * high - thick])
            self.add(BOX, origin + at, np.array([leg, leg, 0.5 * high - thick]), turn, legs)
        for _ in range(rng.integers(1, 4)):
            at = turn @ np.array([*rng.uniform(-0.7, 0.7, 2) * [wide, deep], 0.0])
            self.thing_on(x + at[0], y + at[1], floor + high, rng.uniform(0.1, 0.35))

    def tree(self, x: float, y: float, floor: float, size: float) -> None:
        """A trunk under two or three crowns, or a cone."""
        rng = self.rng
        bark, leaves = self.look(size), self.look(size * 0.5)
        trunk = size * rng.uniform(0.25, 0.5)
        radius = size * rng.uniform(0.02, 0.05)
        half = np.array([radius, radius, trunk])
        self.add(FRUSTUM, np.array([x, y, floor + trunk]), half, np.eye(3), bark, 0.7)
        if rng.random() < 0.3:
            half = size * np.array([0.22, 0.22, 0.4])
            at = np.array([x, y, floor + 1.3 * trunk + half[2]])
            self.add(FRUSTUM, at, half, np.eye(3), leaves, 0.02)
            return
        for _ in range(rng.integers(1, 4)):
            at = np.array([x, y, floor + 2 * trunk]) + rng.normal(0, 0.1, 3) * size
            half = size * rng.uniform(0.12, 0.3, 3)
            self.add(ELLIPSOID, at, half, any_turn(rng), leaves)

    def pole(self, x: float, y: float, floor: float, height: float) -> None:
        """A thin upright thing."""
        radius = self.rng.uniform(0.015, 0.06)
        half = np.array([radius, radius, 0.5 * height])
        centre = np.array([x, y, floor + 0.5 * height])
        self.add(FRUSTUM, centre, half, np.eye(3), self.look(0.3))

    def rack(self, x: float, y: float, floor: float, turn: Array) -> None:
        """A lattice of thin bars: a shelf, a chair's back, a fence."""
        rng = self.rng
        wide, high, bar = rng.uniform(0.3, 0.8), rng.uniform(0.5, 1.6), rng.uniform(0.012, 0.03)
        look, deep = self.look(0.4), rng.choice([0.02, 0.15])
        for level in np.linspace(0.1, 1.0, int(rng.integers(3, 6))):
            at = np.array([x, y, floor + level * high])
            self.add(BOX, at, np.array([wide, deep, bar]), turn, look)
        for side in (-1, 1):
            at = np.array([x, y, floor + 0.5 * high]) + turn @ np.array([side * wide, 0, 0])
            self.add(BOX, at, np.array([bar, deep, 0.5 * high]), turn, look)
