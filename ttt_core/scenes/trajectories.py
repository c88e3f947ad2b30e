"""Ways of a camera through a scene, as streams have them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ttt_core.scenes.config import KEPT_OUT_CAMERA, SceneConfig
from ttt_core.scenes.layouts import Layout
from ttt_core.scenes.types import Array

MODES: dict[str, dict[str, float]] = {
    "room": {
        "walk_gaze": 3,
        "walk_forward": 2,
        "out_and_back": 3,
        "pan_back": 2,
        "loop": 2,
        "orbit": 1,
        "turn_on_spot": 1.5,
        "handheld": 1,
    },
    "objects": {"walk_gaze": 2, "orbit": 4, "out_and_back": 1.5, "handheld": 1.5, "pan_back": 1},
    "outdoor": {"walk_gaze": 3, "walk_forward": 3, "out_and_back": 2, "loop": 1, "pan_back": 1.5},
    "aerial": {"survey": 4, "orbit": 1, "walk_gaze": 1},
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectory:
    """Poses of one stream."""

    mode: str
    c2w: Array
    """(V, 4, 4) float64."""


def draw_mode(rng: np.random.Generator, kind: str, *, kept_out: bool) -> str:
    """A camera mode for a kind of scene; the kept-out one if and only if asked."""
    names = list(MODES[kind])
    weights = np.array([MODES[kind][name] for name in names])
    mode = str(rng.choice(names, p=weights / weights.sum()))
    return KEPT_OUT_CAMERA if kept_out else mode


def make_trajectory(
    rng: np.random.Generator, layout: Layout, config: SceneConfig, mode: str
) -> Trajectory:
    """One trajectory through `layout`, of `config.views` poses."""
    steps = _steps(rng, layout, config, mode)
    position = _positions(rng, layout, steps, mode)
    wanted = _gaze(rng, layout, position, mode)
    rate = np.deg2rad(rng.uniform(4.0, 8.0)) * config.step
    # Straight down there is little to see; things on a floor are looked at from above.
    lowest = {"objects": -0.7, "aerial": -0.97}.get(layout.kind, -0.42)
    forward = _follow(wanted, rate, lowest)
    shake = rng.uniform(0.3, 1.5) * layout.stride
    position = position + 0.06 * shake * _drift(rng, len(position), 3, 3.0)
    forward = forward + np.deg2rad(rng.uniform(0.1, 0.9)) * _drift(rng, len(position), 3, 3.0)
    roll = np.deg2rad(rng.normal(0, 2.0) + rng.uniform(0.2, 1.2) * _drift(rng, len(position), 1))
    if layout.world.terrain is not None:
        position[:, 2] += layout.world.terrain.height(position)
    return Trajectory(mode=mode, c2w=_look(position, forward, roll[:, 0]))


def _drift(rng: np.random.Generator, count: int, channels: int, period: float = 6.0) -> Array:
    """Smooth noise (count, channels) of about unit deviation, some `period` views a swing."""
    time = np.arange(count)[:, None, None]
    rate = 2 * np.pi / (period * np.exp(rng.uniform(-0.5, 1.0, (1, 4, channels))))
    phase = rng.uniform(0, 2 * np.pi, (1, 4, channels))
    return np.asarray(np.sin(rate * time + phase).sum(1) / np.sqrt(2.0))


def _steps(rng: np.random.Generator, layout: Layout, config: SceneConfig, mode: str) -> Array:
    """Length of the way up to each view, (V,)."""
    pace = np.exp(0.35 * _drift(rng, config.views, 1, 8.0)[:, 0])
    pace *= {"pan_back": 0.35, "handheld": 0.7}.get(mode, 1.0)
    if mode == "turn_on_spot" or rng.random() < 0.15:  # a stretch of almost nothing but turning
        length = max(config.views // 3, 1)
        start = int(rng.integers(0, max(config.views - length, 1)))
        pace[start : start + length] *= 0.06
    steps = layout.stride * config.step * pace
    steps[0] = 0.0
    return np.asarray(np.cumsum(steps))


def _positions(rng: np.random.Generator, layout: Layout, way: Array, mode: str) -> Array:
    low, high = layout.low, layout.high
    total = max(float(way[-1]), 1e-3)
    turn = layout.world.room.turn if layout.world.room is not None else np.eye(3)
    if mode == "orbit":
        pivot = layout.targets[rng.integers(len(layout.targets))].copy()
        if layout.kind == "objects":
            pivot = layout.centre.copy()
        pivot = np.clip(pivot @ turn, low, high)
        room = float(min((high - low)[:2])) * 0.5
        radius = rng.uniform(0.55, 0.95) * room
        inset = np.array([radius, radius, 0.0])
        centre = np.clip(pivot, low + inset, high - inset)
        start, sense = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
        angle = start + sense * way / radius
        radius_now = radius * (1 + 0.08 * np.sin(2 * angle + rng.uniform(0, 6)))
        height = rng.uniform(low[2], high[2]) + 0.15 * (high - low)[2] * np.sin(angle)
        x, y = centre[0] + radius_now * np.cos(angle), centre[1] + radius_now * np.sin(angle)
        return np.stack([x, y, height], -1) @ turn.T
    if mode == "loop":
        half = 0.5 * (high - low)[:2] * rng.uniform(0.5, 0.9, 2)
        half *= min(1.0, total / (2 * np.pi * half.mean()) * rng.uniform(0.8, 1.2))
        middle = 0.5 * (low + high)[:2]
        middle = middle + rng.uniform(-1, 1, 2) * (0.5 * (high - low)[:2] - half)
        start, sense = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
        angle = start + sense * way / half.mean()
        height = np.full_like(angle, rng.uniform(low[2], high[2]))
        path = np.stack(
            [middle[0] + half[0] * np.cos(angle), middle[1] + half[1] * np.sin(angle), height], -1
        )
        return path @ turn.T
    if mode == "survey":  # strips side by side
        heading, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.2) * float(high[0])
        apart = rng.uniform(2.0, 4.0) * layout.stride
        strip, along = np.divmod(way + rng.uniform(0, length), length + apart)
        sideways = strip * apart + np.clip(along - length, 0.0, apart)
        along = np.minimum(along, length)
        along = np.where(strip % 2 == 0, along, length - along) - 0.5 * length
        c, s = np.cos(heading), np.sin(heading)
        height = np.full_like(along, rng.uniform(low[2], high[2]))
        return np.stack([c * along - s * sideways, s * along + c * sideways, height], -1)
    if mode == KEPT_OUT_CAMERA:  # sideways along a line, and back where the room ends
        heading = rng.uniform(0, 2 * np.pi)
        along = np.array([np.cos(heading), np.sin(heading), 0.0])
        middle = low + (high - low) * rng.uniform(0.35, 0.65, 3)
        reach = 0.4 * float(min((high - low)[:2]))
        phase = way + rng.uniform(0, 2 * reach)
        swing = np.abs((phase % (4 * reach)) - 2 * reach) - reach
        return (middle + swing[:, None] * along) @ turn.T
    if mode == "out_and_back":
        way = 0.5 * total - np.abs(way - 0.5 * total)
    return _walk(rng, low, high, way) @ turn.T


def _walk(rng: np.random.Generator, low: Array, high: Array, way: Array) -> Array:
    """Points (V, 3) at lengths `way` (V,) of a smooth curve through random places."""
    points = [low + (high - low) * rng.uniform(0, 1, 3) for _ in range(2)]
    reach = max(0.35 * float(np.linalg.norm((high - low)[:2])), 1e-3)
    while True:
        curve = _catmull_rom(np.stack(points))
        length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
        if length[-1] > way.max():
            break
        heading = points[-1] - points[-2]
        ahead = points[-1] + reach * heading / max(float(np.linalg.norm(heading)), 1e-6)
        fresh = ahead + rng.normal(0, 0.8, 3) * reach
        fresh = np.where((fresh < low) | (fresh > high), rng.uniform(low, high), fresh)
        points.append(fresh)
    return np.stack([np.interp(way, length, curve[:, axis]) for axis in range(3)], -1)


def _catmull_rom(points: Array, dense: int = 24) -> Array:
    ends = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, dense, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:]):
        cubic = -a + 3 * b - 3 * c + d
        square = 2 * a - 5 * b + 4 * c - d
        pieces.append(0.5 * (2 * b + (c - a) * t + square * t**2 + cubic * t**3))
    return np.concatenate([*pieces, points[-1:]])


def _gaze(rng: np.random.Generator, layout: Layout, position: Array, mode: str) -> Array:
    """Directions (V, 3) that the camera would look in if it could turn at once."""
    count = len(position)
    motion = np.gradient(position, axis=0) if count > 1 else np.array([[1.0, 0.0, 0.0]])
    still = np.linalg.norm(motion, axis=1, keepdims=True) < 1e-9
    motion = np.where(still, np.array([1.0, 0.0, 0.0]), motion)
    motion = motion / np.linalg.norm(motion, axis=1, keepdims=True)
    down = np.array([0.0, 0.0, -rng.uniform(0.0, 0.25)])
    inward = layout.centre - position
    if mode == KEPT_OUT_CAMERA:
        across = np.cross(position[-1] - position[0] + motion[0], [0.0, 0.0, 1.0])
        side = np.sign(float((across * inward.mean(0)).sum())) or 1.0
        return np.broadcast_to(side * across / np.linalg.norm(across) + down, (count, 3))
    if mode == "survey":  # down and a little ahead, the same way on every strip
        ahead = _unit(motion[:1] * [1, 1, 0]) * rng.uniform(0.1, 0.9)
        return ahead + np.array([0.0, 0.0, -1.0]) + 0.05 * _drift(rng, count, 3, 10.0)
    if mode in ("walk_forward", "out_and_back"):
        forward = motion
        if mode == "out_and_back" and rng.random() < 0.5:  # walks back without turning round
            forward = motion * np.where(np.arange(count) < count / 2, 1.0, -1.0)[:, None]
        return forward + down + 0.2 * _drift(rng, count, 3, 10.0) * [1, 1, 0.4]
    if mode in ("pan_back", "turn_on_spot"):
        start = np.arctan2(inward[0, 1], inward[0, 0]) + rng.normal(0, 0.5)
        swing = np.deg2rad(rng.uniform(25, 70) if mode == "pan_back" else rng.uniform(90, 360))
        rounds = rng.uniform(0.8, 2.0) if mode == "pan_back" else 0.5
        angle = start + swing * np.sin(2 * np.pi * rounds * np.arange(count) / count)
        level = np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], -1)
        return level + down + 0.1 * _drift(rng, count, 3, 10.0)
    if mode == "loop" and rng.random() < 0.5:  # outward
        return -inward / np.maximum(np.linalg.norm(inward, axis=1, keepdims=True), 0.3) + down
    if mode in ("orbit", "handheld") or (layout.kind == "objects" and rng.random() < 0.7):
        aim = layout.centre + rng.normal(0, 0.15, 3) * layout.stride * 5
        return _unit(aim - position)
    # On one thing, then on another.
    aims, index = np.zeros((count, 3)), 0
    while index < count:
        hold = int(rng.integers(6, 18))
        nearby = layout.targets[rng.integers(len(layout.targets))]
        aims[index : index + hold] = 0.8 * nearby + 0.2 * layout.centre
        index += hold
    return _unit(aims - position)


def _unit(vectors: Array) -> Array:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _follow(wanted: Array, rate: float, lowest: float) -> Array:
    """Turns after `wanted` (V, 3) by at most `rate` radians a view; `lowest` is the sine of how far
    down it looks.
    """
    wanted = _unit(wanted)
    slope = np.clip(wanted[:, 2], lowest, 0.35)
    level = wanted[:, :2] / np.maximum(np.linalg.norm(wanted[:, :2], axis=1, keepdims=True), 1e-6)
    wanted = _unit(np.concatenate([level * np.sqrt(1 - slope**2)[:, None], slope[:, None]], 1))
    out, now = [wanted[0]], wanted[0]
    for goal in wanted[1:]:
        angle = float(np.arccos(np.clip(now @ goal, -1.0, 1.0)))
        turn = min(0.5 * angle, rate)
        side = goal - (now @ goal) * now
        if np.linalg.norm(side) < 1e-3:  # straight behind: turn about the vertical
            side = np.cross([0.0, 0.0, 1.0], now)
        now = np.cos(turn) * now + np.sin(turn) * _unit(side)
        now = _unit(np.array([now[0], now[1], np.clip(now[2], lowest - 0.05, 0.4)]))
        out.append(now)
    return np.stack(out)


def _look(position: Array, forward: Array, roll: Array) -> Array:
    z = _unit(forward)
    x = _unit(np.cross(z, [0.0, 0.0, 1.0]))
    y = np.cross(z, x)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    c2w = np.tile(np.eye(4), (len(position), 1, 1))
    c2w[:, :3, 0], c2w[:, :3, 1], c2w[:, :3, 2] = c * x + s * y, c * y - s * x, z
    c2w[:, :3, 3] = position
    return c2w
