"""The training loss: it falls, resets and truncation act, what is unknown has no say."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from sequence_cases import network, sequence
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ttt_core.errors import ConfigError
from ttt_core.network import MEMORIES, PATCH, NetworkInput, NetworkOutput
from ttt_core.training.collate import StreamStep, collate
from ttt_core.training.loss import LossConfig, sequence_loss, token_depth

STEADY = LossConfig(reset=0.0)


def steps(*seeds: int, batches: int = 3) -> list[StreamStep]:
    return collate([sequence(s, batches=batches) for s in seeds], np.random.default_rng(0))


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def changed(step: StreamStep, **tensors: Tensor) -> StreamStep:
    """`step` with other inputs."""
    given = {f.name: getattr(step.views, f.name) for f in fields(NetworkInput)}
    return replace(step, views=NetworkInput(**{**given, **tensors}))


def with_grad(step: StreamStep) -> StreamStep:
    return changed(step, image=step.views.image.clone().requires_grad_(True))


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_loss_falls_in_a_few_steps_on_one_sequence(memory: str) -> None:
    model, batch = network(memory), steps(0, batches=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses, depths = [], []
    for _ in range(6):
        loss, figures = sequence_loss(model, batch, STEADY, chance())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        depths.append(figures["depth"])
    assert losses[-1] < 0.9 * losses[0]
    assert depths[-1] < depths[0] == pytest.approx(figures["prior_depth"])


def test_figures_of_an_untrained_network_are_those_of_the_prior() -> None:
    batch = steps(0, 1)
    _, figures = sequence_loss(network(), batch, STEADY, chance())
    errors = [
        (step.views.log_depth - step.true_log_depth).abs()[step.known].mean() for step in batch
    ]
    assert figures["prior_depth"] == pytest.approx(float(torch.stack(errors).mean()), rel=1e-5)
    assert figures["depth"] == pytest.approx(figures["prior_depth"], rel=1e-5)
    assert figures["last_depth"] == pytest.approx(float(errors[-1]), rel=1e-5)


def test_figures_are_fetched_at_once() -> None:
    looks = []

    class Looks(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function is torch.ops.aten._local_scalar_dense.default:
                looks.append(function)
            return function(*args, **(kwargs or {}))

    batch = steps(0)
    with Looks():
        sequence_loss(network("none"), batch, STEADY, chance())
    # whether to imagine is drawn on the CPU; nothing else is looked at on the way
    assert len(looks) == len(batch) - 1


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    batch = steps(0)
    config = replace(STEADY, detail=0.7)
    total, figures = sequence_loss(network(acting=0.3), batch, config, chance())
    names = ("token_depth", "planes", "prior_planes", "depth", "detail", "edges", "confidence")
    expected = sum(getattr(config, name) * figures[name] for name in names)
    assert float(total.detach()) == pytest.approx(expected, rel=1e-4)


def test_truncation_cuts_the_graph_and_nothing_else() -> None:
    values, reached = [], []
    for truncate in (1, 2, 8):
        model = network(acting=0.3)
        first, *rest = steps(0)
        first = with_grad(first)
        # no supervision of the first batch: gradients can only come back through the memory
        first = replace(first, known=torch.zeros_like(first.known), sky=torch.zeros_like(first.sky))
        loss, _ = sequence_loss(model, [first, *rest], replace(STEADY, truncate=truncate), chance())
        loss.backward()
        grad = first.views.image.grad
        values.append(float(loss.detach()))
        reached.append(grad is not None and bool(grad.any()))
    assert reached == [False, True, True]
    assert values[0] == pytest.approx(values[2], rel=1e-6)


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_reset_stream_is_as_if_it_had_just_begun(memory: str) -> None:
    model = network(memory, acting=1.0)
    batch = steps(0, 1)
    always, _ = sequence_loss(model, batch, replace(STEADY, reset=1.0), chance())
    alone = [sequence_loss(model, [step], STEADY, chance())[0] for step in batch]
    mean = sum(float(loss.detach()) for loss in alone) / len(alone)
    assert float(always.detach()) == pytest.approx(mean, rel=5e-6)
    if memory == "ridge":
        carried, _ = sequence_loss(model, batch, STEADY, chance())
        assert float(carried.detach()) != pytest.approx(mean, rel=5e-6)


def test_each_stream_forgets_by_its_own_chance() -> None:
    """Half the resets: neither all nor none of the streams' memories, whatever the batch."""
    model, batch = network(acting=0.3), steps(0, 1, 2, 3, batches=2)
    half = replace(STEADY, reset=0.5)
    model.requires_grad_(False)
    found = {round(float(sequence_loss(model, batch, half, chance(s))[0]), 7) for s in range(8)}
    assert len(found) > 2
    one, other = (sequence_loss(model, batch, half, chance(4))[0] for _ in range(2))
    assert torch.equal(one, other)


def test_what_is_unknown_has_no_say() -> None:
    """Neither wrong truth nor the prior's depth there changes any term of depth."""
    model, batch = network(), steps(0)
    wild = [
        replace(step, true_log_depth=torch.where(step.known, step.true_log_depth, 9.0))
        for step in batch
    ]
    one, _ = sequence_loss(model, batch, STEADY, chance())
    other, _ = sequence_loss(model, wild, STEADY, chance())
    assert float(one.detach()) == pytest.approx(float(other.detach()), rel=1e-6)
    nothing = [
        replace(step, known=torch.zeros_like(step.known), sky=torch.zeros_like(step.sky))
        for step in batch
    ]
    silent, figures = sequence_loss(model, nothing, STEADY, chance())
    assert float(silent.detach()) == 0.0
    silent.backward()
    assert all(
        p.grad is None or (p.grad.isfinite().all() and not p.grad.any()) for p in model.parameters()
    )
    assert all(np.isfinite(value) for value in figures.values())


def test_sky_is_judged_for_confidence_alone() -> None:
    model, batch = network(), steps(0)
    blind = [replace(step, sky=torch.zeros_like(step.sky)) for step in batch]
    _, seen = sequence_loss(model, batch, STEADY, chance())
    _, unseen = sequence_loss(model, blind, STEADY, chance())
    assert seen["confidence"] != pytest.approx(unseen["confidence"], rel=1e-6)
    for name in ("depth", "token_depth", "edges", "planes"):
        assert seen[name] == pytest.approx(unseen[name], rel=1e-6)


def test_confidence_is_best_where_it_is_honest() -> None:
    batch = steps(0)
    costs = {}
    for name in ("honest", "sure", "unsure", "reversed"):
        told = []
        for step in batch:
            right = (step.views.log_depth - step.true_log_depth).abs() < STEADY.agreement
            right = (right & step.known).float()
            confidence = {
                "honest": 0.05 + 0.9 * right,
                "sure": torch.full_like(right, 0.95),
                "unsure": torch.full_like(right, 0.5),
                "reversed": 0.95 - 0.9 * right,
            }[name]
            told.append(changed(step, confidence=confidence))
        costs[name] = sequence_loss(network(), told, STEADY, chance())[1]["confidence"]
    assert costs["honest"] == min(costs.values()) < 0.1
    assert costs["unsure"] < costs["reversed"]


def test_the_last_batch_of_tokens_is_written_as_in_the_stream() -> None:
    """The paper's blocks write before they read: the last batch too, as when it is used."""
    model, batch = network("tokens", acting=0.3), steps(0, batches=1)
    _, figures = sequence_loss(model, batch, STEADY, chance())
    output, _ = model(batch[0].views, model.initial_state(1), write=True)
    error = (output.log_depth - batch[0].true_log_depth).abs()[batch[0].known].mean()
    assert figures["depth"] == pytest.approx(float(error.detach()), rel=1e-5)


def test_pictures_count_when_they_are_wanted() -> None:
    asked: list[int] = []

    def rendered(step: StreamStep, output: NetworkOutput, rng: torch.Generator) -> Tensor:
        asked.append(step.known.shape[0])
        return output.log_depth.square().mean()

    model, batch = network(), steps(0, 1)
    plain, _ = sequence_loss(model, batch, STEADY, chance(), rendered)
    assert not asked
    config = replace(STEADY, picture=0.5)
    with_pictures, figures = sequence_loss(model, batch, config, chance(), rendered)
    assert asked == [2, 2, 2]
    added = float((with_pictures - plain).detach())
    assert added == pytest.approx(0.5 * figures["picture"], rel=1e-3)


def test_token_depth_is_the_median_of_what_is_known() -> None:
    generator = torch.Generator().manual_seed(0)
    depth = torch.randn(1, 2, 16, 24, generator=generator)
    known = torch.rand(1, 2, 16, 24, generator=generator) > 0.5
    known[0, 0, :8, :8] = False
    found, enough = token_depth(depth, known, PATCH)
    for view in range(2):
        for token in range(6):
            row, column = divmod(token, 3)
            tile = (0, view, slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            values = depth[tile][known[tile]]
            assert bool(enough[0, view, token]) == (2 * len(values) >= 64)
            expected = values.median() if 2 * len(values) >= 64 else torch.zeros(())
            assert found[0, view, token] == expected


def test_settings_out_of_range_are_refused() -> None:
    for options in ({"truncate": 0}, {"reset": 1.5}, {"agreement": 1.0}):
        with pytest.raises(ConfigError, match="give a"):
            LossConfig(**options)


def test_detail_forgives_gross_errors() -> None:
    """With a large scale it is the mean error; with a small one gross errors hardly count."""
    model, batch = network(acting=0.3), steps(0)

    def terms(scale: float) -> tuple[float, float]:
        config = replace(STEADY, detail=1.0, detail_scale=scale)
        _, figures = sequence_loss(model, batch, config, chance())
        return figures["detail"], figures["depth"]

    same, error = terms(1e3)
    assert same == pytest.approx(error, rel=1e-3)
    forgiving, error = terms(1e-3)
    assert 0 < forgiving < 0.1 * error
    with pytest.raises(ConfigError, match="detail_scale"):
        LossConfig(detail_scale=0.0)
