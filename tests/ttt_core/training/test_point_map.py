"""The map of points against a brute-force z-buffer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttt_core.matching import PosedImage
from ttt_core.training.point_map import PointMap, splat_points

HEIGHT, WIDTH = 12, 17


def view(c2w: np.ndarray | None = None, scale: int = 1) -> PosedImage:
    K = np.diag([scale, scale, 1.0]) @ np.array([[15.0, 0, 8.3], [0, 15.0, 6.1], [0, 0, 1.0]])
    gray = np.zeros((scale * HEIGHT, scale * WIDTH), np.float32)
    return PosedImage(0, gray, K, np.eye(4) if c2w is None else c2w)


def brute(points: np.ndarray, sizes: np.ndarray, camera: PosedImage) -> np.ndarray:
    """Pixel by pixel: nearest of the points that cover it, averaged with those just behind."""
    out = np.zeros((HEIGHT, WIDTH))
    f, c = camera.K[0, 0], camera.K[:2, 2]
    for y in range(HEIGHT):
        for x in range(WIDTH):
            found = []
            for (px, py, z), size in zip(points.astype(np.float64), sizes):
                if z <= 1e-9:
                    continue
                u, v = f * px / z + c[0], f * py / z + c[1]
                if size * f > 1.5 * z:
                    covered = abs(x - np.floor(u)) <= 1 and abs(y - np.floor(v)) <= 1
                else:
                    covered = x - np.floor(u - 0.5) in (0, 1) and y - np.floor(v - 0.5) in (0, 1)
                if covered:
                    found.append((z, 1 / (0.25 + (x + 0.5 - u) ** 2 + (y + 0.5 - v) ** 2)))
            if found:
                nearest = min(z for z, _ in found)
                near = [(z, w) for z, w in found if z <= nearest * 1.03]
                out[y, x] = sum(z * w for z, w in near) / sum(w for _, w in near)
    return out


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60))
def test_splatting_equals_brute_force(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform([-3, -3, -1], [3, 3, 5], (count, 3)).astype(np.float32)
    sizes = rng.uniform(0.05, 0.6, count).astype(np.float32)
    camera = view()
    nearest = np.full((HEIGHT, WIDTH), np.inf, np.float32)
    weight, total = np.zeros_like(nearest), np.zeros_like(nearest)
    focal, center = camera.K[[0, 1], [0, 1]], camera.K[:2, 2]
    splat_points(points, sizes, focal, center, nearest, weight, total)
    found = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    np.testing.assert_allclose(found, brute(points, sizes, camera), rtol=1e-4)


def plane(camera: PosedImage) -> np.ndarray:
    """z-depth of the plane z = 4 + 0.5 x as the camera sees it."""
    y, x = np.mgrid[: camera.gray.shape[0], : camera.gray.shape[1]] + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(camera.K).T
    rays = rays @ camera.c2w[:3, :3].T
    normal = np.array([-0.5, 0, 1.0])
    return ((4.0 - camera.center @ normal) / (rays @ normal)).astype(np.float32)


def test_a_surface_seen_again_has_its_depth_and_few_holes() -> None:
    first = view(scale=6)
    places = PointMap()
    places.add(first, plane(first), np.ones(first.gray.shape, np.bool_))
    c, s = np.cos(0.1), np.sin(0.1)
    pose = np.eye(4)
    pose[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    pose[:3, 3] = [-0.2, 0.1, 0.9]
    second = view(pose, scale=6)
    seen = places.depth_in(second)
    filled = seen > 0
    assert filled[1:-1, 1:-1].mean() > 0.97
    error = np.log(seen[filled] / plane(second)[filled])
    assert np.abs(error).max() < 0.02
    assert abs(np.median(error)) < 0.002


def test_what_is_nearer_hides_what_is_behind() -> None:
    camera = view()
    places = PointMap()
    everywhere = np.ones((HEIGHT, WIDTH), np.bool_)
    places.add(camera, np.full((HEIGHT, WIDTH), 5.0, np.float32), everywhere)
    left = everywhere & (np.arange(WIDTH) < 8)
    places.add(camera, np.full((HEIGHT, WIDTH), 2.0, np.float32), left)
    seen = places.depth_in(camera)
    np.testing.assert_allclose(seen[:, :8], 2.0, rtol=1e-6)
    np.testing.assert_allclose(seen[:, 9:], 5.0, rtol=1e-6)


def test_untrusted_and_unknown_depths_are_no_points() -> None:
    camera = view()
    depth = np.full((HEIGHT, WIDTH), 3.0, np.float32)
    depth[0], depth[1], depth[2] = 0.0, np.nan, np.inf
    trusted = np.ones((HEIGHT, WIDTH), np.bool_)
    trusted[3] = False
    places = PointMap()
    assert not places.depth_in(camera).any()
    places.add(camera, depth, trusted)
    assert len(places) == (HEIGHT - 4) * WIDTH
    behind = np.diag([-1.0, 1, -1, 1])
    assert not places.depth_in(view(behind)).any()


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_points_stay_below_the_limit(offset: float) -> None:
    places = PointMap(limit=300)
    for k in range(10):
        pose = np.eye(4)
        pose[0, 3] = offset + 0.3 * k
        camera = view(pose)
        places.add(camera, np.full((HEIGHT, WIDTH), 4.0, np.float32), np.ones((12, 17), np.bool_))
        assert 0 < len(places) <= 300
        seen = places.depth_in(camera)
        assert (seen > 0).mean() > 0.6
        np.testing.assert_allclose(seen[seen > 0], 4.0, rtol=1e-6)
