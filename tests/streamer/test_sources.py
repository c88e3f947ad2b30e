"""Captures of any layout: what is none, ranges, names, and the real ones where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from capture_writers import (
    transforms,
    write_nerfstudio,
    write_picture,
)

from streamer.conventions import check_pose
from streamer.sources import (
    CaptureError,
    load_frame,
    open_capture,
    parse_range,
    session_name,
)


def test_what_is_no_capture_is_told_what_one_is(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="no such file or folder"):
        open_capture(tmp_path / "gone")
    with pytest.raises(CaptureError, match=r"not a capture.*transforms\.json.*rgb\.txt.*COLMAP"):
        open_capture(tmp_path)
    picture = tmp_path / "picture.png"
    write_picture(picture)
    with pytest.raises(CaptureError, match="not a capture"):
        open_capture(picture)
    with pytest.raises(CaptureError, match=r"1 images but no poses.*Poses are needed"):
        open_capture(tmp_path)


def test_picture_that_does_not_decode_is_named(tmp_path: Path) -> None:
    root = write_nerfstudio(tmp_path)
    capture = open_capture(root)
    (root / "images/001.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(CaptureError, match=r"001\.png: does not decode"):
        load_frame(capture, capture.frames[1], seq=0)


def test_picture_of_another_size_is_named(tmp_path: Path) -> None:
    root = write_nerfstudio(tmp_path)
    capture = open_capture(root)
    cv2.imwrite(str(root / "images/001.png"), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(ValueError, match=r"001\.png: a frame of 20x20 does not fit"):
        load_frame(capture, capture.frames[1], seq=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, (None, None)), ("0:150", (0, 150)), ("7:", (7, None)), (":-2", (None, -2))],
)
def test_ranges_as_typed(text: str | None, expected: tuple) -> None:
    assert parse_range(text) == expected


@pytest.mark.parametrize("text", ["", "5", "a:b", "1:2:3", "1-2"])
def test_what_is_no_range_is_told_so(text: str) -> None:
    with pytest.raises(CaptureError, match=r"--frames is .* range A:B"):
        parse_range(text)


def test_ranges_and_hold_out_count_within_the_selection(tmp_path: Path) -> None:
    capture = open_capture(write_nerfstudio(tmp_path, transforms(20)))
    selection = capture.select(5, 15)
    given, kept = selection.hold_out(4)
    assert [frame.index for frame in kept] == [5, 9, 13]
    assert [frame.index for frame in given] == [6, 7, 8, 10, 11, 12, 14]
    assert selection.hold_out(0) == (selection.frames, ())
    assert [frame.index for frame in capture.select(-2).frames] == [18, 19]
    with pytest.raises(CaptureError, match=r"frames 30:40 hold nothing.*0 to 19"):
        capture.select(30, 40)
    with pytest.raises(CaptureError, match="hold-out is 1"):
        capture.hold_out(1)


@pytest.mark.parametrize(
    ("name", "session"),
    [
        ("hololens_office", "hololens_office"),
        ("Küche 2", "K-che-2"),
        ("..x", "x"),
        ("…", "capture"),
    ],
)
def test_session_names_fit_the_protocol(name: str, session: str) -> None:
    assert session_name(name) == session


@pytest.mark.parametrize(
    ("name", "count", "model"),
    [("hololens_office", 300, "OPENCV"), ("skull", 66, "OPENCV"), ("brighton_drone", 18, "OPENCV")],
)
def test_real_captures_open(
    capture_dir: Callable[[str], Path], name: str, count: int, model: str
) -> None:
    capture = open_capture(capture_dir(name))
    assert len(capture.frames) == count
    assert {camera.model for camera in capture.cameras.values()} == {model}
    frame = load_frame(capture, capture.frames[count // 2], seq=0, long_side=240, with_depth=True)
    assert max(frame.image.shape) == 240
    assert frame.image.std() > 10.0
    for posed in capture.frames:
        check_pose(posed.c2w)


def test_real_office_has_metric_depth_that_agrees_between_views(
    capture_dir: Callable[[str], Path],
) -> None:
    """Axes, intrinsics, depth unit at once: depth of one view lands on that of another."""
    capture = open_capture(capture_dir("hololens_office"))
    first, second = (
        load_frame(capture, capture.frames[i], seq=i, long_side=240, with_depth=True)
        for i in (40, 44)
    )
    assert first.depth is not None
    assert second.depth is not None
    assert first.c2w is not None
    assert second.c2w is not None
    v, u = np.nonzero(first.depth)
    depth = first.depth[v, u].astype(np.float64)
    rays = np.stack([u + 0.5, v + 0.5, np.ones(len(u))]).T @ np.linalg.inv(first.K).T
    world = np.column_stack([rays * depth[:, None], np.ones(len(u))]) @ first.c2w.T
    local = (world @ np.linalg.inv(second.c2w).T)[:, :3]
    pixels = (local @ second.K.T)[:, :2] / local[:, 2:]
    inside = (local[:, 2] > 0.1) & (pixels > 0).all(axis=1) & (pixels < (240, 160)).all(axis=1)
    column, row = np.floor(pixels[inside]).astype(int).T
    measured = second.depth[row, column]
    both = measured > 0
    assert both.mean() > 0.5
    error = np.abs(measured - local[inside, 2])[both] / measured[both]
    assert np.median(error) < 0.03


def test_real_capture_without_poses_says_what_is_missing(
    capture_dir: Callable[[str], Path],
) -> None:
    with pytest.raises(CaptureError, match=r"16 images but no poses.*does not track"):
        open_capture(capture_dir("banana_unposed"))
