"""Which frames of a batch become key frames, by what the map already shows of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gs_decoder.refine import Refiner
from streamer.frames import Frame
from streamer.session.batching import filled_depth
from streamer.session.keyframes import KeyframeSelector
from streamer.session.sight import farthest

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class Work(Protocol):
    """What an engine works on."""

    refiner: Refiner
    selector: KeyframeSelector
    scene_depth: float | None


@dataclass(frozen=True, slots=True)
class Judged:
    """A frame with the map's depth (H, W) as it sees it, and how far it sees."""

    frame: Frame
    map_depth: Float32
    sight: float
    is_keyframe: bool


def judge_frames(
    work: Work, frames: Sequence[Frame], poses: Mapping[int, Float64], coarseness: float
) -> Iterator[Judged]:
    """One frame after the other, as they are asked for; key frames are remembered as such.

    Args:
        poses: seq → rigid (4, 4) camera to world.
        coarseness: as in `KeyframeSelector.is_keyframe`.
    """
    for frame in frames:
        pose = poses[frame.seq]
        rendered = work.refiner.render(pose, frame.K, *frame.image.shape[1::-1])
        map_depth = filled_depth(frame, rendered)
        filled = map_depth > 0.0
        depth = float(np.median(map_depth[filled])) if filled.any() else work.scene_depth
        # Until something is known of the scene every frame is worth a look.
        unseen = 1.0 - float(filled.mean())
        chosen = depth is None or work.selector.is_keyframe(pose, depth, unseen, coarseness)
        if chosen:
            work.selector.add(frame.seq, pose)
        yield Judged(frame, map_depth, farthest(map_depth), chosen)
