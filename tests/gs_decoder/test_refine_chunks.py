"""Chunks under refinement: moves that change nothing else, and who is told of what changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from refine_scenes import refiner_with_views, some_splats

from gs_decoder.chunk import importance_order
from gs_decoder.refine import RefineConfig, Refiner
from gs_decoder.refine.renderers import NumbaViewRenderer


def similarity(seed):
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    matrix = np.eye(4)
    matrix[:3, :3] = rng.uniform(0.5, 2.0) * rotation
    matrix[:3, 3] = rng.normal(size=3)
    return matrix


def test_moving_a_chunk_is_what_the_splats_transform_says_and_leaves_the_others():
    refiner = Refiner(NumbaViewRenderer(1), RefineConfig(workers=1))
    refiner.origin = np.array([10.0, -3.0, 2.0])
    parts = {chunk: some_splats(chunk, 40) for chunk in (4, 9, 2)}
    for chunk, splats in parts.items():
        refiner.add_splats(chunk, splats)
    motion = similarity(5)
    refiner.move_chunks({9: motion})
    to_world = np.eye(4)
    to_world[:3, 3] = refiner.origin
    expected = parts[9].transform(np.linalg.inv(to_world) @ motion @ to_world)
    members = np.flatnonzero(refiner.parameters.chunk[:120] == 9)
    moved = refiner.parameters.splats(members)
    assert np.allclose(moved.means, refiner.parameters.means[members]), "what is worked on too"
    assert torch.allclose(moved.means, expected.means, atol=1e-4)
    assert torch.allclose(moved.scales, expected.scales, rtol=1e-4)
    dots = (moved.quats_wxyz * torch.nn.functional.normalize(expected.quats_wxyz, dim=-1)).sum(-1)
    assert torch.allclose(dots.abs(), torch.ones(40), atol=1e-5)
    for chunk in (4, 2):
        rest = refiner.parameters.splats(np.flatnonzero(refiner.parameters.chunk[:120] == chunk))
        assert torch.allclose(rest.means, parts[chunk].means)
    refiner.close()


def told(refiner, chunks, most=None):
    """The chunks that readers are told of, as a session does it."""
    changed = refiner.changed_chunks(chunks, most)
    return [chunk for chunk, _ in refiner.take(dict.fromkeys(changed, np.eye(4)))]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_chunks_are_taken_in_their_own_frames_as_transforming_them_says(degree):
    config = RefineConfig(workers=1, sh_degree=degree)
    refiner = Refiner(NumbaViewRenderer(1), config)
    refiner.origin = np.array([10.0, -3.0, 2.0])
    poses = {chunk: similarity(chunk) for chunk in (4, 9, 2)}
    for chunk in poses:
        refiner.add_splats(chunk, some_splats(chunk, 40).with_sh_degree(degree))
    parameters = refiner.parameters
    # As after steps: coefficients of every band, and an average that is not the last step.
    rng = np.random.default_rng(degree)
    parameters.average[: parameters.count] += rng.normal(
        scale=0.1, size=parameters.average[: parameters.count].shape
    ).astype(np.float32)
    refiner._fit_buffers()
    refiner._touched[: parameters.count] = True
    to_origin = np.eye(4)
    to_origin[:3, 3] = -refiner.origin
    taken = refiner.take({chunk: poses[chunk] for chunk in (9, 2)})
    assert [chunk for chunk, _ in taken] == [2, 9]
    for chunk, splats in taken:
        members = np.flatnonzero(parameters.chunk[: parameters.count] == chunk)
        expected = parameters.splats(members).transform(np.linalg.inv(to_origin @ poses[chunk]))
        expected = expected.select(importance_order(expected))
        assert splats.sh_degree == degree
        for name, value in splats.to_numpy().items():
            there = getattr(expected, name).numpy()
            assert np.allclose(value, there, rtol=1e-4, atol=1e-5), name
    assert refiner.changed_chunks({2, 4, 9}) == [4]
    refiner.close()


def test_of_many_changed_chunks_each_has_its_turn():
    refiner = refiner_with_views(6)
    for chunk in range(20, 30):
        refiner.add_splats(chunk, some_splats(chunk, 3))
    everybody = set(range(20, 29))
    assert not refiner.has_changes
    refiner.remove(np.flatnonzero(refiner.parameters.chunk[: refiner.parameters.count] == 7))
    refiner.remove(np.array([3 * place for place in range(10)]))
    turns = [chunk for _ in range(3) for chunk in told(refiner, everybody, most=4)]
    assert sorted(turns) == sorted(everybody), "each of them once, and nobody else"
    assert not refiner.has_changes
    # Whoever changes all the time does not keep the others from their turn.
    for expected in ([20, 21], [22, 23], [24, 25]):
        refiner.remove(np.flatnonzero(refiner.parameters.chunk[: refiner.parameters.count] == 99))
        refiner._touched[: refiner.parameters.count] = True
        assert told(refiner, set(range(20, 26)), most=2) == expected
    refiner.close()


def test_changed_chunks_are_told_once_and_transparent_splats_leave():
    refiner = refiner_with_views(6)
    refiner.add_splats(8, some_splats(6, 20, shift=50.0))
    assert not refiner.has_changes
    refiner.step()
    assert told(refiner, {7, 8}) == [7]
    assert told(refiner, {7, 8}) == []
    refiner.parameters.rows[:5, 10] = -8.0
    refiner.parameters.activate()
    assert refiner.prune() == 5
    assert told(refiner, {7, 8}) == [7]
    assert refiner.parameters.count == 315
    refiner.close()
