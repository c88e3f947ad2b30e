"""The page's loop: takes the feed's newest state a few times a second and draws it."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np

from gs_decoder import Similarity
from streamer.access.keys import load_keys
from streamer.access.token import page_token
from streamer.garbage import QuietTimes
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
from viewer.state import FeedState

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
        self._shown = _NOTHING
        self._drawn: FeedState | None = None
        self._budget = 0
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
                try:
                    self.tick(self._feed.state())
                except Exception:
                    # One bad state must not take the page down; the next one may be whole.
                    _log.exception("the page could not be drawn")
                    self._drawn = None
                took = time.monotonic() - begin
                pause = max(_FASTEST_S, 2.0 * took, self._shown.bytes_sent / _BYTES_PER_S)
                # What was drawn is on its way to the windows: nobody waits for this thread.
                quiet.use(time.monotonic(), idle=False)
                self._stop.wait(min(pause, _SLOWEST_S))
        finally:
            self._feed.stop()
            self.server.stop()

    def stop(self) -> None:
        """End `run`; from any thread or signal handler."""
        self._stop.set()

    def tick(self, state: FeedState) -> None:
        """Draw one state."""
        drawn = self._drawn
        if drawn is not None and state.generation != drawn.generation:
            # What comes next is drawn at the next tick: new places for nodes must not
            # reach the browser in one picture with the old splats.
            self._clear()
            self._drawn = FeedState(generation=state.generation)
            return
        self._settle(state)
        self._draw_map(state, drawn)
        self._draw_cameras(state, drawn)
        self._draw_chosen()
        self._plot_psnr(state, drawn)
        self._panel.draw(state, self._shown, self._origin_text())
        self._drawn = state

    # Drawing -----------------------------------------------------------------------------------

    def _clear(self) -> None:
        self._nodes.clear()
        self._cameras.clear()
        self._panel.clear_psnr()
        self._panel.hide_key_frame()
        self._shown = _NOTHING
        self._origin = None
        self._view = DEFAULT_VIEW
        self._plot_begins = None
        self._commands.forget()

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

    def _draw_map(self, state: FeedState, drawn: FeedState | None) -> None:
        budget = self._panel.budget
        same = drawn is not None and state.map_version == drawn.map_version
        if self._origin is None or (same and budget == self._budget):
            self._shown = Shown(self._shown.splats, self._shown.available, 0, self._shown.skipped)
            return
        self._shown = self._nodes.show(state.chunks, budget, self._origin)
        self._budget = budget

    def _draw_cameras(self, state: FeedState, drawn: FeedState | None) -> None:
        if self._panel.show_cameras != self._cameras_visible:
            self._cameras_visible = self._panel.show_cameras
            self._cameras.set_visible(self._cameras_visible)
        if self._origin is None or not state.keyframes:
            return
        if drawn is None or state.keyframes is not drawn.keyframes:
            self._cameras.show(state.keyframes, self._view, self._origin)
        newest = similarity_or_none(state.keyframes[-1].c2w)
        if newest is not None:
            self._navigation.follow(self._on_page(newest), self._view)

    def _on_page(self, pose: Similarity) -> Similarity:
        origin = np.zeros(3) if self._origin is None else self._origin
        return Similarity(pose.scale, pose.rotation, pose.translation - origin)

    def _origin_text(self) -> str | None:
        if self._origin is None or not self._origin.any():
            return None
        return ", ".join(f"{value:,.0f}" for value in self._origin)

    def _plot_psnr(self, state: FeedState, drawn: FeedState | None) -> None:
        figures = state.figures
        if figures is None or figures.psnr is None:
            return
        if drawn is None or figures != drawn.figures:
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
