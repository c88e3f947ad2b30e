"""Pixels that were measured, and pixels that say nothing: what is predicted and written there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from network_cases import build, seeded, views

from ttt_core.network import MEMORIES, PATCH, NetworkInput, NetworkOutput
from ttt_core.network.tokens import patches

HEIGHT, WIDTH = 16, 24


def some(seed: int) -> torch.Tensor:
    return torch.rand(1, 2, HEIGHT, WIDTH, generator=seeded(seed)) > 0.5


def predicted(inputs: NetworkInput, memory: str = "ridge") -> NetworkOutput:
    network = build(memory, acting=0.3)
    return network(inputs, network.initial_state(1), write=True)[0]


@pytest.mark.parametrize("memory", MEMORIES)
def test_masks_that_exclude_nothing_change_nothing(memory: str) -> None:
    inputs = views(0)
    nothing = torch.zeros_like(inputs.log_depth, dtype=torch.bool)
    plain = predicted(inputs, memory)
    masked = predicted(replace(inputs, settled=nothing, valid=~nothing), memory)
    assert torch.equal(plain.log_depth, masked.log_depth)
    assert torch.equal(plain.confidence_logit, masked.confidence_logit)
    if plain.record is not None:
        assert masked.record is not None
        assert torch.equal(plain.record.weights, masked.record.weights)
        assert torch.equal(plain.record.pixels, masked.record.pixels)


def test_measured_pixels_stay_and_the_others_do_not_notice() -> None:
    inputs, settled = views(0), some(1)
    plain, output = predicted(inputs), predicted(replace(inputs, settled=settled))
    assert torch.equal(output.log_depth[settled], inputs.log_depth[settled])
    assert torch.equal(output.confidence[settled], inputs.confidence[settled])
    assert torch.equal(output.log_depth[~settled], plain.log_depth[~settled])
    assert torch.equal(output.confidence[~settled], plain.confidence[~settled])
    assert (plain.log_depth - inputs.log_depth)[settled].abs().max() > 0.01


def test_what_was_measured_is_what_is_written() -> None:
    inputs = views(0)
    everything = torch.ones_like(inputs.log_depth, dtype=torch.bool)
    record = predicted(replace(inputs, settled=everything)).record
    assert record is not None
    best = patches(inputs.confidence, PATCH).argmax(-1, keepdim=True)
    surest = patches(inputs.log_depth, PATCH).gather(-1, best).squeeze(-1)
    assert torch.equal(record.log_depth, surest)
    corrected = predicted(inputs).record
    assert corrected is not None and not torch.equal(corrected.log_depth, surest)


def test_the_surest_valid_pixel_writes_and_tokens_without_one_do_not() -> None:
    inputs, valid = views(0), some(2)
    valid[0, 0, :8, 8:16] = False
    valid[0, 1, 8:] = False
    masked = predicted(replace(inputs, valid=valid))
    record = masked.record
    assert record is not None
    assert torch.equal(masked.confidence[~valid], inputs.confidence[~valid])
    silent = torch.zeros(1, 2, 6, dtype=torch.bool)
    silent[0, 0, 1] = True
    silent[0, 1, 3:] = True
    assert not record.weights[silent].any() and (record.weights[~silent] > 0).all()
    for view, token in torch.nonzero(~silent[0]).tolist():
        x, y = (record.pixels[0, view, token] - 0.5).long().tolist()
        row, column = divmod(token, WIDTH // PATCH)
        tile = (view, slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
        assert valid[0, view, y, x]
        assert masked.confidence[0, view, y, x] == masked.confidence[0][tile][valid[0][tile]].max()
        assert record.log_depth[0, view, token] == masked.log_depth[0, view, y, x]


def test_a_batch_without_a_valid_pixel_leaves_nothing_behind() -> None:
    network = build("ridge", acting=0.3)
    inputs = replace(views(0), valid=torch.zeros(1, 2, HEIGHT, WIDTH, dtype=torch.bool))
    _, memory = network(inputs, network.initial_state(1), write=True)
    assert not memory["gram"].any() and not memory["moment"].any()
    assert int(memory["written"]) == 1


@pytest.mark.parametrize("size", [(1, 1), (9, 17), (13, 24)])
def test_padding_writes_nothing(size: tuple[int, int]) -> None:
    height, width = size
    inputs = views(0, height=height, width=width)
    # the last row and column are the surest: their copies in the padding are as sure
    inputs.confidence[..., -1, :] = 1.0
    inputs.confidence[..., -1] = 1.0
    network = build("ridge")
    padded = inputs.padded(PATCH)
    record = network(padded, network.initial_state(1), write=True)[0].record
    assert record is not None and (record.weights > 0).all()
    assert (record.pixels[..., 0] < width).all() and (record.pixels[..., 1] < height).all()


def test_masks_are_padded_cropped_mapped_and_joined() -> None:
    inputs = views(0, height=13, width=18)
    mask = torch.ones(1, 2, 13, 18, dtype=torch.bool)
    for given in (replace(inputs, settled=mask, valid=mask), inputs):
        padded = given.padded(PATCH)
        assert padded.valid is not None and padded.valid.shape == padded.log_depth.shape
        assert padded.valid[..., :13, :18].all() and int(padded.valid.sum()) == mask.numel()
    assert inputs.padded(PATCH).settled is None
    given = replace(inputs, settled=mask)
    cut = given.cropped(PATCH)
    assert cut.settled is not None and cut.settled.shape == cut.log_depth.shape
    assert cut.valid is None and cut.padded(PATCH).valid is None
    both = NetworkInput.joined([given, given.map(torch.clone)])
    assert both.valid is None and both.settled is not None and len(both.settled) == 2
    assert both.image.shape == (2, *inputs.image.shape[1:])
