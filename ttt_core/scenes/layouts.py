"""The kinds of scene: rooms, groups of objects, outdoors, land from above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ttt_core.scenes.builder import Builder
from ttt_core.scenes.config import Kind
from ttt_core.scenes.solids import BOX, Look, Solid, Terrain, World, yaw
from ttt_core.scenes.types import Array


@dataclass(slots=True, kw_only=True, eq=False)
class Layout:
    """A world and where a camera may go in it."""

    kind: Kind
    world: World
    low: Array
    """(3,) lower corner of where the camera may be; heights are above the ground."""
    high: Array
    centre: Array
    """(3,) what is worth looking at."""
    targets: Array
    """(N, 3) single things to look at."""
    stride: float
    """Typical length of a step between views, metres."""
    clearance: float
    """Solids nearer than this to the camera's way are taken away, metres."""


def _warm_white(rng: np.random.Generator, spread: float) -> Array:
    """Light on the one axis from warm to cool."""
    warm = rng.normal(0, spread)
    return np.array([1.0 + warm, 1.0, 1.0 - warm])


def _targets(solids: list[Solid]) -> Array:
    sizes = np.array([solid.half.max() for solid in solids])
    return np.stack([solids[i].centre for i in np.argsort(-sizes)[: max(len(solids) // 2, 1)]])


def room(rng: np.random.Generator, textures: int) -> Layout:
    """A furnished room of 3 to 10 m, some with a partition wall, lit by one lamp."""
    build = Builder(rng, textures)
    size = np.array([rng.uniform(3.2, 9.0), rng.uniform(3.2, 7.0), rng.uniform(2.3, 3.6)])
    half = 0.5 * size
    # A little turn keeps walls off the axes that rays could run exactly along.
    turn = yaw(rng.uniform(0, 2 * np.pi))
    centre = np.array([0.0, 0.0, half[2]])
    walls = [build.look(2.0) for _ in range(6)]
    if rng.random() < 0.5:  # all four walls alike
        walls[:4] = [walls[0]] * 4

    def at(x: float, y: float) -> tuple[float, float]:
        place = turn @ np.array([x * half[0], y * half[1], 0.0])
        return float(place[0]), float(place[1])

    for _ in range(rng.integers(6, 13)):  # furniture along the walls
        along, inward = rng.uniform(-0.85, 0.85), rng.uniform(0.86, 1.0) * rng.choice([-1, 1])
        x, y = at(along, inward) if rng.random() < 0.5 else at(inward, along)
        build.thing(x, y, 0.0, rng.uniform(0.4, 1.3))
        build.solids[-1].turn = turn if rng.random() < 0.5 else build.solids[-1].turn
    for _ in range(rng.integers(4, 10)):
        build.thing(*at(*rng.uniform(-0.7, 0.7, 2)), 0.0, rng.uniform(0.3, 0.9))
    for _ in range(rng.integers(0, 3)):
        build.table(*at(*rng.uniform(-0.6, 0.6, 2)), 0.0)
    if rng.random() < 0.5:
        build.rack(*at(rng.uniform(-0.8, 0.8), 0.9 * rng.choice([-1, 1])), 0.0, turn)
    if rng.random() < 0.35:
        build.pole(*at(*rng.uniform(-0.6, 0.6, 2)), 0.0, size[2])
    for _ in range(rng.integers(3, 9)):  # pictures, windows, doors
        axis, side = int(rng.integers(2)), float(rng.choice([-1.0, 1.0]))
        local = np.array([*rng.uniform(-0.8, 0.8, 2), rng.uniform(-0.4, 0.5)]) * half
        local[axis] = side * (half[axis] - 0.01)
        panel = rng.uniform(0.15, 0.8, 3)
        panel[axis] = rng.uniform(0.012, 0.06)
        look = build.look(2 * panel.max())
        if rng.random() < 0.25:
            look.emission = float(rng.uniform(0.5, 1.5))
        build.add(BOX, centre + turn @ local, panel, turn, look)
    if size[0] > 5.5 and rng.random() < 0.5:  # a partition with a passage at one end
        side, reach = float(rng.choice([-1.0, 1.0])), half[1] * rng.uniform(0.4, 0.6)
        local = np.array([rng.uniform(-0.3, 0.3) * half[0], side * (half[1] - reach), 0.0])
        wall = np.array([rng.uniform(0.04, 0.12), reach, half[2]])
        build.add(BOX, centre + turn @ local, wall, turn, walls[0])
    lamp = centre + turn @ (half * np.array([*rng.uniform(-0.5, 0.5, 2), rng.uniform(0.75, 0.93)]))
    light = _warm_white(rng, 0.12)
    strength = rng.uniform(0.8, 2.0)
    world = World(
        solids=build.solids,
        room=Solid(shape=BOX, centre=centre, half=half, turn=turn),
        room_looks=walls,
        terrain=None,
        ground_look=Look(),
        sky_look=Look(),
        lamp=lamp,
        lamp_colour=strength * light,
        lamp_reach=1.8,
        ambient=rng.uniform(0.25, 0.8) * (0.5 + 0.5 * light),
        sky_colour=np.full(3, 0.8),
        haze=0.0,
    )
    margin = np.array([0.45, 0.45, 0.0])
    return Layout(
        kind="room",
        world=world,
        low=np.array([*(-half + margin)[:2], rng.uniform(0.7, 1.3)]),
        high=np.array([*(half - margin)[:2], min(rng.uniform(1.4, 2.0), size[2] - 0.4)]),
        centre=centre,
        targets=_targets(build.solids),
        stride=float(rng.uniform(0.05, 0.15)),
        clearance=0.3,
    )


def _outside(rng: np.random.Generator, build: Builder, terrain: Terrain, scale: float) -> World:
    light, height = _warm_white(rng, 0.1), rng.uniform(0.35, 1.2)
    heading = rng.uniform(0, 2 * np.pi)
    sun = np.array(
        [np.cos(height) * np.cos(heading), np.cos(height) * np.sin(heading), np.sin(height)]
    )
    overcast = rng.random() < 0.3
    sky = np.array([0.4, 0.55, 0.85]) if not overcast else np.array([0.85, 0.88, 0.92])
    ground = build.look(2.0)
    ground.scale *= 1.0 / scale**0.5
    sky_look = Look(texture=int(rng.integers(build.textures)), emission=float(rng.uniform(0, 0.6)))
    return World(
        solids=build.solids,
        room=None,
        room_looks=[Look()] * 6,
        terrain=terrain,
        ground_look=ground,
        sky_look=sky_look,
        lamp=120.0 * sun,
        lamp_colour=(0.25 if overcast else rng.uniform(1.5, 2.7)) * light,
        lamp_reach=120.0,
        ambient=(0.9 if overcast else rng.uniform(0.3, 0.6)) * (0.5 * sky + 0.55),
        sky_colour=sky,
        haze=float(rng.choice([0.0, 0.003, 0.008])),
    )


def _darken(rng: np.random.Generator, world: World, reach: float) -> None:
    """Night, or a dark studio: one lamp near the things, whose light does not reach far."""
    angle, away = rng.uniform(0, 2 * np.pi), reach * rng.uniform(1.2, 2.2)
    height = reach * rng.uniform(0.8, 2.0)
    world.lamp = np.array([away * np.cos(angle), away * np.sin(angle), height])
    world.lamp_reach = float(np.linalg.norm(world.lamp))
    world.lamp_colour = rng.uniform(1.0, 2.2) * _warm_white(rng, 0.1)
    world.ambient = world.ambient * rng.uniform(0.03, 0.25)
    world.sky_light = float(rng.uniform(0.0, 0.15))
    world.haze = 0.0


def _waves(rng: np.random.Generator, relief: float, scale: float) -> Terrain:
    count = 5
    length = scale * np.exp(rng.uniform(0.8, 2.8, count))
    heading = rng.uniform(0, 2 * np.pi, count)
    wave = (2 * np.pi / length)[:, None] * np.stack([np.cos(heading), np.sin(heading)], -1)
    amplitude = relief * length / length.sum() * rng.uniform(0.3, 1.0, count)
    return Terrain(amplitude=amplitude, wave=wave, phase=rng.uniform(0, 2 * np.pi, count))


def objects(rng: np.random.Generator, textures: int) -> Layout:
    """A group of things within some two metres on a floor, seen from around it."""
    build = Builder(rng, textures)
    reach = rng.uniform(0.6, 1.6)
    for _ in range(rng.integers(7, 16)):
        x, y = rng.normal(0, 0.5, 2) * reach
        build.thing(float(x), float(y), 0.0, reach * rng.uniform(0.2, 0.8))
    if rng.random() < 0.4:
        build.table(0.0, 0.0, 0.0)
    for _ in range(rng.integers(0, 3)):
        x, y = rng.normal(0, 0.7, 2) * reach
        build.pole(float(x), float(y), 0.0, rng.uniform(0.5, 2.0))
    for _ in range(rng.integers(3, 10)):  # a background far off
        angle, away = rng.uniform(0, 2 * np.pi), reach * rng.uniform(3.5, 7)
        x, y = away * np.cos(angle), away * np.sin(angle)
        build.thing(float(x), float(y), 0.0, rng.uniform(1.0, 3.0))
    wide, away = 2.2 * reach + 0.5, float(reach)
    world = _outside(rng, build, Terrain(), 1.0)
    if rng.random() < 0.35:
        _darken(rng, world, reach)
    return Layout(
        kind="objects",
        world=world,
        low=np.array([-wide, -wide, 0.3 * away]),
        high=np.array([wide, wide, 1.3 * away + 0.2]),
        centre=np.array([0.0, 0.0, 0.35 * reach]),
        targets=np.stack([s.centre for s in build.solids[:8]]),
        stride=float(rng.uniform(0.04, 0.11) * (0.6 + 0.4 * reach)),
        clearance=0.22,
    )


def outdoor(rng: np.random.Generator, textures: int) -> Layout:
    """Buildings, trees, poles and blocks on terrain or a plane under a sky."""
    build = Builder(rng, textures)
    scale = rng.uniform(1.0, 2.0)
    relief = 0.0 if rng.random() < 0.4 else rng.uniform(0.3, 1.6) * scale
    terrain = _waves(rng, relief, scale) if relief else Terrain()

    def floor(x: float, y: float) -> float:
        return float(terrain.height(np.array([x, y]))) - 0.05 * scale

    for _ in range(rng.integers(9, 18)):
        x, y = (float(c) for c in rng.normal(0, 3.5, 2) * scale)
        build.thing(x, y, floor(x, y), scale * rng.uniform(0.4, 2.0))
    for _ in range(rng.integers(1, 6)):
        x, y = (float(c) for c in rng.normal(0, 5, 2) * scale)
        build.tree(x, y, floor(x, y), scale * rng.uniform(1.5, 4.0))
    for _ in range(rng.integers(0, 4)):
        x, y = (float(c) for c in rng.normal(0, 4, 2) * scale)
        build.pole(x, y, floor(x, y), rng.uniform(2, 5))
    if rng.random() < 0.4:
        x, y = (float(c) for c in rng.normal(0, 3, 2) * scale)
        build.rack(x, y, floor(x, y), yaw(rng.uniform(0, 6.28)))
    for _ in range(rng.integers(3, 10)):  # buildings round about
        angle, away = rng.uniform(0, 2 * np.pi), scale * rng.uniform(8, 16)
        x, y = float(away * np.cos(angle)), float(away * np.sin(angle))
        half = scale * rng.uniform([1.0, 1.0, 1.0], [4.0, 4.0, 5.0])
        centre = np.array([x, y, floor(x, y) + half[2] - 0.5])
        solid = build.add(BOX, centre, half, yaw(rng.uniform(0, 6.28)), build.look(3.0 * scale))
        if rng.random() < 0.3:
            build.cut(solid)
    wide = 5.0 * scale
    return Layout(
        kind="outdoor",
        world=_outside(rng, build, terrain, scale),
        low=np.array([-wide, -wide, 1.0 * scale]),
        high=np.array([wide, wide, 1.9 * scale]),
        centre=np.array([0.0, 0.0, 1.2 * scale]),
        targets=_targets(build.solids),
        stride=float(rng.uniform(0.1, 0.25) * scale),
        clearance=0.4 * scale,
    )


def aerial(rng: np.random.Generator, textures: int) -> Layout:
    """Woods, houses and blocks on land, seen from a survey flight above them."""
    build = Builder(rng, textures)
    above = rng.uniform(6.0, 16.0)
    size = above * rng.uniform(0.07, 0.24)  # of the typical thing
    terrain = _waves(rng, rng.uniform(0.0, 0.12) * above, 0.4 * above)
    woods = rng.uniform(0.0, 0.9)

    def floor(x: float, y: float) -> float:
        return float(terrain.height(np.array([x, y]))) - 0.1 * size

    for _ in range(rng.integers(60, 130)):
        x, y = (float(c) for c in rng.normal(0, 0.75, 2) * above)
        if rng.random() < woods:
            build.tree(x, y, floor(x, y), size * np.exp(rng.normal(0, 0.35)) * 1.5)
        else:
            build.thing(x, y, floor(x, y), size * np.exp(rng.normal(0, 0.5)))
    wide = 1.3 * above
    return Layout(
        kind="aerial",
        world=_outside(rng, build, terrain, 0.25 * above),
        low=np.array([-wide, -wide, 0.9 * above]),
        high=np.array([wide, wide, 1.1 * above]),
        centre=np.array([0.0, 0.0, 0.1 * above]),
        targets=_targets(build.solids),
        stride=float(above * rng.uniform(0.03, 0.08)),
        clearance=0.3 * above,
    )


LAYOUTS = {"room": room, "objects": objects, "outdoor": outdoor, "aerial": aerial}
