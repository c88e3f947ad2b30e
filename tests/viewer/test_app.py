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
    return FeedState(
        link="live", session="a", sessions=("a",), generation=generation, map_version=version,
        chunks={c.id: c for c in chunks},
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


def sent(app: App, since: int) -> set[str]:
    """Names of the map's nodes and of cameras about which windows were told something since that
    many messages; what comes again is kept once by viser, with its last number."""
    messages = app.server._websock_server._broadcast_buffer.message_from_id.copy()
    names = {getattr(messages[number], "name", "") for number in messages if number >= since}
    return {name for name in names if name.startswith(("/map/", "/cameras/"))}


def messages(app: App) -> int:
    return app.server._websock_server._broadcast_buffer.message_counter


def test_the_first_key_frames_decide_up_and_where_windows_begin(app: App) -> None:
    app.tick(FeedState(link="connecting", generation=1), watched=True)
    app.tick(FeedState(link="connecting", generation=1), watched=True)
    first, second = chunk(1, pose((2.0, 3.0, 1.5))), chunk(2, pose((2.5, 3.0, 1.5)))
    app.tick(state_of([first, second], 1, 1), watched=True)
    camera = app.server.initial_camera
    np.testing.assert_array_equal(camera.up, [0, 0, 1])
    forward = np.asarray(camera.look_at) - camera.position
    np.testing.assert_allclose(forward / np.linalg.norm(forward), [0, 1, 0], atol=1e-9)
    assert camera.position[1] < 3.0, "a little behind the first key frame"
    assert shown(app.server) == 400
    assert set(app._cameras.shown) == {10, 20} == frusta(app.server)


def test_another_generation_clears_before_it_shows(app: App) -> None:
    count = len(nodes(app.server, "/map/splats"))
    app.tick(state_of([chunk(1, pose((0, 0, 0)))], 2, 1), watched=True)
    state = state_of([chunk(3, pose((0, 0, 0)), 120)], 3, 2)
    app.tick(state, watched=True)
    assert shown(app.server) == 0 and not app._cameras.shown and not frusta(app.server)
    app.tick(state, watched=True)
    assert shown(app.server) == 120
    assert len(nodes(app.server, "/map/splats")) == count


def test_a_map_in_utm_coordinates_is_shown_about_its_own_origin(app: App) -> None:
    state = state_of([chunk(1, pose((4_500_000.3, -250_000.2, 80.0)))], 4, 1)
    app.tick(state, watched=True)
    app.tick(state, watched=True)
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
        app.tick(state, watched=True)
        app.tick(state, watched=True)
    assert shown(app.server) == 200 + 150
    assert "3 chunks without a usable pose" in app._panel._figures.content
    assert set(app._cameras.shown) == {10, 50}


def test_without_a_window_nothing_is_drawn_and_all_of_it_for_the_first_one(app: App) -> None:
    for _ in range(2):
        app.tick(FeedState(link="live", session="a", generation=7), watched=False)
    before = messages(app)
    walk = [chunk(i, pose((1.5 + 0.5 * i, 3.0, 1.5))) for i in range(1, 11)]
    for count in range(1, 11):
        app.tick(state_of(walk[:count], 7, count), watched=False)
    assert not sent(app, before) and shown(app.server) == 0
    # What a window begins with goes on: figures, plot, where it looks from.
    assert "30.00 dB" in app._panel._figures.content
    assert len(app._panel._plot.data[0]) == 10
    assert abs(app.server.initial_camera.position[0] - 2.0) < 1e-6
    before = messages(app)
    app.tick(state_of(walk, 7, 10), watched=True)
    assert shown(app.server) == 2_000 and len(app._cameras.shown) == 10 == len(frusta(app.server))
    assert len(sent(app, before)) > 10, "the measure sees what is drawn"
    # Drawn is drawn: also for the window that comes back, and for the next one.
    before = messages(app)
    for watched in (True, False, True):
        app.tick(state_of(walk, 7, 10), watched=watched)
    assert not sent(app, before)


def test_what_changes_while_nobody_looks_is_drawn_for_the_next_window(app: App) -> None:
    first, second, third = (chunk(i, pose((1.5 + 0.5 * i, 3.0, 1.5))) for i in (1, 2, 3))
    for _ in range(2):
        app.tick(state_of([first, second], 8, 1), watched=True)
    moved = replace(first, revision=2, T_world_chunk=pose((4.0, 3.0, 1.5)))
    fewer = replace(second, revision=2, content=2, splats=second.splats.select(slice(0, 90)))
    later = state_of([moved, fewer, third], 8, 2)
    app.tick(later, watched=False)
    assert shown(app.server) == 400 and frusta(app.server) == {10, 20}
    app.tick(later, watched=True)
    assert shown(app.server) == 490 and frusta(app.server) == {50, 20, 30}
    # Key frames of which the map has no chunk are told apart from it.
    told = KeyFrame(5, 0, "c", None, pose((1.75, 3.0, 1.5)), None)
    for watched in (False, True):
        app.tick(replace(later, asked=(told,)), watched=watched)
    assert set(app._cameras.shown) == {5, 10, 20, 30}
    # Who moved the budget and left at once has moved it for the next one.
    app._panel._budget.value = 100
    app.tick(later, watched=False)
    assert shown(app.server) == 490
    app.tick(later, watched=True)
    assert 50 < shown(app.server) <= 100
    app._panel._budget.value = 5_000


def test_a_session_that_nobody_looked_at_leaves_nothing(app: App) -> None:
    for _ in range(2):
        app.tick(state_of([chunk(1, pose((2.5, 3.0, 1.5)))], 9, 1), watched=True)
    assert shown(app.server) == 200
    for generation in (10, 11):
        state = state_of(
            [chunk(generation, pose((2.5, 3.0, 1.5)), 120 + generation)], generation, 1
        )
        for _ in range(2):
            app.tick(state, watched=False)
        assert shown(app.server) == 0 and not frusta(app.server)
    # Its version is that of the map that was drawn last, its place too.
    app.tick(state, watched=True)
    assert shown(app.server) == 131 and set(app._cameras.shown) == {110}


def test_a_map_of_long_ago_is_not_left_for_the_next_window(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = [chunk(i, pose((1.5 + 0.5 * i, 3.0, 1.5))) for i in (1, 2, 3)]
    for _ in range(2):
        app.tick(state_of(walk[:2], 12, 1), watched=True)
    app.tick(state_of(walk, 12, 2), watched=False)
    assert shown(app.server) == 400, "a window that is loaded anew finds what it had"
    monkeypatch.setattr("viewer.app.EMPTY_AFTER_S", -1.0)
    app.tick(state_of(walk[:2], 12, 1), watched=False)
    assert shown(app.server) == 400, "what is up to date stays for any time"
    app.tick(state_of(walk, 12, 2), watched=False)
    assert shown(app.server) == 0
    before = messages(app)
    app.tick(state_of(walk, 12, 3), watched=False)
    assert not sent(app, before)
    app.tick(state_of(walk, 12, 3), watched=True)
    assert shown(app.server) == 600


def test_frames_of_a_long_walk_are_thinned_and_the_newest_stays(app: App) -> None:
    walk = [
        KeyFrame(seq, seq, "c", None, pose((0.01 * seq, 0, 0)), None) for seq in range(0, 4_002, 2)
    ]
    state = replace(state_of([chunk(1, pose((0, 0, 0)))], 6, 1), asked=tuple(walk))
    app.tick(state, watched=True)
    app.tick(state, watched=True)
    assert 150 <= len(app._cameras.shown) <= 301 and 4_000 in app._cameras.shown
    assert 1_000 <= len(app._cameras._path.points) <= 2_000


def test_an_endless_walk_leaves_nothing_behind_in_the_page(app: App) -> None:
    """Whoever opens the page is sent what the server keeps; it must not grow with the stream."""
    buffer = app.server._websock_server._broadcast_buffer
    kept = []
    for newest in range(500, 1_400, 10):
        walk = [
            KeyFrame(seq, seq, "c", None, pose((0.01 * seq, 0, 0)), None)
            for seq in range(newest - 400, newest, 4)
        ]
        app._cameras.show(walk, DEFAULT_VIEW, np.zeros(3))
        assert set(app._cameras.shown) == {frame.seq for frame in walk}
        kept.append((len(buffer.message_from_id), len(nodes(app.server, "/cameras/"))))
    assert kept[45][1] == kept[-1][1]
    # A property that a node never had before is one word more, a removed node would be one each.
    assert kept[-1][0] - kept[45][0] < 40, "110 key frames came and went"
    newest_frame = app._cameras.shown[1_386]
    assert newest_frame.visible and abs(newest_frame.position[0] - 13.86) < 1e-9
    app._cameras.clear()
    assert not any(handle.visible for handle in nodes(app.server, "/cameras/").values())


def test_the_plot_keeps_a_bounded_history(app: App) -> None:
    for second in range(3_000):
        app._panel.add_psnr(float(second), 20.0)
    times = app._panel._plot.data[0]
    assert 100 < len(times) <= 400
    assert times[0] == 0.0 and times[-1] > 2_980
