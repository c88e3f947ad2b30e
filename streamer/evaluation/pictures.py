"""Held-out views beside what a map shows of them, as files inside a page."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.frames import Frame
from streamer.scoring import Scores, ViewScore

LARGEST_ERROR = 0.3
"""Mean absolute colour error (0..1) that error images show in their hottest colour."""
_QUALITY = 88
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ViewPictures:
    """One view: data URIs of the picture taken, the picture rendered (with the gain of its
    neighbours) and the error between them."""

    kind: str
    score: ViewScore
    truth: str
    render: str
    error: str


def worst_and_best(scores: Scores, frames: list[Frame]) -> list[ViewPictures]:
    """Up to three worst views and three best, by PSNR after gain; no view twice."""
    of_seq = {frame.seq: frame for frame in frames}
    order = sorted(range(len(scores.views)), key=lambda place: scores.views[place].psnr_gain)
    worst = order[: min(_SHOWN, (len(order) + 1) // 2)]
    best = [place for place in order[::-1][:_SHOWN] if place not in worst]
    shown = [("worst", place) for place in worst] + [("best", place) for place in best]
    pictures = []
    for kind, place in shown:
        view = scores.views[place]
        frame = of_seq[view.seq]
        exposed = scores.exposed[place]
        pictures.append(
            ViewPictures(
                kind,
                view,
                data_uri(frame.image),
                data_uri((exposed * 255.0 + 0.5).astype(np.uint8)),
                data_uri(error_image(exposed, frame)),
            )
        )
    return pictures


def error_image(rgb: NDArray[np.float32], frame: Frame) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: mean absolute colour error, black = none or not valid, white = most."""
    error = np.abs(rgb - frame.image.astype(np.float32) / np.float32(255.0)).mean(axis=2)
    if frame.valid is not None:
        error = np.where(frame.valid, error, np.float32(0.0))
    level = np.clip(error / LARGEST_ERROR, 0.0, 1.0)
    coloured = cv2.applyColorMap((level * 255.0 + 0.5).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.asarray(coloured[..., ::-1], np.uint8)


def data_uri(image: NDArray[np.uint8]) -> str:
    """A JPEG of an RGB image as a data URI."""
    bgr = np.ascontiguousarray(image[..., ::-1])
    good, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert good, "an RGB image of at least one pixel always encodes"
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
