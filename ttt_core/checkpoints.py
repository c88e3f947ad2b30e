"""Loading parameters into a model: complete or refused."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ttt_core.errors import CheckpointError

# training-only parts that released checkpoints may carry beside the model
_IGNORED_PREFIXES = ("depth_anything.", "perceptual_loss_module.")
_NAMES_SHOWN = 4


def load_parameters(model: nn.Module, path: str | Path) -> None:
    """Fill `model` from a safetensors file or a released torch checkpoint (dict with key `model`).

    Torch files are read with `weights_only=True`: a checkpoint cannot run code. Every parameter
    must be covered with its exact shape; training-only parts of released files are ignored.

    Raises:
        CheckpointError: unreadable file, or names or shapes that do not match.
    """
    tensors = _read(Path(path))
    kept = {name: t for name, t in tensors.items() if not name.startswith(_IGNORED_PREFIXES)}
    expected = model.state_dict()
    problems = {
        "missing": sorted(expected.keys() - kept.keys()),
        "unknown": sorted(kept.keys() - expected.keys()),
        "of another shape": sorted(
            f"{name} {tuple(kept[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in expected.keys() & kept.keys()
            if kept[name].shape != expected[name].shape
        ),
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {what} ({', '.join(names[:_NAMES_SHOWN])}"
            f"{', ...' if len(names) > _NAMES_SHOWN else ''})"
            for what, names in problems.items()
            if names
        )
        raise CheckpointError(
            f"checkpoint {path} does not fit this model: {listed}; build the model with the "
            "configuration that the checkpoint was trained with"
        )
    model.load_state_dict(kept, strict=True)


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({error}): give a .safetensors file or a torch "
            "checkpoint that holds plain tensors"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(
            f"checkpoint {path} has no dict under the key 'model': is it a tttLRM checkpoint?"
        )
    return content["model"]
