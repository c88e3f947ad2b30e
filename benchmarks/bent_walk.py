"""A long walk through the demo's pictures, and what a loop closure makes of it: shared by the
benchmarks of late corrections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.camera import CameraModel
from streamer.demo import CAPTURE
from streamer.load import Material, material
from streamer.sources import open_capture

Float64 = NDArray[np.float64]


@dataclass(kw_only=True)
class Options:
    """How large the map is."""

    keyframes: int = 2000
    """Key frames with a chunk."""
    long_side: int = 64
    """Of the pictures, pixels: the walk is to be long, not beautiful."""
    chunk_budget: int = 60
    """Splats of a key frame at most: 2000 of them fill the default map."""
    repeats: int = 7
    """Corrections, one after the other."""
    json: Path | None = None
    """Put the figures into this file."""


def walk(long_side: int) -> Material:
    """The demo's pictures, to be sent over and over."""
    return material(open_capture(CAPTURE), long_side=long_side)


def bent(poses: Mapping[int, Float64], amount: float) -> dict[int, Float64]:
    """A walk that had drifted: turned about the world's z, more and more towards its end."""
    last = max(poses)
    corrected = {}
    for seq, pose in poses.items():
        angle = amount * seq / last
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        corrected[seq] = turn @ pose
    return corrected


def figures(values: list[float]) -> dict[str, float]:
    """Milliseconds: the least, the middle and the most."""
    low, middle, high = np.percentile(values, [0, 50, 100])
    return {"min": round(low, 2), "median": round(middle, 2), "max": round(high, 2)}


def lenses(what: Material) -> dict[str, CameraModel]:
    """Its cameras by name."""
    return {
        name: CameraModel(c.model, c.width, c.height, tuple(c.params))
        for name, c in what.cameras.items()
    }
