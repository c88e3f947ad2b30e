"""What stands behind everything: the colour that renders are put on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

BackgroundMode = Literal["auto", "black", "white"]

_FIXED = {"black": 0.0, "white": 1.0}
# Width of the border looked at, relative to the shorter side.
_BORDER = 0.02
# A colour is plain when this share of the pixels lies this close to their median, of 255: JPEG
# noise and a part of the object that reaches the border are forgiven.
_PLAIN_SHARE = 0.9
_PLAIN_DISTANCE = 10.0
# Share of transparent pixels from which on alpha says what is background.
_TRANSPARENT_SHARE = 0.02
# A plain colour this close to black or white, of 255, is taken for it.
_SNAP = 10.0


def estimate_background(images: Iterable[np.ndarray], mode: BackgroundMode = "auto") -> np.ndarray:
    """The background colour of a capture, (3,) float32 in 0..1.

    `auto`: the colour under transparent pixels where the images have alpha; else the colour of
    the images' border where it is plain over all of them; else black.

    Args:
        images: (H, W, 3) or (H, W, 4) uint8, RGB or RGBA; a handful over the capture is enough.
        mode: `black` and `white` look at no image.

    Raises:
        ValueError: another mode, or an image of another shape or type.
    """
    if mode in _FIXED:
        return np.full(3, _FIXED[mode], dtype=np.float32)
    if mode != "auto":
        raise ValueError(f"background is {mode!r}: give auto, black or white")
    transparent, borders, pixels = [], [], 0
    for image in images:
        if image.ndim != 3 or image.shape[2] not in (3, 4) or image.dtype != np.uint8:
            raise ValueError(
                f"an image has shape {image.shape} and type {image.dtype}: give (H, W, 3 or 4) "
                "uint8"
            )
        pixels += image.shape[0] * image.shape[1]
        if image.shape[2] == 4:
            transparent.append(image[image[..., 3] == 0, :3])
        borders.append(_border(image[..., :3]))
    if transparent and sum(len(part) for part in transparent) >= _TRANSPARENT_SHARE * pixels:
        plain = _plain_color(np.concatenate(transparent))
    else:
        plain = _plain_color(np.concatenate(borders)) if borders else None
    return np.zeros(3, dtype=np.float32) if plain is None else plain


def _border(image: np.ndarray) -> np.ndarray:
    """(n, 3) pixels of a frame along all four sides."""
    width = max(1, round(_BORDER * min(image.shape[:2])))
    inside = np.zeros(image.shape[:2], dtype=bool)
    inside[width:-width, width:-width] = True
    return image[~inside]


def _plain_color(pixels: np.ndarray) -> np.ndarray | None:
    """The colour that nearly all of (n, 3) uint8 pixels have, in 0..1; None if they have none."""
    middle = np.median(pixels, axis=0)
    distance = np.abs(pixels.astype(np.float32) - middle).max(axis=1)
    if (distance <= _PLAIN_DISTANCE).mean() < _PLAIN_SHARE:
        return None
    for value in (0.0, 255.0):
        if np.abs(middle - value).max() <= _SNAP:
            middle = np.full(3, value)
    return (middle / 255.0).astype(np.float32)
