"""The page's loop: takes the feed's newest state a few times a second and draws it.

Map and cameras are drawn only while a window is connected: bringing the nodes up to date takes
longer than receiving the map, and most pages of a robot are looked at by nobody. So what is drawn
may be any number of states behind the newest, and is remembered apart from it.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

import numpy as np

from gs_decoder import Similarity
from streamer.access.keys import load_keys
from streamer.access.token import page_token
from streamer.garbage import QuietTimes
from streamer.requests import KeyFrame
from viewer.allocation import NodeLayout
from viewer.cameras import CameraLayer
from viewer.commands import Commands
from viewer.config import ViewerConfig
from viewer.feed import Feed
from viewer.geometry import (
    DEFAULT_VIEW,
    View,
    estimate_view,
    page_origin,
    similarity_or_none,
    up_direction,
)
from viewer.navigation import Navigation
from viewer.nodes import Shown, SplatNodes
from viewer.page import open_page
from viewer.panel import Actions, Panel
from viewer.state import FeedState, Figures

EMPTY_AFTER_S = 10.0
"""Without a window; one that is only loaded anew finds what it had."""
UNWATCHED_S = 1.0
"""Between two looks at the feed while there is no window; the first one that comes ends it."""
_FASTEST_S = 0.2
_SLOWEST_S = 1.0
# A browser merges and sorts the whole map at every update; more than this helps nobody.
_BYTES_PER_S = 30e6
_NOTHING = Shown(splats=0, available=0, bytes_sent=0, skipped=0)

_log = logging.getLogger(__name__)


class App:
    """The page of a daemon, from the moment it is made: before the daemon, and without it."""

    def __init__(self, config: ViewerConfig) -> None:
        self.server = open_page(
            config.host,
            config.port,
            None if config.token_file is None else page_token(config.token_file),
        )
        self._feed = Feed(
            config.updates,
            config.requests,
            config.session,
            keys=load_keys(config.key, config.server_key),
        )
        self._nodes = SplatNodes(self.server, NodeLayout.for_budget(config.max_splats))
        self._commands = Commands(self._feed)
        self._cameras = CameraLayer(self.server, self._commands.choose_key_frame)
        self._navigation = Navigation(self.server)
        self._panel = Panel(
            self.server,
            config.max_splats,
            Actions(
                pause=self._commands.pause,
                resume=self._commands.resume,
                save_ply=self._commands.save_ply,
                choose_session=self._feed.choose,
                follow=self._navigation.set_follow,
            ),
        )
        self._stop = threading.Event()
        self._wake = threading.Event()
        self.server.on_client_connect(lambda _: self._wake.set())
        self._watched_at = time.monotonic()
        self._generation = 0
        self._shown = _NOTHING
        # What the page holds, None where it has to be drawn whatever comes. Not the states
        # themselves: their chunks would live for as long as nobody looks.
        self._map_drawn: tuple[int, int] | None = None  # (version, budget)
        self._cameras_drawn: tuple[int, tuple[KeyFrame, ...]] | None = None  # (version, asked)
        self._newest: Similarity | None = None
        self._plotted: Figures | None = None
        self._cameras_visible = True
        self._origin: np.ndarray | None = None
        self._view: View = DEFAULT_VIEW
        self._placed_for: str | None = None
        self._plot_begins: float | None = None

    def run(self) -> None:
        """Draw until `stop` is called."""
        self._feed.start()
        quiet = QuietTimes(time.monotonic())
        try:
            while not self._stop.is_set():
                begin = time.monotonic()
                watched = bool(self.server.get_clients())
                try:
                    self.tick(self._feed.state(), watched=watched)
                except Exception:
                    # One bad state must not take the page down; the next one may be whole.
                    _log.exception("the page could not be drawn")
                    self._map_drawn = self._cameras_drawn = None
                took = time.monotonic() - begin
                pause = max(_FASTEST_S, 2.0 * took, self._shown.bytes_sent / _BYTES_PER_S)
                pause = min(pause, _SLOWEST_S) if watched else UNWATCHED_S
                # What was drawn is on its way to the windows: nobody waits for this thread.
                quiet.use(time.monotonic(), idle=False)
                self._wake.wait(pause)
                self._wake.clear()
        finally:
            self._feed.stop()
            self.server.stop()

    def stop(self) -> None:
        """End `run`; from any thread or signal handler."""
        self._stop.set()
        self._wake.set()

    def tick(self, state: FeedState, *, watched: bool) -> None:
        """Draw one state.

        Args:
            watched: whether there is a window. Without one, map and cameras stay as they are, and
                what every window begins with goes on: where it looks from, figures and plot.
        """
        if state.generation != self._generation:
            # What comes next is drawn at the next tick: new places for nodes must not
            # reach the browser in one picture with the old splats.
            self._clear()
            self._generation = state.generation
            return
        self._settle(state)
        if watched:
            self._watched_at = time.monotonic()
            self._draw_map(state)
            self._draw_cameras(state)
        else:
            self._rest(state)
        self._draw_chosen()
        self._plot_psnr(state)
        self._panel.draw(state, self._shown, self._origin_text())

    # Drawing -----------------------------------------------------------------------------------

    def _clear(self) -> None:
        self._empty()
        self._cameras.clear()
        self._cameras_drawn = self._newest = self._plotted = None
        self._panel.clear_psnr()
        self._panel.hide_key_frame()
        self._origin = None
        self._view = DEFAULT_VIEW
        self._plot_begins = None
        self._commands.forget()

    def _empty(self) -> None:
        self._nodes.clear()
        self._map_drawn = None
        self._shown = _NOTHING

    def _settle(self, state: FeedState) -> None:
        """With the first key frames: origin, up, and where the windows look from."""
        if self._origin is not None or not state.chunks:
            return
        split = (similarity_or_none(chunk.T_world_chunk) for chunk in state.chunks.values())
        poses = [pose for pose in split if pose is not None]
        if not poses:
            return
        self._origin = page_origin(poses[0].translation)
        for chunk in state.chunks.values():
            self._view = estimate_view(chunk) or self._view
            if self._view is not DEFAULT_VIEW:
                break
        up = up_direction([pose.matrix() for pose in poses])
        elsewhere = self._placed_for is not None and self._placed_for != state.session
        self._placed_for = state.session
        self._navigation.place(self._on_page(poses[0]), self._view, up, everybody=elsewhere)

    def _rest(self, state: FeedState) -> None:
        """Nobody looks. What is long out of date is not left for the next window: it would begin
        with a map of the past, and see its nodes move before their splats are exchanged."""
        old = self._map_drawn is not None and self._map_drawn[0] != state.map_version
        if old and time.monotonic() - self._watched_at > EMPTY_AFTER_S:
            self._empty()

    def _draw_map(self, state: FeedState) -> None:
        budget = self._panel.budget
        wanted = (state.map_version, budget)
        if self._origin is None or wanted == self._map_drawn:
            self._shown = replace(self._shown, bytes_sent=0)
            return
        self._shown = self._nodes.show(state.chunks, budget, self._origin)
        self._map_drawn = wanted

    def _draw_cameras(self, state: FeedState) -> None:
        if self._panel.show_cameras != self._cameras_visible:
            self._cameras_visible = self._panel.show_cameras
            self._cameras.set_visible(self._cameras_visible)
        if self._origin is None:
            return
        drawn = self._cameras_drawn
        if drawn is None or drawn[0] != state.map_version or drawn[1] is not state.asked:
            keyframes = state.keyframes()
            self._cameras.show(keyframes, self._view, self._origin)
            self._newest = similarity_or_none(keyframes[-1].c2w) if keyframes else None
            self._cameras_drawn = (state.map_version, state.asked)
        if self._newest is not None:
            self._navigation.follow(self._on_page(self._newest), self._view)

    def _on_page(self, pose: Similarity) -> Similarity:
        origin = np.zeros(3) if self._origin is None else self._origin
        return Similarity(pose.scale, pose.rotation, pose.translation - origin)

    def _origin_text(self) -> str | None:
        if self._origin is None or not self._origin.any():
            return None
        return ", ".join(f"{value:,.0f}" for value in self._origin)

    def _plot_psnr(self, state: FeedState) -> None:
        figures = state.figures
        if figures is None or figures.psnr is None:
            return
        if figures != self._plotted:
            self._plotted = figures
            now = time.monotonic()
            self._plot_begins = now if self._plot_begins is None else self._plot_begins
            self._panel.add_psnr(now - self._plot_begins, figures.psnr)

    def _draw_chosen(self) -> None:
        chosen = self._commands.take_chosen()
        if chosen is None:
            return
        self._cameras.choose(chosen.seq, chosen.image)
        if chosen.seq is None:
            self._panel.hide_key_frame()
        else:
            self._panel.show_key_frame(chosen.caption, chosen.image)
