"""Captures of the TUM RGB-D layout, read as they are written here."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from capture_writers import (
    HEIGHT,
    WIDTH,
    write_tum,
)

from streamer.camera import CameraModel
from streamer.conventions import check_pose
from streamer.sources import (
    CaptureError,
    load_frame,
    open_capture,
)


def test_tum_interpolates_poses_and_pairs_depth(tmp_path: Path) -> None:
    root = write_tum(tmp_path / "walk")
    (root / "calib.txt").write_text("30 31 16 11")
    capture = open_capture(root)
    assert capture.layout == "tum"
    assert len(capture.frames) == 10
    for i, frame in enumerate(capture.frames):
        assert frame.stamp_ns == 100 * 10**9 + i * 10**8
        np.testing.assert_allclose(frame.c2w[:3, 3], [0.1 * i, 2.0, 3.0], atol=1e-6)
        angle = 0.05 * i
        expected = [np.sin(angle), 0.0, np.cos(angle)]
        np.testing.assert_allclose(frame.c2w[:3, 2], expected, atol=1e-6)
        check_pose(frame.c2w)
        assert frame.depth_path is not None
        assert frame.depth_path.name == f"{100 + 0.1 * i + 0.005:.6f}.png"
    assert capture.frames[0].depth_unit_m == pytest.approx(1 / 5000)


def test_tum_intrinsics_from_a_calibration_file(tmp_path: Path) -> None:
    root = write_tum(tmp_path / "walk")
    with pytest.raises(CaptureError, match=r"no intrinsics.*calibration\.txt"):
        open_capture(root)
    (root / "calibration.txt").write_text("# fx fy cx cy\n30 31 16 11\n")
    capture = open_capture(root)
    # OpenCV's centre (16, 11) counts from the first pixel's centre, ours from the corner.
    assert capture.cameras["rgb"] == CameraModel.pinhole(WIDTH, HEIGHT, 30, 31, 16.5, 11.5)
    frame = load_frame(capture, capture.frames[2], seq=0, with_depth=True)
    assert frame.depth is not None
    np.testing.assert_allclose(frame.depth, 5002 / 5000, rtol=1e-6)
    (root / "calibration.txt").write_text("30 31 16 11 0.1 0.2 0.3 0.4 0.5\n")
    camera = open_capture(root).cameras["rgb"]
    assert camera.model == "FULL_OPENCV"
    assert camera.distortion == (0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0)
    (root / "calibration.txt").write_text("30 31 16\n")
    with pytest.raises(CaptureError, match="3 numbers"):
        open_capture(root)


def test_tum_documented_intrinsics_need_their_size(tmp_path: Path) -> None:
    root = tmp_path / "rgbd_dataset_freiburg3_x"
    write_tum(root)
    with pytest.raises(CaptureError, match=r"32x24.*hold for 640x480"):
        open_capture(root)
    for picture in (root / "rgb").iterdir():
        cv2.imwrite(str(picture), np.zeros((480, 640, 3), np.uint8))
    capture = open_capture(root)
    assert capture.cameras["rgb"] == CameraModel.pinhole(640, 480, 535.4, 539.2, 320.6, 248.1)
    assert "freiburg3" in capture.notes[0]


def test_tum_leaves_pictures_without_a_pose_out_and_says_so(tmp_path: Path) -> None:
    root = write_tum(tmp_path / "walk")
    (root / "calib.txt").write_text("30 31 16 11")
    lines = (root / "groundtruth.txt").read_text().splitlines()
    # Poses stop at 100.47 s and start again at 100.83 s: 0.36 s cannot be bridged.
    kept = [line for line in lines if line[0] == "#" or not 100.48 < float(line.split()[0]) < 100.8]
    (root / "groundtruth.txt").write_text("\n".join(kept))
    capture = open_capture(root)
    stamps = [frame.stamp_ns // 10**8 - 1000 for frame in capture.frames]
    assert stamps == [0, 1, 2, 3, 4, 9]
    assert [frame.index for frame in capture.frames] == list(range(6))
    assert capture.notes[1] == "4 of 10 pictures left out: no pose close in time"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("rgb.txt", "# nothing\n", "rgb.txt: the capture is empty"),
        ("rgb.txt", "100.0\n", "line 1 is not `timestamp filename`"),
        ("rgb.txt", "100.0 rgb/gone.png\n", "line 1 names .*gone.png"),
        ("rgb.txt", "1e12 rgb/gone.png\n", "line 1: .* is no time in seconds"),
        ("rgb.txt", "soon rgb/gone.png\n", "line 1: 'soon' are not numbers"),
        ("depth.txt", "100.0 depth/gone.png\n", "depth.txt: line 1"),
        ("groundtruth.txt", "100.0 0 0 0 0 0 0\n", "line 1 has 7 fields.*qx qy qz qw"),
        ("groundtruth.txt", "100.0 0 0 0 0 0 0 0\n", "line 1: quaternion 0 0 0 0"),
        ("groundtruth.txt", "100.0 0 nan 0 0 0 0 1\n", "line 1.*not finite"),
        ("groundtruth.txt", "5.0 0 0 0 0 0 0 1\n", "same clock"),
        ("groundtruth.txt", "", "no line holds a pose"),
        ("groundtruth.txt", None, "groundtruth.txt: is missing. Poses are needed"),
    ],
)
def test_tum_errors_name_file_line_and_remedy(
    tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    root = write_tum(tmp_path / "walk", seconds=0.3)
    (root / "calib.txt").write_text("30 31 16 11")
    if content is None:
        (root / file).unlink()
    else:
        (root / file).write_text(content)
    with pytest.raises(CaptureError, match=message):
        open_capture(root)
