"""Fusing key frames: what others refute does not come; what is remembered moves, and is saved."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from engine_helpers import feed, make_engine, office

from gs_decoder.refine import EvidenceConfig
from streamer.session.engine_state import engine_state, restore_engine
from streamer.session.fusing_state import fuser_arrays, fuser_state
from ttt_core import Prediction, ViewBatch
from ttt_core.streaming import StreamingConfig, StreamingModel


class Wall(StreamingModel):
    """Surely a wall two metres away, but for one key frame that sees it right before itself.

    Unsure: only its left half is, the rest seems to be a metre away.
    """

    def __init__(self, wrong: int | None = None, *, unsure: bool = False) -> None:
        super().__init__(StreamingConfig(network=None))
        self.wrong = wrong
        self.unsure = unsure

    def stream(self, state, batch: ViewBatch):
        depth = torch.full((len(batch.keys), *batch.image.shape[2:]), 2.0)
        for place, key in enumerate(batch.keys):
            if key == self.wrong:
                depth[place] = 0.5
        confidence = torch.full_like(depth, 0.9)
        if self.unsure:
            middle = depth.shape[2] // 2
            depth[:, :, middle:], confidence[:, :, middle:] = 1.0, 0.1
        return state, Prediction.plain(depth, confidence, batch.image)


def count_near(engine, frame) -> int:
    """How many splats of the map stand less than a metre before a frame."""
    parameters = engine.refiner.parameters
    means = parameters.means[: parameters.count] + engine.refiner.origin
    depths = (means - frame.c2w[:3, 3]) @ frame.c2w[:3, 2]
    return int(((depths > 0.1) & (depths < 1.0)).sum())


def of_one_place(count: int):
    """A picture again and again, from places a little aside: all see the same wall."""
    frames = []
    for number, frame in enumerate(office(0, 1) * count):
        pose = frame.c2w.copy()
        pose[:3, 3] += pose[:3, 0] * 0.15 * number
        frames.append(dataclasses.replace(frame, seq=number, stamp_ns=number * 10**8, c2w=pose))
    return frames


def test_a_surface_that_others_look_through_does_not_come():
    frames = of_one_place(4)
    near = []
    for evidence in (EvidenceConfig(), EvidenceConfig(witnesses=0)):
        engine, _ = make_engine(model=Wall(wrong=3), evidence=evidence)
        feed(engine, frames, batch=1)
        assert 3 in engine.keyframes
        near.append(count_near(engine, frames[3]))
        engine.close()
    # What is out of the others' sight comes.
    assert near[0] < 0.5 * near[1]


def test_a_surface_that_came_first_leaves_when_later_views_look_through_it():
    frames = of_one_place(5)
    near = []
    for log_odds in (4.0, 0.0):
        evidence = EvidenceConfig(log_odds=log_odds)
        engine, _ = make_engine(model=Wall(wrong=0), evidence=evidence)
        feed(engine, frames, batch=1)
        near.append(count_near(engine, frames[0]))
        engine.close()
    # The later ones do not see all of it.
    assert near[0] < 0.8 * near[1]


def test_where_a_view_is_sure_of_nothing_its_colours_stand_far_behind():
    frames = office(0, 1)
    engine, _ = make_engine(model=Wall(unsure=True))
    engine.process(frames)
    parameters = engine.refiner.parameters
    means = parameters.means[: parameters.count] + engine.refiner.origin
    depths = (means - frames[0].c2w[:3, 3]) @ frames[0].c2w[:3, 2]
    far = depths > 3.0
    np.testing.assert_allclose(depths[~far], 2.0, atol=1e-3)
    np.testing.assert_allclose(depths[far], 4.0, atol=1e-3)
    assert 0 < far.sum() < 0.5 * (~far).sum()
    height, width = frames[0].image.shape[:2]
    _, _, alpha = engine.refiner.render(frames[0].c2w, frames[0].K, width, height)
    assert alpha[:, width // 2 + 4 :].mean() > 0.3
    engine.close()


def test_witnesses_are_bounded_and_go_along_with_corrections():
    engine, _ = make_engine(model=Wall(), evidence=EvidenceConfig(witnesses=3))
    frames = office(0, 40, 48)
    feed(engine, frames)
    before = engine.fuser.state().witnesses
    assert list(before) == list(engine.keyframes)[-3:]
    seq = list(before)[-1]
    scaled = np.diag([2.0, 2.0, 2.0, 1.0]) @ frames[seq].c2w
    engine.apply_poses(1, {seq: scaled}, by="seq", upto=seq)
    after = engine.fuser.state().witnesses[seq]
    np.testing.assert_allclose(after.c2w[:3, 3], scaled[:3, 3])
    np.testing.assert_allclose(after.c2w[:3, :3], frames[seq].c2w[:3, :3], atol=1e-5)
    np.testing.assert_allclose(after.depth, 2.0 * before[seq].depth)
    engine.close()


def test_a_restored_engine_goes_on_to_the_same_bits():
    frames = office(0, 24, 48)
    engine, _ = make_engine(refine_steps=3)
    feed(engine, frames[:12])
    state = engine_state(engine)
    assert state.fuser.witnesses
    kept = fuser_state(fuser_arrays(state.fuser))
    other, _ = make_engine(refine_steps=3)
    views = {frame.seq: frame for frame in frames[:12]}
    restore_engine(other, dataclasses.replace(state, fuser=kept), views)
    for one in (engine, other):
        feed(one, frames[12:])
    a, b = engine.refiner.parameters, other.refiner.parameters
    assert a.count == b.count > 0
    np.testing.assert_array_equal(a.rows[: a.count], b.rows[: b.count])
    engine.close()
    other.close()
