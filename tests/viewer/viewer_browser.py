"""A headless Chromium without a GPU or a network, and what its canvas shows."""

from __future__ import annotations

import base64
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

WIDTH, HEIGHT = 240, 160
BACKGROUND = 20
"""Gray level behind the canvas, which is transparent where nothing is drawn."""

_FLAGS = [
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
]

# A processor that draws takes whole cores for pictures that nobody looks at: ten a second will do.
_SLOW = """
window.everyFrame = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = callback => setTimeout(() => window.everyFrame(callback), 90);
window.cancelAnimationFrame = clearTimeout;
"""

# Counts what is on the canvas after every picture that was drawn. The canvas keeps its last picture
# until the next one, so what this reads in the following frame is what a person saw.
_WATCH = """
() => {
    const canvas = [...document.querySelectorAll("canvas")].find(c => c.width > 0);
    const small = document.createElement("canvas");
    small.width = 60; small.height = 40;
    const context = small.getContext("2d", {willReadFrequently: true});
    const look = () => {
        context.clearRect(0, 0, 60, 40);
        context.drawImage(canvas, 0, 0, 60, 40);
        const data = context.getImageData(0, 0, 60, 40).data;
        let count = 0;
        for (let i = 3; i < data.length; i += 4) count += data[i] > 60;
        window.drawn.push(count / 2400);
    };
    window.drawn = [];
    let fresh = true;
    const gl = canvas.getContext("webgl2");
    for (const name of ["clear", "drawElementsInstanced"]) {
        const plain = WebGL2RenderingContext.prototype[name];
        gl[name] = function (...rest) { fresh = true; return plain.apply(this, rest); };
    }
    const frame = () => {
        if (fresh) look();
        fresh = false;
        window.everyFrame(frame);
    };
    window.everyFrame(frame);
}
"""


def chromium_path() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips where there is none."""
    path = chromium_path()
    if path is None:
        pytest.skip("there is no Chromium on this machine (apt-get install chromium)")
    flags = _FLAGS + (["--no-sandbox"] if os.geteuid() == 0 else [])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


def new_page(browser: Browser, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Page:
    """An empty window that draws ten pictures a second."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.add_init_script(_SLOW)
    return page


def open_at(
    browser: Browser,
    address: str,
    c2w: np.ndarray,
    fov: float,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Page:
    """The page, looking from `c2w` (4, 4) with a vertical angle of view `fov` in radians."""
    page = new_page(browser, size)
    vectors = {
        "Position": c2w[:3, 3],
        "LookAt": c2w[:3, 3] + 2.0 * c2w[:3, 2],
        "Up": -c2w[:3, 1],
    }
    query = "&".join(
        f"initialCamera{name}=" + ",".join(f"{value:.6f}" for value in vector)
        for name, vector in vectors.items()
    )
    page.goto(f"{address}/?fixedDpr=1&initialCameraFov={fov:.6f}&{query}")
    page.wait_for_selector("canvas", timeout=60_000)
    return page


def intrinsics(fov: float) -> np.ndarray:
    """(3, 3) of what `open_at` looks through."""
    f = HEIGHT / 2 / np.tan(fov / 2)
    return np.array([[f, 0, WIDTH / 2], [0, f, HEIGHT / 2], [0, 0, 1.0]])


def read_canvas(page: Page) -> np.ndarray:
    """(HEIGHT, WIDTH, 4) uint8 RGBA of the picture that is drawn, panels and notices not in it."""
    url = page.evaluate(
        "[...document.querySelectorAll('canvas')].find(c => c.width > 0).toDataURL('image/png')"
    )
    data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    bgra = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert bgra is not None and bgra.shape == (HEIGHT, WIDTH, 4)
    return cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGBA)


def luminance(rgba: np.ndarray) -> np.ndarray:
    """(HEIGHT, WIDTH) float64 over the page's background, blurred: two renderers agree on no
    pixel, but they do on where it is light and dark."""
    alpha = rgba[..., 3:] / 255.0
    rgb = rgba[..., :3] * alpha + BACKGROUND * (1.0 - alpha)
    return cv2.GaussianBlur(rgb @ np.array([0.299, 0.587, 0.114]), (0, 0), 2.0)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def coverage(rgba: np.ndarray) -> float:
    """Share of the picture that anything is drawn on."""
    return float((rgba[..., 3] > 60).mean())


def watch(page: Page) -> None:
    """Begin to look at every picture."""
    page.evaluate(_WATCH)


def drawn(page: Page) -> np.ndarray:
    """Coverage of every picture since `watch`."""
    return np.array(page.evaluate("window.drawn"))


def pictures(page: Page) -> int:
    """How many pictures `drawn` would tell of."""
    return int(page.evaluate("window.drawn.length"))


def until(
    condition: Callable[[], bool], what: str, timeout: float, pump: Callable[[float], None]
) -> None:
    """Wait for a condition while `pump(seconds)` keeps the rest going."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout:g} s: {what}"
        pump(0.05)
