"""Which frames of a batch become key frames, by what the map already shows of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gs_decoder.refine import Refiner
from streamer.frames import Frame
from streamer.session.batching import filled_depth, picked, reduced
from streamer.session.keyframe_table import KeyframeTable
from streamer.session.keyframes import KeyframeSelector
from streamer.session.pace import Pace, in_turn
from streamer.session.sight import farthest

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class Work(Protocol):
    """What an engine works on."""

    refiner: Refiner
    selector: KeyframeSelector
    scene_depth: float | None
    keyframes: KeyframeTable
    pace: Pace


@dataclass(frozen=True, slots=True)
class Judged:
    """A frame with the map's depth (H, W) as it sees it, and how far it sees."""

    frame: Frame
    map_depth: Float32
    sight: float
    is_keyframe: bool

    def reduced(self, factor: float) -> Judged:
        """In pixels `factor` times as large."""
        frame = reduced(self.frame, factor)
        return replace(self, frame=frame, map_depth=picked(self.map_depth, frame))


def by_size(judged: Sequence[Judged]) -> Iterable[list[Judged]]:
    """One camera's images have one size; a batch of several cameras goes through by size."""
    sizes: dict[tuple[int, ...], list[Judged]] = {}
    for one in judged:
        sizes.setdefault(one.frame.image.shape, []).append(one)
    return sizes.values()


def judge_frames(
    work: Work, frames: Sequence[Frame], poses: Mapping[int, Float64]
) -> Iterator[Judged]:
    """One frame after the other, as they are asked for; key frames are remembered as such.

    Where there is time for some of them alone, these are not the first ones.

    Args:
        poses: seq → rigid (4, 4) camera to world.
    """
    most = work.pace.affords(*frames[0].image.shape[:2]) if frames else None
    if most is not None and not work.keyframes:
        # A map begins, whatever that costs.
        most = max(1, most)
    taken = 0
    for place, frame in enumerate(frames):
        pose = poses[frame.seq]
        rendered = work.refiner.render(pose, frame.K, *frame.image.shape[1::-1])
        map_depth = filled_depth(frame, rendered)
        filled = map_depth > 0.0
        depth = float(np.median(map_depth[filled])) if filled.any() else work.scene_depth
        # Until something is known of the scene every frame is worth a look.
        unseen = 1.0 - float(filled.mean())
        chosen = in_turn(place, taken, most, len(frames)) and (
            depth is None or work.selector.is_keyframe(pose, depth, unseen)
        )
        if chosen:
            taken += 1
            work.selector.add(frame.seq, pose)
        yield Judged(frame, map_depth, farthest(map_depth), chosen)
