"""What the compact network says of views.

Shape suffixes: B streams, V views, N tokens of a view, D planes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ttt_core.network.surfaces import RecalledView
from ttt_core.network.volume import WriteRecord

RESIDUAL_CHANNELS = {
    "blend": 1,
    "log_depth": 1,
    "confidence_logit": 1,
    "color": 3,
    "log_scale": 3,
    "opacity_logit": 1,
    "rotation": 3,
}
"""What the pixel head emits, in this order."""


@dataclass(frozen=True, slots=True, eq=False)
class NetworkOutput:
    """What the network says of a batch. Depths are logarithms in sub-map units."""

    log_depth: Tensor  # (B, V, H, W), corrected
    confidence: Tensor  # (B, V, H, W), corrected
    confidence_logit: Tensor  # (B, V, H, W), its logit
    residuals: dict[str, Tensor]  # by the names of RESIDUAL_CHANNELS, (B, V, channels, H, W)
    plane_logits: Tensor  # (B, V, N, D)
    prior_logits: Tensor  # (B, V, N, D), before the decoder along the ray
    token_log_depth: Tensor  # (B, V, N)
    token_confidence: Tensor  # (B, V, N)
    record: WriteRecord | None  # what was written; None if nothing was, or the memory has no record


@dataclass(frozen=True, slots=True, eq=False)
class Imagined:
    """What the memory alone says of a camera: tokens of a view that has no picture."""

    plane_logits: Tensor  # (B, V, N, D)
    log_depth: Tensor  # (B, V, N), sub-map units
    confidence: Tensor  # (B, V, N), 0..1
    color: Tensor  # (B, V, N, 3), 0..1, exposed as what was written


class Seen(NamedTuple):
    """What is known of tokens before anything is decided about pixels."""

    tokens: Tensor  # (B, V, N, width)
    cells: Tensor  # (B*V, cell_width, H/CELL, W/CELL)
    mixed: Tensor  # (B*V, width, rows, columns)
    prior_logits: Tensor  # (B, V, N, D)
    logits: Tensor  # (B, V, N, D)
    recalled: RecalledView | None  # what a surface grid holds there
