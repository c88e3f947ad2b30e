"""Fusing key frames: what is seen through leaves, what is not known stands far behind."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from engine_helpers import feed, make_engine, office

from gs_decoder.refine import EvidenceConfig
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
