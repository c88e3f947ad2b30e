"""A run that begins with a checkpoint of the same or of another memory."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sequence_cases import network as build
from sequence_cases import sequence

from ttt_core.errors import CheckpointError
from ttt_core.network import CompactNetwork
from ttt_core.network.tokens import RAY_CHANNELS
from ttt_core.training.begin import begin_with
from ttt_core.training.collate import collate
from ttt_core.training.export import export_compact


def exported(network: CompactNetwork, path: Path) -> Path:
    config = {"network": asdict(network.config), "prior": {}}
    export_compact(path, network.state_dict(), config=config, record={}, dtype="float32")
    return path


@pytest.mark.parametrize("memory", ["ridge", "grid"])
def test_the_same_memory_is_taken_over_whole(tmp_path: Path, memory: str) -> None:
    donor = build(memory, acting=0.1)
    path = exported(donor, tmp_path / "donor.safetensors")
    network = build(memory, seed=1)
    assert begin_with(network, path) is None
    for name, tensor in donor.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("given", "memory"), [("ridge", "grid"), ("ridge", "none"), ("grid", "none"), ("none", "grid")]
)
def test_with_another_memory_it_begins_as_the_donor_with_nothing_in_its_own(
    tmp_path: Path, given: str, memory: str
) -> None:
    donor = build(given, acting=0.1)
    # a layer that looks at one plane only, so that an empty memory is the same at all of them
    donor.ray_1.weight[:, RAY_CHANNELS:, [0, 1, 3, 4]] = 0
    path = exported(donor, tmp_path / "donor.safetensors")
    network = build(memory, seed=1)
    told = begin_with(network, path)
    assert told is not None and given in told and memory in told
    batch = collate([sequence(3)], np.random.default_rng(0))[0].views
    expected, _ = donor(batch, donor.initial_state(), write=False)
    output, _ = network(batch, network.initial_state(), write=False)
    assert (expected.log_depth - batch.log_depth).abs().max() > 1e-3
    torch.testing.assert_close(output.log_depth, expected.log_depth, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.confidence, expected.confidence, rtol=1e-5, atol=1e-5)


def test_other_sizes_and_other_blocks_are_refused(tmp_path: Path) -> None:
    path = exported(build("ridge"), tmp_path / "donor.safetensors")
    wider = CompactNetwork(replace(build().config, memory="grid", width=64))
    with pytest.raises(CheckpointError, match="of another shape"):
        begin_with(wider, path)
    before = {name: tensor.clone() for name, tensor in build("tokens").state_dict().items()}
    tokens = build("tokens")
    with pytest.raises(CheckpointError, match="does not fit this model"):
        begin_with(tokens, path)
    for name, tensor in tokens.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_file_without_a_known_configuration_is_refused(tmp_path: Path) -> None:
    network = build("grid")
    path = tmp_path / "donor.safetensors"
    record = {"network": {"memory": "unheard of"}, "prior": {}}
    export_compact(path, network.state_dict(), config=record, record={})
    with pytest.raises(CheckpointError, match="was made for another network"):
        begin_with(network, path)
    save_file({"cell_stem.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError):
        begin_with(network, tmp_path / "other.safetensors")
