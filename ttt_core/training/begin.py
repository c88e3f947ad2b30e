"""Where a new run begins: with the weights of a checkpoint, though its memory be another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ttt_core.checkpoint_files import CheckpointKind, read_checkpoint
from ttt_core.checkpoints import check_coverage, load_parameters
from ttt_core.default_model import default_model
from ttt_core.network import CompactNetwork
from ttt_core.network.tokens import RAY_CHANNELS
from ttt_core.streaming import StreamingModel

_OF_MEMORY = ("memory.", "reader.", "writer.", "color_of_value.", "anchored.", "surfaces.")
"""Parts that belong to one form of memory; all others are the same in every form but "tokens"."""


def begin_with(network: CompactNetwork, path: str | Path) -> str | None:
    """Fill a new network from a checkpoint.

    If that was trained with another form of memory, all but the memory's own layers is taken over,
    and the network's own memory begins with nothing learnt. From a volume (`ridge`) to a form whose
    first weights say nothing (`grid`, `none`) the network then begins as the checkpoint is with
    nothing in its memory. What a trained grid says of empty places is in its own layers, and lost.

    Returns:
        What was left out, in words; None: nothing.

    Raises:
        CheckpointError: unreadable, or names or shapes that do not match.
    """
    if read_checkpoint(path).kind is not CheckpointKind.COMPACT:
        load_parameters(network, path)
        return None
    donor = cast(StreamingModel, default_model(path)).network
    assert donor is not None
    if donor.config.memory == network.config.memory:
        load_parameters(network, path)
        return None
    given = _shared(donor.state_dict())
    check_coverage(_shared(network.state_dict()), given, path)
    given.update(_without_answers(donor))
    network.load_state_dict(given, strict=False)
    return (
        f"{path} has memory {donor.config.memory!r}: of that nothing is taken over, and memory "
        f"{network.config.memory!r} begins untrained"
    )


def _shared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in tensors.items() if not name.startswith(_OF_MEMORY)}


@torch.no_grad()
def _without_answers(donor: CompactNetwork) -> dict[str, Tensor]:
    """The first layer along the ray, deaf to a memory's answers.

    An empty volume answers everywhere the same, that it doubts: that becomes part of the bias. It
    is the same but at the two outermost planes, beyond which the layer sees zeros.
    """
    weight, bias = donor.ray_1.weight.clone(), donor.ray_1.bias
    assert bias is not None
    if donor.memory is not None:
        state = donor.memory.initial_state(1)
        _, doubt = donor.memory.read(state, torch.zeros(1, 1, 3))
        # doubt is the last channel of an answer
        bias = bias + weight[:, -1].sum(dim=-1) * doubt.flatten()[0]
    weight[:, RAY_CHANNELS:] = 0
    return {"ray_1.weight": weight, "ray_1.bias": bias}
