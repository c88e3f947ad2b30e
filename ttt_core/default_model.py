"""Which model the daemon runs: the packaged checkpoint, a given one, or the bare prior."""

from __future__ import annotations

import logging
from collections.abc import Mapping
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

PACKAGED = Path(__file__).parent / "weights" / "compact.safetensors"
"""The checkpoint that is shipped."""
NO_WEIGHTS, PACKAGED_WEIGHTS = "none", "packaged"
"""Words in the place of a file."""
_KEPT = ("kept_views", "recent_views")

_log = logging.getLogger(__name__)


def default_model(
    weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> StreamModel[Any]:
    """The model that `serve` and `run` use.

    Args:
        weights: a checkpoint of `splatstream train`, or a released one of tttLRM; "packaged" or
            None: the one that is shipped; "none": the bare prior.

    Raises:
        CheckpointError: `weights` cannot be read, or cannot predict splats.
    """
    path: Path | None
    if weights is None or str(weights) == PACKAGED_WEIGHTS:
        path = PACKAGED
    elif str(weights) == NO_WEIGHTS:
        path = None
    else:
        path = Path(weights)
        if recognise(path) is not CheckpointKind.COMPACT:
            return load_official(path, device)
    return compact_model(path, device)


def compact_model(path: str | Path | None, device: str | torch.device = "cpu") -> StreamingModel:
    """The streaming model with the weights of a compact checkpoint; None: the prior alone.

    Raises:
        CheckpointError: no such checkpoint, or one of a network that this program does not have.
    """
    if path is None:
        model = StreamingModel(StreamingConfig(network=None))
    else:
        config, tensors, about = load_compact(path)
        model = StreamingModel(_streaming_config(config, path))
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
