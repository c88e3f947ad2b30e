"""The network behind the streaming model: what it adds to the matching prior.

Tokens carry image, rays, the prior's depth, confidence and matching cost, and the rendered map;
blocks with carried fast weights mix them; a zero-initialised head turns every token into
residuals of its pixels. Zero weights in the head mean: the output is the prior.
Shape suffixes: V views, P patch side, d width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_core.blocks import Block, layer_norm, linear
from ttt_core.config import ReconstructorConfig
from ttt_core.matching import CELL
from ttt_core.state import LayerState, ReconstructorState
from ttt_core.tokens import RAY_CHANNELS, patchify

GEOMETRY_CHANNELS = 4
"""Per pixel beside the ray image: log depth, confidence, log map depth over depth, map is there."""

RESIDUAL_CHANNELS = {
    "log_depth": 1,
    "confidence_logit": 1,
    "color": 3,
    "log_scale": 3,
    "opacity_logit": 1,
    "rotation": 3,
}
"""What the head emits for every pixel, in this order."""


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """One batch of views as the network sees it, sides padded to whole patches."""

    pixels: Tensor  # (V, H, W, RAY_CHANNELS + GEOMETRY_CHANNELS)
    cells: Tensor  # (V, H/CELL, W/CELL, channels of the prior's cells)


class ResidualNetwork(nn.Module):
    """Tokens -> blocks with fast weights -> residuals; see the module's description."""

    def __init__(self, config: ReconstructorConfig, cell_channels: int) -> None:
        """`config.patch_size` must be a multiple of `CELL`; its `sh_degree` is not used."""
        super().__init__()
        self.config = config
        patch_area = config.patch_size**2
        token_channels = (RAY_CHANNELS + GEOMETRY_CHANNELS) * patch_area
        token_channels += cell_channels * (config.patch_size // CELL) ** 2
        self.tokenizer = linear(token_channels, config.width)
        self.input_layernorm = layer_norm(config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.output_layernorm = layer_norm(config.width)
        self.head = linear(config.width, sum(RESIDUAL_CHANNELS.values()) * patch_area)
        nn.init.zeros_(self.head.weight)

    @property
    def corrects(self) -> bool:
        """Whether the head was trained; if not, every residual is exactly zero."""
        return bool(self.head.weight.any())

    def initial_state(self) -> ReconstructorState:
        blocks = cast(Iterable[Block], self.blocks)
        return ReconstructorState(tuple(block.initial_state(1) for block in blocks))

    def forward(
        self, views: NetworkInput, memory: ReconstructorState, *, write: bool
    ) -> tuple[dict[str, Tensor], ReconstructorState]:
        """One pass over a batch of views.

        Args:
            views: V views of one size.
            memory: fast weights before the batch; not changed.
            write: take the batch into the memory (every layer writes, then reads); False reads.

        Returns:
            residuals by the names of `RESIDUAL_CHANNELS`, each (V, channels, H, W), and the memory
            afterwards.
        """
        count, height, width, _ = views.pixels.shape
        patch = self.config.patch_size
        x = torch.cat(
            (patchify(views.pixels[None], patch), patchify(views.cells[None], patch // CELL)),
            dim=-1,
        )
        x = self.input_layernorm(self.tokenizer(x))  # (1, N, d)
        chunk_tokens = x.shape[1] if write else None
        layers: list[LayerState] = []
        for block, before in zip(self.blocks, memory.layers):
            x, after = block(x, before, count, chunk_tokens)
            layers.append(after)
        rows, columns = height // patch, width // patch
        residuals = self.head(self.output_layernorm(x)).view(count, rows, columns, patch, patch, -1)
        residuals = residuals.permute(0, 5, 1, 3, 2, 4).reshape(count, -1, height, width)
        by_name = residuals.split(list(RESIDUAL_CHANNELS.values()), dim=1)
        return dict(zip(RESIDUAL_CHANNELS, by_name)), ReconstructorState(tuple(layers))


def pad_to_patches(pixels: Tensor, patch_size: int) -> Tensor:
    """Repeat the last row and column until both sides of (V, H, W, C) are whole patches."""
    height, width = pixels.shape[1:3]
    padding = (0, -width % patch_size, 0, -height % patch_size)
    return F.pad(pixels.movedim(-1, 1), padding, mode="replicate").movedim(1, -1)


def fit_cells(cells: Tensor, height: int, width: int) -> Tensor:
    """Bring (V, Hc, Wc, F) to the cell grid of padded (height, width) images.

    Cells beyond the grid are cut; missing ones repeat the last row and column.
    """
    rows, columns = height // CELL, width // CELL
    cells = cells[:, :rows, :columns]
    padding = (0, columns - cells.shape[2], 0, rows - cells.shape[1])
    return F.pad(cells.movedim(-1, 1), padding, mode="replicate").movedim(1, -1)
