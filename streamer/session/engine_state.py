"""All that an engine carries: copied between two batches, and given to another engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gs_decoder import Chunk
from gs_decoder.refine import CopyRoom, RefinerState, refiner_state, restore_refiner
from streamer.frames import Frame
from streamer.session.batching import in_map_units, refine_view
from streamer.session.corrections import Trajectory, TrajectoryState, rigid, scale_of
from streamer.session.engine import Engine
from streamer.session.keyframe_table import KeyframeTable
from streamer.session.spilled_state import ResidenceState
from ttt_core.stream_model import CarriedState

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """A copy of an engine's state; what is never changed in place is shared with the engine.

    Attributes:
        next_chunk: id of the next new chunk.
        residence: which chunks rest in which files.
        places: what the key frame selector remembers (`KeyframeSelector.places`).
    """

    frames_done: int
    scene_depth: float | None
    next_chunk: int
    model: CarriedState
    chunks: tuple[Chunk, ...]
    keyframes: KeyframeTable
    places: tuple[NDArray[np.int64], Float64, Float64]
    trajectory: TrajectoryState
    refiner: RefinerState
    residence: ResidenceState


def engine_state(engine: Engine, room: CopyRoom | None = None) -> EngineState:
    """Copy an engine's state, between two batches; it is none the wiser.

    Args:
        room: for the splats that it holds ready, as `refiner_state` takes it.
    """
    return EngineState(
        frames_done=engine.frames_done,
        scene_depth=engine.scene_depth,
        next_chunk=engine.map.next_id,
        model=engine.model_state,
        chunks=tuple(engine.map.chunks.values()),
        keyframes=engine.keyframes.copy(),
        places=engine.selector.places(),
        trajectory=engine.trajectory.state(),
        refiner=refiner_state(engine.refiner, room),
        residence=engine.residence.state(),
    )


def restore_engine(engine: Engine, state: EngineState, frames: Mapping[int, Frame]) -> None:
    """Bring an engine that has taken no frame yet to a state; its map's revisions go on growing.

    Args:
        frames: those of `state.refiner.view_keys`, as they came; refinement does without the ones
            that are not there.
    """
    assert engine.frames_done == 0, "an engine is restored before its first frame"
    engine.frames_done = state.frames_done
    engine.scene_depth = state.scene_depth
    engine.model_state = state.model
    engine.trajectory = Trajectory.restored(state.trajectory)
    engine.selector.remember(*state.places)
    # A chunk that rests may be in the map or not.
    chunks = {held.frame_seq: held.id for held in state.residence.resting}
    chunks |= {chunk.frame_seq: chunk.id for chunk in state.chunks}
    for keyframe in state.keyframes.values():
        engine.keyframes.add(keyframe)
        if keyframe.seq in chunks:
            engine.chunk_of_seq[keyframe.seq] = chunks[keyframe.seq]
    engine.residence.restore(state.residence)
    engine.map.restore(state.chunks, state.next_chunk)
    views = {}
    for seq, frame in frames.items():
        pose = engine.trajectory.pose(seq)
        views[seq] = refine_view(in_map_units(frame, scale_of(pose)), rigid(pose))
    restore_refiner(engine.refiner, state.refiner, views)
