"""Triangle meshes: what they hold, their parts, and what they look like."""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np
from numpy.typing import NDArray

from gs_decoder.view import local_viewmat


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Triangles, counter-clockwise as seen from where the surface was seen from."""

    vertices: NDArray[np.float32]
    """(V, 3) world axes, relative to `origin`."""
    faces: NDArray[np.int32]
    """(F, 3)."""
    colours: NDArray[np.uint8]
    """(V, 3) rgb as the pictures have it (sRGB)."""
    origin: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    """(3,) world units."""

    def __post_init__(self) -> None:
        assert self.vertices.shape == self.colours.shape == (len(self.vertices), 3)
        assert self.faces.ndim == 2 and self.faces.shape[1] == 3

    def normals(self) -> NDArray[np.float32]:
        """(V, 3) unit normals, the mean of the faces' around a vertex by their area."""
        a, b, c = (self.vertices[self.faces[:, i]].astype(np.float64) for i in range(3))
        across = np.cross(b - a, c - a)
        total = np.zeros((len(self.vertices), 3))
        for axis in range(3):
            for corner in range(3):
                total[:, axis] += np.bincount(
                    self.faces[:, corner], across[:, axis], len(self.vertices)
                )
        length = np.linalg.norm(total, axis=1, keepdims=True)
        up = np.array([0.0, 0.0, 1.0])
        return np.where(length > 0, total / np.where(length > 0, length, 1.0), up).astype(
            np.float32
        )

    def areas(self) -> NDArray[np.float64]:
        """(F,) square world units."""
        a, b, c = (self.vertices[self.faces[:, i]].astype(np.float64) for i in range(3))
        return np.asarray(0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1))

    def select(self, faces: NDArray[np.bool_]) -> Mesh:
        """The mesh of some faces (F,), without vertices that none of them uses."""
        kept = self.faces[faces]
        used = np.zeros(len(self.vertices), bool)
        used[kept] = True
        number = np.cumsum(used, dtype=np.int64) - 1
        return Mesh(
            self.vertices[used],
            number[kept].astype(np.int32).reshape(-1, 3),
            self.colours[used],
            self.origin,
        )

    def components(self) -> NDArray[np.int32]:
        """(F,) number of the connected part that a face belongs to, from 0."""
        roots = np.arange(len(self.vertices), dtype=np.int32)
        _unite(self.faces, roots)
        if not len(self.faces):
            return np.zeros(0, np.int32)
        return np.unique(roots[self.faces[:, 0]], return_inverse=True)[1].astype(np.int32)

    def without_floaters(self, least_share: float) -> Mesh:
        """Without the connected parts whose area is below a share of the whole area."""
        if not len(self.faces):
            return self
        parts = self.components()
        areas = np.bincount(parts, self.areas())
        return self.select((areas >= least_share * areas.sum())[parts])


def without_flaps(faces: NDArray[np.int32], firm: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(F,) which faces (F, 3) stay when those that are not `firm` (F,) have to close something.

    One of them with an edge that no other face shares hangs over a rim; without it the next one
    may, so they go until none does.
    """
    stay = np.ones(len(faces), bool)
    loose = np.flatnonzero(~firm)
    if not len(loose):
        return stay
    ends = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].astype(np.int64), axis=2)
    edges = ends[..., 0] << 32 | ends[..., 1]
    edge = np.unique(edges, return_inverse=True)[1].reshape(-1, 3)
    sharing = np.bincount(edge.reshape(-1))
    while len(loose):
        hangs = (sharing[edge[loose]] == 1).any(axis=1)
        if not hangs.any():
            break
        stay[loose[hangs]] = False
        sharing -= np.bincount(edge[loose[hangs]].reshape(-1), minlength=len(sharing))
        loose = loose[~hangs]
    return stay


def draw_mesh(
    mesh: Mesh, c2w: NDArray[np.float64], K: NDArray[np.float64], width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A mesh seen from a pinhole camera: z-depth (H, W), 0 where nothing is, and rgb (H, W, 3).

    Triangles are seen from both sides; those that reach behind the camera are left out.
    """
    viewmat = local_viewmat(c2w, mesh.origin)
    points = mesh.vertices @ viewmat[:3, :3].T + viewmat[:3, 3]
    depth = np.zeros((height, width), np.float32)
    colour = np.zeros((height, width, 3), np.uint8)
    camera = np.ascontiguousarray(np.asarray(K, np.float64))
    _draw(points, mesh.faces, mesh.colours, camera, depth, colour)
    return depth, colour


@numba.njit(nogil=True, cache=True)
def _unite(faces: NDArray[np.int32], roots: NDArray[np.int32]) -> None:
    """Make `roots` (V,) name the same vertex for all vertices of a connected part."""
    for face in range(len(faces)):
        for corner in range(1, 3):
            one, two = faces[face, 0], faces[face, corner]
            while roots[one] != one:
                roots[one] = roots[roots[one]]
                one = roots[one]
            while roots[two] != two:
                roots[two] = roots[roots[two]]
                two = roots[two]
            if one < two:
                roots[two] = one
            else:
                roots[one] = two
    for vertex in range(len(roots)):
        root = vertex
        while roots[root] != root:
            root = roots[root]
        roots[vertex] = root


@numba.njit(nogil=True, cache=True)
def _draw(
    points: NDArray[np.float64],
    faces: NDArray[np.int32],
    colours: NDArray[np.uint8],
    camera: NDArray[np.float64],
    depth: NDArray[np.float32],
    picture: NDArray[np.uint8],
) -> None:
    """Nearest triangle of every pixel's centre, perspective-correct; `points` are the camera's."""
    height, width = depth.shape
    u, v, q = np.empty(3), np.empty(3), np.empty(3)
    for face in range(len(faces)):
        behind = False
        for corner in range(3):
            p = points[faces[face, corner]]
            if p[2] <= 1e-6:
                behind = True
                break
            q[corner] = 1.0 / p[2]
            u[corner] = camera[0, 0] * p[0] * q[corner] + camera[0, 2] - 0.5
            v[corner] = camera[1, 1] * p[1] * q[corner] + camera[1, 2] - 0.5
        if behind:
            continue
        area = (u[1] - u[0]) * (v[2] - v[0]) - (u[2] - u[0]) * (v[1] - v[0])
        if abs(area) < 1e-12:
            continue
        top, bottom = max(0.0, np.ceil(v.min())), min(height - 1.0, np.floor(v.max()))
        left, right = max(0.0, np.ceil(u.min())), min(width - 1.0, np.floor(u.max()))
        for row in range(int(top), int(bottom) + 1):
            for column in range(int(left), int(right) + 1):
                a = ((u[1] - column) * (v[2] - row) - (u[2] - column) * (v[1] - row)) / area
                b = ((u[2] - column) * (v[0] - row) - (u[0] - column) * (v[2] - row)) / area
                c = 1.0 - a - b
                if a < -1e-9 or b < -1e-9 or c < -1e-9:
                    continue
                z = 1.0 / (a * q[0] + b * q[1] + c * q[2])
                if depth[row, column] > 0.0 and z >= depth[row, column]:
                    continue
                depth[row, column] = z
                wa, wb, wc = a * q[0] * z, b * q[1] * z, c * q[2] * z
                for channel in range(3):
                    value = (
                        wa * colours[faces[face, 0], channel]
                        + wb * colours[faces[face, 1], channel]
                        + wc * colours[faces[face, 2], channel]
                    )
                    picture[row, column, channel] = min(255.0, max(0.0, value + 0.5))
