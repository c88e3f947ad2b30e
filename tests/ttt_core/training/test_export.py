"""Checkpoints that ship: small, complete, and clear about what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from regression import student, trainer
from safetensors.torch import save_file

from ttt_core.checkpoint_files import CheckpointKind, recognise
from ttt_core.compact_checkpoint import load_compact
from ttt_core.errors import CheckpointError
from ttt_core.training.export import export_compact
from ttt_core.training.log import read_log
from ttt_core.training.run_state import read_facts


@pytest.mark.parametrize(
    ("dtype", "error"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 8e-3)]
)
def test_weights_and_words_come_back(tmp_path: Path, dtype: str, error: float) -> None:
    path = tmp_path / "checkpoint.safetensors"
    weights = {**student().state_dict(), "count": torch.tensor([3])}
    config, record = {"network": {"width": 16}}, {"step": 7, "evaluation": {"error": 0.25}}
    export_compact(path, weights, config=config, record=record, figures={"a": 1.5}, dtype=dtype)
    assert recognise(path) is CheckpointKind.COMPACT
    told, tensors, words = load_compact(path)
    assert told == config
    assert words == {"licence": "Apache-2.0", "training": record, "figures": {"a": 1.5}}
    for name, tensor in weights.items():
        tolerance = error if tensor.dim() >= 2 else 0
        torch.testing.assert_close(tensors[name], tensor, rtol=tolerance, atol=tolerance * 1e-2)
    assert not list(tmp_path.glob("*.part"))


def test_a_run_exports_its_averaged_weights(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"

    def export(tensors, record):  # type: ignore[no-untyped-def]
        export_compact(path, tensors, config={}, record=record, dtype="float32")

    run = trainer(tmp_path / "run", [], export=export)
    run.run(30)
    _, tensors, words = load_compact(path)
    assert words["training"]["step"] == run.step
    with run.learner.averaged() as model:
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensors[name], tensor)


def test_a_run_goes_on_although_its_weights_cannot_ship(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"

    def export(tensors, record):  # type: ignore[no-untyped-def]
        large = {name: tensor * 1e9 for name, tensor in tensors.items()}
        export_compact(path, large, config={}, record=record)

    trainer(tmp_path / "run", [], export=export).run(10)
    lines = read_log(tmp_path / "run" / "log.jsonl")
    told = [line["text"] for line in lines if "exported" in line.get("text", "")]
    assert told[-1].startswith("no checkpoint was exported: ")
    assert "bfloat16 or float32" in told[-1]
    assert [line["kind"] for line in lines[-2:]] == ["save", "end"]
    assert read_facts(tmp_path / "run" / "state")["step"] == lines[-1]["step"]
    assert not path.exists()


def test_what_cannot_ship_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    for value, dtype in ((float("nan"), "float32"), (1e6, "float16")):
        with pytest.raises(CheckpointError, match="w holds values"):
            export_compact(
                path, {"w": torch.full((2, 2), value)}, config={}, record={}, dtype=dtype
            )
    assert not list(tmp_path.iterdir())


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError):
        load_compact(path)
    save_file({"a": torch.zeros(1)}, path, {"format": "splatstream-compact", "version": "9"})
    with pytest.raises(CheckpointError, match="version '9'"):
        load_compact(path)
    save_file({"a": torch.zeros(1)}, path, {"format": "splatstream-compact", "version": "1"})
    with pytest.raises(CheckpointError, match="'config'"):
        load_compact(path)
    save_file({"tokenizer.1.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="tttLRM"):
        load_compact(path)
