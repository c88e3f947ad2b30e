"""All that an engine carries: copied between two batches, and given to another engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gs_decoder import Chunk
from gs_decoder.copy_room import CopyRoom
from gs_decoder.refine import RefinerState, refiner_state, restore_refiner
from streamer.frames import Frame
from streamer.session.batching import in_map_units, refine_view
from streamer.session.corrections import Trajectory, TrajectoryState, rigid, scale_of
from streamer.session.engine import Engine
from streamer.session.keyframe_table import KeyframeTable
from streamer.session.spilled_state import ResidenceState
from ttt_core.stream_model import CarriedState

Float64 = NDArray[np.float64]

_FRAMES_TO_COME = 1024
"""While room for a copy is made."""


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


@dataclass(frozen=True, slots=True)
class StateRoom:
    """Memory for a copy of what is large and not shared: splats that are ready, frames' poses."""

    splats: CopyRoom
    frames: CopyRoom

    def holds(self, engine: Engine) -> bool:
        """Whether the engine's state fits in as it is now."""
        splats, frames = engine.refiner.parameters.count, len(engine.trajectory)
        return splats <= self.splats.rows and frames <= self.frames.rows


def room_maker(engine: Engine) -> Callable[[], StateRoom]:
    """What makes room for a copy, in any thread: for what there is now, and what a batch may bring
    meanwhile."""
    parameters, config = engine.refiner.parameters, engine.config
    most = max(parameters.count, config.resident_budget)
    splats = min(parameters.count + config.batch * config.chunk_budget, most)
    frames = len(engine.trajectory) + _FRAMES_TO_COME
    rows, poses = parameters.used(), engine.trajectory.used()
    return lambda: StateRoom(CopyRoom(splats, rows), CopyRoom(frames, poses))


def engine_state(engine: Engine, room: StateRoom | None = None) -> EngineState:
    """Copy an engine's state, between two batches; it is none the wiser.

    Args:
        room: that holds it, and no other copy any more; None: fresh memory, which takes several
            times as long.
    """
    return EngineState(
        frames_done=engine.frames_done,
        scene_depth=engine.scene_depth,
        next_chunk=engine.map.next_id,
        model=engine.model_state,
        chunks=tuple(engine.map.chunks.values()),
        keyframes=engine.keyframes.copy(),
        places=engine.selector.places(),
        trajectory=engine.trajectory.state(None if room is None else room.frames),
        refiner=refiner_state(engine.refiner, None if room is None else room.splats),
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
