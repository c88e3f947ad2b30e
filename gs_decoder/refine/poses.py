"""How far the cameras of views are from where they were said to be, by the pictures.

A view's offset is a small motion in its camera's own frame, so that a rigid correction of its pose
carries it along: the camera that refinement renders from is `c2w @ offset_motion(offset)`. It is
found by direct alignment of the render to the picture (Lucas and Kanade 1981, over six degrees of
freedom, with the mean of both images' gradients, Malis 2004): one robust Gauss-Newton step a visit.
Against Adam on the rasteriser's gradient of the view matrix it needs no rate, and with the few
visits that a view gets it came closer (docs/evaluation.md).
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from gs_decoder.refine.views import RefineView

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_FLOOR = 0.05
"""Differences of colour below this are noise, and count alike."""
_LEAST_PIXELS = 64
"""Fewer that both images show say nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class PoseEvidence:
    """What one render and its picture say of the camera: a sum of robust squares around it.

    Attributes:
        curvature: (6, 6) and slope: (6,) of a motion's turn, radians, and shift, in units of
            `depth`, in the camera's frame; `curvature @ motion = slope` at the best of them.
        depth: median z-depth of what is in view, world units.
    """

    curvature: Float64
    slope: Float64
    depth: float


def offset_motion(offset: Float64) -> Float64:
    """(4, 4) rigid motion of an offset (6,): rotation vector in radians (Rodrigues), then
    translation in world units."""
    x, y, z = offset[:3]
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = math.sqrt(x * x + y * y + z * z)
    half = np.sinc(0.5 * angle / math.pi)
    motion = np.eye(4)
    motion[:3, :3] += np.sinc(angle / math.pi) * cross + 0.5 * half * half * (cross @ cross)
    motion[:3, 3] = offset[3:]
    return motion


def carried(offset: Float64, motion: Float64) -> Float64:
    """A camera's offset (6,) as that of another one which moves along with it rigidly.

    Args:
        motion: (4, 4) from the first camera's frame to the other's.
    """
    turn = motion[:3, :3] @ offset[:3]
    # To first order, which is all that matters for offsets of a degree.
    shift = motion[:3, :3] @ offset[3:] + np.cross(motion[:3, 3], turn)
    return np.concatenate([turn, shift])


def align(
    rendered: Float32,
    picture: Float32,
    depth: Float32,
    shown: NDArray[np.bool_],
    K: Float64,
) -> PoseEvidence | None:
    """The normal equations of one Gauss-Newton step of the camera's pose on a sum of |differences|.

    Args:
        rendered, picture: (H, W, 3) in the same exposure, 0..1. depth: (H, W) z-depth of the
            render. shown: (H, W), the pixels that both show; those count whose four neighbours
            are shown as well.
        K: (3, 3) intrinsics, pixels.

    Returns:
        None where too few pixels are shown to tell.
    """
    known = depth[shown]
    if len(known) < _LEAST_PIXELS:
        return None
    unit = float(np.median(known))
    curvature, slope = np.zeros((6, 6)), np.zeros(6)
    pixels = _normal_equations(
        rendered, picture, depth, shown, K.astype(np.float64), unit, _FLOOR, curvature, slope
    )
    if pixels < _LEAST_PIXELS or not np.trace(curvature) > 0.0:
        return None
    return PoseEvidence(curvature, slope, unit)


@numba.njit(nogil=True, cache=True)
def _normal_equations(
    rendered: NDArray[np.float32],  # (H, W, 3)
    picture: NDArray[np.float32],  # (H, W, 3)
    depth: NDArray[np.float32],  # (H, W)
    shown: NDArray[np.bool_],  # (H, W)
    K: NDArray[np.float64],  # (3, 3)
    unit: float,  # of translations
    floor: float,
    curvature: NDArray[np.float64],  # out (6, 6)
    slope: NDArray[np.float64],  # out (6,)
) -> int:
    """Pixels that went in. A camera that turns by w and shifts by v sees the point p at
    p - w x p - v."""
    height, width = depth.shape
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    du, dv = np.zeros(6), np.zeros(6)
    pixels = 0
    for j in range(1, height - 1):
        for i in range(1, width - 1):
            around = shown[j, i - 1] and shown[j, i + 1] and shown[j - 1, i] and shown[j + 1, i]
            if not (around and shown[j, i] and depth[j, i] > 0.0):
                continue
            pixels += 1
            x, y = (i + 0.5 - cx) / fx, (j + 0.5 - cy) / fy
            near = unit / depth[j, i]
            du[0], du[1], du[2] = fx * x * y, -fx * (1.0 + x * x), fx * y
            du[3], du[4], du[5] = -fx * near, 0.0, fx * x * near
            dv[0], dv[1], dv[2] = fy * (1.0 + y * y), -fy * x * y, -fy * x
            dv[3], dv[4], dv[5] = 0.0, -fy * near, fy * y * near
            # All channels move alike: their gradients are summed before the six directions are.
            xx, xy, yy, x_missing, y_missing = 0.0, 0.0, 0.0, 0.0, 0.0
            for c in range(3):
                missing = float(picture[j, i, c]) - float(rendered[j, i, c])
                right = rendered[j, i + 1, c] + picture[j, i + 1, c]
                left = rendered[j, i - 1, c] + picture[j, i - 1, c]
                below = rendered[j + 1, i, c] + picture[j + 1, i, c]
                above = rendered[j - 1, i, c] + picture[j - 1, i, c]
                gx, gy = 0.25 * (right - left), 0.25 * (below - above)
                weight = 1.0 / (abs(missing) + floor)
                xx += weight * gx * gx
                xy += weight * gx * gy
                yy += weight * gy * gy
                x_missing += weight * gx * missing
                y_missing += weight * gy * missing
            for a in range(6):
                slope[a] -= du[a] * x_missing + dv[a] * y_missing
                along_u, along_v = xx * du[a] + xy * dv[a], xy * du[a] + yy * dv[a]
                for b in range(a + 1):
                    curvature[a, b] += along_u * du[b] + along_v * dv[b]
    for a in range(6):
        for b in range(a):
            curvature[b, a] = curvature[a, b]
    return pixels


class PoseOffsets(dict[int, Float64]):
    """Key of a view → its offset (6,); the views that nothing was learnt of are not named.

    Offsets stay when their views leave: what was rendered beside them says where they were.

    Args:
        share: of the way to what suits a view best, taken at the first visit: at first most of what
            differs is the map's fault.
        settling: visits by which half of that share is gone: from there on visits are averaged, and
            what one of them has by chance does not make the camera tremble.
        hold: how strongly offsets are held at 0, as a share of the mean curvature: directions that
            a picture says little of stay, and map and cameras do not drift together.
        alike: how strongly they are held at those of their neighbours, likewise: what a tracker is
            wrong by it is wrong by for a while. At 0 where there are none.
        reach: views are neighbours whose keys differ by no more than this.
        bound: of each component, radians and shares of the depth in view.
    """

    def __init__(
        self,
        *,
        share: float,
        settling: float,
        hold: float,
        alike: float,
        reach: int,
        bound: float,
    ) -> None:
        super().__init__()
        self._share, self._settling, self._reach = share, settling, reach
        self._hold, self._alike, self._bound = hold, alike, bound
        self._changed: set[int] = set()

    def restore(self, offsets: Mapping[int, Float64]) -> None:
        """Take these in the place of all; who shows them has to ask for all of them anew."""
        self.clear()
        self.update(offsets)
        self._changed = set(offsets)

    def camera(self, key: int, c2w: Float64) -> Float64:
        """A view's camera (4, 4) as refinement has it, from the one that was given."""
        offset = self.get(key)
        return c2w if offset is None else c2w @ offset_motion(offset)

    def learn(
        self, key: int, evidence: PoseEvidence, before: int = 0, near: Sequence[Float64] = ()
    ) -> None:
        """Go a part of the way to the best offset, given what was found at the present one.

        Args:
            before: how often that was done for this view.
            near: (6,) offsets of its neighbours, as `carried` to this camera.
        """
        unit = np.repeat((1.0, evidence.depth), 3)
        old = self.get(key, np.zeros(6)) / unit
        typical = np.mean(near, axis=0) / unit if len(near) else np.zeros(6)
        mean = np.trace(evidence.curvature) / 6.0
        held, alike = self._hold * mean, self._alike * mean
        wish = np.linalg.solve(
            evidence.curvature + (held + alike) * np.eye(6),
            evidence.slope - held * old - alike * (old - typical),
        )
        share = self._share * self._settling / (self._settling + before)
        new = np.clip(old + share * wish, -self._bound, self._bound)
        self[key] = new * unit
        self._changed.add(key)

    def near(self, view: RefineView, views: Mapping[int, RefineView]) -> list[Float64]:
        """The offsets of the nearest views before and after that have one, as this camera's."""
        found = []
        for towards in (-1, 1):
            for steps in range(1, self._reach + 1):
                other = views.get(view.key + towards * steps)
                if other is not None and other.key in self:
                    found.append(carried(self[other.key], np.linalg.inv(view.c2w) @ other.c2w))
                    break
        return found

    def grow(self, key: int, factor: float) -> None:
        """The world around a view was scaled."""
        if factor != 1.0 and key in self:
            self[key] = self[key] * np.repeat((1.0, factor), 3)

    def take_changed(self, keys: Container[int]) -> list[int]:
        """Of these, the ones whose offset changed since this was asked last, rising."""
        changed = sorted(key for key in self._changed if key in keys)
        self._changed.clear()
        return changed
