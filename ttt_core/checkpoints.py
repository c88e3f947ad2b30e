"""Loading parameters into a model: complete or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ttt_core.checkpoint_files import read_checkpoint
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
    kept = model_parameters(read_checkpoint(path).tensors)
    check_coverage(model.state_dict(), kept, path)
    model.load_state_dict(kept, strict=True)


def model_parameters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the training-only parts that released files may carry."""
    return {name: t for name, t in tensors.items() if not name.startswith(_IGNORED_PREFIXES)}


def check_coverage(
    expected: Mapping[str, Tensor], given: Mapping[str, Tensor], path: str | Path
) -> None:
    """Every expected parameter is given, with its shape, as floating numbers, and no other.

    Raises:
        CheckpointError: with some of the offending names and `path`.
    """
    common = expected.keys() & given.keys()
    problems = {
        "missing": sorted(expected.keys() - given.keys()),
        "unknown": sorted(given.keys() - expected.keys()),
        "of another shape": sorted(
            f"{name} {tuple(given[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in common
            if given[name].shape != expected[name].shape
        ),
        "of another type": sorted(
            f"{name} {given[name].dtype}"
            for name in common
            if not given[name].is_floating_point() and expected[name].is_floating_point()
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
