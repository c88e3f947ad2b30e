"""COLMAP's models as captures, text and binary, whole and torn."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from capture_writers import (
    C2W,
    COLMAP_CAMERAS,
    HEIGHT,
    WIDTH,
    write_colmap_binary,
    write_colmap_text,
)

from streamer.camera import CameraModel
from streamer.sources import (
    CaptureError,
    load_frame,
    open_capture,
)


@pytest.mark.parametrize("writer", [write_colmap_text, write_colmap_binary])
@pytest.mark.parametrize("folder", ["sparse/0", "sparse", ""])
def test_colmap_text_and_binary_read_alike(
    tmp_path: Path, writer: Callable[..., Path], folder: str
) -> None:
    capture = open_capture(writer(tmp_path / "desk", folder=folder))
    assert (capture.name, capture.layout) == ("desk", "colmap")
    assert [frame.image_path.name for frame in capture.frames] == ["a.png", "0002.png", "c.png"]
    assert [frame.camera for frame in capture.frames] == ["camera1", "camera7", "camera1"]
    assert capture.cameras == {
        "camera1": CameraModel("OPENCV", WIDTH, HEIGHT, COLMAP_CAMERAS[1][2]),
        "camera7": CameraModel("SIMPLE_RADIAL", WIDTH, HEIGHT, COLMAP_CAMERAS[7][2]),
    }
    for frame, c2w in zip(capture.frames, C2W):
        np.testing.assert_allclose(frame.c2w, c2w, atol=1e-12)
    load_frame(capture, capture.frames[1], seq=0)


def test_colmap_model_given_itself_finds_its_pictures(tmp_path: Path) -> None:
    root = write_colmap_binary(tmp_path / "desk")
    assert len(open_capture(root / "sparse/0").frames) == 3


def test_colmap_other_models_become_ours_exactly(tmp_path: Path) -> None:
    cameras = {
        1: ("SIMPLE_PINHOLE", 0, (30.0, 16.0, 12.0)),
        7: ("RADIAL_FISHEYE", 9, (28.0, 16.0, 12.0, 0.05, 0.01)),
    }
    capture = open_capture(write_colmap_text(tmp_path, cameras=cameras))
    assert capture.cameras["camera1"] == CameraModel.pinhole(WIDTH, HEIGHT, 30, 30, 16, 12)
    assert capture.cameras["camera7"].params == (28, 28, 16, 12, 0.05, 0.01, 0, 0)


def test_colmap_errors_name_file_and_remedy(tmp_path: Path) -> None:
    root = write_colmap_text(
        tmp_path / "fov", cameras={1: ("FOV", 7, (30.0, 31.0, 16.0, 12.0, 0.5))}
    )
    with pytest.raises(CaptureError, match=r"cameras\.txt: line 2: camera model FOV.*undistorter"):
        open_capture(root)
    root = write_colmap_text(tmp_path / "one", cameras={1: COLMAP_CAMERAS[1]})
    with pytest.raises(CaptureError, match=r"b/0002\.png names camera 7"):
        open_capture(root)
    root = write_colmap_text(tmp_path / "few", cameras={1: ("PINHOLE", 1, (30.0, 31.0))})
    with pytest.raises(CaptureError, match=r"line 2: .*fx fy cx cy\), got 2"):
        open_capture(root)
    root = write_colmap_text(tmp_path / "gone")
    (root / "images/c.png").unlink()
    with pytest.raises(CaptureError, match=r"images\.txt: c\.png names .*not there"):
        open_capture(root)
    shutil.rmtree(root / "images")
    with pytest.raises(CaptureError, match="put the pictures into images/"):
        open_capture(root)
    (root / "sparse/0/images.txt").write_text("# none\n")
    with pytest.raises(CaptureError, match="the capture is empty"):
        open_capture(root)
    (root / "sparse/0/images.txt").write_text("1 1 0 0 0 0 0\n\n")
    with pytest.raises(CaptureError, match="line 1 is not `IMAGE_ID QW"):
        open_capture(root)


@pytest.mark.parametrize("file", ["cameras.bin", "images.bin"])
def test_truncated_colmap_model_is_refused_at_every_length(tmp_path: Path, file: str) -> None:
    root = write_colmap_binary(tmp_path)
    whole = (root / "sparse/0" / file).read_bytes()
    for length in range(len(whole)):
        (root / "sparse/0" / file).write_bytes(whole[:length])
        with pytest.raises(CaptureError, match="truncated"):
            open_capture(root)
