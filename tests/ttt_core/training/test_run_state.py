"""Saved runs: bit for bit, whole or not at all, damage named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from ttt_core.checkpoint_files import RUN_STATE_FORMAT
from ttt_core.errors import RunStateError
from ttt_core.training import run_state
from ttt_core.training.run_state import load_run_state, read_facts, save_run_state


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(50, 40, generator=generator)
    return {
        "model.weight": shared,
        "model.tied": shared[:10],
        "average.half": torch.randn(7, generator=generator).half(),
        "optimizer.step": torch.tensor(3.0),
        "count": torch.tensor([2**40]),
    }


def test_what_was_saved_comes_back_bit_for_bit_from_small_pieces(tmp_path: Path) -> None:
    facts = {"elapsed": 0.1 + 0.2, "random": [{"big": 2**127 + 1}], "norms": [1e-300, 3.0]}
    save_run_state(tmp_path, tensors(), facts, piece_bytes=1000)
    pieces = sorted(tmp_path.glob("*.part"))
    assert len(pieces) > 8 and max(piece.stat().st_size for piece in pieces) == 1000
    loaded, told = load_run_state(tmp_path)
    assert told == facts == read_facts(tmp_path)
    assert loaded.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
    # joined, the pieces are a safetensors file
    joined = load(b"".join(piece.read_bytes() for piece in pieces))
    assert joined.keys() == loaded.keys()


def test_a_program_that_dies_while_saving_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_run_state(tmp_path, tensors(1), {"step": 1}, piece_bytes=1000)
    write, left = run_state._write, [0]

    def fail_later(path: Path, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("no space left")
        write(path, data)

    monkeypatch.setattr(run_state, "_write", fail_later)
    for allowed in (0, 3, 8):
        left[0] = allowed
        with pytest.raises(OSError, match="no space"):
            save_run_state(tmp_path, tensors(2), {"step": 2}, piece_bytes=1000)
        loaded, facts = load_run_state(tmp_path)
        assert facts == {"step": 1}
        assert torch.equal(loaded["model.weight"], tensors(1)["model.weight"])
    monkeypatch.undo()
    save_run_state(tmp_path, tensors(3), {"step": 3})
    assert read_facts(tmp_path) == {"step": 3}
    assert len(list(tmp_path.iterdir())) == 2, "what the broken attempts left is gone"


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunStateError, match="holds no training state"):
        load_run_state(tmp_path)
    save_run_state(tmp_path, tensors(), {}, piece_bytes=4000)
    piece = sorted(tmp_path.glob("*.part"))[1]
    content = piece.read_bytes()
    piece.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunStateError, match=r"state-000001-001\.part is damaged"):
        load_run_state(tmp_path)
    piece.unlink()
    with pytest.raises(RunStateError, match="cannot be read"):
        load_run_state(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"format": RUN_STATE_FORMAT, "version": 99}))
    with pytest.raises(RunStateError, match="version 99"):
        load_run_state(tmp_path)
    manifest.write_text("{")
    with pytest.raises(RunStateError, match="damaged"):
        load_run_state(tmp_path)
