"""`splatstream mesh` on a map file and on a daemon, and EXPORT of meshes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from publisher_helpers import Feed, running_publisher, serving, wait_for
from splat_room import HALF, room_poses, room_splats, write_room

from gs_decoder.mesh import decode_glb
from gs_decoder.ply_header import parse_header
from streamer.cli import dispatch
from streamer.protocol.messages import CameraHeader
from streamer.requests import RequestRefused, Requests

CAMERA_HEADER = CameraHeader(model="PINHOLE", width=48, height=36, params=[40.0, 40.0, 24.0, 18.0])


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("room")
    return write_room(folder, origin=(500_000.0, 0.0, 30.0), views=4)


def ply_vertices(data: bytes) -> np.ndarray:
    """(V, 3) in the world, of a mesh that `splatstream mesh` wrote."""
    header = data[: data.index(b"end_header\n") + 11].decode().splitlines()
    count = next(int(line.split()[2]) for line in header if line.startswith("element vertex"))
    offset = next((line.split()[2:] for line in header if line.startswith("comment offset")), [])
    table = np.frombuffer(
        data,
        [("place", "<f4", 3), ("normal", "<f4", 3), ("colour", "u1", 3)],
        count,
        data.index(b"end_header\n") + 11,
    )
    return table["place"].astype(np.float64) + np.array([float(v) for v in offset] or [0.0] * 3)


def off_the_walls(points: np.ndarray) -> np.ndarray:
    """How far points are from the room's box about the origin."""
    return np.abs((np.abs(points) - HALF).max(axis=1))


def test_ply_and_glb_of_a_map(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ply, glb = tmp_path / "new" / "mesh.ply", tmp_path / "mesh.glb"
    assert dispatch(["mesh", str(room.parent), "--out", str(ply), "--voxel", "0.05"]) == 0
    assert "triangles" in capsys.readouterr().out
    places = ply_vertices(ply.read_bytes())
    assert off_the_walls(places - (500_000.0, 0.0, 30.0)).max() < 0.1
    arguments = ["--out", str(glb), "--voxel", "0.08", "--no-complete"]
    assert dispatch(["mesh", str(room), *arguments]) == 0
    mesh = decode_glb(glb.read_bytes())
    # z of the map is up: +Y in glTF, and y goes to -Z.
    places = mesh.vertices + mesh.origin
    turned = np.stack([places[:, 0], -places[:, 2], places[:, 1]], 1)
    assert off_the_walls(turned - (500_000.0, 0.0, 30.0)).max() < 0.1
    assert [path.name for path in ply.parent.iterdir()] == ["mesh.ply"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "mesh.obj"], ".glb"),
        (["--out", "mesh.ply", "--voxel", "-1"], "--voxel"),
        (["--out", "mesh.ply", "--voxel", "0.02", "--memory", "0.001"], "--memory"),
        (["--out", "mesh.ply", "--memory", "0"], "--memory"),
        (["--out", "mesh.ply", "--floaters", "1"], "--floaters"),
        (["--out", "mesh.ply", "--close-holes", "-1"], "--close-holes"),
        (["--out", "mesh.ply", "--close-holes", "65"], "--close-holes"),
        (["--out", "mesh.ply", "--cameras", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_cannot_be_meshed_is_said_in_a_line(
    room: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dispatch(["mesh", str(room), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Requests]:
    """A publisher with the room as session `hall`, and the empty session `cellar`."""
    run_dir = tmp_path_factory.mktemp("run")
    with running_publisher(run_dir) as addresses:
        feed, empty = Feed(run_dir, "hall"), Feed(run_dir, "cellar")
        feed.add_room(room_splats(0.1), room_poses(2))
        with serving(feed), serving(empty), Requests(addresses["requests"]) as requests:

            def there() -> bool:
                try:
                    return len(requests.keyframes("hall")) == 2 and not requests.keyframes("cellar")
                except RequestRefused:
                    return False

            wait_for(there, "the publisher to hold the maps")
            yield requests
        feed.close()
        empty.close()


def test_the_map_of_a_running_daemon(hall: Requests, tmp_path: Path) -> None:
    out = tmp_path / "mesh.ply"
    assert dispatch(["mesh", hall.address, "--session", "hall", "--out", str(out)]) == 0
    assert off_the_walls(ply_vertices(out.read_bytes())).max() < 0.1


@pytest.mark.timeout(600)  # the mesh is made by a process of low priority
def test_export_meshes_beside_everything_else(hall: Requests, tmp_path: Path) -> None:
    glb, ply = tmp_path / "hall.glb", tmp_path / "hall.ply"
    arguments = ["export", hall.address, "--requests", hall.address, "--session", "hall"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dispatch, [*arguments, "--out", str(glb)])
        answered = 0
        while not waiting.done():
            hall.render("hall", room_poses(1)[0], CAMERA_HEADER)
            answered += 1
            time.sleep(0.05)
        assert waiting.result() == 0
    # While the mesh was made, pictures were too.
    assert answered > 3
    mesh = decode_glb(glb.read_bytes())
    turned = np.stack([mesh.vertices[:, 0], -mesh.vertices[:, 2], mesh.vertices[:, 1]], 1)
    assert off_the_walls(turned).max() < 0.1
    assert dispatch([*arguments, "--out", str(ply)]) == 0
    assert parse_header(ply.read_bytes(), "x").count == room_splats(0.1).count


@pytest.mark.timeout(600)
def test_export_of_a_mesh_as_ply(hall: Requests, tmp_path: Path) -> None:
    out = tmp_path / "hall.ply"
    arguments = ["export", hall.address, "--requests", hall.address, "--session", "hall"]
    assert dispatch([*arguments, "--mesh", "--out", str(out)]) == 0
    assert off_the_walls(ply_vertices(out.read_bytes())).max() < 0.1


def test_a_mesh_of_nothing_is_refused_with_the_reason(hall: Requests) -> None:
    for what in ("mesh", "glb"):
        with pytest.raises(RequestRefused, match="key frame") as refused:
            hall.export("cellar", what)
        assert refused.value.code == "busy"
