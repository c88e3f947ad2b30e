"""One write into the memory, against autograd and a plain reference of the elastic option."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reconstructor_cases import tiny_config
from torch import Tensor

from ttt_core import FastWeights
from ttt_core.fast_weights import (
    UpdateRule,
    ascent_direction,
    column_norms,
    initial_layer_state,
    newton_schulz,
    read,
    scaled_step,
    write,
)


def random_memory(heads: int = 2, dim: int = 4, hidden: int = 12, seed: int = 0) -> FastWeights:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((heads, dim, hidden), (heads, hidden, dim), (heads, dim, hidden))
    return FastWeights(*(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes))


def random_tokens(heads: int = 2, count: int = 7, dim: int = 4, seed: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (
        torch.randn(heads, count, dim, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    rates = torch.rand(heads, count, 3, generator=generator, dtype=torch.float64)
    return [keys, values, rates]


@pytest.mark.parametrize("matrix", range(3))
def test_direction_is_the_gradient_of_the_inner_loss(matrix: int) -> None:
    """Each matrix has its own token rates: they are the loss weights of its gradient."""
    weights = random_memory()
    keys, values, rates = random_tokens()
    leaf = FastWeights(*(w.clone().requires_grad_() for w in weights))
    agreement = ((read(leaf, keys) * values).sum(-1) * rates[..., matrix]).sum()
    (expected,) = torch.autograd.grad(agreement, leaf[matrix])
    torch.testing.assert_close(ascent_direction(weights, keys, values, rates)[matrix], expected)


@pytest.mark.parametrize("shape", [(1, 6, 20), (3, 20, 6), (2, 8, 8)])
def test_newton_schulz_flattens_the_spectrum(shape: tuple[int, ...]) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = newton_schulz(gradient)
    assert step.dtype == torch.float64
    singular = torch.linalg.svdvals(step)
    # the quintic trades exactness for speed: it oscillates in about 0.7..1.2 around 1
    assert singular.min() > 0.6 and singular.max() < 1.3
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    torch.testing.assert_close(step @ vh.mT @ vh, step)  # the row space is kept
    assert (torch.einsum("bij,bik,bkj->bj", u, step, vh.mT) > 0).all()  # and the signs


def test_newton_schulz_ignores_autocast() -> None:
    gradient = torch.randn(1, 8, 24, generator=torch.Generator().manual_seed(3))
    outside = newton_schulz(gradient)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = newton_schulz(gradient)
    assert torch.equal(outside, inside)


@given(seed=st.integers(0, 1000), common=st.floats(1e-2, 1e2), count=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_write_keeps_column_norms_and_only_compares_rates(
    seed: int, common: float, count: int
) -> None:
    rule = tiny_config().update_rule()
    state = initial_layer_state(random_memory(seed=seed), 1, elastic=False)
    keys, values, rates = random_tokens(count=count, seed=seed + 1)
    after = write(state, keys, values, rates, rule)
    for weight, norm in zip(after.weights, state.norms):
        torch.testing.assert_close(column_norms(weight), norm, rtol=1e-3, atol=1e-6)
    assert after.norms is state.norms
    scaled = write(state, keys, values, common * rates, rule)
    for a, b in zip(after.weights, scaled.weights):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def reference_elastic(
    memory: FastWeights, chunks: list[list[Tensor]], strength: float, alpha: float, beta: float
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """The elastic rule in numpy, written out chunk by chunk; gradients and steps from the library
    (they are checked on their own above)."""
    weights = [w.numpy().copy() for w in memory]
    norms = [np.sqrt((w**2).sum(1, keepdims=True)) for w in weights]
    anchors = [w.copy() for w in weights]
    fishers = [np.zeros_like(w) for w in weights]
    for keys, values, rates in chunks:
        current = FastWeights(*(torch.from_numpy(w) for w in weights))
        gradients = ascent_direction(current, keys, values, rates)
        for i in range(3):
            step = newton_schulz(gradients[i]).numpy()
            fishers[i] = alpha * fishers[i] + (1 - alpha) * step**2
            new = weights[i] + step
            importance = fishers[i] / (fishers[i].max() + 1e-8)
            new = new - strength * (1 - importance) * (new - anchors[i])
            new = new / (np.sqrt((new**2).sum(1, keepdims=True)) + 1e-5) * norms[i]
            weights[i] = new
            anchors[i] = beta * anchors[i] + (1 - beta) * new
    return weights, fishers, anchors


def test_elastic_option_follows_its_reference() -> None:
    config = tiny_config(elastic_lambda=0.3, fisher_alpha=0.4, anchor_beta=0.7)
    memory = random_memory()
    chunks = [random_tokens(seed=s) for s in range(10, 14)]
    state = initial_layer_state(memory, 1, elastic=True)
    for chunk in chunks:
        state = write(state, *chunk, config.update_rule())
    expected = reference_elastic(memory, chunks, 0.3, 0.4, 0.7)
    assert state.fisher is not None and state.anchor is not None
    for ours, theirs in zip((state.weights, state.fisher, state.anchor), expected):
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, torch.from_numpy(b), rtol=1e-9, atol=1e-9)
    plain = initial_layer_state(memory, 1, elastic=False)
    for chunk in chunks:
        plain = write(plain, *chunk, tiny_config().update_rule())
    assert (plain.weights.w0 - state.weights.w0).abs().max() > 1e-2


def test_heads_are_independent_without_the_elastic_option() -> None:
    rule = tiny_config().update_rule()
    memory, tokens = random_memory(), random_tokens()
    both = write(initial_layer_state(memory, 1, False), *tokens, rule)
    for head in range(2):
        one = write(
            initial_layer_state(memory.map(lambda w, h=head: w[h : h + 1]), 1, False),
            *(t[head : head + 1] for t in tokens),
            rule,
        )
        for a, b in zip(both.weights, one.weights):
            torch.testing.assert_close(a[head : head + 1], b)


def test_a_scaled_step_of_one_is_a_plain_write() -> None:
    weights, tokens = random_memory(), random_tokens()
    state = initial_layer_state(weights, 1, elastic=False)
    direction = ascent_direction(weights, *tokens)
    rule = UpdateRule(
        newton_schulz_dtype=torch.float32, elastic_lambda=0.0, fisher_alpha=0.0, anchor_beta=0.0
    )
    expected = write(state, *tokens, rule).weights
    ones = torch.ones(3, dtype=torch.float64)
    for ours, theirs in zip(scaled_step(weights, direction, ones, state.norms), expected):
        torch.testing.assert_close(ours, theirs)
    still = scaled_step(weights, direction, 0 * ones, state.norms)
    only_w1 = scaled_step(weights, direction, ones * torch.tensor([0, 1, 0]), state.norms)
    torch.testing.assert_close(still.w0, weights.w0, rtol=1e-4, atol=0)
    torch.testing.assert_close(only_w1.w0, still.w0)
    torch.testing.assert_close(only_w1.w1, expected.w1)
