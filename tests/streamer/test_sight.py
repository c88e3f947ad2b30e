"""What a camera may see of spheres."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gs_decoder import Splats
from streamer.session.sight import (
    Camera,
    Reach,
    Sight,
    farthest,
    reach_of,
    spheres,
)

K = np.array([[50.0, 0.0, 30.0], [0.0, 40.0, 20.0], [0.0, 0.0, 1.0]])
WIDTH, HEIGHT = 64, 48
coordinates = st.floats(-20.0, 20.0)
places = st.tuples(coordinates, coordinates, coordinates)


def turned(angle: float, place: tuple[float, float, float]) -> np.ndarray:
    c2w = np.eye(4)
    c2w[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
    c2w[:3, 3] = place
    return c2w


@given(angle=st.floats(-3.0, 3.0), eye=places, place=places, radius=st.floats(0.01, 3.0))
def test_whatever_has_a_point_in_the_picture_is_in_sight(
    angle: float, eye: tuple[float, float, float], place: tuple[float, float, float], radius: float
) -> None:
    camera = Camera(turned(angle, eye), K, WIDTH, HEIGHT)
    centre = np.array([place])
    (size,) = Sight([camera]).sizes(centre, np.array([radius]))[0]
    rng = np.random.default_rng(0)
    away = rng.normal(size=(400, 3))
    away *= radius * rng.random((400, 1)) ** (1 / 3) / np.linalg.norm(away, axis=1, keepdims=True)
    local = (centre + away - eye) @ camera.c2w[:3, :3]
    ahead = local[local[:, 2] > 1e-9]
    pixels = ahead @ K.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    if ((pixels >= 0) & (pixels <= [WIDTH, HEIGHT])).all(axis=1).any():
        assert size > 0
    distance = float(np.linalg.norm(centre[0] - eye))
    if distance < 0.999 * radius:
        assert size == math.inf
    elif 0 < size < math.inf:
        assert np.isclose(size, radius / distance)


def test_what_is_beside_behind_or_hidden_is_not() -> None:
    centres = np.array([[0.0, 0.0, 5.0], [9.0, 0.0, 5.0], [0.0, 0.0, -5.0], [0.0, 0.0, 12.0]])
    radii = np.full(4, 0.5)
    open_air = Camera(np.eye(4), K, WIDTH, HEIGHT)
    walled = Camera(np.eye(4), K, WIDTH, HEIGHT, far=8.0)
    sizes = Sight([open_air, walled]).sizes(centres, radii)
    assert (sizes > 0).tolist() == [[True, False, False, True], [True, False, False, False]]
    parts = [Sight([open_air, walled]).sizes(centres[n:], radii[n:])[:, 0] for n in range(4)]
    assert np.array_equal(np.stack(parts, axis=1), sizes), "whatever else is asked for"
    assert Sight([]).sizes(centres, radii).shape == (0, 4)
    assert Sight([open_air]).sizes(*spheres([], [])).shape == (1, 0)


def test_a_sphere_follows_its_chunk_and_leaves_out_what_is_far_off() -> None:
    rng = np.random.default_rng(1)
    means = rng.normal(size=(200, 3)).astype(np.float32) * 0.1 + [0.0, 0.0, 2.0]
    means[:5] = [0.0, 0.0, 500.0]
    splats = Splats.from_numpy(
        {
            "means": means,
            "quats_wxyz": np.ones((200, 4), np.float32),
            "scales": np.ones((200, 3), np.float32),
            "opacities": np.ones(200, np.float32),
            "sh": np.zeros((200, 1, 3), np.float32),
        }
    )
    reach = reach_of(splats)
    assert np.allclose(reach.centre, (0.0, 0.0, 2.0), atol=0.05)
    assert 0.1 < reach.radius < 0.5
    T = np.diag([3.0, 3.0, 3.0, 1.0])
    T[:3, 3] = 10.0, 0.0, 0.0
    centres, radii = spheres([reach, Reach((0.0, 0.0, 0.0), 1.0)], [T, np.eye(4)])
    assert np.allclose(centres[0], np.array([10.0, 0.0, 0.0]) + 3.0 * np.array(reach.centre))
    assert np.allclose(radii, [3.0 * reach.radius, 1.0])


def test_a_frame_sees_as_far_as_the_map_that_fills_it() -> None:
    depth = np.full((4, 6), 2.0, np.float32)
    assert np.isclose(farthest(depth), 2.2)
    depth[:, 2:] = 0.0
    assert farthest(depth) == math.inf
