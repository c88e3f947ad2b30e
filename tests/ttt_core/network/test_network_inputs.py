"""Rays, planes and histograms against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_cases import views

from ttt_core.network.inputs import log_planes, patch_centres, pixel_rays, plane_histogram
from ttt_core.network.tokens import cell_cost, expected_depth
from ttt_core.tokens import camera_rays


def test_rays_are_those_of_the_reconstructor() -> None:
    """The same but for their length: here a step is one unit of z-depth."""
    inputs = views(0, streams=2, height=16, width=24)
    camera, pose = inputs.fxfycxcy.double(), inputs.c2w.double()
    expected = camera_rays(camera, pose, 16, 24)
    pixels = patch_centres(16, 24, 1, camera).expand(2, 2, -1, -1)
    origins, directions = pixel_rays(camera, pose, pixels)
    unit = torch.nn.functional.normalize(directions, dim=-1)
    torch.testing.assert_close(unit, expected.directions.flatten(2, 3))
    torch.testing.assert_close(origins.expand_as(directions), expected.origins.flatten(2, 3))
    ahead = (directions * pose[..., None, :3, 2]).sum(-1)
    torch.testing.assert_close(ahead, torch.ones_like(ahead), rtol=0, atol=1e-5)


def test_patch_centres_run_row_by_row() -> None:
    centres = patch_centres(2, 3, 8, torch.zeros(1))
    assert centres.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_planes_are_centres_of_equal_parts() -> None:
    planes = log_planes(torch.tensor([[[0.0, 4.0]]]), 4)
    assert planes[0, 0].tolist() == [0.5, 1.5, 2.5, 3.5]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), planes=st.integers(2, 12))
def test_histogram_against_a_plain_loop(seed: int, planes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    height, width, side = 8, 16, 8
    depth = 3 * torch.rand(1, 2, height, width, generator=generator) - 1.5
    weight = torch.rand(1, 2, height, width, generator=generator)
    log_range = torch.tensor([[[-1.0, 1.0], [-0.5, 1.2]]])
    found = plane_histogram(depth, weight, log_range, planes, side)
    expected = torch.zeros(1, 2, 2, planes)
    for view in range(2):
        near, far = log_range[0, view].tolist()
        for token in range(2):
            picked = [
                (y, x)
                for y in range(1, height, 2)
                for x in range(side * token + 1, side * (token + 1), 2)
            ]
            for y, x in picked:
                place = (float(depth[0, view, y, x]) - near) / (far - near) * planes - 0.5
                low = math.floor(place)
                for plane, share in ((low, 1 - (place - low)), (low + 1, place - low)):
                    if 0 <= plane < planes:
                        part = share * float(weight[0, view, y, x]) / len(picked)
                        expected[0, view, token, plane] += part
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), planes=st.integers(5, 20))
def test_expected_depth_against_a_plain_loop(seed: int, planes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(1, 2, 3, planes, generator=generator)
    log_range = torch.tensor([[[-1.0, 1.0], [0.5, 2.0]]])
    depth, mass = expected_depth(logits, log_range)
    for view in range(2):
        near, far = log_range[0, view].tolist()
        for token in range(3):
            raw = logits[0, view, token].tolist()
            total = sum(math.exp(value) for value in raw)
            share = [math.exp(value) / total for value in raw]
            mode = max(range(planes), key=lambda plane: raw[plane])
            around = range(max(mode - 2, 0), min(mode + 3, planes))
            inside = sum(share[plane] for plane in around)
            mean = sum(
                share[plane] * (near + (far - near) * (plane + 0.5) / planes) for plane in around
            )
            assert float(mass[0, view, token]) == pytest.approx(inside, abs=1e-5)
            assert float(depth[0, view, token]) == pytest.approx(mean / inside, abs=1e-5)


def test_padding_repeats_edges_and_cropping_undoes_it() -> None:
    inputs = views(0, height=13, width=18)
    padded = inputs.padded(8)
    assert padded.image.shape[-2:] == (16, 24) and padded.cells.shape[2:4] == (4, 6)
    assert torch.equal(padded.log_depth[..., :13, :18], inputs.log_depth)
    assert torch.equal(padded.image[..., 15, :18], inputs.image[..., 12, :])
    assert torch.equal(padded.confidence[..., :13, 23], inputs.confidence[..., :, 17])
    assert torch.equal(padded.cells[:, :, :4, 5], inputs.cells[:, :, :, 4])
    whole = views(1)
    again = whole.padded(8).tensors()
    assert again.keys() == whole.tensors().keys()
    assert all(torch.equal(tensor, again[n]) for n, tensor in whole.tensors().items())
    cropped = padded.cropped(8)
    assert torch.equal(cropped.image, padded.image)
    assert inputs.cropped(8).image.shape[-2:] == (8, 16)
    assert inputs.cropped(8).cells.shape[2:4] == (2, 4)


def test_cell_cost_is_read_between_planes() -> None:
    batch = views(0)
    cost = batch.cells[..., :32]
    near, far = (edge[..., None] for edge in batch.log_range.split(1, dim=-1))

    def at(plane: float) -> torch.Tensor:
        place = near + (far - near) * (plane + 0.5) / 32
        return cell_cost(batch, place.expand(batch.cells.shape[:-1]))

    torch.testing.assert_close(at(7), cost[..., 7], rtol=0, atol=1e-4)
    torch.testing.assert_close(at(30.25), 0.75 * cost[..., 30] + 0.25 * cost[..., 31])
    assert torch.equal(at(-5), cost[..., 0]) and torch.equal(at(40), cost[..., 31])
