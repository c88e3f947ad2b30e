"""Recorded captures as sequences to train on."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamer.frames import Frame
from streamer.sources import (
    Capture,
    CaptureError,
    CaptureFrame,
    load_frame,
    open_capture,
    parse_range,
)
from ttt_core.training.samples import PosedSequence


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSource:
    """Walks through captures, drawn by number: a `ttt_core.training.sources.SequenceSource`.

    Number n draws a capture (longer ones more often), one of its cameras, a stride and the first
    frame, and takes every stride-th frame from there on. Frames that cannot be read are passed
    over.

    Attributes:
        folders: captures that `open_capture` takes.
        views: of a sequence.
        long_side: working size in pixels.
        crop: (height, width) cut out of the middle, so that all sequences are of one size;
            None: as they come.
        strides: frames from one view to the next; those that a capture is too short for are left
            out.
        frames: range A:B of each capture's frames; None: all.
        sensor_depth: take depth images, where there are any, as the truth.
        seed: of the draws.
    """

    folders: tuple[str, ...]
    views: int = 24
    long_side: int = 128
    crop: tuple[int, int] | None = None
    strides: tuple[int, ...] = (1, 2, 4)
    frames: str | None = None
    sensor_depth: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises CaptureError for a setting that gives no sequence."""
        if not self.folders:
            raise CaptureError("no capture to train on was named")
        if self.views < 1:
            raise CaptureError(f"views is {self.views}; 1 or more are needed")
        if not self.strides or min(self.strides) < 1:
            raise CaptureError(f"strides are {self.strides}; numbers from 1 on are needed")
        parse_range(self.frames)

    def __call__(self, index: int) -> PosedSequence:
        """Sequence number `index`.

        Raises:
            CaptureError: a capture cannot be used or has too few frames that can.
        """
        rng = np.random.default_rng([self.seed, index])
        walks = [(capture, walk) for capture in self._captures() for walk in _walks(capture)]
        long_enough = [w for w in walks if len(w[1]) >= self.views]
        if not long_enough:
            raise CaptureError(
                f"none of {', '.join(self.folders)} has {self.views} frames of one camera; lower "
                "views, or give longer captures"
            )
        lengths = np.array([len(walk) for _, walk in long_enough], float)
        capture, walk = long_enough[int(rng.choice(len(lengths), p=lengths / lengths.sum()))]
        fitting = [s for s in self.strides if (self.views - 1) * s < len(walk)] or [1]
        stride = int(rng.choice(fitting))
        start = int(rng.integers(len(walk) - (self.views - 1) * stride))
        return self._posed(self._read(capture, walk, start, stride))

    def identity(self) -> Mapping[str, Any]:
        return {
            "captures": [str(Path(folder).expanduser().resolve()) for folder in self.folders],
            "lengths": [len(capture.frames) for capture in self._captures()],
            "views": self.views,
            "long_side": self.long_side,
            "crop": self.crop,
            "strides": self.strides,
            "sensor_depth": self.sensor_depth,
            "frames": self.frames,
            "seed": self.seed,
        }

    def _captures(self) -> list[Capture]:
        return [_opened(folder).select(*parse_range(self.frames)) for folder in self.folders]

    def _read(
        self, capture: Capture, walk: Sequence[CaptureFrame], start: int, stride: int
    ) -> list[Frame]:
        """`views` frames from `start` on; after the last one it goes on before the first."""
        taken: list[Frame] = []
        problem: ValueError | None = None
        places = [*range(start, len(walk), stride), *range(start - stride, -1, -stride)]
        for place in places:
            try:
                frame = load_frame(
                    capture,
                    walk[place],
                    seq=place,
                    long_side=self.long_side,
                    with_depth=self.sensor_depth,
                )
            except ValueError as error:
                problem = error
                continue
            taken.append(frame)
            if len(taken) == self.views:
                return sorted(taken, key=lambda frame: frame.seq)
        raise CaptureError(
            f"{capture.name}: only {len(taken)} of the {self.views} frames that are needed can be "
            f"read; {problem}"
        )

    def _posed(self, frames: Sequence[Frame]) -> PosedSequence:
        height, width = frames[0].image.shape[:2]
        top, left = 0, 0
        if self.crop is not None:
            wanted = self.crop
            if wanted[0] > height or wanted[1] > width or min(wanted) < 1:
                raise CaptureError(
                    f"crop is {wanted[0]}x{wanted[1]}, but the pictures are {height}x{width} at a "
                    f"long side of {self.long_side}; raise long_side or lower crop"
                )
            top, left = (height - wanted[0]) // 2, (width - wanted[1]) // 2
            height, width = wanted
        window = (slice(top, top + height), slice(left, left + width))
        intrinsics = [[f.K[0, 0], f.K[1, 1], f.K[0, 2] - left, f.K[1, 2] - top] for f in frames]
        nothing = np.zeros((height, width), np.float32)
        depth = [nothing if f.depth is None else f.depth[window] for f in frames]
        everything = np.ones((height, width), np.bool_)
        valid = [everything if f.valid is None else f.valid[window] for f in frames]
        image = np.stack([f.image[window] for f in frames]).transpose(0, 3, 1, 2)
        return PosedSequence(
            image=torch.from_numpy(np.ascontiguousarray(image)),
            fxfycxcy=torch.tensor(intrinsics, dtype=torch.float32),
            c2w=torch.from_numpy(np.stack([_pose(f) for f in frames])),
            depth=torch.from_numpy(np.stack(depth)),
            valid=None if np.all(valid) else torch.from_numpy(np.stack(valid)),
        )


def _pose(frame: Frame) -> np.ndarray:
    assert frame.c2w is not None, "captures hold only frames with a pose"
    return np.asarray(frame.c2w, np.float64)


def _walks(capture: Capture) -> list[list[CaptureFrame]]:
    """The frames of each camera, in order: all pictures of a walk are of one size."""
    walks: dict[str, list[CaptureFrame]] = {}
    for frame in capture.frames:
        walks.setdefault(frame.camera, []).append(frame)
    return list(walks.values())


@functools.lru_cache(maxsize=64)
def _opened(folder: str) -> Capture:
    return open_capture(folder)
