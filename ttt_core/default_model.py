"""Which model the daemon runs: the bare prior, the packaged checkpoint, or a given one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ttt_core.checkpoint_files import CheckpointKind, recognise
from ttt_core.checkpoints import check_coverage
from ttt_core.compact_checkpoint import load_compact
from ttt_core.errors import CheckpointError
from ttt_core.matching import PriorConfig
from ttt_core.network import NetworkConfig
from ttt_core.official import load_official
from ttt_core.stream_model import StreamModel
from ttt_core.streaming import StreamingConfig, StreamingModel
from ttt_core.submaps import KEPT_SUBMAPS

PACKAGED = Path(__file__).parent / "weights" / "compact.safetensors"
"""The checkpoint that is shipped."""
NO_WEIGHTS, PACKAGED_WEIGHTS = "none", "packaged"
"""Words in the place of a file."""
_KEPT = ("kept_views", "recent_views")

_log = logging.getLogger(__name__)


def default_model(
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    kept_submaps: int = KEPT_SUBMAPS,
) -> StreamModel[Any]:
    """The model that `serve` and `run` use.

    Args:
        weights: a checkpoint of `splatstream train`, or a released one of tttLRM; "packaged": the
            one that is shipped; "none" or None: the bare prior, which by held-out views is as good
            as the latter, and cheaper.
        kept_submaps: `StreamingConfig.kept_submaps`; released checkpoints have none.

    Raises:
        CheckpointError: `weights` cannot be read, or cannot predict splats.
    """
    path = _path(weights)
    if path not in (None, PACKAGED) and recognise(path) is not CheckpointKind.COMPACT:
        return load_official(path, device)
    return compact_model(path, device, kept_submaps)


def weights_digest(weights: str | Path | None = None) -> str:
    """What tells the files of `default_model(weights)` apart, whatever they are called: a state
    means nothing to other weights than those it was carried by. "none" without any.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path = _path(weights)
    if path is None:
        return NO_WEIGHTS
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from error


def _path(weights: str | Path | None) -> Path | None:
    """The file that the words mean; None: no weights."""
    if weights is None or str(weights) == NO_WEIGHTS:
        return None
    return PACKAGED if str(weights) == PACKAGED_WEIGHTS else Path(weights)


def compact_model(
    path: str | Path | None,
    device: str | torch.device = "cpu",
    kept_submaps: int = KEPT_SUBMAPS,
) -> StreamingModel:
    """The streaming model with the weights of a compact checkpoint; None: the prior alone.

    Raises:
        CheckpointError: no such checkpoint, or one of a network that this program does not have.
    """
    if path is None:
        model = StreamingModel(StreamingConfig(network=None, kept_submaps=kept_submaps))
    else:
        config, tensors, about = load_compact(path)
        streaming = replace(_streaming_config(config, path), kept_submaps=kept_submaps)
        model = StreamingModel(streaming)
        assert model.network is not None
        check_coverage(model.network.state_dict(), tensors, path)
        model.network.load_state_dict(tensors)
        _log.debug("weights %s, licence %s", path, about["licence"])
    return model.to(device).eval().requires_grad_(False)


def _streaming_config(config: Mapping[str, Any], path: str | Path) -> StreamingConfig:
    try:
        # the network meets the prior and the choice of kept views that it was trained on
        prior = dict(config.get("prior", {}))
        kept = {name: prior.pop(name) for name in _KEPT if name in prior}
        network = NetworkConfig(**config["network"])
        return StreamingConfig(network=network, prior=PriorConfig(**prior), **kept)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} was made for another network ({error}): use the program that it "
            "was written with, or train anew"
        ) from error
