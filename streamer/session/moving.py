"""What a correction of poses moves: first what is published, then what is worked on."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gs_decoder.refine import Refiner
from streamer.session.ahead import Ahead, Announced
from streamer.session.corrections import Moved
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
    model: StreamModel[Any]
    model_state: Any


def show_moved(work: Work, moved: Moved) -> Announced:
    """Move chunks as readers see them. The rest is to follow."""
    announced = Announced.of(moved)
    motions = announced.chunk_motions(work.chunk_of_seq)
    before = np.reshape([work.residence.pose(chunk) for chunk in motions], (-1, 4, 4))
    after = np.reshape(list(motions.values()), (-1, 4, 4)) @ before
    announced.chunks.update(zip(motions, before))
    work.residence.move(dict(zip(motions, after)))
    work.ahead.put(announced)
    return announced


def follow(work: Work, announced: Announced) -> None:
    """Take along what is refined, what it is refined against, and what later batches build on."""
    if not announced.moved.seqs:
        return
    cameras, growth = announced.cameras, announced.moved.growth()
    newest = announced.moved.seqs[-1]
    work.refiner.move_chunks(
        announced.chunk_motions(work.chunk_of_seq), near=cameras[newest][:3, 3]
    )
    work.refiner.move_views(cameras, growth)
    key_cameras = {seq: camera for seq, camera in cameras.items() if seq in work.keyframes}
    work.selector.move(key_cameras)
    work.model_state = work.model.move(work.model_state, key_cameras, growth)
