"""Camera models against OpenCV's own projection, and what a bad description is told."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.camera import PARAMETERS, CameraError, CameraModel

CAMERAS = {
    "PINHOLE": CameraModel("PINHOLE", 640, 480, (500.0, 510.0, 322.5, 236.0)),
    "OPENCV": CameraModel(
        "OPENCV", 640, 480, (500.0, 510.0, 322.5, 236.0, -0.28, 0.09, 1e-3, -7e-4)
    ),
    "OPENCV_FISHEYE": CameraModel(
        "OPENCV_FISHEYE", 640, 480, (300.0, 305.0, 322.5, 236.0, 0.03, -0.01, 4e-3, -1e-3)
    ),
    "SIMPLE_RADIAL": CameraModel("SIMPLE_RADIAL", 640, 480, (500.0, 322.5, 236.0, 0.05)),
    "FULL_OPENCV": CameraModel(
        "FULL_OPENCV",
        640,
        480,
        (517.3, 516.5, 319.1, 255.8, 0.2624, -0.9531, -0.0054, 0.0026, 1.1633, 0.01, -0.02, 0.003),
    ),
}


def cv2_intrinsics(camera: CameraModel) -> tuple[np.ndarray, np.ndarray]:
    """K with OpenCV's pixel centres (half a pixel less) and its distortion vector."""
    p = camera.params
    if camera.model == "SIMPLE_RADIAL":
        p = (p[0], p[0], p[1], p[2], p[3], 0.0, 0.0, 0.0)
    K = np.array([[p[0], 0, p[2] - 0.5], [0, p[1], p[3] - 0.5], [0, 0, 1.0]])
    return K, np.array(p[4:] or (0.0,) * 4)


def cv2_project(camera: CameraModel, points: np.ndarray) -> np.ndarray:
    """[n, 3] → [n, 2] by OpenCV, in coordinates from the image's corner."""
    K, distortion = cv2_intrinsics(camera)
    zero = np.zeros(3)
    if camera.model == "OPENCV_FISHEYE":
        pixels, _ = cv2.fisheye.projectPoints(points[:, None], zero, zero, K, distortion)
    else:
        pixels, _ = cv2.projectPoints(points, zero, zero, K, distortion)
    return pixels.reshape(-1, 2) + 0.5


@pytest.mark.parametrize("model", CAMERAS)
def test_projection_agrees_with_opencv(model: str) -> None:
    rng = np.random.default_rng(3)
    rays = rng.uniform(-0.6, 0.6, (500, 2))
    points = np.column_stack([rays, np.ones(500)]) * rng.uniform(0.1, 50.0, (500, 1))
    camera = CAMERAS[model]
    np.testing.assert_allclose(camera.project(points), cv2_project(camera, points), atol=1e-6)


def test_models_and_orders_are_colmaps() -> None:
    assert PARAMETERS["PINHOLE"] == ("fx", "fy", "cx", "cy")
    assert CAMERAS["SIMPLE_RADIAL"].fxfycxcy == (500.0, 500.0, 322.5, 236.0)
    assert CAMERAS["SIMPLE_RADIAL"].distortion == (0.05,)
    assert CAMERAS["OPENCV"].distortion == (-0.28, 0.09, 1e-3, -7e-4)
    # A lens without bend is a pinhole, an equidistant lens with all k = 0 is not.
    assert CameraModel("OPENCV", 8, 8, (5, 5, 4, 4, 0, 0, 0, 0)).is_pinhole
    assert not CameraModel("OPENCV_FISHEYE", 8, 8, (5, 5, 4, 4, 0, 0, 0, 0)).is_pinhole


@pytest.mark.parametrize("model", CAMERAS)
def test_header_round_trip(model: str) -> None:
    camera = CAMERAS[model]
    assert CameraModel.from_header(camera.to_header()) == camera
    mounted = CameraModel(model, 640, 480, camera.params, np.eye(4))
    again = CameraModel.from_header(mounted.to_header())
    assert again == mounted
    assert hash(again) == hash(mounted)


@given(st.sampled_from(sorted(CAMERAS)), st.integers(1, 8))
def test_smaller_frames_see_the_same_rays(model: str, factor: int) -> None:
    camera = CAMERAS[model]
    big = camera.scaled(camera.width * factor, camera.height * factor)
    small = big.at_size(camera.width, camera.height)
    points = np.array([[0.1, -0.2, 1.0], [-0.3, 0.25, 1.0], [0.0, 0.0, 2.0]])
    np.testing.assert_allclose(small.project(points) * factor, big.project(points), atol=1e-8)


def test_centre_scales_exactly_from_the_corner() -> None:
    camera = CameraModel.pinhole(640, 480, 500.0, 510.0, 322.5, 236.0)
    assert camera.at_size(160, 120).params == (125.0, 127.5, 80.625, 59.0)


def test_folded_part_of_a_model_is_nowhere() -> None:
    # r·(1 − 0.5·r²) grows up to r = sqrt(2/3) = 0.816 and comes back after it.
    camera = CameraModel("SIMPLE_RADIAL", 640, 480, (300.0, 320.0, 240.0, -0.5))
    assert np.isfinite(camera.distort([0.8, 0.0])).all()
    assert np.isnan(camera.distort([0.83, 0.0])).all()


@pytest.mark.parametrize("size", [(300, 240), (1280, 960), (320, 160), (0, 0), (641, 480)])
def test_sizes_of_other_proportion_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(CameraError, match="640x480"):
        CAMERAS["OPENCV"].at_size(*size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("PINHOL", 8, 8, (1, 1, 1, 1)), "did you mean 'PINHOLE'"),
        (("OPENCV", 8, 8, (1, 1, 1, 1)), r"8 params \(fx fy cx cy k1 k2 p1 p2\), got 4.*PINHOLE"),
        (("PINHOLE", 8, 8, (1, 1, 1)), "fx fy cx cy.*got 3"),
        (("PINHOLE", 0, 8, (1, 1, 1, 1)), "width is 0"),
        (("PINHOLE", 8, 20000, (1, 1, 1, 1)), "height is 20000"),
        (("PINHOLE", 8, 8, (1, -1, 1, 1)), "fy is -1"),
        (("PINHOLE", 8, 8, (1, 1, float("nan"), 1)), "cx is nan"),
        (("PINHOLE", 8, 8, ("a", 1, 1, 1)), "not numbers"),
        (("PINHOLE", 8, 8, (1, 1, 1, 1), np.diag([2, 2, 2, 1])), "T_body_camera.*scaled"),
    ],
)
def test_bad_descriptions_are_told_why(arguments: tuple, message: str) -> None:
    with pytest.raises(CameraError if "scaled" not in message else ValueError, match=message):
        CameraModel(*arguments)


def test_header_without_a_field_names_it() -> None:
    with pytest.raises(CameraError, match="'params'"):
        CameraModel.from_header({"model": "PINHOLE", "width": 8, "height": 8})
