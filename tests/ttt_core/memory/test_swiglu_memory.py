"""The paper's fast weights keyed by place: they learn what is written, and forget slowly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ttt_core.memory import FourierFeatures, MemoryState, SignedSamples, SwiGluMemory


@pytest.fixture
def memory() -> SwiGluMemory:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SwiGluMemory(value_width=32).requires_grad_(False)


def draw(seed: int, streams: int = 1, points: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    places = 2 * torch.randn(streams, points, 3, generator=generator)
    values = torch.randn(streams, points, 32, generator=generator)
    return places, values, torch.ones(streams, points, 3)


def similarity(memory: SwiGluMemory, state: MemoryState, batch: tuple[Tensor, ...]) -> float:
    answer, _ = memory.read(state, batch[0])
    return float(F.cosine_similarity(answer, batch[1], dim=-1).mean())


def test_what_is_written_is_recalled_and_fades(memory: SwiGluMemory) -> None:
    state, first = memory.initial_state(1), draw(0)
    unwritten = similarity(memory, state, first)
    state = memory.write(state, *first)
    fresh = similarity(memory, state, first)
    assert abs(unwritten) < 0.1 and fresh > 0.3
    for number in range(1, 9):
        state = memory.write(state, *draw(number))
    assert 0.05 < similarity(memory, state, first) < fresh


def test_columns_keep_their_norms_and_the_old_state_stays(memory: SwiGluMemory) -> None:
    before = memory.initial_state(2)
    copy = {name: t.clone() for name, t in before.tensors.items()}
    after = memory.write(before, *draw(0, streams=2))
    for name in ("w0", "w1", "w2"):
        assert torch.equal(before[name], copy[name])
        assert (after[name] - before[name]).norm() > 0.05 * before[name].norm()
        torch.testing.assert_close(
            after[name].norm(dim=-2), before[name].norm(dim=-2), rtol=1e-4, atol=0
        )
    assert after.nbytes == before.nbytes


def test_streams_know_nothing_of_each_other(memory: SwiGluMemory) -> None:
    batch = draw(0, streams=2)
    together = memory.write(memory.initial_state(2), *batch)
    for number in range(2):
        alone = memory.write(memory.initial_state(1), *(t[number : number + 1] for t in batch))
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(
                together[name][number : number + 1], tensor, rtol=1e-3, atol=1e-4
            )


def test_gradients_reach_every_parameter_through_two_writes(memory: SwiGluMemory) -> None:
    memory.requires_grad_(True)
    state = memory.initial_state(1)
    for number in range(2):
        state = memory.write(state, *draw(number))
    memory.read(state, draw(2)[0])[0].square().sum().backward()
    for name, parameter in memory.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_it_cannot_be_edited_and_does_not_know_its_doubt(memory: SwiGluMemory) -> None:
    state, batch = memory.initial_state(1), draw(0)
    assert not memory.editable
    assert not memory.read(state, batch[0])[1].any()
    with pytest.raises(NotImplementedError, match="SwiGluMemory cannot be edited"):
        memory.amend(state, [SignedSamples(*batch, -1.0)])
    with pytest.raises(NotImplementedError, match="SwiGluMemory cannot be edited"):
        memory.retention(1)


def test_features_have_unit_length_and_shift_as_promised() -> None:
    features = FourierFeatures(24, (1.0, 2.5)).double().requires_grad_(False)
    places = torch.randn(2, 7, 3, dtype=torch.float64)
    phi = features(places)
    torch.testing.assert_close(phi.norm(dim=-1), torch.ones(2, 7, dtype=torch.float64))
    offset = torch.tensor([[0.3, -2.0, 1.0], [4.0, 0.0, -0.7]], dtype=torch.float64)
    shifted = features.shift(phi.mT, offset).mT
    torch.testing.assert_close(shifted, features(places + offset[:, None]))


def test_a_memory_state_moves_and_detaches_as_one() -> None:
    state = MemoryState({"a": torch.ones(2, requires_grad=True), "b": torch.zeros(3)})
    assert not state.detach()["a"].requires_grad and state["a"].requires_grad
    assert state.map(lambda t: t.double()).nbytes == 2 * state.nbytes == 40
    again = MemoryState.from_tensors(state.to_tensors())
    assert again.tensors.keys() == state.tensors.keys() and MemoryState().nbytes == 0
