"""From predictions to splats in the map: what is new of a key frame.

What a sure surface is seen through is doubted, although it was there first. Where a view is not
sure its colours stand far behind, coarsely: no surface is hidden, and no gap is black.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gs_decoder import ChunkMeta, SplatMap
from gs_decoder.fusion import fuse_view
from gs_decoder.refine import Refiner, doubt_splats
from streamer.frames import Frame
from streamer.session.ahead import Ahead
from streamer.session.batching import splat_residuals
from streamer.session.residence import Residence
from streamer.session.settings import EngineConfig
from ttt_core import Prediction

Float64 = NDArray[np.float64]

_FARTHEST = 98.0
"""Percentile of a view's sure depths."""


class Work(Protocol):
    """What an engine works on."""

    config: EngineConfig
    map: SplatMap
    refiner: Refiner
    ahead: Ahead
    residence: Residence
    chunk_of_seq: dict[int, int]

    def make_room(self, count: int) -> None:
        """So many splats come."""


def fuse_keyframe(
    work: Work, frame: Frame, pose: Float64, prediction: Prediction, place: int, *, trained: bool
) -> int | None:
    """Take in a key frame, number `place` of what was predicted; its chunk if it has one.

    Args:
        pose: (4, 4) rigid camera to world.
        trained: whether a network said how splats differ from what depth makes of them.
    """
    config = work.config.fusion
    height, width = frame.image.shape[:2]
    depth = prediction.depth[place].numpy()
    confidence = prediction.confidence[place].numpy()
    sure = confidence >= config.confidence
    if frame.valid is not None:
        sure &= frame.valid
    # Where a whole view is not, its depths are all there is to go by.
    known = bool(sure.any())
    reach = np.inf
    if known:
        seen = np.where(sure, depth, np.float32(0.0))
        doubt_splats(work.refiner, seen, frame.K, pose, work.config.evidence)
        reach = float(seen.max())
        far = config.far * np.percentile(depth[sure], _FARTHEST)
        depth = np.where(sure, depth, np.float32(far))
    splats = fuse_view(
        prediction.color[place].permute(1, 2, 0).contiguous().numpy(),
        depth,
        confidence,
        (frame.K[0, 0], frame.K[1, 1], frame.K[0, 2], frame.K[1, 2]),
        rendered=work.refiner.render(pose, frame.K, width, height),
        valid=frame.valid,
        residuals=splat_residuals(prediction, place) if trained else None,
        budget=work.config.chunk_budget,
        coarse_holes=known,
        config=config,
    )
    work.make_room(splats.count)
    if not splats.count:
        return None
    # Depths are in world units, so the chunk has scale 1 in this world. Readers see it where
    # corrections that came meanwhile have it.
    meta = ChunkMeta(
        frame_seq=frame.seq,
        stamp_ns=frame.stamp_ns,
        camera=frame.camera,
        T_world_chunk=work.ahead.join(frame.seq, work.map.next_id, pose),
    )
    chunk = work.map.add(meta, splats)
    work.chunk_of_seq[frame.seq] = chunk
    # Fillers far behind would make a chunk seem to be in sight of everybody.
    near = np.flatnonzero(splats.means[:, 2].numpy() <= reach)
    work.residence.add(chunk, splats.select(near) if len(near) else splats)
    work.refiner.add_splats(chunk, splats.transform(work.refiner.local(pose)))
    return chunk
