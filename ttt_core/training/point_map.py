"""A map of points that stands for the rendered splat map while a network is trained.

Confident depth of earlier views becomes world points; a new view sees them through a z-buffer.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from ttt_core.matching import PosedImage

_SAME_SURFACE = 0.03
"""Points up to this share behind the nearest one belong to its surface and are averaged with it."""
_SOFTENING = 0.25
"""Squared pixels that keep the weight of a point right on a pixel's centre finite."""
_COARSE = 1.5
"""Magnification from which a point covers 3x3 pixels in the place of 2x2."""


class PointMap:
    """World points with a footprint, at most `limit` of them.

    Above the limit points that share a voxel become one, in voxels as fine as the limit allows:
    cost does not grow with the stream.
    """

    def __init__(self, limit: int = 200_000) -> None:
        assert limit > 0
        self.limit = limit
        self.points = np.zeros((0, 3))  # (n,3) float64 world
        self.sizes = np.zeros(0)  # (n,) world side of the pixel that a point was

    def __len__(self) -> int:
        return len(self.points)

    def add(self, view: PosedImage, depth: NDArray[np.float32], trusted: NDArray[np.bool_]) -> None:
        """Adds the pixels of `view` whose z-depth (H,W), world units, is `trusted` (H,W)."""
        rows, columns = np.nonzero(trusted & np.isfinite(depth) & (depth > 0))
        z = depth[rows, columns].astype(np.float64)
        pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(z))], 1)
        local = pixels @ np.linalg.inv(view.K).T * z[:, None]
        self.points = np.concatenate([self.points, local @ view.c2w[:3, :3].T + view.center])
        self.sizes = np.concatenate([self.sizes, z / view.K[0, 0]])
        if len(self) > self.limit:
            self._thin()

    def depth_in(self, view: PosedImage) -> NDArray[np.float32]:
        """(H,W) float32 z-depth of the points as `view` sees them, 0 where there is none."""
        local = (self.points - view.center) @ view.c2w[:3, :3]
        # float32 after the camera has become the origin: no digits are lost far from the world's.
        seen = np.ascontiguousarray(local, np.float32)
        nearest = np.full(view.gray.shape, np.inf, np.float32)
        weight, total = np.zeros_like(nearest), np.zeros_like(nearest)
        focal, center = view.K[[0, 1], [0, 1]], view.K[:2, 2]
        splat_points(seen, self.sizes.astype(np.float32), focal, center, nearest, weight, total)
        return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)

    def _thin(self) -> None:
        """Leaves three quarters of the limit or less; of a voxel's points the newest stays."""
        corner = self.points.min(0)
        extent = float(np.ptp(self.points, axis=0).max())
        # Not finer than can be numbered: 2**20 voxels a side.
        edge = max(float(np.median(self.sizes)), extent * 2.0**-20, 1e-30)
        while True:
            place = ((self.points - corner) / edge).astype(np.int64)
            number = (place[:, 0] << 42) | (place[:, 1] << 21) | place[:, 2]
            _, last = np.unique(number[::-1], return_index=True)
            if len(last) <= max(0.75 * self.limit, 1):
                break
            edge *= 1.26  # half the voxels of a volume
        keep = np.sort(len(self) - 1 - last)
        self.points = self.points[keep]
        # A point now stands for a voxel, but is not drawn larger than the surface was sampled.
        self.sizes = np.maximum(self.sizes[keep], edge)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def splat_points(
    points: NDArray[np.float32],
    sizes: NDArray[np.float32],
    focal: NDArray[np.float64],
    center: NDArray[np.float64],
    nearest: NDArray[np.float32],
    weight: NDArray[np.float32],
    total: NDArray[np.float32],
) -> None:
    """Draws points (n,3) of the camera's frame into pictures (H,W).

    A point covers the 2x2 pixels whose centres are nearest, 3x3 where it is magnified. Fills
    `nearest` (given as inf) with the smallest z, `total` and `weight` (given as 0) with the sums
    of w·z and of w over the points within 3 % behind it, w falling with the distance between
    point and pixel centre: a slanted surface keeps its depth, unlike under a minimum.
    """
    rows, columns = nearest.shape
    for draw in range(2):
        for i in range(points.shape[0]):
            z = points[i, 2]
            if not z > np.float32(1e-9):
                continue
            u = focal[0] * points[i, 0] / z + center[0]
            v = focal[1] * points[i, 1] / z + center[1]
            if not (-2.0 < u < columns + 2.0 and -2.0 < v < rows + 2.0):
                continue
            if sizes[i] * focal[0] > _COARSE * z:
                side = 3
                x0, y0 = int(np.floor(u)) - 1, int(np.floor(v)) - 1
            else:
                side = 2
                x0, y0 = int(np.floor(u - 0.5)), int(np.floor(v - 0.5))
            for y in range(max(y0, 0), min(y0 + side, rows)):
                for x in range(max(x0, 0), min(x0 + side, columns)):
                    if draw == 0:
                        nearest[y, x] = min(nearest[y, x], z)
                    elif z <= nearest[y, x] * np.float32(1.0 + _SAME_SURFACE):
                        dx, dy = x + 0.5 - u, y + 0.5 - v
                        w = np.float32(1.0 / (_SOFTENING + dx * dx + dy * dy))
                        weight[y, x] += w
                        total[y, x] += w * z
