"""Reading our own checkpoints: configuration, weights, and what is said about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ttt_core.checkpoint_files import CheckpointKind, read_checkpoint
from ttt_core.errors import CheckpointError

VERSION = 1
_PARSED = ("config", "training", "figures")


def load_compact(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """What `ttt_core.training.export.export_compact` wrote.

    Returns:
        the model's configuration; the weights by name, on the CPU, floating ones as float32; and
        the rest of the metadata: "licence" (text), "training" and "figures" (mappings).

    Raises:
        CheckpointError: unreadable, or not such a file.
    """
    file = read_checkpoint(path)
    if file.kind is not CheckpointKind.COMPACT:
        raise CheckpointError(
            f"checkpoint {path} is one of {file.kind.value}, not of splatstream's own network: "
            "give the checkpoint.safetensors of a training run, or none at all"
        )
    if file.metadata.get("version") != str(VERSION):
        raise CheckpointError(
            f"checkpoint {path} has version {file.metadata.get('version')!r}, this program reads "
            f"{VERSION}: use the program that it was written with"
        )
    parsed: dict[str, Any] = {}
    for name in _PARSED:
        try:
            parsed[name] = json.loads(file.metadata[name])
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint {path}: its metadata has no readable {name!r} ({error!r}); the file "
                "was not written by splatstream train, or it is damaged"
            ) from error
        if not isinstance(parsed[name], dict):
            raise CheckpointError(f"checkpoint {path}: {name!r} of its metadata is no mapping")
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in file.tensors.items()}
    config: dict[str, Any] = parsed.pop("config")
    return config, tensors, {"licence": file.metadata.get("licence", ""), **parsed}
