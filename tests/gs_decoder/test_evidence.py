"""Splats that a view surely looks through are doubted, and leave in the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gs_decoder import Splats
from gs_decoder.refine import EvidenceConfig, RefineConfig, Refiner, doubt_splats
from gs_decoder.refine.renderers import NumbaViewRenderer

K = np.array([[20.0, 0, 16], [0, 20.0, 12], [0, 0, 1]])


def wall(depth: float) -> np.ndarray:
    """What a camera surely sees of a wall, but for the picture's left column."""
    picture = np.full((24, 32), depth, np.float32)
    picture[:, 0] = 0.0
    return picture


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
    assert not refiner.has_changes
    config = EvidenceConfig(margin=0.1, log_odds=1.0, cull=0.05)
    assert doubt_splats(refiner, wall(2.0), K, np.eye(4), config) == 1
    after = opacities(refiner)
    assert after[0] == pytest.approx(1 / (1 + np.e), abs=1e-4)
    assert [after[chunk] for chunk in (1, 2, 3, 4)] == pytest.approx([0.5] * 4)
    ((chunk, shown),) = refiner.take(dict.fromkeys(refiner.changed_chunks(range(5)), np.eye(4)))
    assert chunk == 0 and shown.opacities.item() == pytest.approx(after[0])
    for _ in range(2):
        doubt_splats(refiner, wall(2.0), K, np.eye(4), config)
    assert sorted(opacities(refiner)) == [1, 2, 3, 4]
    refiner.close()


def test_a_pixel_that_is_not_sure_says_nothing():
    refiner = refiner_with([1.0])
    blind = np.zeros((24, 32), np.float32)
    assert doubt_splats(refiner, blind, K, np.eye(4), EvidenceConfig()) == 0
    refiner.close()


def test_far_from_the_worlds_origin_the_verdict_is_the_same():
    place = (4.0e6, -2.0e6, 30.0)
    refiner = refiner_with([1.0, 2.0], place)
    pose = np.eye(4)
    pose[:3, 3] = place
    assert doubt_splats(refiner, wall(2.0), K, pose, EvidenceConfig()) == 1
    refiner.close()
