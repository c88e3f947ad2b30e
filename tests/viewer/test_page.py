"""The live page in a real browser, against a real publisher that is fed a growing map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page
from viewer_browser import (
    correlation,
    coverage,
    drawn,
    intrinsics,
    luminance,
    new_page,
    open_at,
    pictures,
    read_canvas,
    until,
    watch,
)
from viewer_capture import View, add_view, new_map, rendered, views
from viewer_stack import MAX_SPLATS, Stack, running

from streamer.requests import Requests
from viewer.page import address, open_page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

FOV = 0.7
AWAY = "the daemon has been away"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("run")) as stack:
        yield stack


@pytest.fixture(scope="module")
def office(capture_dir) -> list[View]:  # type: ignore[no-untyped-def]
    folder: Path = capture_dir("hololens_office")
    return [view for view, _ in zip(views(folder), range(6))]


class Stage:
    """A new epoch of the session, and a page that looks at it."""

    def __init__(self, stack: Stack, page: Page) -> None:
        self.stack, self.voice, self.page = stack, stack.voice, page
        self.map = new_map()
        self.voice.begin(self.map.snapshot)
        self.page.get_by_text("waiting for frames").wait_for(timeout=40_000)

    def add(self, view: View) -> None:
        chunk = add_view(self.map, view)
        self.voice.say_keyframe(view.seq, view.c2w, chunk, view.jpeg())
        self.publish()

    def publish(self) -> None:
        self.voice.publish(self.map.drain_updates())
        done = len(self.map.chunks)
        self.voice.say_status(
            frames_in=done + 2,
            frames_done=done,
            frames_waiting=2,
            keyframes=done,
            splats=self.map.count,
            psnr=18.0 + done / 2,
            state="streaming",
            model="Matching prior alone: no trained weights are loaded.",
        )

    def pump(self, seconds: float) -> None:
        """Let the voice and the page's own events go on."""
        self.voice.pump(seconds / 2)
        self.page.wait_for_timeout(500 * seconds)

    def wait_until_shown(self) -> None:
        """The page has the whole map, and the last picture of it."""
        count = f"{self.map.count:,}"
        cell = self.page.locator("tr", has_text="Splats").locator("td").nth(1)
        until(lambda: cell.inner_text() == count, f"{count} splats on the page", 40.0, self.pump)
        self.pump(1.0)

    def wait_for_pictures(self, count: int) -> None:
        """Until the browser has drawn so many since `watch`."""
        until(lambda: pictures(self.page) >= count, "pictures", 40.0, self.pump)


@pytest.fixture(scope="module")
def page(stack: Stack, office: list[View]) -> Iterator[Page]:
    """Looks through the first key frame, at the splats alone. Tests with a page of their own come
    before those that share this one: every page that is open draws."""
    page = open_at(stack.browser, stack.address, office[0].c2w, FOV)
    page.get_by_label("Show key frames").evaluate("box => box.click()")
    yield page
    page.close()


@pytest.fixture
def stage(stack: Stack, page: Page) -> Stage:
    return Stage(stack, page)


def test_the_page_is_up_before_the_first_frame_and_begins_at_it(
    stack: Stack, office: list[View]
) -> None:
    page = new_page(stack.browser)
    page.goto(stack.address)
    stage = Stage(stack, page)
    assert page.title() == "splatstream"
    assert stack.address.startswith("http://127.0.0.1:")
    assert page.get_by_text("Share").count() == 0
    assert coverage(read_canvas(page)) == 0.0
    stage.add(office[0])
    stage.wait_until_shown()
    looks_at_it = "a window that looks at the map"
    until(lambda: coverage(read_canvas(page)) > 0.4, looks_at_it, 20.0, stage.pump)
    page.close()


def test_the_watch_sees_what_new_nodes_do(stack: Stack) -> None:
    """The control of the test of many updates: with a node a chunk, the map vanishes at every new
    one."""
    server = open_page("127.0.0.1", 0)
    page = open_at(stack.browser, address(server), np.eye(4), FOV)
    random = np.random.default_rng(0)
    count = 1_500

    def add_node(number: int) -> None:
        server.scene.add_gaussian_splats(
            f"/chunk_{number}",
            random.uniform((-1, -0.6, 2), (1, 0.6, 3), size=(count, 3)),
            np.tile(np.diag([2e-3, 1.5e-3, 1e-3]), (count, 1, 1)),
            np.full((count, 3), 200, np.uint8),
            np.full((count, 1), 255, np.uint8),
        )

    def pump(seconds: float) -> None:
        page.wait_for_timeout(1000 * seconds)

    try:
        # Before there is anything to draw: a picture may be drawn once only.
        watch(page)
        add_node(0)
        until(lambda: (drawn(page)[-1:] > 0.5).any(), "splats", 40.0, pump)
        begin = pictures(page)
        for number in range(1, 6):
            add_node(number)
            wanted = pictures(page) + 3
            until(lambda wanted=wanted: pictures(page) >= wanted, "pictures", 15.0, pump)
        assert drawn(page)[begin:].min() < 0.1
        page.close()
    finally:
        server.stop()


def test_a_click_on_a_key_frame_shows_its_thumbnail(stack: Stack, office: list[View]) -> None:
    behind = np.array(office[0].c2w)
    behind[:3, 3] -= 0.3 * behind[:3, 2]
    # Wide enough that the panel leaves the middle free, where all edges of the frustum meet.
    page = open_at(stack.browser, stack.address, behind, FOV, (900, 160))
    stage = Stage(stack, page)
    box = page.get_by_label("Show key frames")
    shown_before = box.is_checked()
    if not shown_before:
        box.evaluate("box => box.click()")
    stage.add(office[0])
    stage.wait_until_shown()
    caption = page.get_by_text("Frame 0 · camera front")
    for count in (1, 0):
        page.mouse.move(449, 79)
        stage.pump(0.2)
        page.mouse.click(450, 80)
        until(lambda count=count: caption.count() == count, "the caption", 10.0, stage.pump)
    if not shown_before:
        box.evaluate("box => box.click()")
    page.close()


def test_the_page_shows_the_map_as_it_grows(stage: Stage, office: list[View]) -> None:
    covered, K = [], intrinsics(FOV)
    for view in office[:4]:
        stage.add(view)
        own = rendered(stage.map, office[0].c2w, K)

        def alike(own: np.ndarray = own) -> bool:
            return correlation(luminance(read_canvas(stage.page)), luminance(own)) > 0.8

        stage.wait_until_shown()
        # A busy browser sorts and draws later than it counts.
        until(alike, f"a picture of {stage.map.count} splats as ours", 20.0, stage.pump)
        shown = read_canvas(stage.page)
        covered.append(coverage(shown))
    # The measure is not blind: another camera's picture, and no picture, are told apart.
    elsewhere = rendered(stage.map, office[3].c2w, K)
    assert correlation(luminance(shown), luminance(elsewhere)) < 0.5
    apart = np.abs(luminance(shown) - luminance(own)).mean()
    apart_from_nothing = np.abs(luminance(np.zeros_like(shown)) - luminance(own)).mean()
    assert apart < 0.3 * apart_from_nothing
    assert abs(covered[-1] - coverage(own)) < 0.1


@pytest.mark.timeout(300)
def test_no_picture_is_blank_over_many_updates(stage: Stage, office: list[View]) -> None:
    for view in office[:2]:
        stage.add(view)
    stage.wait_until_shown()
    watch(stage.page)
    stage.wait_for_pictures(3)
    before = drawn(stage.page)
    original = {identity: chunk.splats for identity, chunk in stage.map.chunks.items()}
    random = np.random.default_rng(0)
    for i in range(21):
        identity = list(original)[i % 2]
        splats, pose = original[identity], np.array(stage.map.chunks[identity].T_world_chunk)
        if i in (7, 14):
            stage.add(office[i // 7 + 1])
        elif i % 3 == 0:
            pose[:3, 3] += random.normal(scale=0.002, size=3)
            stage.map.move({identity: pose})
        else:
            kept = np.sort(random.permutation(splats.count)[: int(splats.count * 0.97)])
            stage.map.replace(identity, splats.select(kept))
        looked_at = pictures(stage.page)
        stage.publish()
        stage.pump(0.05)
        # On a loaded machine the browser draws once a second: every update gets its picture.
        stage.wait_for_pictures(looked_at + 1)
    stage.wait_until_shown()
    seen = drawn(stage.page)
    assert before.min() > 0.4
    assert seen.min() > 0.8 * before.min(), f"a picture with {seen.min():.2f} of the map"
    # A page that is cleared is seen as blank by the same measure.
    stage.voice.begin(new_map().snapshot)
    until(lambda: drawn(stage.page)[-1] == 0.0, "a cleared page", 40.0, stage.pump)


def test_the_page_says_that_the_daemon_is_away_and_comes_back(
    stage: Stage, office: list[View]
) -> None:
    stage.add(office[0])
    stage.wait_until_shown()
    stage.stack.publisher.kill()
    stage.page.get_by_text(AWAY).wait_for(timeout=10_000)
    assert coverage(read_canvas(stage.page)) > 0.4, "the last map stays while nobody is there"
    stage.map.drop(list(stage.map.chunks))
    stage.stack.publisher.start()
    stage.add(office[1])
    until(lambda: stage.page.get_by_text(AWAY).count() == 0, "the daemon is back", 15.0, stage.pump)
    stage.wait_until_shown()
    # A session that begins anew is shown from its beginning.
    stage.map = new_map()
    stage.voice.begin(stage.map.snapshot)
    stage.page.get_by_text("waiting for frames").wait_for(timeout=10_000)
    stage.add(office[2])
    stage.wait_until_shown()


def test_buttons_reach_the_session_and_the_map_can_be_saved(
    stage: Stage, office: list[View]
) -> None:
    stage.add(office[0])
    stage.wait_until_shown()
    stage.voice.orders.clear()
    for button, order, text in (
        ("Pause", "pause", "paused"),
        ("Resume", "resume", "mapping"),
    ):
        stage.page.get_by_role("button", name=button).evaluate("button => button.click()")
        until(lambda order=order: order in stage.voice.orders, order, 10.0, stage.pump)
        until(
            lambda text=text: stage.page.get_by_text(text, exact=False).count() > 0,
            text, 10.0, stage.pump,
        )  # fmt: skip
    with stage.page.expect_download(timeout=30_000) as download:
        stage.page.get_by_role("button", name="Save PLY").evaluate("button => button.click()")
    with Requests(stage.stack.publisher.requests) as requests:
        assert Path(download.value.path()).read_bytes() == requests.export("office", "ply")
    assert download.value.suggested_filename == "office.ply"


def test_the_budget_slider_cuts_the_map(stage: Stage, office: list[View]) -> None:
    for view in office[:3]:
        stage.add(view)
    stage.wait_until_shown()
    value = stage.page.locator(".mantine-NumberInput-input").first
    value.fill(str(MAX_SPLATS // 4))
    value.press("Enter")
    row = stage.page.locator("tr", has_text="Splats")
    until(lambda: "shown" in row.inner_text(), "a cut map", 10.0, stage.pump)
    shown = int(row.inner_text().split("·")[1].replace("shown", "").replace(",", ""))
    assert 0.7 * MAX_SPLATS // 4 < shown <= MAX_SPLATS // 4
    value.fill(str(MAX_SPLATS))
    value.press("Enter")
    until(lambda: "shown" not in row.inner_text(), "the whole map again", 10.0, stage.pump)
