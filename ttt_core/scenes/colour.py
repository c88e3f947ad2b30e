"""Palettes of low chroma with related hues, as real places have them."""

from __future__ import annotations

import numpy as np

from ttt_core.scenes.types import Array

# Björn Ottosson, "A perceptual color space for image processing" (2020): OKLab to linear sRGB.
_LMS = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def oklab(lightness: Array, chroma: Array, hue: Array) -> Array:
    """Linear RGB (…, 3) in 0.01…0.95 of lightness 0…1, chroma 0…0.3 and hue in radians."""
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], -1)
    return np.clip(((lab @ _LMS.T) ** 3) @ _RGB.T, 0.01, 0.95).astype(np.float32)


class Palette:
    """Colours that go together: two hue centres a scene, few accents."""

    def __init__(self, rng: np.random.Generator) -> None:
        # Warm centres are commoner than green and blue ones.
        self._hues = rng.choice([0.9, 1.2, 1.5, 2.3, 3.0, 4.3, 4.8], 2) + rng.normal(0, 0.2, 2)
        self._chroma = float(rng.choice([0.02, 0.045, 0.075]))

    def colours(self, rng: np.random.Generator, count: int, spread: float = 0.2) -> Array:
        """(count, 3) linear RGB around one lightness; `spread` is how far lightness goes."""
        middle = rng.uniform(0.35, 0.9)
        lightness = np.clip(middle + rng.normal(0, spread, count), 0.15, 0.97)
        hue = self._hues[rng.integers(2)] + rng.normal(0, 0.35, count)
        chroma = np.abs(rng.normal(0, 1, count)) * self._chroma
        accent = rng.random(count) < 0.06
        chroma = np.where(accent, rng.uniform(0.08, 0.17, count), chroma)
        hue = np.where(accent, rng.uniform(0, 2 * np.pi, count), hue)
        return oklab(lightness, np.minimum(chroma, 0.2), hue)
