"""The page's loop, fed with states directly: what reaches viser, whatever comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import viser

from gs_decoder import Chunk, Splats
from streamer.requests import KeyFrame
from viewer.app import App
from viewer.config import ViewerConfig
from viewer.geometry import DEFAULT_VIEW
from viewer.state import FeedState, Figures


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    app = App(
        ViewerConfig(
            updates="ipc:///nowhere/updates", requests="ipc:///nowhere/requests", port=0,
            max_splats=5_000,
        )
    )  # fmt: skip
    yield app
    app.server.stop()


def chunk(identity: int, T: np.ndarray, count: int = 200) -> Chunk:
    random = np.random.default_rng(identity)
    means = random.uniform((-0.6, -0.4, 1.0), (0.6, 0.4, 1.0), (count, 3))
    means *= random.uniform(1.0, 3.0, (count, 1))
    splats = Splats(
        torch.from_numpy(means).float(), torch.ones(count, 4), torch.full((count, 3), 0.02),
        torch.full((count,), 0.9), torch.zeros(count, 1, 3),
    )  # fmt: skip
    return Chunk(
        id=identity, revision=1, content=1, frame_seq=10 * identity, stamp_ns=0, camera="c",
        T_world_chunk=T, aabb=np.zeros(6), splats=splats,
    )  # fmt: skip


def pose(position: tuple[float, float, float]) -> np.ndarray:
    """Looking along world y with z up."""
    T = np.eye(4)
    T[:3, :3] = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)
    T[:3, 3] = position
    return T


def state_of(chunks: list[Chunk], generation: int, version: int) -> FeedState:
    keyframes = [
        KeyFrame(c.frame_seq, c.stamp_ns, c.camera, c.id, c.T_world_chunk, None) for c in chunks
    ]
    return FeedState(
        link="live", session="a", sessions=("a",), generation=generation, map_version=version,
        chunks={c.id: c for c in chunks}, keyframes=tuple(keyframes),
        figures=Figures(frames_in=5, state="streaming", psnr=20.0 + version),
    )  # fmt: skip


def nodes(server: viser.ViserServer, prefix: str) -> dict[str, viser.SceneNodeHandle]:
    handles = server.scene._handle_from_node_name
    return {name: handle for name, handle in handles.items() if name.startswith(prefix)}


def shown(server: viser.ViserServer) -> int:
    splats = nodes(server, "/map/splats").values()
    return sum(int((handle.opacities > 0).sum()) for handle in splats)  # type: ignore[attr-defined]


def frusta(server: viser.ViserServer) -> set[int]:
    """Seqs of the key frames whose frusta a window sees, by where they are along x in metres."""
    visible = [handle for handle in nodes(server, "/cameras/frame_").values() if handle.visible]
    return {round(10 * (handle.position[0] - 2.0) / 0.5) + 10 for handle in visible}


def test_the_first_key_frames_decide_up_and_where_windows_begin(app: App) -> None:
    app.tick(FeedState(link="connecting", generation=1))
    app.tick(FeedState(link="connecting", generation=1))
    first, second = chunk(1, pose((2.0, 3.0, 1.5))), chunk(2, pose((2.5, 3.0, 1.5)))
    app.tick(state_of([first, second], 1, 1))
    camera = app.server.initial_camera
    np.testing.assert_array_equal(camera.up, [0, 0, 1])
    forward = np.asarray(camera.look_at) - camera.position
    np.testing.assert_allclose(forward / np.linalg.norm(forward), [0, 1, 0], atol=1e-9)
    assert camera.position[1] < 3.0, "a little behind the first key frame"
    assert shown(app.server) == 400
    assert set(app._cameras.shown) == {10, 20} == frusta(app.server)


def test_another_generation_clears_before_it_shows(app: App) -> None:
    count = len(nodes(app.server, "/map/splats"))
    app.tick(state_of([chunk(1, pose((0, 0, 0)))], 2, 1))
    state = state_of([chunk(3, pose((0, 0, 0)), 120)], 3, 2)
    app.tick(state)
    assert shown(app.server) == 0 and not app._cameras.shown and not frusta(app.server)
    app.tick(state)
    assert shown(app.server) == 120
    assert len(nodes(app.server, "/map/splats")) == count


def test_a_map_in_utm_coordinates_is_shown_about_its_own_origin(app: App) -> None:
    state = state_of([chunk(1, pose((4_500_000.3, -250_000.2, 80.0)))], 4, 1)
    app.tick(state)
    app.tick(state)
    assert np.abs(app.server.initial_camera.position).max() < 10
    assert np.abs(app._cameras.shown[10].position).max() < 1
    assert "4,500,000, -250,000, 80" in app._panel._figures.content


def test_malformed_states_do_not_take_the_page_down(app: App) -> None:
    good = chunk(1, pose((0, 0, 0)))
    nan, mirrored = pose((0, 0, np.nan)), np.diag([1.0, 1.0, -1.0, 1.0])
    bad = [chunk(2, nan), chunk(3, mirrored), chunk(4, np.zeros((4, 4)))]
    poisoned = chunk(5, pose((1, 0, 0)))
    poisoned.splats.means[:50] = torch.nan
    for wrong in ([*bad], [*bad, good], [good, *bad, poisoned]):
        state = state_of(wrong, 5, len(wrong))
        app.tick(state)
        app.tick(state)
    assert shown(app.server) == 200 + 150
    assert "3 chunks without a usable pose" in app._panel._figures.content
    assert set(app._cameras.shown) == {10, 50}


def test_frames_of_a_long_walk_are_thinned_and_the_newest_stays(app: App) -> None:
    walk = [
        KeyFrame(seq, seq, "c", None, pose((0.01 * seq, 0, 0)), None) for seq in range(0, 4_002, 2)
    ]
    state = replace(state_of([chunk(1, pose((0, 0, 0)))], 6, 1), keyframes=tuple(walk))
    app.tick(state)
    app.tick(state)
    assert 150 <= len(app._cameras.shown) <= 301 and 4_000 in app._cameras.shown
    assert 1_000 <= len(app._cameras._path.points) <= 2_000


def test_an_endless_walk_leaves_nothing_behind_in_the_page(app: App) -> None:
    """Whoever opens the page is sent what the server keeps; it must not grow with the stream."""
    buffer = app.server._websock_server._broadcast_buffer
    kept = []
    for newest in range(500, 2_000, 10):
        walk = [
            KeyFrame(seq, seq, "c", None, pose((0.01 * seq, 0, 0)), None)
            for seq in range(newest - 400, newest, 4)
        ]
        app._cameras.show(walk, DEFAULT_VIEW, np.zeros(3))
        assert set(app._cameras.shown) == {frame.seq for frame in walk}
        kept.append((len(buffer.message_from_id), len(nodes(app.server, "/cameras/"))))
    assert kept[75][1] == kept[-1][1]
    # A property that a node never had before is one word more, a removed node would be one each.
    assert kept[-1][0] - kept[75][0] < 40, "185 key frames came and went"
    newest_frame = app._cameras.shown[1_986]
    assert newest_frame.visible and abs(newest_frame.position[0] - 19.86) < 1e-9
    app._cameras.clear()
    assert not any(handle.visible for handle in nodes(app.server, "/cameras/").values())


def test_the_plot_keeps_a_bounded_history(app: App) -> None:
    for second in range(3_000):
        app._panel.add_psnr(float(second), 20.0)
    times = app._panel._plot.data[0]
    assert 100 < len(times) <= 400
    assert times[0] == 0.0 and times[-1] > 2_980
