"""Fused depth against surfaces that are known: planes, spheres, boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from map_helpers import random_rotation

from gs_decoder.mesh import DepthView, Mesh, MeshError, TsdfVolume, draw_mesh, surface_blocks
from gs_decoder.mesh.triangles import without_flaps

K = np.array([[80.0, 0.0, 40.0], [0.0, 80.0, 30.0], [0.0, 0.0, 1.0]])
WIDTH, HEIGHT = 80, 60


def rays(c2w: np.ndarray) -> np.ndarray:
    """(H, W, 3) directions of z-depth 1 in the world."""
    u, v = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    local = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
    return local @ c2w[:3, :3].T


def view_of(depth: np.ndarray, c2w: np.ndarray, colour: tuple[int, int, int]) -> DepthView:
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0.0).astype(np.float32)
    return DepthView(
        depth=depth,
        confidence=(depth > 0).astype(np.float32),
        colour=np.full((HEIGHT, WIDTH, 3), colour, np.uint8),
        K=K,
        c2w=c2w,
    )


def looking_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, np.eye(3)[int(np.abs(forward).argmin())])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = eye
    return pose


def plane_depth(c2w: np.ndarray, normal: np.ndarray, offset: float) -> np.ndarray:
    """z-depth of the plane of points p with normal · p = offset."""
    return (offset - normal @ c2w[:3, 3]) / (rays(c2w) @ normal)


def sphere_depth(c2w: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    directions, eye = rays(c2w), c2w[:3, 3] - centre
    a, b = (directions**2).sum(-1), directions @ eye
    root = b * b - a * (eye @ eye - radius**2)
    return np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, 0.0)


def fused(views: list[DepthView], voxel: float, threads: int = 1, close: int = 0) -> Mesh:
    keys = surface_blocks(views, voxel, 4 * voxel)
    volume = TsdfVolume(keys, voxel, 4 * voxel, threads=threads)
    for view in views:
        volume.integrate(view)
    return volume.surface(close=close)


def edges_of(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Directed edges (3F, 2) of all triangles, and how often each undirected one occurs."""
    directed = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    return directed, np.unique(np.sort(directed, 1), axis=0, return_counts=True)[1]


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tilt=st.floats(0.0, 30.0),
    distance=st.floats(1.0, 20.0),
    views=st.integers(1, 3),
)
def test_a_plane_is_a_plane(seed: int, tilt: float, distance: float, views: int) -> None:
    turn = random_rotation(seed)
    generator = np.random.default_rng(seed)
    target = generator.uniform(-5, 5, 3)
    normal, offset = turn[:, 0], float(turn[:, 0] @ target)
    voxel = distance / 40
    looks = []
    for number in range(views):
        angle = np.radians(tilt if number == 0 else generator.uniform(0, 30))
        aside = np.cos(number) * turn[:, 1] + np.sin(number) * turn[:, 2]
        eye = target + distance * (np.cos(angle) * normal + np.sin(angle) * aside)
        pose = looking_at(eye, target)
        looks.append(view_of(plane_depth(pose, normal, offset), pose, (10, 200, 90)))
    mesh = fused(looks, voxel)
    assert len(mesh.faces) > 200
    off = np.abs(mesh.vertices @ normal - offset)
    assert off.max() < voxel
    assert off.mean() < 0.2 * voxel
    # Seen from before, triangles are counter-clockwise: their normals point at the camera.
    assert (mesh.normals() @ normal > 0.8).mean() > 0.99
    assert np.abs(mesh.colours.astype(int) - (10, 200, 90)).max() <= 1
    # One piece without a hole: inside the picture every pixel that sees the plane sees the mesh.
    drawn, _ = draw_mesh(mesh, looks[0].c2w, K, WIDTH, HEIGHT)
    inner = (slice(14, -14), slice(14, -14))
    seen = looks[0].depth[inner]
    close = (seen > 0) & (seen < 2 * distance)
    assert (drawn[inner][close] > 0).mean() > 0.999
    assert np.abs(drawn[inner] - seen)[close & (drawn[inner] > 0)].max() < voxel * 2 * distance


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.floats(0.05, 50.0), fineness=st.integers(14, 20))
def test_a_sphere_is_a_closed_sphere(seed: int, radius: float, fineness: int) -> None:
    generator = np.random.default_rng(seed)
    centre = generator.uniform(-3, 3, 3) * radius
    voxel = radius / fineness
    turn = random_rotation(seed)
    looks = []
    corners = np.array([(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) @ turn
    for direction in np.concatenate([turn, -turn, corners]):
        eye = centre + 3.2 * radius * direction / np.linalg.norm(direction)
        pose = looking_at(eye, centre)
        looks.append(view_of(sphere_depth(pose, centre, radius), pose, (255, 0, 0)))
    mesh = fused(looks, voxel)
    ways = mesh.vertices - centre
    off = np.abs(np.linalg.norm(ways, axis=1) - radius)
    assert off.max() < voxel
    assert off.mean() < 0.3 * voxel
    assert (mesh.areas().sum() / (4 * np.pi * radius**2)) == pytest.approx(1.0, abs=0.03)
    outward = (mesh.normals() * ways).sum(1) / np.linalg.norm(ways, axis=1)
    assert (outward > 0.7).mean() > 0.99
    directed, shared = edges_of(mesh)
    # Watertight and of one sense: every edge is passed as often forth as back. Where two sheets
    # touch within a voxel four triangles may meet at one.
    assert (shared != 1).all() and (shared == 2).mean() > 0.999
    forth, back = (
        np.unique(edges, axis=0, return_counts=True) for edges in (directed, directed[:, ::-1])
    )
    assert np.array_equal(forth[0], back[0]) and np.array_equal(forth[1], back[1])
    assert mesh.components().max() == 0


def test_threads_do_not_change_a_bit() -> None:
    pose = looking_at(np.array([0.0, 0.0, -3.0]), np.zeros(3))
    depth = sphere_depth(pose, np.zeros(3), 1.0)
    depth[28:33, 40:44] = 0.0
    looks = [view_of(depth, pose, (1, 2, 3))]
    one, three = fused(looks, 0.06, 1, close=5), fused(looks, 0.06, 3, close=5)
    assert len(one.faces) > len(fused(looks, 0.06).faces)
    assert np.array_equal(one.colours, three.colours)
    assert np.array_equal(one.vertices, three.vertices)
    assert np.array_equal(one.faces, three.faces)


def test_free_space_that_others_saw_removes_a_floater() -> None:
    wall = np.array([0.0, 0.0, 1.0])
    poses = [
        looking_at(np.array([x, 0.0, -2.0]), np.array([0.0, 0.0, 1.0])) for x in (-1, 0, 0.6, 1)
    ]
    looks = [view_of(plane_depth(pose, wall, 1.0), pose, (9, 9, 9)) for pose in poses]
    clean = fused(looks, 0.05)
    # One of four cameras sees a thing in mid-air that the others look through.
    depth = looks[0].depth.copy()
    depth[28:32, 38:42] = 1.5
    dirty = fused([view_of(depth, poses[0], (9, 9, 9)), *looks[1:]], 0.05)
    assert dirty.vertices[:, 2].min() > 0.7
    alone = fused([view_of(depth, poses[0], (9, 9, 9))], 0.05)
    assert alone.vertices[:, 2].min() < 0.0
    assert clean.without_floaters(0.01).vertices[:, 2].min() > 0.9
    # The part before the wall is small and on its own.
    kept = alone.without_floaters(0.05)
    assert kept.vertices[:, 2].min() > 0.7
    assert 0 < len(kept.faces) < len(alone.faces)
    assert kept.faces.max() == len(kept.vertices) - 1


def wall_looks(hole: slice, behind: float = 0.0) -> list[DepthView]:
    """A slanting wall from two sides; where one picture has the hole it shows nothing, or what is
    so far behind."""
    normal = np.array([0.3, 0.2, 1.0]) / np.linalg.norm([0.3, 0.2, 1.0])
    looks = []
    for x in (-0.2, 0.2):
        pose = looking_at(np.array([x, 0.0, -2.0]), np.zeros(3))
        depth, other = plane_depth(pose, normal, 0.0), plane_depth(pose, normal, behind)
        # The same place on the wall for both: the hole is the wall's.
        places = pose[:3, 3] + depth[..., None] * rays(pose)
        half = (hole.stop - hole.start) / 80.0
        inside = (np.abs(places[..., 0]) < half) & (np.abs(places[..., 1]) < half)
        depth[inside] = other[inside] if behind else 0.0
        looks.append(view_of(depth, pose, (40, 90, 200)))
    return looks


@pytest.mark.parametrize("width", [4, 8])
def test_holes_are_closed_and_no_rim_grows(width: int) -> None:
    normal = np.array([0.3, 0.2, 1.0]) / np.linalg.norm([0.3, 0.2, 1.0])
    looks = wall_looks(slice(0, width))
    torn, whole = fused(looks, 0.05), fused(looks, 0.05, close=6)
    inner = (slice(12, -12), slice(16, -16))
    for look in looks:
        before, after = (draw_mesh(m, look.c2w, K, WIDTH, HEIGHT)[0][inner] for m in (torn, whole))
        assert (before == 0).sum() > 3 * width
        assert (after > 0).all()
    off = np.abs(whole.vertices @ normal)
    assert off.max() < 0.05 and off.mean() < 0.01
    assert np.abs(whole.colours.astype(int) - (40, 90, 200)).max() <= 1
    # All of the torn one is there, and what came is inside of it.
    assert np.array_equal(torn.vertices.min(0), whole.vertices.min(0))
    assert np.array_equal(torn.vertices.max(0), whole.vertices.max(0))
    rims = [_loops(mesh) for mesh in (torn, whole)]
    assert rims[0] == 2 and rims[1] == 1


def test_a_hole_too_wide_stays_as_it_is() -> None:
    looks = wall_looks(slice(0, 40))
    torn, same = fused(looks, 0.05), fused(looks, 0.05, close=3)
    # A pit of a voxel in the hole's rim may be closed, the hole not begun to be.
    assert 0 <= len(same.faces) - len(torn.faces) < 10
    assert _loops(torn) == _loops(same) == 2


def test_a_window_stays_open() -> None:
    looks = wall_looks(slice(0, 12), behind=0.8)
    torn, same = fused(looks, 0.05), fused(looks, 0.05, close=6)
    for look in looks:
        depths = [draw_mesh(mesh, look.c2w, K, WIDTH, HEIGHT)[0] for mesh in (torn, same)]
        through = (depths[0] > look.depth - 0.1) & (look.depth > 2.4)
        assert through.sum() > 50
        assert np.allclose(depths[1][through], depths[0][through], atol=0.05)


def _loops(mesh: Mesh) -> int:
    """Closed ways along edges that one triangle alone has."""
    directed, _ = edges_of(mesh)
    edges, counts = np.unique(np.sort(directed, 1), axis=0, return_counts=True)
    rim = edges[counts == 1]
    names = np.arange(len(mesh.vertices))
    for _ in range(len(rim)):
        least = names.copy()
        np.minimum.at(least, rim[:, 0], names[rim[:, 1]])
        np.minimum.at(least, rim[:, 1], names[rim[:, 0]])
        if np.array_equal(least, names):
            break
        names = least
    return len(np.unique(names[rim]))


def test_what_closes_nothing_is_taken_away() -> None:
    # A ring of firm triangles around a square, which two loose ones close; one more hangs on.
    square = [[0, 1, 2], [0, 2, 3]]
    firm = [[1, 0, 4], [2, 1, 5], [3, 2, 6], [0, 3, 7]]
    hanging = [[5, 4, 8], [8, 4, 9]]
    faces = np.array(firm + square + hanging, np.int32)
    stay = without_flaps(faces, np.arange(len(faces)) < 4)
    assert stay.tolist() == [True] * 6 + [False] * 2
    # Without one of the square's halves the other closes nothing either.
    stay = without_flaps(np.array(firm + square[:1], np.int32), np.arange(5) < 4)
    assert stay.tolist() == [True] * 4 + [False]
    assert without_flaps(faces, np.ones(8, bool)).all()


def test_a_voxel_too_small_for_the_world_is_named() -> None:
    pose = looking_at(np.array([0.0, 0.0, -2e6]), np.array([0.0, 0.0, 1.0]))
    look = view_of(plane_depth(pose, np.array([0.0, 0.0, 1.0]), 0.0), pose, (0, 0, 0))
    with pytest.raises(MeshError, match="--voxel"):
        surface_blocks([look], 1e-2, 0.04)


def test_nothing_seen_is_an_empty_mesh() -> None:
    look = view_of(np.zeros((HEIGHT, WIDTH)), np.eye(4), (0, 0, 0))
    assert len(surface_blocks([look], 0.1, 0.4)) == 0
    mesh = fused([look], 0.1)
    assert len(mesh.vertices) == len(mesh.faces) == 0
    assert len(mesh.without_floaters(0.5).faces) == 0
