"""A long textured wall, and a camera that walks along it and back: pictures with exact depth."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streamer.frames import Frame

WIDTH, HEIGHT = 64, 48
DISTANCE = 2.0
"""Metres from the camera to the wall."""
STEP = 0.5
_K = np.array([[50.0, 0.0, WIDTH / 2], [0.0, 50.0, HEIGHT / 2], [0.0, 0.0, 1.0]])
_RNG = np.random.default_rng(7)
_WAVES = _RNG.normal(size=(24, 2)) * np.geomspace(1.0, 9.0, 24)[:, None]
_PHASES = _RNG.uniform(0.0, 2.0 * np.pi, (24, 3))
_TINTS = _RNG.uniform(0.3, 1.0, (24, 3)) / np.sqrt(np.arange(3, 27))[:, None]


def wall_frame(seq: int, x: float, y: float = 0.0, *, with_depth: bool = True) -> Frame:
    """What a camera at (x, y, 0) sees that looks at the wall."""
    c2w = np.eye(4)
    c2w[:3, 3] = x, y, 0.0
    image = _wall_picture(x, y).copy()
    depth = np.full((HEIGHT, WIDTH), DISTANCE, np.float32) if with_depth else None
    return Frame(
        seq=seq, stamp_ns=seq * 10**8, camera="", image=image, K=_K.copy(), c2w=c2w, depth=depth
    )


# The same places are looked at again and again, and a picture takes 10 ms.
@lru_cache(maxsize=4096)
def _wall_picture(x: float, y: float) -> NDArray[np.uint8]:
    u, v = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    places = np.stack([(u - _K[0, 2]) / 50.0, (v - _K[1, 2]) / 50.0], -1) * DISTANCE + [x, y]
    angles = places @ _WAVES.T
    signal = sum(_TINTS[k] * np.sin(angles[..., k, None] + _PHASES[k]) for k in range(len(_WAVES)))
    return np.round(255.0 / (1.0 + np.exp(-2.0 * signal))).astype(np.uint8)


def there_and_back(steps: int) -> list[Frame]:
    """So many steps along the wall, and back beside the way that was taken first."""
    places: list[tuple[float, float]] = [(STEP * n, 0.0) for n in range(steps)]
    places += [(STEP * n + 0.1, 0.08) for n in reversed(range(steps))]
    return [wall_frame(seq, x, y) for seq, (x, y) in enumerate(places)]


def beginning() -> list[Frame]:
    """Views of where the walk began that no map is made from."""
    return [wall_frame(0, x, y) for x, y in ((0.2, 0.1), (0.7, -0.1), (1.3, 0.05))]


def pose(frame: Frame) -> NDArray[np.float64]:
    assert frame.c2w is not None
    return frame.c2w
