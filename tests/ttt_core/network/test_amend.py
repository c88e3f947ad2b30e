"""Taking back and rewriting what views wrote."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from network_cases import build, poses, seeded, views

from ttt_core.memory import MemoryState
from ttt_core.network import CompactNetwork, NetworkInput, RecordEdit, WriteRecord

TOLERANCE = 2e-3


def answers(network: CompactNetwork, memory: MemoryState) -> torch.Tensor:
    if network.memory is None:
        return fingerprint(memory)
    places = 2 * torch.randn(1, 300, 3, generator=seeded(5))
    values, doubt = network.memory.read(memory, places)
    return torch.cat((values, doubt[..., None]), dim=-1)


def fingerprint(memory: MemoryState) -> torch.Tensor:
    """What a surface grid holds, wherever in its table: sums times waves of their corners' tags."""
    tags, sums = memory["grid_tags"][0], memory["grid_sums"][0]
    phase = (tags % 10007).double()[:, None] * torch.arange(1, 33)
    return torch.cos(phase).mT @ sums.double()


def written(
    network: CompactNetwork, stream: list[NetworkInput]
) -> tuple[MemoryState, list[WriteRecord]]:
    memory, records = network.initial_state(1), []
    for batch in stream:
        output, memory = network(batch, memory, write=True)
        assert output.record is not None
        records.append(output.record)
    return memory, records


def rewritten(
    network: CompactNetwork, records: list[WriteRecord], stream: list[NetworkInput]
) -> MemoryState:
    """The same records written from nothing, from the poses of `stream`."""
    if network.surfaces is not None:
        memory = network.surfaces.grid.initial_state(1)
        for record, batch in zip(records, stream):
            memory = network.surfaces.write(memory, record, batch.fxfycxcy, batch.c2w)
        return memory
    assert network.memory is not None
    memory = network.memory.initial_state(1)
    for record, batch in zip(records, stream):
        samples = network.writer.samples(record, batch.fxfycxcy, batch.c2w)
        memory = network.memory.write(memory, *samples)
    return memory


editable = pytest.mark.parametrize("memory", ["ridge", "grid"])


@editable
def test_a_record_tells_all_that_was_written(memory: str) -> None:
    network = build(memory, acting=0.3)
    stream = [views(seed) for seed in range(3)]
    state, records = written(network, stream)
    again = rewritten(network, records, stream)
    for name, tensor in again.tensors.items():
        assert torch.equal(tensor, state[name]), name


@editable
@pytest.mark.parametrize("number", [0, 1, 2])
def test_one_view_is_taken_back_and_written_elsewhere(memory: str, number: int) -> None:
    network = build(memory, acting=0.3)
    stream = [views(seed) for seed in range(3)]
    state, records = written(network, stream)
    batch, age = stream[number], len(stream) - 1 - number
    camera, pose = batch.fxfycxcy[:, 1:], batch.c2w[:, 1:]
    elsewhere = poses(seeded(9), 1, 1)
    record = records[number].view(1)
    take = RecordEdit(record, camera, pose, age=age, sign=-1)
    give = RecordEdit(record, camera, elsewhere, age=age, sign=1)
    away = network.amend(state, [take])
    moved = network.amend(away, [give])
    at_once = network.amend(state, iter((take, give)))
    torch.testing.assert_close(
        answers(network, at_once), answers(network, moved), rtol=0, atol=TOLERANCE
    )
    assert int(moved["written"]) == int(state["written"])
    assert (answers(network, away) - answers(network, state)).abs().max() > 0.05

    corrected = list(stream)
    corrected[number] = NetworkInput(
        **{
            name: torch.cat((batch.c2w[:, :1], elsewhere), 1)
            if name == "c2w"
            else getattr(batch, name)
            for name in NetworkInput.__dataclass_fields__
        }
    )
    expected = rewritten(network, records, corrected)
    torch.testing.assert_close(
        answers(network, moved), answers(network, expected), rtol=0, atol=TOLERANCE
    )
    back = network.amend(moved, [replace(give, sign=-1), replace(take, sign=1)])
    torch.testing.assert_close(
        answers(network, back), answers(network, state), rtol=0, atol=TOLERANCE
    )


@editable
def test_all_taken_back_leaves_nothing(memory: str) -> None:
    network = build(memory, acting=0.3)
    stream = [views(seed) for seed in range(3)]
    state, records = written(network, stream)
    edits = [
        RecordEdit(record, b.fxfycxcy, b.c2w, age=len(stream) - 1 - number, sign=-1)
        for number, (record, b) in enumerate(zip(records, stream))
    ]
    state = network.amend(state, edits)
    torch.testing.assert_close(
        answers(network, state),
        answers(network, network.initial_state(1)),
        rtol=0,
        atol=TOLERANCE,
    )


def test_samples_lie_on_the_rays_of_their_pixels() -> None:
    network = build("ridge")
    batch = views(0)
    _, (record,) = written(network, [batch])
    places, values, weights = network.writer.samples(record, batch.fxfycxcy, batch.c2w)
    tokens = record.log_depth.shape[2]
    assert places.shape == (1, 2 * tokens * 4, 3) and weights.min() > 0
    assert values.shape == (1, 2 * tokens * 4, network.config.value_width)
    places = places.view(1, 2, tokens, 4, 3)
    inverse = torch.linalg.inv(batch.c2w)[:, :, None, None]
    seen = (inverse[..., :3, :3] @ places[..., None]).squeeze(-1) + inverse[..., :3, 3]
    focal, centre = batch.fxfycxcy[:, :, None, None].split(2, dim=-1)
    pixels = seen[..., :2] / seen[..., 2:] * focal + centre
    expected = record.pixels[..., None, :].expand_as(pixels)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-3)
    shares = seen[..., 2] / record.log_depth.exp()[..., None]
    torch.testing.assert_close(shares[..., 0], torch.ones_like(shares[..., 0]))
    near, behind, free = shares[..., 1], shares[..., 2], shares[..., 3]
    assert ((near > 0.8) & (near < 1)).all() and ((behind > 1) & (behind < 1.2)).all()
    assert free.min() > 0.2 and free.max() < 0.85


def test_each_token_writes_at_its_surest_pixel() -> None:
    network = build("ridge")
    batch = views(0, height=24, width=16)
    _, (record,) = written(network, [batch])
    for view in range(2):
        for token in range(6):
            row, column = divmod(token, 2)
            tile = (slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            best = int(batch.confidence[0, view][tile].argmax())
            y, x = 8 * row + best // 8, 8 * column + best % 8
            assert record.pixels[0, view, token].tolist() == [x + 0.5, y + 0.5]
            assert record.log_depth[0, view, token] == batch.log_depth[0, view, y, x]


@pytest.mark.parametrize("memory", ["swiglu", "tokens", "anchored", "none"])
def test_other_memories_refuse(memory: str) -> None:
    network = build(memory)
    ridge = build("ridge")
    batch = views(0)
    _, (record,) = written(ridge, [batch])
    assert not network.editable and ridge.editable
    with pytest.raises(NotImplementedError, match="cannot be edited"):
        edit = RecordEdit(record, batch.fxfycxcy, batch.c2w, age=0, sign=-1)
        network.amend(network.initial_state(1), [edit])
