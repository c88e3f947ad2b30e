"""Released tttLRM and LaCT checkpoints: from the file to a `Reconstructor`.

The sizes are read off the shapes of the parameters, so that a file needs no configuration beside
it. Source of names and layouts: our sheet of the released models, sections 1 and 9.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttt_core.blocks import linear
from ttt_core.checkpoint_files import CheckpointFile, CheckpointKind, read_checkpoint
from ttt_core.checkpoints import check_coverage, model_parameters
from ttt_core.config import ReconstructorConfig
from ttt_core.errors import (
    CheckpointError,
    ConfigError,
    PictureCheckpointError,
    UnknownCheckpointError,
)
from ttt_core.reconstructor import Reconstructor
from ttt_core.tokens import RAY_CHANNELS

_log = logging.getLogger(__name__)

LICENCES = {
    CheckpointKind.TTTLRM: (
        "The tttLRM checkpoints are under the Adobe Research License: non-commercial research use "
        "only. It covers these weights, not splatstream."
    ),
    CheckpointKind.LACT: (
        "The LaCT checkpoints are to be taken as under the Adobe Research License, as tttLRM's "
        "are: non-commercial research use only, for what is trained from them too. It covers these "
        "weights, not splatstream."
    ),
}
"""The terms that users have to know of when they supply such a file."""

QK_NORM_EPS = 0.0078125
"""The released weights were trained in mixed precision under torch 2.5, whose q and k norms took
bfloat16's eps."""

_BLOCK = re.compile(r"blocks\.(\d+)\.")
_FAST_WEIGHTS = "blocks.0.module_list.1.f.w0"
_ATTENTION_NORM = "blocks.0.module_list.0.f.q_norm.weight"
_TOKENIZER, _DECODER = "tokenizer.1.weight", "decoder.1.weight"
_PICTURE_HEAD = "image_token_decoder.1.weight"
_LACT_RENAMED = {
    "input_linear.weight": _TOKENIZER,
    "image_token_decoder.0.weight": "decoder.0.weight",
}
_DECODER_WITHOUT_SH = 3 + 3 + 4 + 1  # depth, scale, rotation, opacity


def load_reconstructor(path: str | Path, **changes: Any) -> Reconstructor:
    """The model of a tttLRM checkpoint, float32 on the CPU, every parameter covered.

    The licence of such files is logged as a warning. A training checkpoint of tttLRM gives its
    model; optimizer and schedule are left aside.

    Args:
        path: the file as it was released (or its parameters under the same names as safetensors).
        changes: fields of `ReconstructorConfig` that do not show in the shapes
            (`newton_schulz_dtype`, `qk_norm_eps`, the elastic option).

    Raises:
        PictureCheckpointError: a LaCT file; see `reconstructor_from_lact`.
        UnknownCheckpointError, TrainingStateError: no tttLRM file.
        CheckpointError: unreadable, incomplete, or shapes that do not fit each other.
    """
    file = read_checkpoint(path)
    kind = file.kind
    if kind is CheckpointKind.LACT:
        raise PictureCheckpointError(
            f"checkpoint {path} is a LaCT model: it renders pictures and has no decoder of splats, "
            "so it can only start the training of a reconstructor. To serve or run, give a tttLRM "
            "checkpoint, or weights that were trained from this one"
        )
    if kind is not CheckpointKind.TTTLRM:
        raise UnknownCheckpointError(
            f"checkpoint {path} is a {kind.value} file: give a tttLRM checkpoint here"
        )
    parameters = model_parameters(file.tensors)
    config = config_from_shapes(parameters, path, **changes)
    model = _fill(config, parameters, path)
    _tell(file, kind)
    return model


def reconstructor_from_lact(
    path: str | Path, *, sh_degree: int = 3, **changes: Any
) -> Reconstructor:
    """A reconstructor to be trained, with all of a LaCT checkpoint but its picture head.

    Tokens, blocks and the last norm are LaCT's; the decoder of splats has no counterpart there and
    starts from the released initialisation (normal, std 0.02; draws from torch's generator).
    LaCT saw targets as pose-only tokens and poses normalised over inputs and targets.

    Raises:
        UnknownCheckpointError, TrainingStateError: no LaCT file.
        CheckpointError: unreadable, incomplete, shapes that do not fit each other, or more than
            one fast-weight head, which LaCT lays out in another way.
    """
    file = read_checkpoint(path)
    kind = file.kind
    if kind is not CheckpointKind.LACT:
        raise UnknownCheckpointError(
            f"checkpoint {path} is a {kind.value} file: give a LaCT checkpoint here"
        )
    parameters = {
        _LACT_RENAMED.get(name, name): t for name, t in model_parameters(file.tensors).items()
    }
    picture_head = parameters.pop(_PICTURE_HEAD, None)
    config = config_from_shapes(parameters, path, sh_degree=sh_degree, **changes)
    if config.fast_weight_heads > 1:
        raise CheckpointError(
            f"checkpoint {path} has {config.fast_weight_heads} fast-weight heads a layer, which "
            "LaCT orders and normalises in another way than tttLRM: only files with one head can "
            "start a training"
        )
    expected_head = (3 * config.patch_size**2, config.width)
    if picture_head is None or tuple(picture_head.shape) != expected_head:
        given = "is missing" if picture_head is None else f"is {tuple(picture_head.shape)}"
        raise CheckpointError(
            f"checkpoint {path} is no whole LaCT file: {_PICTURE_HEAD} {given}, expected "
            f"{expected_head}; download it again"
        )
    decoder = linear(config.width, config.splat_channels * config.patch_size**2)
    model = _fill(config, {**parameters, _DECODER: decoder.weight.detach()}, path)
    _tell(file, kind)
    return model


def config_from_shapes(
    parameters: Mapping[str, Tensor],
    path: str | Path,
    *,
    sh_degree: int | None = None,
    **changes: Any,
) -> ReconstructorConfig:
    """The sizes of a model, read off the shapes of its parameters.

    Args:
        parameters: by tttLRM's names.
        path: of the file, for the messages.
        sh_degree: None reads it off the decoder.
        changes: other fields of the configuration.

    Raises:
        CheckpointError: a parameter that tells a size is missing or has a shape that tells none.
    """
    width, token = _shape(parameters, _TOKENIZER, 2, path)
    patch_size = math.isqrt(token // RAY_CHANNELS)
    if RAY_CHANNELS * patch_size**2 != token or patch_size == 0:
        raise CheckpointError(
            f"checkpoint {path}: {_TOKENIZER} is {(width, token)}, but a token has "
            f"{RAY_CHANNELS} channels on each pixel of a square patch: is it a tttLRM checkpoint?"
        )
    if sh_degree is None:
        rows = _shape(parameters, _DECODER, 2, path)[0]
        sh_degree = next(
            (
                degree
                for degree in range(4)
                if (_DECODER_WITHOUT_SH + 3 * (degree + 1) ** 2) * patch_size**2 == rows
            ),
            None,
        )
        if sh_degree is None:
            raise CheckpointError(
                f"checkpoint {path}: {_DECODER} has {rows} rows, which is no number of splat "
                f"channels for patches of {patch_size}x{patch_size} pixels"
            )
    heads, head_dim, hidden = _shape(parameters, _FAST_WEIGHTS, 3, path)
    if heads * head_dim != width or hidden % head_dim:
        raise CheckpointError(
            f"checkpoint {path}: {_FAST_WEIGHTS} is {(heads, head_dim, hidden)}, which does not "
            f"fit width {width}: heads times their channels make the width, hidden units are a "
            "multiple of the channels"
        )
    blocks = {found[1] for name in parameters if (found := _BLOCK.match(name))}
    try:
        return ReconstructorConfig(
            **{
                "width": width,
                "layers": len(blocks),
                "patch_size": patch_size,
                "attention_head_dim": _shape(parameters, _ATTENTION_NORM, 1, path)[0],
                "fast_weight_head_dim": head_dim,
                "fast_weight_expansion": hidden // head_dim,
                "sh_degree": sh_degree,
                "qk_norm_eps": QK_NORM_EPS,
                **changes,
            }
        )
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {path} fits no model: {error}") from error


def _shape(
    parameters: Mapping[str, Tensor], name: str, dimensions: int, path: str | Path
) -> tuple[int, ...]:
    if name not in parameters:
        raise CheckpointError(
            f"checkpoint {path} lacks {name}: the file is cut or of another model; download it "
            "again"
        )
    shape = tuple(parameters[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise CheckpointError(
            f"checkpoint {path}: {name} is {shape}, expected {dimensions} dimensions: is it a "
            "tttLRM checkpoint?"
        )
    return shape


def _fill(
    config: ReconstructorConfig, parameters: Mapping[str, Tensor], path: str | Path
) -> Reconstructor:
    # without memory of its own until the file's parameters take their places: at full size the
    # random initialisation would take as long as the loading
    with torch.device("meta"):
        model = Reconstructor(config)
    check_coverage(model.state_dict(), parameters, path)
    # a copy: the file may be mapped, and whoever overwrites it would change a running model
    own = {name: t.detach().to(torch.float32, copy=True) for name, t in parameters.items()}
    broken = [name for name, t in own.items() if not torch.isfinite(t).all()]
    if broken:
        raise CheckpointError(
            f"checkpoint {path} holds values that are not finite in {broken[0]}: the training "
            "that wrote it broke down, or the file is damaged"
        )
    model.load_state_dict(own, strict=True, assign=True)
    return model


def _tell(file: CheckpointFile, kind: CheckpointKind) -> None:
    _log.warning("%s: %s", file.path, LICENCES[kind])
    if file.training:
        _log.warning(
            "%s is a training checkpoint: its model is used, %s left aside",
            file.path,
            " and ".join(file.training),
        )
