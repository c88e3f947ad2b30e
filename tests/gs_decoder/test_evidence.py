"""Surfaces that other views look through: doubted where they are, refused where they come."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gs_decoder import Splats
from gs_decoder.refine import (
    EvidenceConfig,
    RefineConfig,
    Refiner,
    Witness,
    contradicted,
    doubt_splats,
)
from gs_decoder.refine.renderers import NumbaViewRenderer

K = np.array([[20.0, 0, 16], [0, 20.0, 12], [0, 0, 1]])


def witness(depth: float, shift: float = 0.0) -> Witness:
    """A wall that the camera looks at from `shift` metres aside; sure but for its left column."""
    picture = np.full((24, 32), depth, np.float32)
    picture[:, 0] = 0.0
    pose = np.eye(4)
    pose[0, 3] = shift
    return Witness(picture, K, pose)


def refiner_with(depths: list[float], origin: tuple[float, float, float] = (0, 0, 0)) -> Refiner:
    """Splats of opacity 0.5 before the camera, each a chunk of its own."""
    refiner = Refiner(NumbaViewRenderer(1), RefineConfig(workers=1))
    refiner.origin = np.array(origin, np.float64)
    for chunk, depth in enumerate(depths):
        refiner.add_splats(
            chunk,
            Splats(
                means=torch.tensor([[0.0, 0.0, depth]]),
                quats_wxyz=torch.tensor([[1.0, 0, 0, 0]]),
                scales=torch.full((1, 3), 0.05),
                opacities=torch.tensor([0.5]),
                sh=torch.zeros(1, 1, 3),
            ),
        )
    return refiner


def opacities(refiner: Refiner) -> dict[int, float]:
    parameters = refiner.parameters
    count = parameters.count
    return dict(zip(parameters.chunk[:count].tolist(), parameters.opacities[:count].tolist()))


def test_only_splats_in_free_space_are_doubted_and_they_leave_in_the_end():
    refiner = refiner_with([1.0, 1.9, 2.0, 3.0, -1.0])
    refiner.take_changed(range(5))
    config = EvidenceConfig(margin=0.1, log_odds=1.0, cull=0.05)
    assert doubt_splats(refiner, witness(2.0), config) == 1
    after = opacities(refiner)
    assert after[0] == pytest.approx(1 / (1 + np.e), abs=1e-4)
    assert [after[chunk] for chunk in (1, 2, 3, 4)] == pytest.approx([0.5] * 4)
    assert [chunk for chunk, _ in refiner.take_changed(range(5))] == [0]
    for _ in range(2):
        doubt_splats(refiner, witness(2.0), config)
    assert sorted(opacities(refiner)) == [1, 2, 3, 4]
    refiner.close()


def test_a_pixel_that_is_not_sure_says_nothing():
    refiner = refiner_with([1.0])
    blind = Witness(np.zeros((24, 32), np.float32), K, np.eye(4))
    assert doubt_splats(refiner, blind, EvidenceConfig()) == 0
    refiner.close()


def test_far_from_the_worlds_origin_the_verdict_is_the_same():
    place = (4.0e6, -2.0e6, 30.0)
    refiner = refiner_with([1.0, 2.0], place)
    seen = witness(2.0)
    moved = Witness(seen.depth, K, seen.c2w.copy())
    moved.c2w[:3, 3] = place
    assert doubt_splats(refiner, moved, EvidenceConfig()) == 1
    refiner.close()


@given(st.integers(0, 4), st.integers(0, 4))
def test_a_surface_comes_unless_more_views_look_through_it_than_find_it(through, finding):
    new = witness(2.0)
    others = [witness(3.0, 0.1)] * through + [witness(2.0, 0.1)] * finding
    refused = contradicted(new, others, EvidenceConfig())
    # Half a pixel's column at the border is out of the others' sight, or theirs is not sure.
    inside = refused[:, 4:-4]
    assert inside.all() if through > finding else not inside.any()
    assert not refused[:, 0].any()


def test_what_lies_behind_the_others_is_hidden_not_refuted():
    assert not contradicted(witness(3.0), [witness(2.0, 0.1)] * 3, EvidenceConfig()).any()
