"""`splatstream render`: real videos of a real map file, and what is said when there is none."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from publisher_helpers import Feed, running_publisher, serving, wait_for
from splat_room import CAMERA, room_poses, room_splats, write_room

from gs_decoder import render_view, write_ply
from streamer.cli import dispatch
from streamer.requests import RequestRefused, Requests


def frames(path: Path) -> np.ndarray:
    """(N, H, W, 3) rgb of a video."""
    video = cv2.VideoCapture(str(path))
    read = []
    while (got := video.read())[0]:
        read.append(got[1][..., ::-1])
    return np.stack(read)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_room(tmp_path_factory.mktemp("room"))


SMALL = ["--size", "96x72", "--fps", "10", "--seconds", "0.8"]


def test_a_spline_shows_the_map_from_its_cameras(room: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "video.mp4"
    assert dispatch(["render", str(room), "--out", str(out), *SMALL]) == 0
    seen = frames(out)
    assert seen.shape == (8, 72, 96, 3)
    # The flight begins at the first camera, with its field of view.
    first = render_view(room_splats(), room_poses()[0], CAMERA.K, 96, 72).rgb.numpy()
    assert np.abs(seen[0] / 255.0 - np.clip(first, 0, 1)).mean() < 0.02
    assert np.abs(seen[0].astype(int) - seen[4]).mean() > 5
    assert [path.name for path in out.parent.iterdir()] == ["video.mp4"]


def test_a_map_far_from_its_origin_looks_the_same(room: Path, tmp_path: Path) -> None:
    far = write_room(tmp_path, origin=(500_000.0, 5_400_000.0, 300.0))
    for path, out in ((room, "near.mp4"), (far, "far.mp4")):
        assert dispatch(["render", str(path), "--out", str(tmp_path / out), *SMALL]) == 0
    near, away = frames(tmp_path / "near.mp4"), frames(tmp_path / "far.mp4")
    assert np.abs(near.astype(int) - away).mean() < 2


def test_orbit_and_background(room: Path, tmp_path: Path) -> None:
    out = tmp_path / "orbit.mp4"
    arguments = ["--path", "orbit", "--background", "white", *SMALL, "--out", str(out)]
    assert dispatch(["render", str(room), *arguments]) == 0
    seen = frames(out)
    # The whole room before white, from outside.
    assert (seen[:, :4].min(axis=-1) > 235).mean() > 0.5
    assert (seen[:, 30:42, 40:56].max(axis=-1) < 230).mean() > 0.9


def test_a_recorded_path_and_depth(room: Path, tmp_path: Path) -> None:
    way = tmp_path / "way.txt"
    # Backing off from the wall at x = 2 m, over half a second.
    rows = [f"{t} {0.5 - 3 * t} 0 0 0.5 -0.5 0.5 -0.5" for t in (0.0, 0.25, 0.5)]
    way.write_text("\n".join(rows))
    out = tmp_path / "depth.mp4"
    arguments = ["--path", str(way), "--depth", "--fov", "40", *SMALL[:4], "--out", str(out)]
    assert dispatch(["render", str(room), *arguments]) == 0
    seen = frames(out)[:, 30:42, 40:56].astype(float).mean(axis=(1, 2))
    assert len(seen) == 6
    scale = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)
    nearness = np.abs(seen[:, None] - scale[:, 0, ::-1].astype(float)).sum(-1).argmin(1)
    assert (np.diff(nearness) < 0).all(), nearness
    # The middle of the wall, 1.5 m to 3 m away, on a scale of inverse depth.
    share = (1 / (1.5 + 0.3 * np.arange(6)) - 1 / 3) / (1 / 1.5 - 1 / 3)
    assert np.abs(nearness / 255 - share).max() < 0.1


def test_a_video_that_the_disk_did_not_take_is_none(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "video.mp4"
    out.write_bytes(b"an older one")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Writes beyond fail, as they do where the disk is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        status = dispatch(["render", str(room), "--out", str(out), *SMALL])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2
    assert "disk full" in capsys.readouterr().err
    assert out.read_bytes() == b"an older one"
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "video.avi"], ".mp4"),
        (["--size", "97x72"], "--size"),
        (["--size", "big"], "--size"),
        (["--fps", "0"], "--fps"),
        (["--seconds", "-1"], "--seconds"),
        (["--fov", "190"], "--fov"),
        (["--path", "spiral"], "spiral"),
        (["--session", "x"], "--session"),
    ],
)
def test_what_cannot_be_rendered_is_said_in_a_line(
    room: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [] if "--out" in arguments else ["--out", "video.mp4"]
    assert dispatch(["render", str(room), *given, *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_map_without_cameras_asks_for_them(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(room, alone)
    arguments = ["render", str(alone), "--out", str(tmp_path / "video.mp4"), *SMALL]
    assert dispatch(arguments) == 2
    assert "--cameras" in capsys.readouterr().err
    cameras = ["--cameras", str(room.parent / "cameras.json")]
    assert dispatch([*arguments, *cameras]) == 0
    write_ply(alone / "map.ply", room_splats().select(slice(0, 0)))
    assert dispatch([*arguments, *cameras]) == 2
    assert "empty" in capsys.readouterr().err


def test_the_map_of_a_running_daemon(tmp_path: Path) -> None:
    with running_publisher(tmp_path) as addresses:
        feed = Feed(tmp_path, "hall")
        feed.add_room(room_splats(), room_poses(6))
        with serving(feed), Requests(addresses["requests"]) as requests:

            def there() -> bool:
                try:
                    return len(requests.keyframes("hall")) == 6
                except RequestRefused:
                    return False

            wait_for(there, "the publisher to hold the map")
            out = tmp_path / "video.mp4"
            arguments = ["render", addresses["requests"], "--out", str(out), *SMALL]
            # The requests address alone: the updates port is not beside it in this test.
            assert dispatch(arguments) == 0
        feed.close()
    assert frames(out).shape == (8, 72, 96, 3)
