"""The videos that we write play in a browser."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from viewer_browser import chromium, new_page

from streamer.video import VideoFile

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

_PLAY = """
path => new Promise((done, failed) => {
    const video = document.createElement("video");
    video.muted = true;
    video.onerror = () => failed(video.error.message);
    video.onended = () => {
        const canvas = document.createElement("canvas");
        canvas.width = video.videoWidth; canvas.height = video.videoHeight;
        canvas.getContext("2d").drawImage(video, 0, 0);
        const rgba = canvas.getContext("2d").getImageData(2, 2, 1, 1).data;
        done([video.videoWidth, video.videoHeight, video.duration, ...rgba]);
    };
    video.src = path;
    video.play().catch(error => failed(String(error)));
})
"""


def test_a_video_plays_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with VideoFile(path, 64, 48, 20.0) as video:
        for step in range(20):
            picture = np.zeros((48, 64, 3), np.uint8)
            picture[..., 0] = 12 * step
            video.write(cv2.rectangle(picture, (20, 20), (40, 30), (0, 255, 0), -1))
    data = base64.b64encode(path.read_bytes()).decode()
    with chromium() as browser:
        page = new_page(browser)
        width, height, duration, red, green, blue, _ = page.evaluate(
            _PLAY, f"data:video/mp4;base64,{data}"
        )
    assert (width, height, round(duration, 3)) == (64, 48, 1.0)
    # Video colours are coarse.
    assert abs(red - 12 * 19) < 30 and green < 30 and blue < 30
