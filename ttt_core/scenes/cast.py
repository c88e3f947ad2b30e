"""Nearest hits of rays that leave one point, solid by solid.

All coordinates are kept as separate tensors. A fan gives, for one solid, the origin and the
directions in the solid's own axes and the window of the picture that the solid can appear in; the
arithmetic is the same for a picture on a CPU (numbers as origin, small windows), for all views at
once on a GPU (tensors of (V, 1, 1) as origin, no windows) and for lists of rays.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ttt_core.scenes.solids import BOX, ELLIPSOID, SurfaceTable, Terrain
from ttt_core.scenes.types import Array

FAR = 1e6
Vector = tuple[Any, Any, Any]  # numbers or tensors that broadcast to the window
_STEEPEST = 1e12  # of 1/direction: along a face it is infinite, and inf - inf is no number
_NEAR = 1e-3


class Fan(Protocol):
    """Rays p = origin + t * direction with one origin a view."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensors of one value a ray."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        ...

    def window(self, row: int) -> tuple[slice, ...] | None:
        """Where the solid of `row` can appear; None is nowhere."""
        ...

    def local(self, row: int, window: tuple[slice, ...]) -> tuple[Vector, Vector]:
        """Origin and direction in the own axes of `row`."""
        ...

    def world(self) -> tuple[Vector, Vector]:
        """Origin and direction in the world."""
        ...


class ListFan:
    """Rays from `origin`, (3,) numbers or (3, N), along `directions` (3, N).

    `rows` are the solids that can be met; None is all.
    """

    def __init__(
        self,
        table: SurfaceTable,
        origin: Array | Tensor,
        directions: Tensor,
        rows: set[int] | None = None,
    ) -> None:
        self.shape: tuple[int, ...] = (directions.shape[1],)
        self.device = directions.device
        self._rows = rows
        self._matrix = table.matrix.tolist()
        self._offset = table.offset.tolist()
        self._shared: Any = None
        if isinstance(origin, Tensor):
            self._world = tuple(origin)
        else:
            self._world = tuple(origin.tolist())
            self._shared = (table.matrix @ origin + table.offset).tolist()
        self._d = tuple(directions)

    def window(self, row: int) -> tuple[slice, ...] | None:
        return (slice(None),) if self._rows is None or row in self._rows else None

    def local(self, row: int, window: tuple[slice, ...]) -> tuple[Vector, Vector]:
        dx, dy, dz = (_dot(line, self._d) for line in self._matrix[row])
        if self._shared is not None:
            ox, oy, oz = self._shared[row]
        else:
            ox, oy, oz = (
                _dot(line, self._world).add_(shift)
                for line, shift in zip(self._matrix[row], self._offset[row])
            )
        return (ox, oy, oz), (dx, dy, dz)

    def world(self) -> tuple[Vector, Vector]:
        return self._world, self._d  # type: ignore[return-value]


def _dot(line: list[float], vector: tuple[Any, ...]) -> Tensor:
    out = vector[0] * line[0]
    return torch.add(out, vector[1], alpha=line[1]).add_(vector[2], alpha=line[2])


class PictureFan:
    """The rays through the pixels of views `chosen`: t is the z-depth.

    One view is held as (H, W) with windows, several as (V, H, W) without.
    """

    def __init__(
        self,
        table: SurfaceTable,
        c2w: Array,
        fxfycxcy: Array,
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        height, width = size
        self.device = device
        self._single = len(c2w) == 1
        self.shape: tuple[int, ...] = (height, width) if self._single else (len(c2w), height, width)
        fx, fy, cx, cy = (fxfycxcy[:, i] for i in range(4))
        # direction = a + b * (column + 0.5) + c * (row + 0.5) in any axes
        b = c2w[:, :3, 0] / fx[:, None]
        c = c2w[:, :3, 1] / fy[:, None]
        a = c2w[:, :3, 2] - b * cx[:, None] - c * cy[:, None]
        self._world = np.stack([a, b, c, c2w[:, :3, 3]], 1)  # (V, 4, 3)
        own = np.einsum("nij,vkj->nvki", table.matrix, self._world)
        own[:, :, 3] += table.offset[:, None]
        self._u = torch.arange(width, dtype=torch.float32, device=device) + 0.5
        self._v = (torch.arange(height, dtype=torch.float32, device=device) + 0.5)[:, None]
        if self._single:
            self._own: Any = own[:, 0].tolist()
            self._windows = _windows(table, c2w[0], fxfycxcy[0], size)
        else:
            packed = torch.from_numpy(own.astype(np.float32)).to(device)
            self._own = packed.permute(0, 2, 3, 1)[..., None, None]  # rows, 4, 3, V, 1, 1

    def window(self, row: int) -> tuple[slice, ...] | None:
        if not self._single:
            return (slice(None),)
        y0, y1, x0, x1 = self._windows[row]
        return (slice(y0, y1), slice(x0, x1)) if y1 > y0 and x1 > x0 else None

    def local(self, row: int, window: tuple[slice, ...]) -> tuple[Vector, Vector]:
        return self._rays(self._own[row], window)

    def world(self) -> tuple[Vector, Vector]:
        if self._single:
            return self._rays(self._world[0].tolist(), (slice(None), slice(None)))
        packed = torch.from_numpy(self._world.astype(np.float32)).to(self.device)
        return self._rays(packed.permute(1, 2, 0)[..., None, None], (slice(None),))

    def steps(self) -> tuple[Vector, Vector]:
        """What one pixel to the right and one down add to a direction in the world."""
        if self._single:
            _, b, c, _ = self._world[0].tolist()
            return tuple(b), tuple(c)  # type: ignore[return-value]
        packed = torch.from_numpy(self._world.astype(np.float32)).to(self.device)
        _, b, c, _ = packed.permute(1, 2, 0)[..., None, None]
        return tuple(b), tuple(c)  # type: ignore[return-value]

    def _rays(self, own: Any, window: tuple[slice, ...]) -> tuple[Vector, Vector]:
        u, v = self._u, self._v
        if self._single:
            v, u = v[window[0]], u[window[1]]
        a, b, c, o = own
        dx, dy, dz = ((a[i] + b[i] * u) + c[i] * v for i in range(3))
        return (o[0], o[1], o[2]), (dx, dy, dz)


def _windows(table: SurfaceTable, c2w: Array, intrinsics: Array, size: tuple[int, int]) -> Any:
    """(rows, 4) first and last row and column, as a list, that each bounding box can cover."""
    height, width = size
    fx, fy, cx, cy = intrinsics
    seen = (table.corners - c2w[:3, 3]) @ c2w[:3, :3]
    z = seen[..., 2]
    near = z < 0.02
    z = np.maximum(z, 0.02)
    u, v = fx * seen[..., 0] / z + cx, fy * seen[..., 1] / z + cy
    box = np.stack([v.min(1), v.max(1), u.min(1), u.max(1)], -1)
    # Corners behind the camera project to nowhere: such a solid may appear anywhere.
    box[near.any(1)] = [0, height, 0, width]
    box[near.all(1)] = 0
    limits = np.array([height, height, width, width])
    box += [-1, 1, -1, 1]
    return (
        np.clip(np.stack([np.floor(box[:, i]) + i % 2 for i in range(4)], 1), 0, limits)
        .astype(np.int64)
        .tolist()
    )


def nearest(fan: Fan, table: SurfaceTable) -> tuple[Tensor, Tensor]:
    """t of the first surface along each ray, `FAR` where there is none, and its row (int64)."""
    t = torch.full(fan.shape, FAR, device=fan.device)
    row = torch.full(fan.shape, table.sky, dtype=torch.int64, device=fan.device)
    if table.has_room:
        origin, direction = fan.local(table.room, _whole(fan))
        walls, face = _leave_box(origin, direction)
        t.copy_(walls)
        row.copy_(face + table.room)
    elif table.terrain is not None:
        ground = hit_terrain(*fan.world(), table.terrain)
        t.copy_(ground)
        row.masked_fill_(t < FAR, table.ground)
    for index in range(table.solids):
        window = fan.window(index)
        if window is None:
            continue
        origin, direction = fan.local(index, window)
        shape = int(table.shape[index])
        near_t, near_row = t[window], row[window]
        if shape == BOX:
            enter, leave = _box(origin, direction)
            hit = (enter < leave) & (enter > _NEAR) & (enter < near_t)
            if table.cutter[index] >= 0:
                cutter = int(table.cutter[index])
                origin, direction = fan.local(cutter, window)
                if table.shape[cutter] == BOX:
                    first, last = _box(origin, direction)
                else:
                    first, last = _ellipsoid(origin, direction)
                cut = hit & (first <= enter) & (last > enter)
                through = cut & (last < leave) & (last < near_t)
                hit &= ~cut
                torch.where(through, last, near_t, out=near_t)
                near_row.masked_fill_(through, cutter)
        elif shape == ELLIPSOID:
            enter, leave = _ellipsoid(origin, direction)
            hit = (enter < leave) & (enter > _NEAR) & (enter < near_t)
        else:
            enter = _frustum(origin, direction, float(table.top[index]))
            hit = enter < near_t
        torch.where(hit, enter, near_t, out=near_t)
        near_row.masked_fill_(hit, index)
    return t, row


def blocked(fan: Fan, table: SurfaceTable, limit: Tensor | float) -> Tensor:
    """Whether a solid lies on each ray before t = `limit`; room and ground block nothing."""
    out = torch.zeros(fan.shape, dtype=torch.bool, device=fan.device)
    for index in range(table.solids):
        window = fan.window(index)
        if window is None:
            continue
        origin, direction = fan.local(index, window)
        shape = int(table.shape[index])
        if shape == BOX:
            enter, leave = _box(origin, direction)
            hit = enter < leave
            if table.cutter[index] >= 0:
                cutter = int(table.cutter[index])
                origin, direction = fan.local(cutter, window)
                if table.shape[cutter] == BOX:
                    first, last = _box(origin, direction)
                else:
                    first, last = _ellipsoid(origin, direction)
                cut = (first <= enter) & (last > enter)
                hit &= ~(cut & (last >= leave))
                enter = torch.where(cut, last, enter)
            hit &= (enter < limit) & (enter > _NEAR)
        elif shape == ELLIPSOID:
            enter, leave = _ellipsoid(origin, direction)
            hit = (enter < leave) & (enter < limit) & (enter > _NEAR)
        else:
            hit = _frustum(origin, direction, float(table.top[index])) < limit
        out[window] |= hit
    return out


def _whole(fan: Fan) -> tuple[slice, ...]:
    return (slice(None), slice(None)) if len(fan.shape) == 2 else (slice(None),)


def _box(origin: Vector, direction: Vector) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the cube [-1, 1]³; it is missed where enter >= leave."""
    enter: Any = None
    leave: Any = None
    for o, d in zip(origin, direction):
        inverse = d.reciprocal().clamp_(-_STEEPEST, _STEEPEST)
        middle = inverse * -o
        reach = inverse.abs_()
        first, last = middle - reach, middle.add_(reach)
        enter = first if enter is None else torch.maximum(enter, first)
        leave = last if leave is None else torch.minimum(leave, last)
    return enter, leave


def _leave_box(origin: Vector, direction: Vector) -> tuple[Tensor, Tensor]:
    """t where rays from inside leave the cube, and the face (0…5: -x, +x, -y, +y, -z, +z)."""
    far, face = None, None
    for axis, (o, d) in enumerate(zip(origin, direction)):
        inverse = d.reciprocal().clamp_(-_STEEPEST, _STEEPEST)
        last = inverse * -o + inverse.abs()
        mine = (d > 0).to(torch.int64) + 2 * axis
        if far is None or face is None:
            far, face = last, mine
        else:
            face = torch.where(last < far, mine, face)
            far = torch.minimum(far, last)
    assert far is not None and face is not None
    return far, face


def _ellipsoid(origin: Vector, direction: Vector) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the unit ball; FAR, -FAR where it is missed."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    a = dx * dx + dy * dy + dz * dz
    b = dx * ox + dy * oy + dz * oz
    c = ox * ox + oy * oy + oz * oz - 1.0
    square = b * b - a * c
    root = square.clamp(min=0).sqrt_()
    inverse = a.reciprocal_()
    missed = square <= 0
    enter = ((b + root).neg_() * inverse).masked_fill_(missed, FAR)
    leave = ((root - b) * inverse).masked_fill_(missed, -FAR)
    return enter, leave


def _frustum(origin: Vector, direction: Vector, top: float) -> Tensor:
    """First hit with a frustum |z| <= 1 of radius 1 at z = -1 and `top` at 1; FAR if missed."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    middle, slope = 0.5 * (1 + top), 0.5 * (top - 1)
    radius, rate = middle + slope * oz, dz * slope
    a = dx * dx + dy * dy - rate * rate
    b = dx * ox + dy * oy - rate * radius
    c = ox * ox + oy * oy - radius * radius
    square = b * b - a * c
    root = square.clamp(min=0).sqrt_()
    inverse = a.reciprocal_()
    real = square > 0
    best: Any = torch.full_like(root, FAR)
    for t in ((b + root).neg_() * inverse, (root - b) * inverse):
        z = dz * t + oz
        good = real & (z.abs() <= 1.0) & (t > _NEAR) & (t < best)
        best = torch.where(good, t, best)
    across = dz.reciprocal()
    for end, limit in ((-1.0, 1.0), (1.0, top * top)):
        t = across * (end - oz)
        x, y = dx * t + ox, dy * t + oy
        good = (x * x + y * y <= limit) & (t > _NEAR) & (t < best)
        best = torch.where(good, t, best)
    return best


def hit_terrain(origin: Vector, direction: Vector, terrain: Terrain) -> Tensor:
    """First hit with the ground within 150 m; FAR if there is none."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    above = oz - terrain.base
    reach = 150.0
    if not len(terrain.amplitude):
        t = -above / dz
        return torch.where((t > 0) & (t < reach), t, FAR)

    def gap(t: Tensor) -> Tensor:
        x, y = dx * t + ox, dy * t + oy
        out = dz * t + above
        for (kx, ky), phase, size in zip(terrain.wave, terrain.phase, terrain.amplitude):
            angle = x * float(kx) + y * float(ky)
            out = out.sub_(torch.sin(angle.add_(float(phase))), alpha=float(size))
        return out

    # Only the layer that the waves reach has to be searched.
    relief = terrain.relief
    first, second = (relief - above) / dz, (-relief - above) / dz
    start = torch.minimum(first, second).clamp(0.05, reach)
    end = torch.maximum(first, second).clamp(0.05, reach)
    ratio = (end / start) ** (1.0 / _MARCH)
    low, high, found = start, end, torch.zeros_like(start, dtype=torch.bool)
    t, before = start, start
    for _ in range(_MARCH):
        before, t = t, t * ratio
        under = (gap(t) < 0) & ~found
        low, high = torch.where(under, before, low), torch.where(under, t, high)
        found |= under
    for _ in range(14):
        middle = 0.5 * (low + high)
        under = gap(middle) < 0
        high = torch.where(under, middle, high)
        low = torch.where(under, low, middle)
    return torch.where(found & (high < 0.999 * reach), 0.5 * (low + high), FAR)


_MARCH = 24
