"""Training sequences to batches of streams."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sequence_cases import UNIT, sequence

from ttt_core.errors import SequenceError
from ttt_core.network import PATCH
from ttt_core.training.collate import Draw, collate


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_streams_lie_side_by_side_in_order_of_arrival() -> None:
    sequences = [sequence(0), sequence(1)]
    steps = collate(sequences, rng())
    assert len(steps) == 3
    for number, step in enumerate(steps):
        assert step.known.shape == step.sky.shape == (2, 2, 16, 24)
        for stream, given in enumerate(sequences):
            chosen = given.batch == number
            image = given.image[chosen][..., :16, :24].float() / 255
            assert torch.equal(step.views.image[stream], image)
            assert torch.equal(step.views.fxfycxcy[stream], given.fxfycxcy[chosen])


def test_everything_is_in_the_unit_and_frame_of_the_submap() -> None:
    given = sequence(0)
    steps = collate([given], rng())
    for number, step in enumerate(steps):
        chosen = given.batch == number
        cut = (..., slice(16), slice(24))
        prior = given.prior.depth[chosen][cut].float() / UNIT
        torch.testing.assert_close(step.views.log_depth[0].exp(), prior)
        truth = given.true_depth[chosen][cut].float()
        assert torch.equal(step.known[0], truth > 0)
        torch.testing.assert_close(step.true_log_depth[0].exp()[truth > 0], truth[truth > 0] / UNIT)
        assert not step.true_log_depth[~step.known].any()
        there = given.map_depth[chosen][cut] > 0
        assert torch.equal(step.views.map_there[0] > 0, there)
        rendered = given.map_depth[chosen][cut].float() / UNIT
        torch.testing.assert_close(step.views.map_log_depth[0].exp()[there], rendered[there])
        assert torch.equal(step.views.map_log_depth[0][~there], step.views.log_depth[0][~there])
        torch.testing.assert_close(
            step.views.log_range[0].exp(), given.prior.depth_range[chosen] / UNIT
        )
        torch.testing.assert_close(
            step.views.c2w[0, :, 0, 3].double(), (given.c2w[chosen][:, 0, 3] - 7.0) / UNIT
        )
        assert all(tensor.isfinite().all() for tensor in step.views.tensors().values())
        assert step.views.image.shape[-2] % PATCH == 0 == step.views.image.shape[-1] % PATCH


def test_fewer_views_and_batches_are_drawn_by_chance_in_order() -> None:
    given = sequence(0, batches=4, per_batch=5)
    draw = Draw(views=2, batches=3)
    seen = set()
    for seed in range(8):
        steps = collate([given], rng(seed), draw)
        assert len(steps) == 3 and all(step.known.shape[:2] == (1, 2) for step in steps)
        places = [step.views.c2w[0, :, 0, 3] * UNIT / 0.1 for step in steps]
        numbers = torch.cat(places).round().long().tolist()
        assert numbers == sorted(numbers)
        assert all(5 * n <= numbers[2 * n] < numbers[2 * n + 1] < 5 * n + 5 for n in range(3))
        seen.add(tuple(numbers))
    assert len(seen) > 4


def test_the_same_chance_gives_the_same_variant() -> None:
    given = sequence(0, per_batch=4, alone=True)
    draw = Draw(views=2, drop_map=0.5, alone=0.5, permute=0.5)
    one, other = (collate([given], rng(3), draw) for _ in range(2))
    for ours, theirs in zip(one, other):
        for name, tensor in ours.views.tensors().items():
            assert torch.equal(tensor, theirs.views.tensors()[name])


def test_the_map_can_be_left_out() -> None:
    steps = collate([sequence(0)], rng(), Draw(drop_map=1.0))
    for step in steps:
        assert not step.views.map_there.any()
        assert torch.equal(step.views.map_log_depth, step.views.log_depth)


def test_the_prior_of_the_batch_alone_is_taken_where_there_is_one() -> None:
    given = sequence(0, alone=True)
    assert given.prior_alone is not None
    step = collate([given], rng(), Draw(alone=1.0))[0]
    expected = given.prior_alone.depth[:2, :16, :24].float() / UNIT
    torch.testing.assert_close(step.views.log_depth[0].exp(), expected)
    without = sequence(0)
    plain, drawn = (collate([without], rng(), d)[0] for d in (Draw(), Draw(alone=1.0)))
    assert torch.equal(plain.views.log_depth, drawn.views.log_depth)


def test_colours_change_places_together() -> None:
    given = sequence(0)
    pictures = given.image[..., :16, :24].float() / 255
    orders = set()
    for seed in range(12):
        steps = collate([given], rng(seed), Draw(permute=1.0))
        image = torch.cat([step.views.image[0] for step in steps])
        order = tuple(
            next(c for c in range(3) if torch.equal(image[:, channel], pictures[:, c]))
            for channel in range(3)
        )
        assert sorted(order) == [0, 1, 2]
        orders.add(order)
    assert len(orders) > 2


def test_sequences_that_do_not_fit_together_are_refused() -> None:
    for other in (
        sequence(1, height=26),
        sequence(1, batches=2),
        sequence(1, per_batch=3),
    ):
        with pytest.raises(SequenceError, match="cannot go side by side"):
            collate([sequence(0), other], rng())
    uneven = sequence(1)
    uneven = replace(uneven, batch=torch.tensor([0, 0, 0, 1, 2, 2]))
    with pytest.raises(SequenceError, match="cannot go side by side"):
        collate([sequence(0), uneven], rng())
    assert len(collate([sequence(0), sequence(1, batches=2)], rng(), Draw(batches=2))) == 2
