"""The page's panel: figures, plot and controls. Draws what it is given, reports what is clicked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import viser
import viser.uplot

from viewer.nodes import Shown
from viewer.state import FeedState
from viewer.texts import figures_html, key_frame_html, state_html

_NO_SESSION = "none yet"
_PLOT_POINTS = 400
_GRAY, _GRID = "#868e96", "#3b3f45"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """What the panel's controls do; called in viser's threads, must not block for long."""

    pause: Callable[[viser.ClientHandle | None], None]
    resume: Callable[[viser.ClientHandle | None], None]
    save_ply: Callable[[viser.ClientHandle | None], None]
    choose_session: Callable[[str], None]
    follow: Callable[[int, bool], None]
    """(client id, whether it follows the camera)."""


class Panel:
    """All GUI elements of the page.

    Args:
        server: the page.
        max_splats: upper end of the budget slider, and its first value.
        actions: what the controls do.
    """

    def __init__(self, server: viser.ViserServer, max_splats: int, actions: Actions) -> None:
        gui = server.gui
        self._actions = actions
        self._history: list[tuple[float, float]] = []
        self._state = gui.add_html(state_html(FeedState()))
        self._sessions = gui.add_dropdown(
            "Session", (_NO_SESSION,), hint="Which of the daemon's maps is shown"
        )
        self._figures = gui.add_html("")
        self._plot = gui.add_uplot(
            (np.zeros(1), np.zeros(1)),
            (
                viser.uplot.Series(label="s"),
                viser.uplot.Series(label="PSNR, dB", stroke="#4dabf7", width=2),
            ),
            title="PSNR over time",
            scales={"x": viser.uplot.Scale(time=False), "y": viser.uplot.Scale(auto=True)},
            axes=(_axis(), _axis()),
            legend=viser.uplot.Legend(show=False),
            height=130,
            padding=(10, 14, 0, 0),
            visible=False,
        )
        self._pause = gui.add_button("Pause", icon=viser.Icon.PLAYER_PAUSE)
        self._resume = gui.add_button("Resume", icon=viser.Icon.PLAYER_PLAY, visible=False)
        self._save = gui.add_button(
            "Save PLY", icon=viser.Icon.DOWNLOAD, hint="The whole map, as the daemon holds it"
        )
        low = min(max_splats, max(1_000, max_splats // 50))
        self._budget = gui.add_slider(
            "Splat budget",
            low,
            max(max_splats, low + 1),
            step=max(1, max_splats // 100),
            initial_value=max_splats,
            hint="Splats on this page; every chunk keeps its best",
        )
        self._cameras = gui.add_checkbox("Show key frames", initial_value=True)
        self._folder = gui.add_folder("Key frame", visible=False)
        with self._folder:
            self._caption = gui.add_html("")
            self._thumbnail = gui.add_image(np.zeros((1, 1, 3), np.uint8))
        self._sessions.on_update(self._on_session)
        self._pause.on_click(lambda event: actions.pause(event.client))
        self._resume.on_click(lambda event: actions.resume(event.client))
        self._save.on_click(lambda event: actions.save_ply(event.client))
        server.on_client_connect(self._add_client)

    @property
    def budget(self) -> int:
        """Splats that the page may show."""
        return int(self._budget.value)

    @property
    def show_cameras(self) -> bool:
        """Whether key frames and path are wanted."""
        return bool(self._cameras.value)

    def draw(self, state: FeedState, shown: Shown, origin_text: str | None) -> None:
        """Bring all texts and controls to `state`; sends only what differs."""
        _set(self._state, "content", state_html(state))
        _set(self._figures, "content", figures_html(state, shown, origin_text))
        paused = state.figures is not None and state.figures.state == "paused"
        _set(self._pause, "visible", not paused)
        _set(self._resume, "visible", paused)
        reachable = state.link == "live" and state.session in state.sessions
        for button in (self._pause, self._resume, self._save):
            _set(button, "disabled", not reachable)
        self._draw_sessions(state)

    def add_psnr(self, seconds: float, psnr: float) -> None:
        """One more point of the plot."""
        self._history.append((seconds, psnr))
        if len(self._history) > _PLOT_POINTS:
            # Half the resolution for the whole past: the plot covers the session at any length.
            self._history = self._history[::2]
        if len(self._history) >= 2:
            times, values = np.array(self._history).T
            self._plot.data = (times, values)
            _set(self._plot, "visible", True)

    def clear_psnr(self) -> None:
        """Forget the plot."""
        self._history.clear()
        _set(self._plot, "visible", False)

    def show_key_frame(self, caption: str, image: np.ndarray | None) -> None:
        """Show what a clicked key frame saw; image (H, W, 3) uint8, None where there is none."""
        self._caption.content = key_frame_html(caption)
        if image is not None:
            self._thumbnail.image = image
        self._thumbnail.visible = image is not None
        self._folder.visible = True

    def hide_key_frame(self) -> None:
        """Fold the last clicked key frame away."""
        _set(self._folder, "visible", False)

    def _draw_sessions(self, state: FeedState) -> None:
        options = state.sessions or (_NO_SESSION,)
        if state.session is not None and state.session not in options:
            options = (*options, state.session)
        wanted = state.session if state.session is not None else options[0]
        if tuple(self._sessions.options) != options:
            self._sessions.options = options
        _set(self._sessions, "value", wanted)
        _set(self._sessions, "disabled", len(options) < 2)

    def _on_session(self, event: viser.GuiEvent[viser.GuiDropdownHandle[str]]) -> None:
        # Values set by `draw` come here too; only a person's choice has a client.
        if event.client is not None and event.target.value != _NO_SESSION:
            self._actions.choose_session(event.target.value)

    def _add_client(self, client: viser.ClientHandle) -> None:
        box = client.gui.add_checkbox(
            "Follow the camera",
            initial_value=False,
            order=self._cameras.order + 0.5,
            hint="Look through the newest key frame, in this window only",
        )
        box.on_update(lambda _: self._actions.follow(client.client_id, box.value))


def _axis() -> viser.uplot.Axis:
    return viser.uplot.Axis(
        stroke=_GRAY,
        grid=viser.uplot.Axis_Grid(stroke=_GRID, width=1),
        ticks=viser.uplot.Axis_Ticks(stroke=_GRID, width=1),
    )


def _set(handle: object, name: str, value: object) -> None:
    if getattr(handle, name) != value:
        setattr(handle, name, value)
