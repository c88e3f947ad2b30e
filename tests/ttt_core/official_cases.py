"""Files in the layouts of the released checkpoints, with small random models in them."""

from __future__ import annotations

from pathlib import Path

import torch
from reconstructor_cases import tiny_model
from torch import Tensor

from ttt_core import Reconstructor


def one_head(seed: int = 0, **changes: object) -> Reconstructor:
    """As released models are: one fast-weight head."""
    return tiny_model(seed, **{"fast_weight_head_dim": 16, **changes})


def tttlrm_file(path: Path, model: Reconstructor, **beside: object) -> Path:
    """As released: a pickled dict, the parameters under `model`."""
    torch.save({"model": dict(model.state_dict()), **beside}, path)
    return path


def lact_parameters(model: Reconstructor) -> dict[str, Tensor]:
    """The parameters of a LaCT model with the blocks of `model`."""
    width, patch = model.config.width, model.config.patch_size
    tensors = {
        {
            "tokenizer.1.weight": "input_linear.weight",
            "decoder.0.weight": "image_token_decoder.0.weight",
        }.get(name, name): t
        for name, t in model.state_dict().items()
        if name != "decoder.1.weight"
    }
    return {**tensors, "image_token_decoder.1.weight": torch.randn(3 * patch**2, width)}
