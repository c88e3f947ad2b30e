"""A trained network as a file that can be shipped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from ttt_core.checkpoint_files import COMPACT_FORMAT
from ttt_core.compact_checkpoint import VERSION
from ttt_core.errors import CheckpointError

LICENCE = "Apache-2.0"
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def export_compact(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    *,
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    figures: Mapping[str, float] | None = None,
    dtype: Literal["bfloat16", "float16", "float32"] = "float16",
) -> None:
    """Write a checkpoint that `load_compact` reads, whole or not at all.

    Args:
        path: of the .safetensors file.
        tensors: weights by name. Matrices and convolutions are stored as `dtype`; vectors and
            scalars, which weigh little and matter much, as float32; integers as they are.
        config: what the model is built from; JSON.
        record: what it was trained on and for how long; JSON.
        figures: measured with these weights.

    Raises:
        CheckpointError: a weight is not finite, or does not fit `dtype`.
    """
    stored = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.is_floating_point():
            value = value.to(_DTYPES[dtype] if value.dim() >= 2 else torch.float32)
            if not bool(torch.isfinite(value).all()):
                raise CheckpointError(
                    f"{name} holds values that are not finite as {value.dtype}: "
                    "this is no checkpoint to ship; train on from an earlier state, or store it as "
                    "bfloat16 or float32"
                )
        stored[name] = value.clone()
    metadata = {
        "format": COMPACT_FORMAT,
        "version": str(VERSION),
        "licence": LICENCE,
        "config": json.dumps(dict(config), sort_keys=True),
        "training": json.dumps(dict(record), sort_keys=True),
        "figures": json.dumps(dict(figures or {}), sort_keys=True),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    save_file(stored, aside, metadata)
    os.replace(aside, path)
