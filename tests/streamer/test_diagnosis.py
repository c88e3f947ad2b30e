"""What `doctor` says of the packaged checkpoint."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from pathlib import Path

import pytest

from streamer import diagnosis
from ttt_core.network import CompactNetwork, NetworkConfig
from ttt_core.training.export import export_compact

RECORD = {"step": 1200, "samples": 4800, "seconds": 3599.6, "hardware": "two cores"}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the packaged checkpoint is looked for; nothing is there yet."""
    path = tmp_path / "compact.safetensors"
    # the package has a function of the module's name
    module = importlib.import_module("ttt_core.default_model")
    monkeypatch.setattr(module, "PACKAGED", path)
    return path


def write(path: Path, network: NetworkConfig, stated: NetworkConfig) -> None:
    export_compact(
        path,
        CompactNetwork(network).state_dict(),
        config={"network": asdict(stated), "prior": {}},
        record=RECORD,
    )


def test_a_missing_checkpoint_is_broken(checkpoint: Path) -> None:
    assert not checkpoint.exists()
    finding = diagnosis._weights()
    assert finding.state == "broken"
    assert "--weights packaged" in finding.detail


def test_a_checkpoint_is_told_with_its_licence_and_training(checkpoint: Path) -> None:
    write(checkpoint, NetworkConfig(), NetworkConfig())
    finding = diagnosis._weights()
    assert finding.state == "ok"
    assert finding.detail == (
        "compact.safetensors, Apache-2.0: 1200 steps on 4800 streams in 3600 s, on two cores"
    )


def test_a_damaged_checkpoint_is_broken(checkpoint: Path) -> None:
    checkpoint.write_bytes(b"not a checkpoint")
    finding = diagnosis._weights()
    assert finding.state == "broken"
    assert "reinstall splatstream" in finding.detail


def test_a_checkpoint_of_another_network_is_broken(checkpoint: Path) -> None:
    write(checkpoint, NetworkConfig(width=96), NetworkConfig())
    finding = diagnosis._weights()
    assert finding.state == "broken"
    assert "does not fit this model" in finding.detail
