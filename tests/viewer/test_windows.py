"""The page's loop with a real publisher, while browsers come and go: who looks sees the whole map,
and nobody is drawn for nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import viser
from playwright.sync_api import Browser
from publisher_process import PublisherProcess
from viewer_browser import (
    chromium,
    correlation,
    coverage,
    intrinsics,
    luminance,
    open_at,
    read_canvas,
    until,
)
from viewer_capture import View, add_view, new_map, rendered, views
from viewer_daemon import SessionVoice

from gs_decoder import SplatMap
from viewer.app import App
from viewer.config import ViewerConfig
from viewer.page import address

pytestmark = pytest.mark.timeout(120)

FOV = 0.7


@dataclass(frozen=True)
class Live:
    """A page's loop that runs in this process, and the session that it shows."""

    app: App
    voice: SessionVoice
    map: SplatMap

    def add(self, view: View) -> None:
        """One more key frame is published."""
        add_view(self.map, view)
        self.voice.publish(self.map.drain_updates())
        self.voice.say_status(state="streaming", psnr=20.0 + len(self.map.chunks))

    def received(self) -> bool:
        """Whether the page holds what was published."""
        chunks = self.app._feed.state().chunks
        return sum(chunk.count for chunk in chunks.values()) == self.map.count

    def shown(self) -> int:
        """Splats that a browser would draw."""
        handles = self.app.server.scene._handle_from_node_name.values()
        splats = [node for node in handles if isinstance(node, viser.GaussianSplatHandle)]
        return sum(int((node.opacities > 0).sum()) for node in splats)

    def looked(self) -> bool:
        """Whether the loop has told of the newest status."""
        return f"{20.0 + len(self.map.chunks):.2f} dB" in self.app._panel._figures.content


@contextmanager
def live(run_dir: Path) -> Iterator[Live]:
    publisher = PublisherProcess(run_dir)
    publisher.start()
    voice = SessionVoice(run_dir, "office")
    app = App(
        ViewerConfig(
            updates=publisher.updates, requests=publisher.requests, session="office", port=0,
            max_splats=6_000,
        )
    )  # fmt: skip
    loop = threading.Thread(target=app.run)
    try:
        source = new_map()
        voice.begin(source.snapshot)
        loop.start()
        yield Live(app, voice, source)
    finally:
        app.stop()
        loop.join(timeout=10)
        voice.close()
        publisher.kill()
    assert not loop.is_alive(), "the page did not end"


@pytest.fixture(scope="module")
def office(capture_dir) -> list[View]:  # type: ignore[no-untyped-def]
    folder: Path = capture_dir("hololens_office")
    return [view for view, _ in zip(views(folder), range(6))]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_a_page_without_windows_receives_and_draws_nothing(
    tmp_path: Path, office: list[View], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.app.UNWATCHED_S", 0.05)
    with live(tmp_path) as page:
        for view in office:
            page.add(view)
            until(page.looked, "a look at the newest state", 20.0, page.voice.pump)
            assert page.received()
        assert page.map.count > 4_000 and page.shown() == 0
        frusta = [n for n in page.app.server.scene._handle_from_node_name if "/cameras/frame" in n]
        assert not frusta
        # The first window will begin at the first key frame all the same.
        begins = np.asarray(page.app.server.initial_camera.position)
        assert np.linalg.norm(begins - office[0].c2w[:3, 3]) < 2.0


def open_window(browser: Browser, page: Live, office: list[View]) -> None:
    """A window comes, sees all that the session has, and goes."""
    window = open_at(browser, address(page.app.server), office[0].c2w, FOV)

    def pump(seconds: float) -> None:
        page.voice.pump(seconds / 2)
        window.wait_for_timeout(500 * seconds)

    own = luminance(rendered(page.map, office[0].c2w, intrinsics(FOV)))

    def alike() -> bool:
        canvas = read_canvas(window)
        return coverage(canvas) > 0.1 and correlation(luminance(canvas), own) > 0.8

    until(lambda: page.shown() == page.map.count, "the whole map", 20.0, pump)
    until(alike, "a picture as ours", 40.0, pump)
    cell = window.locator("tr", has_text="Splats").locator("td").nth(1)
    until(lambda: cell.inner_text() == f"{page.map.count:,}", "the map's count", 20.0, pump)
    assert len(page.app._cameras.shown) == len(page.map.chunks)
    window.close()
    until(lambda: not page.app.server.get_clients(), "the window to be gone", 20.0, page.voice.pump)


@pytest.mark.browser
def test_windows_that_come_late_and_long_after_the_last_one_see_the_whole_map(
    tmp_path: Path, office: list[View], browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.app.UNWATCHED_S", 0.05)
    monkeypatch.setattr("viewer.app.EMPTY_AFTER_S", 0.0)
    with live(tmp_path) as page:
        for part in (office[:2], office[2:4]):
            for view in part:
                page.add(view)
            until(page.looked, "a look at the newest state", 20.0, page.voice.pump)
            assert page.received()
            until(lambda: page.shown() == 0, "an empty page", 20.0, page.voice.pump)
            open_window(browser, page, office)
        # Once it has looked once more, nothing but a window that comes wakes the loop.
        monkeypatch.setattr("viewer.app.UNWATCHED_S", 600.0)
        page.voice.pump(0.5)
        for view in office[4:]:
            page.add(view)
        until(page.received, "the map in the page's hands", 20.0, page.voice.pump)
        open_window(browser, page, office)
