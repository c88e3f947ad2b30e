"""From predictions to splats in the map: what is new of a key frame.

A sure surface comes unless other key frames look through its place, and what it looks through
itself is doubted: who came first decides nothing. Where a view is sure of nothing its colours stand
far behind, coarsely: no surface is hidden, and no gap is black.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gs_decoder import ChunkMeta, SplatMap, Splats
from gs_decoder.fusion import fuse_view
from gs_decoder.refine import Refiner, Witness, contradicted, doubt_splats, local_pose
from streamer.frames import Frame
from streamer.session.batching import splat_residuals
from streamer.session.corrections import Trajectory, rigid
from streamer.session.fusing_state import FuserState
from streamer.session.keyframe_table import KeyframeTable
from streamer.session.residence import Residence
from streamer.session.settings import EngineConfig
from ttt_core import Prediction

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FARTHEST = 98.0
"""Percentile of a view's sure depths."""


class Work(Protocol):
    """What an engine works on."""

    config: EngineConfig
    map: SplatMap
    refiner: Refiner
    keyframes: KeyframeTable
    trajectory: Trajectory
    residence: Residence
    chunk_of_seq: dict[int, int]

    def make_room(self, count: int) -> None:
        """So many splats come."""


class Fuser:
    """Adds key frames to an engine's map."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._witnesses: dict[int, Witness] = {}

    def fuse(
        self, frame: Frame, pose: Float64, prediction: Prediction, place: int, *, trained: bool
    ) -> int | None:
        """Take in a key frame, number `place` of what was predicted; its chunk if it has one.

        Args:
            pose: (4, 4) rigid camera to world.
            trained: whether a network said how splats differ from what depth makes of them.
        """
        work = self._work
        config = work.config.fusion
        height, width = frame.image.shape[:2]
        depth = prediction.depth[place].numpy()
        confidence = prediction.confidence[place].numpy()
        sure = confidence >= config.confidence
        valid = frame.valid
        if valid is not None:
            sure &= valid
        known = bool(sure.any())
        if known:
            refuted = self._weigh(frame, pose, depth, sure)
            valid = ~refuted if valid is None else valid & ~refuted
            far = config.far * np.percentile(depth[sure], _FARTHEST)
            depth = np.where(sure, depth, np.float32(far))
        splats = fuse_view(
            prediction.color[place].permute(1, 2, 0).contiguous().numpy(),
            depth,
            confidence,
            (frame.K[0, 0], frame.K[1, 1], frame.K[0, 2], frame.K[1, 2]),
            rendered=work.refiner.render(pose, frame.K, width, height),
            valid=valid,
            residuals=splat_residuals(prediction, place) if trained else None,
            budget=work.config.chunk_budget,
            coarse_holes=known,
            config=config,
        )
        return self._add(frame, pose, splats, float(depth[sure].max()) if known else np.inf)

    def _weigh(self, frame: Frame, pose: Float64, depth: Float32, sure: Mask) -> Mask:
        """Hold a key frame's depth against map and other key frames: (H, W) what these refute."""
        work, config = self._work, self._work.config.evidence
        witness = Witness(np.where(sure, depth, np.float32(0.0)), frame.K, pose)
        doubt_splats(work.refiner, witness, config)
        refuted = contradicted(witness, self._witnesses.values(), config)
        self._witnesses[frame.seq] = witness
        if len(self._witnesses) > config.witnesses:
            del self._witnesses[next(iter(self._witnesses))]
        return refuted

    def _add(self, frame: Frame, pose: Float64, splats: Splats, reach: float) -> int | None:
        """Splats in a key frame's camera, surfaces within `reach`, become a chunk."""
        work = self._work
        work.make_room(splats.count)
        if not splats.count:
            return None
        # Depths are in world units, so the chunk has scale 1 in this world.
        meta = ChunkMeta(
            frame_seq=frame.seq,
            stamp_ns=frame.stamp_ns,
            camera=frame.camera,
            T_world_chunk=rigid(work.trajectory.pose(frame.seq)),
        )
        chunk = work.map.add(meta, splats)
        work.chunk_of_seq[frame.seq] = chunk
        # Fillers far behind would make a chunk seem to be in sight of everybody.
        near = np.flatnonzero(splats.means[:, 2].numpy() <= reach)
        work.residence.add(chunk, splats.select(near) if len(near) else splats)
        work.refiner.add_splats(chunk, splats.transform(local_pose(work.refiner, pose)))
        return chunk

    # Corrections and states ------------------------------------------------------------------

    def move(self, cameras: Mapping[int, Float64], growth: Mapping[int, float]) -> None:
        """Corrected cameras of key frames, and by how much the world around each grew."""
        for seq in self._witnesses.keys() & cameras.keys():
            old = self._witnesses[seq]
            depth = old.depth * np.float32(growth[seq]) if growth[seq] != 1.0 else old.depth
            self._witnesses[seq] = replace(old, depth=depth, c2w=cameras[seq])

    def state(self) -> FuserState:
        """A copy, between two batches."""
        return FuserState(dict(self._witnesses))

    def restore(self, state: FuserState) -> None:
        """Go on from a copy."""
        self._witnesses = dict(state.witnesses)
