"""Colours of hits: textures, one light with shadows, ambient light with occlusion, sky, haze."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttt_core.scenes.atlas import Atlas
from ttt_core.scenes.cast import ListFan, blocked
from ttt_core.scenes.solids import BOX, FRUSTUM, GROUND, SurfaceTable, World

_OCCLUDERS = 20


class Shader:
    """Shades hits of one world; holds its surfaces as columns on one device."""

    def __init__(
        self, world: World, table: SurfaceTable, atlas: Atlas, device: torch.device
    ) -> None:
        self.world, self.table, self.atlas = world, table, atlas
        looks = table.looks
        columns = np.column_stack(
            [
                table.matrix.reshape(-1, 9),
                table.offset,
                table.half,
                table.shape,
                table.top,
                table.flip,
                [look.texture % atlas.count for look in looks],
                [look.scale for look in looks],
                np.array([look.tint for look in looks]),
                [look.specular for look in looks],
                [look.gloss for look in looks],
                [look.emission for look in looks],
            ]
        )
        packed = np.ascontiguousarray(columns.T, dtype=np.float32)
        self._columns = torch.from_numpy(packed).to(device)
        radius = np.cbrt(table.half[: table.solids].prod(1))
        largest = np.argsort(-radius)[:_OCCLUDERS]
        corners = table.corners[: table.solids]
        self._low, self._high = corners.min(1), corners.max(1)
        self._radius = np.linalg.norm(table.half[: table.solids], axis=1)
        self._spheres = [(*table.centre[i].tolist(), float(radius[i])) for i in largest]

    def __call__(
        self, row: Tensor, t: Tensor, origin: Any, direction: Any, pixel: float | Tensor
    ) -> Tensor:
        """Radiance (3, N) along rays that hit `row` (N,) at `t`; `pixel` is a pixel's angle."""
        world, table = self.world, self.table
        sky = row == table.sky
        t = t.masked_fill(sky, 1.0)
        column = self._columns.index_select(1, row)
        tint, emission = column[20:23], column[25]
        dx, dy, dz = direction
        px, py, pz = (o + t * d for o, d in zip(origin, direction))
        norm = (dx * dx + dy * dy + dz * dz).rsqrt_()
        vx, vy, vz = dx * norm, dy * norm, dz * norm
        q = self._own(column, px, py, pz)
        own = self._own_normal(column, q, px, py)
        gx, gy, gz = (
            (column[i] * own[0] + column[3 + i] * own[1] + column[6 + i] * own[2]) for i in range(3)
        )
        unit = (gx * gx + gy * gy + gz * gz).rsqrt_() * column[17]
        nx, ny, nz = gx * unit, gy * unit, gz * unit
        facing = (nx * vx + ny * vy + nz * vz).neg_()

        u, v = self._place(column, own, q)
        scale = column[19]
        size = t * pixel / (norm * facing.abs().clamp_(min=0.2))
        lod = torch.log2((size * scale).clamp_(min=1e-6)) + float(np.log2(self.atlas.size)) - 0.5
        high = vz.abs() + 0.15
        u = torch.where(sky, vx / high * 0.2, u * scale + row * 0.37)
        v = torch.where(sky, vy / high * 0.2, v * scale + row * 0.61)
        lod = lod.masked_fill_(sky, 1.0)
        albedo = self.atlas(column[18].to(torch.int32), u, v, lod) * tint

        sun, shine = self._lamp((px, py, pz), (nx, ny, nz), (vx, vy, vz), column[23], column[24])
        shade = self._occlusion((px, py, pz), (nx, ny, nz)) * (0.65 + 0.35 * nz)
        shade.mul_(0.85 + 0.15 * facing.clamp(0, 1))
        out = torch.empty_like(albedo)
        cloud = albedo.mean(0) / self.atlas.mean.mean() - 0.6
        cloud = (cloud * emission).clamp_(0, 0.8)
        rise = vz.clamp(0, 1).sqrt_()
        veil = torch.exp(t / norm * -world.haze) if world.haze else None
        for i in range(3):
            light, fill = float(world.lamp_colour[i]), float(world.ambient[i])
            colour = albedo[i] * (sun * light + shade * fill + emission) + shine * light
            air = float(world.sky_colour[i])
            horizon = 0.55 * air + 0.38
            if veil is not None:
                colour = horizon + (colour - horizon) * veil
            if table.has_room:
                out[i] = colour
                continue
            above = horizon + (air - horizon) * rise
            shown = (above + (0.95 - above) * cloud) * world.sky_light
            out[i] = torch.where(sky, shown, colour)
        return out

    def _own(self, column: Tensor, px: Tensor, py: Tensor, pz: Tensor) -> list[Tensor]:
        return [
            column[3 * i] * px + column[3 * i + 1] * py + column[3 * i + 2] * pz + column[9 + i]
            for i in range(3)
        ]

    def _own_normal(
        self, column: Tensor, q: list[Tensor], px: Tensor, py: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normals in own axes, of any length, outward."""
        shape = column[15]
        x, y, z = q
        ax, ay, az = x.abs(), y.abs(), z.abs()
        on_x = (ax >= ay) & (ax >= az)
        on_z = ~on_x & (az > ay)
        on_y = ~(on_x | on_z)
        flat = shape == BOX
        cone = shape == FRUSTUM
        cap = cone & (az > 0.9995)
        round_side = ~(flat | cap)
        nx = torch.where(flat & on_x, x.sign(), x * round_side)
        ny = torch.where(flat & on_y, y.sign(), y * round_side)
        top = column[16]
        slope = 0.5 * (top - 1)
        lean = -slope * (0.5 * (1 + top) + slope * z)
        nz = torch.where(cone & ~cap, lean, z * round_side)
        nz = torch.where((flat & on_z) | cap, z.sign(), nz)
        terrain = self.table.terrain
        if terrain is not None:
            ground = shape == GROUND
            sx, sy = torch.zeros_like(px), torch.zeros_like(px)
            for (kx, ky), phase, size in zip(terrain.wave, terrain.phase, terrain.amplitude):
                swing = torch.cos(px * float(kx) + py * float(ky) + float(phase)) * float(size)
                sx, sy = sx + swing * float(kx), sy + swing * float(ky)
            nx, ny = torch.where(ground, -sx, nx), torch.where(ground, -sy, ny)
            nz = nz.masked_fill_(ground, 1.0)
        return nx, ny, nz

    def _place(
        self, column: Tensor, own: tuple[Tensor, Tensor, Tensor], q: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Where on its texture, in metres, by the side that the normal looks to most."""
        hx, hy, hz = column[12], column[13], column[14]
        gx, gy, gz = (own[0] / hx).abs_(), (own[1] / hy).abs_(), (own[2] / hz).abs_()
        on_x = (gx >= gy) & (gx >= gz)
        on_z = ~on_x & (gz > gy)
        x, y, z = q[0] * hx, q[1] * hy, q[2] * hz
        return torch.where(on_x, y, x), torch.where(on_z, y, z)

    def _lamp(
        self, p: Any, n: Any, v: Any, specular: Tensor, gloss: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Diffuse and mirrored light of the lamp, where nothing stands in its way."""
        world = self.world
        # Off the surface, so that it does not shade itself.
        away = torch.stack([a + 0.012 * b - float(c) for a, b, c in zip(p, n, world.lamp)])
        square = (away * away).sum(0)
        inverse = square.rsqrt()
        lx, ly, lz = (-away[i] * inverse for i in range(3))
        cosine = (n[0] * lx + n[1] * ly + n[2] * lz).clamp_(min=0.0)
        fan = ListFan(self.table, world.lamp, away, self._casters(away, inverse))
        lit = ~blocked(fan, self.table, 1.0 - 0.006 * inverse)
        strength = lit * (world.lamp_reach**2 / (square + 0.05 * world.lamp_reach**2))
        hx, hy, hz = lx - v[0], ly - v[1], lz - v[2]
        length = (hx * hx + hy * hy + hz * hz).rsqrt_()
        glint = ((n[0] * hx + n[1] * hy + n[2] * hz) * length).clamp_(min=0.0).pow_(gloss)
        return strength * cosine, strength * glint.mul_(specular) * (cosine > 0)

    def _casters(self, away: Tensor, inverse: Tensor) -> set[int]:
        """Solids that can shade points `away` (3, N) from the lamp, 1 / `inverse` (N,) far."""
        table, lamp = self.table, self.world.lamp
        # The box around lamp and points.
        low = np.minimum(away.amin(1).double().cpu().numpy(), 0.0) + lamp
        high = np.maximum(away.amax(1).double().cpu().numpy(), 0.0) + lamp
        near = (self._low < high).all(1) & (self._high > low).all(1)
        # The cone around the points, seen from the lamp.
        axis = away.mean(1)
        axis = axis / torch.linalg.vector_norm(axis).clamp(min=1e-9)
        spread = float(((axis @ away) * inverse).min().clamp(-1.0, 1.0).arccos())
        arm = table.centre[: table.solids] - lamp
        length = np.maximum(np.linalg.norm(arm, axis=1), 1e-9)
        off = np.arccos(np.clip(arm @ axis.double().cpu().numpy() / length, -1.0, 1.0))
        width = np.arcsin(np.minimum(self._radius / length, 1.0))
        inside = self._radius >= length
        near &= inside | (off - width < spread + 1e-3)
        return set(np.flatnonzero(near).tolist())

    def _occlusion(self, p: Any, n: Any) -> Tensor:
        """How much of the surrounding light arrives: spheres for solids, walls for corners."""
        open_ = torch.ones_like(p[0])
        for x, y, z, radius in self._spheres:
            ax, ay, az = x - p[0], y - p[1], z - p[2]
            square = torch.addcmul(torch.addcmul(ax * ax, ay, ay), az, az)
            lean = torch.addcmul(torch.addcmul(n[0] * ax, n[1], ay), n[2], az)
            square.clamp_(min=radius * radius)
            hidden = lean.clamp_(min=0).mul_(square.rsqrt()).div_(square)
            open_.mul_(hidden.mul_(-0.7 * radius * radius).add_(1.0))
        if self.table.has_room:
            row = self.table.room
            lines, shift = self.table.matrix[row], self.table.offset[row]
            for axis in range(3):
                a, b, c = (float(w) for w in lines[axis])
                inside = (p[0] * a + p[1] * b + p[2] * c + float(shift[axis])).abs_()
                gap = (1 - inside) * float(self.table.half[row][axis])
                open_.mul_(1 - 0.3 * torch.exp(gap.mul_(-3.0)))
        return open_
