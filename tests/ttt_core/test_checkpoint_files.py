"""What a checkpoint file is shows in what it holds; whatever cannot be used says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from official_cases import lact_parameters, one_head, tttlrm_file
from safetensors.torch import save_file

from ttt_core.checkpoint_files import COMPACT_FORMAT, CheckpointKind, read_checkpoint, recognise
from ttt_core.errors import CheckpointError, TrainingStateError, UnknownCheckpointError
from ttt_core.training.run_state import save_run_state


def torch_file(path: Path, content: object, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


def test_every_kind_is_recognised(tmp_path: Path) -> None:
    model = one_head()
    state = dict(model.state_dict())
    tttlrm = tttlrm_file(tmp_path / "a.pt", model)
    bare = torch_file(tmp_path / "b.pt", state)
    legacy = torch_file(tmp_path / "c.pt", {"model": state}, _use_new_zipfile_serialization=False)
    converted = tmp_path / "d.safetensors"
    save_file(state, converted)
    for path in (tttlrm, bare, legacy, converted):
        assert recognise(path) is CheckpointKind.TTTLRM
        read = read_checkpoint(path).tensors
        assert all(torch.equal(read[name], t) for name, t in state.items())
    lact = torch_file(tmp_path / "e.pt", {"model": lact_parameters(model), "now_iters": 3})
    assert recognise(lact) is CheckpointKind.LACT
    ours = tmp_path / "f.safetensors"
    save_file({"x": torch.zeros(2)}, ours, metadata={"format": COMPACT_FORMAT, "version": "1"})
    assert recognise(ours) is CheckpointKind.COMPACT
    assert read_checkpoint(ours).metadata["version"] == "1"


def test_the_name_of_a_file_does_not_matter(tmp_path: Path) -> None:
    model = one_head()
    assert recognise(tttlrm_file(tmp_path / "x.safetensors", model)) is CheckpointKind.TTTLRM
    save_file(dict(model.state_dict()), tmp_path / "weights.pt")
    assert recognise(tmp_path / "weights.pt") is CheckpointKind.TTTLRM


def test_a_training_checkpoint_is_told_apart(tmp_path: Path) -> None:
    beside = {"optimizer": {"state": {}}, "lr_scheduler": {"last_epoch": 3}}
    official = tttlrm_file(tmp_path / "official.pt", one_head(), **beside)
    assert recognise(official) is CheckpointKind.TTTLRM
    assert read_checkpoint(official).training == ("optimizer", "lr_scheduler")
    other = torch_file(tmp_path / "other.pt", {"model": {"conv.weight": torch.ones(3)}, **beside})
    with pytest.raises(TrainingStateError, match=r"other.pt.*optimizer, lr_scheduler.*finished"):
        recognise(other)


def test_the_state_of_our_own_training_is_no_checkpoint(tmp_path: Path) -> None:
    tensors = {f"model.{name}": t for name, t in one_head().state_dict().items()}
    save_run_state(tmp_path / "state", tensors, {"step": 3})
    (piece,) = (tmp_path / "state").glob("*.part")
    with pytest.raises(TrainingStateError, match=r"splatstream train.*checkpoint\.safetensors"):
        recognise(piece)


def test_files_of_other_programs(tmp_path: Path) -> None:
    resnet = torch_file(tmp_path / "resnet.pt", {"model": {"conv1.weight": torch.ones(2)}})
    with pytest.raises(UnknownCheckpointError, match=r"no known kind.*1 tensors \(conv1.weight\)"):
        recognise(resnet)
    save_file({"bert.x": torch.ones(2)}, tmp_path / "bert.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnknownCheckpointError, match="no known kind"):
        recognise(tmp_path / "bert.safetensors")
    wrapped = {f"module.{name}": t for name, t in one_head().state_dict().items()}
    with pytest.raises(UnknownCheckpointError, match="prefix before the names"):
        recognise(torch_file(tmp_path / "wrapped.pt", {"model": wrapped}))
    for name, content in (
        ("config.pt", {"lr": 0.1, "name": "x"}),
        ("tensor.pt", torch.ones(3)),
        ("empty.pt", {}),
    ):
        with pytest.raises(UnknownCheckpointError, match=f"{name}.*key 'model'"):
            recognise(torch_file(tmp_path / name, content))
    with pytest.raises(CheckpointError, match="more than tensors"):
        recognise(torch_file(tmp_path / "mixed.pt", {"model": {"tokenizer.1.weight": "x"}}))


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.target,))


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    target = tmp_path / "touched"
    for new in (True, False):
        path = torch_file(
            tmp_path / "trap.pt", {"model": Trap(target)}, _use_new_zipfile_serialization=new
        )
        with pytest.raises(CheckpointError, match="cannot be read"):
            recognise(path)
    assert not target.exists()


def test_damaged_files(tmp_path: Path) -> None:
    whole = tttlrm_file(tmp_path / "whole.pt", one_head()).read_bytes()
    save_file(dict(one_head().state_dict()), tmp_path / "whole.safetensors")
    stored = (tmp_path / "whole.safetensors").read_bytes()
    rng = np.random.default_rng(0)
    contents = {
        "cut.pt": whole[: len(whole) // 2],
        "cut.safetensors": stored[: len(stored) // 2],
        "empty.pt": b"",
        "short.pt": b"PK",
        "text.pt": b"import this\n" * 20,
        "picture.pt": b"\x89PNG\r\n\x1a\n" + bytes(100),
    }
    contents |= {f"junk{i}.pt": rng.bytes(200) for i in range(20)}
    contents |= {f"pickle{i}.pt": b"\x80\x02" + rng.bytes(60) for i in range(20)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
            recognise(tmp_path / name)
    for missing in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            recognise(missing)
