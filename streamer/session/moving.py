"""What a correction of poses moves: first what is published, then what is worked on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gs_decoder.refine import Refiner, offset_motion
from streamer.session.ahead import Ahead, Announced
from streamer.session.aside import Aside, Attend
from streamer.session.corrections import Moved, Trajectory, rigid, scale_of
from streamer.session.keyframe_table import KeyframeTable
from streamer.session.keyframes import KeyframeSelector
from streamer.session.residence import Residence
from ttt_core.stream_model import StreamModel

Float64 = NDArray[np.float64]


class Work(Protocol):
    """What an engine works on."""

    refiner: Refiner
    selector: KeyframeSelector
    keyframes: KeyframeTable
    residence: Residence
    chunk_of_seq: dict[int, int]
    ahead: Ahead
    trajectory: Trajectory
    model: StreamModel[Any]
    model_state: Any


def show_moved(work: Work, moved: Moved) -> Announced:
    """Move chunks as readers see them. The rest is to follow."""
    announced = Announced.of(moved)
    chunks, motions = announced.chunk_motions(work.chunk_of_seq)
    before = work.residence.poses(chunks)
    announced.chunks.update(zip(chunks, before))
    work.residence.move(dict(zip(chunks, motions @ before)))
    work.ahead.put(announced)
    return announced


def show_found(work: Work) -> None:
    """Move key frames to where refinement has found them since the last call."""
    found = work.refiner.offsets.take_changed(work.keyframes)
    cameras = {seq: rigid(work.trajectory.pose(seq)) for seq in found}
    work.keyframes.move(shown_cameras(work, cameras))


def shown_cameras(work: Work, cameras: Mapping[int, Float64]) -> dict[int, Float64]:
    """Where readers see these frames: their offsets by refinement on top of corrected poses.

    Args:
        cameras: seq → (4, 4) rigid camera to world, as `work.trajectory` has it.
    """
    shown = dict(cameras)
    for seq, camera in cameras.items():
        offset = work.refiner.offsets.get(seq)
        if offset is not None and seq in work.keyframes:
            corrected = work.trajectory.pose(seq)
            # An offset is in units of the world that is worked on.
            growth = scale_of(corrected) / scale_of(work.ahead.frame(seq, corrected))
            shown[seq] = camera @ offset_motion(offset * np.repeat((1.0, growth), 3))
    return shown


def follow(work: Work, announced: Announced, aside: Aside, attend: Attend) -> None:
    """Take along what is refined, what it is refined against, and what later batches build on.

    Args:
        attend: called while a thread moves splats, which takes as long as some steps, and the
            model's memory, which takes as long as a batch.
    """
    if not announced.moved.seqs:
        return
    cameras, growth = announced.cameras, announced.moved.growth()
    newest = announced.moved.seqs[-1]
    motions = dict(zip(*announced.chunk_motions(work.chunk_of_seq)))
    key_cameras = {seq: cameras[seq] for seq in work.keyframes.those(cameras)}
    # First what announcing looks at: who does so meanwhile finds it where this correction has it.
    work.refiner.move_views(cameras, growth)
    work.selector.move(key_cameras)
    aside.call(attend, work.refiner.move_chunks, motions, near=cameras[newest][:3, 3])
    work.model_state = aside.call(attend, work.model.move, work.model_state, key_cameras, growth)
