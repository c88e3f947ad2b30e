"""The compact network with every form of memory: what it promises before and after training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from network_cases import SMALL, build, one_stream, views

from ttt_core.errors import ConfigError
from ttt_core.memory import MemoryState
from ttt_core.network import (
    MEMORIES,
    PATCH,
    CompactNetwork,
    Imagined,
    NetworkConfig,
    NetworkInput,
    NetworkOutput,
)

CARRIED = [memory for memory in MEMORIES if memory != "none"]
every_memory = pytest.mark.parametrize("memory", MEMORIES)
carried_memories = pytest.mark.parametrize("memory", CARRIED)


def stream(
    network: CompactNetwork, seeds: list[int], *, streams: int = 1
) -> tuple[list[NetworkOutput], list[MemoryState]]:
    memories, outputs = [network.initial_state(streams)], []
    for seed in seeds:
        output, after = network(views(seed, streams=streams), memories[-1], write=True)
        outputs.append(output)
        memories.append(after)
    return outputs, memories


def same(one: MemoryState, other: MemoryState) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(t, other[name]) for name, t in one.tensors.items()
    )


@every_memory
def test_an_untrained_network_is_the_prior_bit_for_bit(memory: str) -> None:
    network = build(memory)
    assert not network.corrects
    state = network.initial_state(2)
    for seed in range(3):
        inputs = views(seed, streams=2)
        output, state = network(inputs, state, write=True)
        assert torch.equal(output.log_depth, inputs.log_depth)
        assert torch.equal(output.confidence, inputs.confidence)
        assert not any(residual.any() for residual in output.residuals.values())


@carried_memories
def test_what_is_carried_matters_once_the_head_acts(memory: str) -> None:
    network = build(memory, acting=0.3)
    assert network.corrects
    _, memories = stream(network, [0, 1, 2])
    fresh, later = (network(views(3), m, write=False)[0] for m in (memories[0], memories[-1]))
    # answers of untrained SwiGLU weights are small
    least = 1e-5 if memory in ("swiglu", "anchored") else 1e-4
    assert (fresh.log_depth - later.log_depth).abs().max() > least
    assert (fresh.plane_logits - later.plane_logits).abs().max() > least


@every_memory
def test_reading_leaves_the_memory_as_it_is(memory: str) -> None:
    network = build(memory, acting=0.3)
    _, memories = stream(network, [0])
    copy = {name: t.clone() for name, t in memories[-1].tensors.items()}
    output, after = network(views(1), memories[-1], write=False)
    assert output.record is None and same(after, MemoryState(copy))
    network(views(1), memories[-1], write=True)
    assert same(memories[-1], MemoryState(copy)), "writing returns a new state"


@carried_memories
def test_writing_counts_batches_and_keeps_the_size(memory: str) -> None:
    _, memories = stream(build(memory), [0, 1, 2])
    assert [int(m["written"]) for m in memories] == [0, 1, 2, 3]
    assert len({m.nbytes for m in memories}) == 1
    assert not same(memories[1], memories[2])


def test_nothing_is_carried_where_there_is_no_memory() -> None:
    network = build("none", acting=0.3)
    outputs, memories = stream(network, [0, 1])
    assert not memories[-1].tensors and outputs[-1].record is None
    alone, _ = network(views(1), network.initial_state(1), write=True)
    assert torch.equal(alone.log_depth, outputs[-1].log_depth)


@every_memory
def test_the_past_does_not_depend_on_what_comes(memory: str) -> None:
    network = build(memory, acting=0.3)
    one, _ = stream(network, [0, 1, 2])
    other, _ = stream(network, [0, 1, 7])
    for ours, theirs in zip(one[:2], other[:2]):
        assert torch.equal(ours.log_depth, theirs.log_depth)
    assert not torch.equal(one[2].log_depth, other[2].log_depth)


@pytest.mark.parametrize("memory", ["ridge", "swiglu", "grid", "anchored", "none"])
def test_a_volume_is_read_before_it_is_written(memory: str) -> None:
    """Views of one batch do not see each other through the memory, only through the prior."""
    network = build(memory, acting=0.3)
    _, memories = stream(network, [0])
    batch = views(1)
    both, _ = network(batch, memories[-1], write=True)
    alone, _ = network(batch.map(lambda t: t[:, 1:]), memories[-1], write=True)
    torch.testing.assert_close(both.log_depth[:, 1:], alone.log_depth, rtol=0, atol=1e-4)


@every_memory
def test_streams_know_nothing_of_each_other(memory: str) -> None:
    network = build(memory, acting=0.3)
    state = network.initial_state(3)
    alone = [network.initial_state(1) for _ in range(3)]
    for seed in range(2):
        inputs = views(seed, streams=3)
        together, state = network(inputs, state, write=True)
        for number in range(3):
            output, alone[number] = network(one_stream(inputs, number), alone[number], write=True)
            for name in ("log_depth", "confidence", "plane_logits"):
                torch.testing.assert_close(
                    getattr(together, name)[number : number + 1],
                    getattr(output, name),
                    rtol=0,
                    atol=1e-3 if memory in ("ridge", "none") else 5e-3,
                )


@every_memory
def test_the_same_stream_makes_the_same_memory(memory: str) -> None:
    one, other = (stream(build(memory, acting=0.3), [0, 1])[1][-1] for _ in range(2))
    assert same(one, other)


@every_memory
@pytest.mark.parametrize("size", [(8, 8), (9, 17), (1, 1), (30, 3), (1, 24)])
def test_sizes_that_are_no_whole_patches_are_padded(memory: str, size: tuple[int, int]) -> None:
    network = build(memory, acting=0.3)
    height, width = size
    inputs = views(0, height=height, width=width).padded(PATCH)
    assert inputs.image.shape[-2] % PATCH == 0 and inputs.image.shape[-1] % PATCH == 0
    output, state = network(inputs, network.initial_state(1), write=True)
    output, _ = network(inputs, state, write=True)
    for tensor in (output.log_depth, output.confidence, output.token_log_depth):
        assert tensor.isfinite().all()


def test_corrections_of_depth_are_bounded() -> None:
    """Between prior and tokens' depth, and no more than the limit beyond."""
    network = build("ridge", acting=30.0)
    inputs = views(0)
    output, _ = network(inputs, network.initial_state(1), write=True)
    near, far = inputs.log_range.unbind(-1)
    tokens = output.token_log_depth
    assert (tokens > near[..., None]).all() and (tokens < far[..., None]).all()
    furthest = (far - near).max() + SMALL.depth_residual_limit
    change = (output.log_depth - inputs.log_depth).abs()
    assert 0.3 < change.max() <= furthest
    assert output.confidence.min() >= 0 and output.confidence.max() <= 1


def test_what_was_matched_well_keeps_its_depth() -> None:
    """The correction is whole where the prior is unsure, fades, and is none where it is sure."""
    network, inputs = build("ridge", acting=3.0), views(0)
    low, high = SMALL.unsure_below, SMALL.sure_above

    def change(confidence: float) -> torch.Tensor:
        like = replace(inputs, confidence=torch.full_like(inputs.confidence, confidence))
        return network(like, network.initial_state(1), write=False)[0].log_depth - like.log_depth

    assert change(0.5 * low).abs().max() > 0.05
    assert not change(high + 1e-6).any() and not change(1.0).any()
    assert 0 < change((low + high) / 2).abs().max() < change(low).abs().max()


@every_memory
def test_gradients_reach_every_parameter_through_two_writes(memory: str) -> None:
    network = build(memory, acting=0.3).requires_grad_(True)
    state = network.initial_state(1)
    first = views(0)
    first.image.requires_grad_(True)
    for batch in (first, views(1)):
        _, state = network(batch, state, write=True)
    output, _ = network(views(2), state, write=True)
    loss = output.log_depth.square().mean() + output.confidence_logit.square().mean()
    loss = loss + sum(r.square().mean() for r in output.residuals.values())
    loss = loss + output.token_log_depth.square().mean() + output.prior_logits.square().mean()
    if network.memory is not None:
        loss = loss + _imagined(network, state, views(3)).color.square().mean()
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    if memory == "grid":
        assert first.image.grad is None  # what it writes is not trained
    elif memory != "none":
        assert first.image.grad is not None and first.image.grad.any()


@carried_memories
def test_a_detached_memory_cuts_the_graph(memory: str) -> None:
    network = build(memory, acting=0.3).requires_grad_(True)
    first = views(0)
    first.image.requires_grad_(True)
    _, state = network(first, network.initial_state(1), write=True)
    state = state.detach()
    assert not any(t.requires_grad for t in state.tensors.values())
    network(views(1), state, write=True)[0].log_depth.sum().backward()
    assert first.image.grad is None


def test_names_of_memories_and_sizes_are_checked() -> None:
    for options, message in (
        ({"memory": "lstm"}, "give one of ridge"),
        ({"planes": 12}, "multiple of ray_samples"),
        ({"features": 6}, "multiple of 4"),
        ({"grid_slots": 3000}, "power of two"),
        ({"memory": "grid", "grid_samples": 48}, "multiple of planes"),
        ({"ray_width": 0}, "at least 1"),
        ({"depth_residual_limit": 0.0}, "number > 0"),
        ({"width": 40}, "width"),
        ({"unsure_below": 0.7}, "unsure_below < sure_above"),
    ):
        with pytest.raises(ConfigError, match=message):
            NetworkConfig(**options)


def _imagined(network: CompactNetwork, state: MemoryState, like: NetworkInput) -> Imagined:
    height, width = like.image.shape[-2:]
    return network.imagine(state, like.fxfycxcy, like.c2w, height, width, like.log_range)


@pytest.mark.parametrize("memory", ["ridge", "swiglu", "grid"])
def test_views_without_a_picture_come_from_the_memory(memory: str) -> None:
    network = build(memory, acting=0.3)
    asked = views(3)
    _, memories = stream(network, [0, 1])
    nothing, something = (_imagined(network, m, asked) for m in (memories[0], memories[-1]))
    tokens = (1, 2, (16 // PATCH) * (24 // PATCH))
    assert something.log_depth.shape == something.confidence.shape == tokens
    assert something.color.shape == (*tokens, 3)
    assert something.color.min() >= 0 and something.color.max() <= 1
    near, far = asked.log_range.unbind(-1)
    assert (something.log_depth > near[..., None]).all()
    assert (something.log_depth < far[..., None]).all()
    assert (nothing.color - something.color).abs().max() > 1e-4
    # the picture and the prior of the view asked for have no say
    other = replace(asked, image=1 - asked.image, log_depth=asked.log_depth + 1)
    again = _imagined(network, memories[-1], other)
    assert torch.equal(again.log_depth, something.log_depth)


@pytest.mark.parametrize("memory", ["tokens", "anchored", "none"])
def test_memories_without_places_cannot_imagine(memory: str) -> None:
    network = build(memory)
    with pytest.raises(NotImplementedError, match=memory):
        _imagined(network, network.initial_state(1), views(0))
