"""Checkpoint files: read without running code, and recognised by what they hold."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ttt_core.errors import CheckpointError, TrainingStateError, UnknownCheckpointError

COMPACT_FORMAT = "splatstream-compact"
"""What the metadata of our own checkpoints says under the key `format`."""
RUN_STATE_FORMAT = "splatstream-run-state"
"""What it says of the state that our own training goes on from."""

_TRAINING_KEYS = ("optimizer", "lr_scheduler")
_TTTLRM_NAMES = ("tokenizer.1.", "decoder.1.")
_LACT_NAMES = ("input_linear.", "image_token_decoder.")
_NAMES_SHOWN = 3


class CheckpointKind(Enum):
    """What a checkpoint file can be."""

    COMPACT = COMPACT_FORMAT
    """Ours: safetensors whose metadata names the format."""
    TTTLRM = "tttLRM"
    """The released reconstructor: posed images to splats."""
    LACT = "LaCT"
    """The released view-synthesis model that tttLRM's training starts from: no splats."""


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A checkpoint as it was read.

    Attributes:
        path: where it lies.
        tensors: the model's parameters by name, on the CPU; mapped from the file where its format
            allows that, so that they cost memory only once they are read.
        metadata: of a safetensors file; empty otherwise.
        training: keys of a training run's state (optimizer, ...) that lie beside the model.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    training: tuple[str, ...]

    @property
    def kind(self) -> CheckpointKind:
        """What the file is, by its metadata and the names of its parameters.

        Raises:
            UnknownCheckpointError: nothing that we know.
            TrainingStateError: the state of a training run, ours or of a model that we do not know.
        """
        if self.metadata.get("format") == COMPACT_FORMAT:
            return CheckpointKind.COMPACT
        if self.metadata.get("format") == RUN_STATE_FORMAT:
            raise TrainingStateError(
                f"checkpoint {self.path} is the state of a run of splatstream train: give the "
                "checkpoint.safetensors in the folder above it, or go on training with --resume"
            )
        names = tuple(self.tensors)
        for kind, marks in (
            (CheckpointKind.TTTLRM, _TTTLRM_NAMES),
            (CheckpointKind.LACT, _LACT_NAMES),
        ):
            if any(name.startswith(marks) for name in names):
                return kind
        if self.training:
            raise TrainingStateError(
                f"checkpoint {self.path} is the state of a training run (it holds "
                f"{', '.join(self.training)}) of a model that is neither a tttLRM nor a LaCT "
                "release: give the finished weights that the training wrote beside it, or go on "
                "training from it"
            )
        known = (*_TTTLRM_NAMES, *_LACT_NAMES)
        prefixed = [name for name in names if any(f".{mark}" in name for mark in known)]
        if prefixed:
            raise UnknownCheckpointError(
                f"checkpoint {self.path} has a prefix before the names of its parameters "
                f"({_some(prefixed)}): save it without the wrapper that it was trained in"
            )
        raise UnknownCheckpointError(
            f"checkpoint {self.path} is of no known kind: it holds {len(names)} tensors "
            f"({_some(names)}). Give a file of splatstream (safetensors), of tttLRM or of LaCT"
        )


def recognise(path: str | Path) -> CheckpointKind:
    """What the checkpoint at `path` is; cheap, since tensors are not read.

    Raises:
        CheckpointError: the file cannot be read, or is of no known kind (its subclasses
            `UnknownCheckpointError` and `TrainingStateError`).
    """
    return read_checkpoint(path).kind


def read_checkpoint(path: str | Path) -> CheckpointFile:
    """Open a safetensors file, or a torch file that is a dict of tensors or has one under `model`.

    Which of the two a file is shows in its first bytes, not in its name. Torch files are read with
    `weights_only=True`: a checkpoint cannot run code.

    Raises:
        CheckpointError: missing, damaged, of another format, or not made of plain tensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if len(start) == 9 and start[8:] == b"{":
            with safe_open(path, framework="pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                return CheckpointFile(path, tensors, stored.metadata() or {}, ())
        if zipfile.is_zipfile(path) and path.suffix != ".safetensors":
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:
            # an open file: torch judges a path by its suffix
            with path.open("rb") as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    # A damaged file makes the unpickler raise anything, assertions included.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({reason}): give a .safetensors file or a torch "
            "checkpoint that holds plain tensors"
        ) from error
    return _from_torch(path, content)


def _from_torch(path: Path, content: Any) -> CheckpointFile:
    model = content
    training: tuple[str, ...] = ()
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        model = content["model"]
        training = tuple(key for key in _TRAINING_KEYS if key in content)
    elif not isinstance(content, dict) or not content or not _all_tensors(content):
        held = f"the keys {_some(map(str, content))}" if isinstance(content, dict) else "no dict"
        raise UnknownCheckpointError(
            f"checkpoint {path} has no dict under the key 'model' and is no dict of tensors (it "
            f"holds {held}): is it a tttLRM checkpoint?"
        )
    if not _all_tensors(model):
        raise CheckpointError(
            f"checkpoint {path} holds more than tensors under the key 'model': save its state_dict"
        )
    return CheckpointFile(path, model, {}, training)


def _all_tensors(content: dict[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(t, Tensor) for k, t in content.items())


def _some(names: Any) -> str:
    names = sorted(names)
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
