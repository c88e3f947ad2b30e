"""Solids that scenes are built of, and the table of surfaces that rays and shading read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ttt_core.scenes.types import Array

BOX, ELLIPSOID, FRUSTUM, GROUND, SKY = range(5)


@dataclass(slots=True, kw_only=True)
class Look:
    """How a surface looks."""

    texture: int = 0
    scale: float = 0.5
    """Repeats of the texture per metre."""
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    specular: float = 0.0
    gloss: float = 20.0
    emission: float = 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class Solid:
    """A box, ellipsoid or frustum of height 2 and radius 1 in its own axes, scaled and turned."""

    shape: int
    centre: Array
    half: Array
    """Half sizes along the own axes, metres."""
    turn: Array = field(default_factory=lambda: np.eye(3))
    """Columns are the own axes in the world."""
    top: float = 1.0
    """Radius of a frustum at its upper end; 1 at its lower."""
    look: Look = field(default_factory=Look)
    cutter: Solid | None = None
    """What is taken out of a box."""


@dataclass(slots=True, kw_only=True, eq=False)
class Terrain:
    """Height z(x, y) = base + sum of amplitude sin(k·(x, y) + phase); no waves is a plane."""

    base: float = 0.0
    amplitude: Array = field(default_factory=lambda: np.zeros(0))
    wave: Array = field(default_factory=lambda: np.zeros((0, 2)))
    phase: Array = field(default_factory=lambda: np.zeros(0))

    def height(self, points: Array) -> Array:
        """Heights (…,) under points (…, 2 or 3)."""
        angle = points[..., :2] @ self.wave.T + self.phase
        return self.base + np.sin(angle) @ self.amplitude

    @property
    def relief(self) -> float:
        """How far it reaches above and below its base at most."""
        return float(np.abs(self.amplitude).sum())


def yaw(angle: float) -> Array:
    """Turn about the vertical, (3, 3)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def any_turn(rng: np.random.Generator) -> Array:
    """Uniform rotation, (3, 3)."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


@dataclass(slots=True, kw_only=True, eq=False)
class World:
    """A whole scene: solids, an enclosing room or none, ground or none, one light, a sky."""

    solids: list[Solid]
    room: Solid | None
    room_looks: list[Look]
    """Looks of the faces -x, +x, -y, +y, -z, +z of the room."""
    terrain: Terrain | None
    ground_look: Look
    sky_look: Look
    lamp: Array
    """Position of the light, far away for a sun."""
    lamp_colour: Array
    """Irradiance facing the light at `lamp_reach` metres from it."""
    lamp_reach: float
    ambient: Array
    sky_colour: Array
    haze: float
    """Extinction per metre."""
    sky_light: float = 1.0
    """Factor on what the sky shows: 0 is a black one."""


class SurfaceTable:
    """One row a surface: solids, their cutters, the six faces of the room, ground, sky.

    Attributes are numpy arrays over rows: `shape`, `matrix` (3, 3) and `offset` (3,) to own axes
    (p -> matrix @ p + offset, unit sized), `half`, `top`, `flip` (-1 where the inside is seen) and
    the fields of `Look`.
    """

    def __init__(self, world: World) -> None:
        rows: list[tuple[Solid, Look, float]] = [(s, s.look, 1.0) for s in world.solids]
        self.solids = len(rows)
        self.cutter = np.full(self.solids, -1)
        for index, solid in enumerate(world.solids):
            if solid.cutter is not None:
                self.cutter[index] = len(rows)
                rows.append((solid.cutter, solid.look, -1.0))
        self.cutters = len(rows) - self.solids
        self.room = len(rows)
        unit = Solid(shape=BOX, centre=np.zeros(3), half=np.ones(3))
        rows += [(world.room or unit, look, -1.0) for look in world.room_looks]
        self.has_room = world.room is not None
        self.ground, self.sky = len(rows), len(rows) + 1
        self.terrain = world.terrain
        rows.append((unit, world.ground_look, 1.0))
        rows.append((unit, world.sky_look, 1.0))
        self.shape = np.array([solid.shape for solid, _, _ in rows])
        self.shape[self.ground], self.shape[self.sky] = GROUND, SKY
        self.half = np.stack([solid.half for solid, _, _ in rows])
        self.centre = np.stack([solid.centre for solid, _, _ in rows])
        turn = np.stack([solid.turn for solid, _, _ in rows])
        self.matrix = turn.transpose(0, 2, 1) / self.half[:, :, None]
        self.offset = -np.einsum("nij,nj->ni", self.matrix, self.centre)
        self.top = np.array([solid.top for solid, _, _ in rows])
        self.flip = np.array([flip for _, _, flip in rows])
        self.looks = [look for _, look, _ in rows]
        signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3, indexing="ij"), -1).reshape(8, 3)
        corners = np.einsum("nij,ncj->nci", turn, signs[None] * self.half[:, None])
        self.corners = self.centre[:, None] + corners
        """(rows, 8, 3) corners of the bounding boxes in the world."""

    def clearance(self, points: Array) -> Array:
        """Distance (N, solids), metres, from points (N, 3) to the bounding box of each solid."""
        local = np.einsum("sij,nj->nsi", self.matrix[: self.solids], points)
        local = np.abs(local + self.offset[: self.solids])
        outside = np.maximum(local - 1.0, 0.0) * self.half[: self.solids]
        return np.asarray(np.sqrt((outside**2).sum(-1)))
