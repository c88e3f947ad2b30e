"""The ridge memory against the closed form over everything ever written, and its algebra.

Shape suffixes: B streams, N points.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ttt_core import StateMismatchError
from ttt_core.memory import MemoryState, RidgeMemory, SignedSamples

FEATURES, VALUES = 64, 5
GAIN = 10.0
DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 2e-3, torch.float64: 1e-9}

seeds = st.integers(0, 10**6)
few = settings(max_examples=15, deadline=None)


class Batch(NamedTuple):
    places: Tensor  # (B, N, 3)
    values: Tensor  # (B, N, VALUES)
    weights: Tensor  # (B, N, 1)


def build(dtype: torch.dtype, seed: int = 0, ageing: float = 1.5) -> RidgeMemory:
    """A memory that ages fast, so that a wrong age shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        memory = RidgeMemory(FEATURES, VALUES).to(dtype).requires_grad_(False)
    memory.ageing.fill_(ageing)
    memory.log_lambda.fill_(-0.5)
    return memory


def draw(seed: int, dtype: torch.dtype, *, streams: int = 1, points: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def normal(width: int) -> Tensor:
        return torch.randn(streams, points, width, generator=generator, dtype=torch.float64)

    weights = torch.rand(streams, points, 1, generator=generator, dtype=torch.float64)
    return Batch(*(t.to(dtype) for t in (normal(3), normal(VALUES), weights)))


def written(memory: RidgeMemory, *batches: Batch, streams: int = 1) -> MemoryState:
    state = memory.initial_state(streams)
    for batch in batches:
        state = memory.write(state, *batch)
    return state


def posterior(memory: RidgeMemory, batches: list[Batch], places: Tensor) -> tuple[Tensor, Tensor]:
    """The same answers from the kernel of all points at once (Gaussian process regression)."""
    kept, ridge = torch.sigmoid(memory.ageing), memory.log_lambda.exp()
    ages = [len(batches) - 1 - number for number in range(len(batches))]
    precision = torch.cat([GAIN * b.weights * kept**age for b, age in zip(batches, ages)], 1)
    phi = memory.features(torch.cat([b.places for b in batches], 1))
    asked = memory.features(places)
    gram = phi @ phi.mT + torch.diag_embed(ridge / precision.squeeze(-1))
    gain = torch.linalg.solve(gram, phi @ asked.mT).mT
    values = gain @ torch.cat([b.values for b in batches], 1)
    # doubt is the variance under the finer half of the frequencies alone, its own prior as unit
    phi, asked = (2**0.5 * finer_half(t) for t in (phi, asked))
    gram = phi @ phi.mT + 2 * torch.diag_embed(ridge / precision.squeeze(-1))
    gain = torch.linalg.solve(gram, phi @ asked.mT).mT
    return values, 1 - (gain * (asked @ phi.mT)).sum(-1)


def finer_half(phi: Tensor) -> Tensor:
    sine, cosine = phi.chunk(2, dim=-1)
    return torch.cat([part.chunk(2, dim=-1)[1] for part in (sine, cosine)], dim=-1)


def assert_same(
    memory: RidgeMemory, one: MemoryState, other: MemoryState, dtype: torch.dtype
) -> None:
    """Two states that hold the same, and say the same of any place."""
    places = draw(99, dtype, streams=one["gram"].shape[0], points=40).places
    for ours, theirs in zip(memory.read(one, places), memory.read(other, places)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE[dtype])
    for name in ("gram", "moment"):
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=TOLERANCE[dtype])


@few
@given(seed=seeds, batches=st.integers(1, 5), streams=st.integers(1, 3))
def test_reads_are_the_closed_form_over_everything_written(
    seed: int, batches: int, streams: int
) -> None:
    memory = build(torch.float64)
    stream = [draw(seed + n, torch.float64, streams=streams) for n in range(batches)]
    state = written(memory, *stream, streams=streams)
    places = draw(seed + 50, torch.float64, streams=streams).places
    expected = posterior(memory, stream, places)
    for ours, theirs in zip(memory.read(state, places), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@few
@given(seed=seeds, dtype=st.sampled_from(DTYPES))
def test_what_is_written_is_read_back(seed: int, dtype: torch.dtype) -> None:
    memory = build(dtype)
    batch = draw(seed, dtype, points=8)
    corners = torch.cartesian_prod(*3 * [torch.tensor([-1.5, 1.5], dtype=dtype)])[None]
    batch = Batch(corners + 0.2 * batch.places.clamp(-1, 1), batch.values, 100 + batch.weights)
    values, doubt = memory.read(written(memory, batch), batch.places)
    torch.testing.assert_close(values, batch.values, rtol=0, atol=0.05)
    assert doubt.max() < 0.01


@few
@given(seed=seeds, batches=st.integers(0, 4), dtype=st.sampled_from(DTYPES))
def test_doubt_is_one_at_first_and_falls_where_something_is_written(
    seed: int, batches: int, dtype: torch.dtype
) -> None:
    memory = build(dtype)
    state = memory.initial_state(1)
    places = draw(seed, dtype, points=50).places * 3
    values, doubt = memory.read(state, places)
    assert not values.any()
    torch.testing.assert_close(doubt, torch.ones_like(doubt))
    for number in range(batches):
        batch = draw(seed + number + 1, dtype)
        before = memory.read(state, batch.places)[1]
        state = memory.write(state, *batch)
        doubt = memory.read(state, places)[1]
        assert doubt.min() >= 0 and doubt.max() <= 1 + 1e-5
        sure = batch.weights[..., 0] > 0.5
        # ageing raises the doubt of old places a little; what is written now lowers it
        assert (memory.read(state, batch.places)[1] < before + 1e-6)[sure].float().mean() > 0.9


@few
@given(seed=seeds, later=st.integers(0, 6), dtype=st.sampled_from(DTYPES))
def test_unwriting_is_as_if_it_had_never_been_written(
    seed: int, later: int, dtype: torch.dtype
) -> None:
    """With the other batches at the age that they had."""
    memory = build(dtype)
    first, wrong, *others = (draw(seed + n, dtype) for n in range(2 + later))
    nothing = wrong._replace(weights=torch.zeros_like(wrong.weights))
    state = written(memory, first, wrong, *others)
    state = memory.amend(state, [SignedSamples(*wrong, -memory.retention(later))])
    assert_same(memory, state, written(memory, first, nothing, *others), dtype)


@few
@given(seed=seeds, later=st.integers(0, 6), dtype=st.sampled_from(DTYPES))
def test_rewriting_is_as_if_it_had_been_written_there(
    seed: int, later: int, dtype: torch.dtype
) -> None:
    memory = build(dtype)
    first, wrong, *others = (draw(seed + n, dtype) for n in range(2 + later))
    right = wrong._replace(places=draw(seed + 77, dtype).places)
    state = written(memory, first, wrong, *others)
    kept = memory.retention(later)
    changes = [SignedSamples(*wrong, -kept), SignedSamples(*right, kept)]
    expected = written(memory, first, right, *others)
    assert_same(memory, memory.amend(state, changes), expected, dtype)
    for change in changes:
        state = memory.amend(state, [change])
    assert_same(memory, state, expected, dtype)


@few
@given(seed=seeds, dtype=st.sampled_from(DTYPES), reach=st.floats(0.01, 10))
def test_translating_is_as_if_everything_had_been_written_elsewhere(
    seed: int, dtype: torch.dtype, reach: float
) -> None:
    memory = build(dtype)
    stream = [draw(seed + n, dtype, streams=2) for n in range(3)]
    offset = reach * draw(seed + 9, dtype, streams=2, points=1).places[:, 0]
    moved = [b._replace(places=b.places + offset[:, None]) for b in stream]
    state = memory.translate(written(memory, *stream, streams=2), offset)
    assert_same(memory, state, written(memory, *moved, streams=2), dtype)


@few
@given(seed=seeds, dtype=st.sampled_from(DTYPES))
def test_merging_is_as_if_both_had_been_written_at_once(seed: int, dtype: torch.dtype) -> None:
    memory = build(dtype)
    one, other = draw(seed, dtype), draw(seed + 1, dtype)
    both = Batch(*(torch.cat(parts, 1) for parts in zip(one, other)))
    merged = memory.merge(written(memory, one), written(memory, other))
    assert_same(memory, merged, written(memory, both), dtype)
    empty = memory.initial_state(1)
    assert_same(memory, memory.merge(merged, empty), merged, dtype)


@few
@given(seed=seeds, batches=st.integers(1, 4))
def test_streams_know_nothing_of_each_other(seed: int, batches: int) -> None:
    memory = build(torch.float64)
    stream = [draw(seed + n, torch.float64, streams=3) for n in range(batches)]
    together = written(memory, *stream, streams=3)
    for number in range(3):
        alone = written(memory, *(Batch(*(t[number : number + 1] for t in b)) for b in stream))
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(together[name][number : number + 1], tensor)


def test_order_of_points_does_not_matter() -> None:
    memory = build(torch.float64)
    batch = draw(3, torch.float64)
    turned = Batch(*(t.flip(1) for t in batch))
    assert_same(memory, written(memory, batch), written(memory, turned), torch.float64)


def test_old_writes_age_by_the_learned_factor() -> None:
    memory = build(torch.float64, ageing=2.0)
    first, *others = (draw(n, torch.float64) for n in range(4))
    silent = [b._replace(weights=torch.zeros_like(b.weights)) for b in others]
    state = written(memory, first, *silent)
    kept = float(torch.sigmoid(memory.ageing)) ** 3
    assert memory.retention(3) == pytest.approx(kept)
    fresh = written(memory, first)
    torch.testing.assert_close(state["gram"], kept * fresh["gram"])
    torch.testing.assert_close(state["moment"], kept * fresh["moment"])


def test_states_are_never_changed_in_place() -> None:
    memory = build(torch.float64)
    state = written(memory, draw(0, torch.float64))
    copy = {name: t.clone() for name, t in state.tensors.items()}
    batch = draw(1, torch.float64)
    memory.write(state, *batch)
    memory.amend(state, [SignedSamples(*batch, -1.0)])
    memory.translate(state, torch.ones(1, 3, dtype=torch.float64))
    memory.merge(state, state)
    assert all(torch.equal(t, copy[name]) for name, t in state.tensors.items())


def test_sums_that_rounding_made_indefinite_are_solved_all_the_same() -> None:
    """Much written at one place: in float32 the sum's smallest eigenvalues are pure rounding."""
    memory = build(torch.float32)
    phi = memory.features(torch.tensor([[[0.3, -0.2, 0.5]]]))
    heavy = 1e9 * phi.mT @ phi
    noise = torch.randn(1, FEATURES, FEATURES, generator=torch.Generator().manual_seed(0))
    moment = 1e9 * phi.mT @ torch.ones(1, 1, VALUES)
    rounded = heavy + 30 * (noise + noise.mT)
    state = MemoryState({**memory.initial_state(1).tensors, "gram": rounded})
    damped = state["gram"] + memory.log_lambda.exp() * torch.eye(FEATURES)
    assert torch.linalg.cholesky_ex(damped).info.any(), "the case must need the other way"
    state = MemoryState({**state.tensors, "moment": moment})
    none = Batch(torch.zeros(1, 1, 3), torch.zeros(1, 1, VALUES), torch.zeros(1, 1, 1))
    state = memory.amend(state, [SignedSamples(*none, 1.0)])
    places = torch.randn(1, 100, 3, generator=torch.Generator().manual_seed(1))
    places[0, -1] = torch.tensor([0.3, -0.2, 0.5])
    values, doubt = memory.read(state, places)
    assert values.isfinite().all() and values.abs().max() < 3
    torch.testing.assert_close(values[0, -1], torch.ones(VALUES), rtol=0, atol=0.01)
    assert doubt.min() > -1e-4 and doubt.max() < 1 + 1e-4
    assert doubt[0, -1] < 0.01


@pytest.mark.parametrize("heavy", [1.0, 1e8])
def test_gradients_are_finite_and_reach_every_parameter(heavy: float) -> None:
    memory = build(torch.float32).requires_grad_(True)
    first, second = draw(0, torch.float32), draw(1, torch.float32)
    first.places.copy_(first.places[:, :1].expand_as(first.places))
    weights = (heavy * first.weights).requires_grad_(True)
    values = first.values.requires_grad_(True)
    state = memory.write(memory.initial_state(1), first.places, values, weights)
    state = memory.write(state, *second)
    answer, doubt = memory.read(state, draw(2, torch.float32).places)
    (answer.square().sum() + doubt.sum()).backward()
    for name, parameter in memory.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    for tensor in (weights, values):
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any()


def test_writes_spread_over_processes_are_one_write() -> None:
    """`reduce` sums: two halves of the points, each with the other's sums added, are the whole."""
    memory = build(torch.float64)
    batch = draw(4, torch.float64, points=10)
    halves = [Batch(*(t[:, part] for t in batch)) for part in (slice(0, 4), slice(4, 10))]
    sums: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        sums.append(tensor)
        return tensor

    memory.reduce = keep
    for half in halves:
        written(memory, half)
    memory.reduce = lambda tensor: sums[0] + sums[1]
    state = written(memory, halves[0])
    memory.reduce = None
    assert_same(memory, state, written(memory, batch), torch.float64)


def test_memories_of_different_shape_are_not_merged() -> None:
    memory = build(torch.float32)
    with pytest.raises(StateMismatchError, match="same model and number of streams"):
        memory.merge(memory.initial_state(1), memory.initial_state(2))


def test_condition_grows_with_what_is_written_at_one_place() -> None:
    memory = build(torch.float64)
    batch = draw(0, torch.float64)
    assert memory.condition(memory.initial_state(1)) == pytest.approx(1.0)
    state = written(memory, batch)
    eigenvalues = torch.linalg.eigvalsh(state["gram"])
    ridge = float(memory.log_lambda.exp())
    expected = (float(eigenvalues[..., -1].max()) + ridge) / ridge
    assert memory.condition(state) == pytest.approx(expected, rel=1e-6)


def test_half_precision_around_it_changes_nothing() -> None:
    memory = build(torch.float32)
    batch = draw(0, torch.float32)
    plain = memory.read(written(memory, batch), batch.places)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = memory.read(written(memory, batch), batch.places)
    for ours, theirs in zip(plain, under):
        assert theirs.dtype == torch.float32
        assert torch.equal(ours, theirs)
