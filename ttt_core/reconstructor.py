"""The tttLRM reconstructor: posed images in, raw splat channels and fast weights out.

One token stream: input views double as virtual views (their tokens would be bit-identical), and
block-causal streaming (`stream`) is the same pass as the released recompute (`reconstruct`) but
for where the fast weights come from.
Shape suffixes: B batch items, V views, N tokens or splats, C raw channels of a splat.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ttt_core.blocks import Block, layer_norm, linear
from ttt_core.config import ReconstructorConfig
from ttt_core.errors import ScanError, StateMismatchError, ViewIndexError
from ttt_core.state import FastWeights, LayerState, ReconstructorState
from ttt_core.tokens import (
    RAY_CHANNELS,
    Patchify,
    Rays,
    camera_rays,
    check_views,
    ray_image,
    splat_order,
)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What one pass emits.

    Splats are ordered view, patch row, patch column, row in patch, column in patch.
    """

    raw: Tensor  # (B, N, C): depth 3, SH 3(s+1)^2 (rgb fastest), scale 3, rotation 4, opacity 1
    fast_weights: tuple[FastWeights, ...]  # one (w0, w1, w2) a layer, as they stand after the pass
    ray_origins: Tensor  # (B, N, 3), dtype as `raw`; computed in the poses' precision
    ray_directions: Tensor  # (B, N, 3), unit length, as above


class Reconstructor(nn.Module):
    """tttLRM with the parameter names of its released checkpoints.

    Works in the dtype of its parameters; under autocast, rays, learning rates, the Newton-Schulz
    iteration and the decoder keep full precision. Poses are taken as they are: normalise them
    first (`normalize_poses`).
    """

    def __init__(self, config: ReconstructorConfig) -> None:
        super().__init__()
        self.config = config
        patch_area = config.patch_size**2
        self.tokenizer = nn.Sequential(
            Patchify(config.patch_size), linear(RAY_CHANNELS * patch_area, config.width)
        )
        self.input_layernorm = layer_norm(config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.decoder = nn.Sequential(
            layer_norm(config.width), linear(config.width, config.splat_channels * patch_area)
        )

    def initial_state(self, batch_size: int) -> ReconstructorState:
        """The memory before the first batch; gradients reach the initial fast weights."""
        if batch_size < 1:
            raise StateMismatchError(f"batch_size is {batch_size}: give a number >= 1")
        blocks = cast(Iterable[Block], self.blocks)
        return ReconstructorState(tuple(block.initial_state(batch_size) for block in blocks))

    def reconstruct(
        self,
        image: Tensor,  # (B, V, 3, H, W)
        fxfycxcy: Tensor,  # (B, V, 4)
        c2w: Tensor,  # (B, V, 4, 4)
        *,
        scan: str = "full",
        views_per_update: int = 4,
        virtual_views: Tensor | None = None,
    ) -> Reconstruction:
        """The released computation: all views at once, no state survives.

        Args:
            image: values 0..1; H and W multiples of the patch size.
            fxfycxcy: pixels.
            c2w: OpenCV axes, normalised.
            scan: "full" updates the fast weights once with all views, "ar" once per
                `views_per_update` views; both read with the last weights only.
            views_per_update: views of one update of the "ar" scan; divides V.
            virtual_views: (B, n) indices of the input views to decode; None decodes all in order.

        Raises:
            ShapeError, PatchSizeError, ScanError, ViewIndexError: unusable arguments.
        """
        check_views(image, fxfycxcy, c2w, self.config.patch_size)
        batch, views = image.shape[:2]
        if scan == "full":
            chunk_views = views
        elif scan == "ar":
            chunk_views = views_per_update
            if chunk_views < 1 or views % chunk_views:
                raise ScanError(
                    f"views_per_update is {chunk_views}, which does not divide the {views} views: "
                    "choose a divisor, or drop or repeat views"
                )
        else:
            raise ScanError(f'scan is {scan!r}: give "full" or "ar"')
        if virtual_views is not None:
            _check_virtual_views(virtual_views, batch, views)
        state = self.initial_state(batch)
        return self._pass(state, image, fxfycxcy, c2w, chunk_views, virtual_views)[1]

    def stream(
        self,
        state: ReconstructorState,
        image: Tensor,  # (B, V, 3, H, W)
        fxfycxcy: Tensor,  # (B, V, 4)
        c2w: Tensor,  # (B, V, 4, 4)
    ) -> tuple[ReconstructorState, Reconstruction]:
        """Take in the next batch of views: block-causal, constant cost and memory per batch.

        Every layer first writes the batch into its fast weights, then reads. Earlier outputs and
        the given state never change. On the first batch this equals `reconstruct(scan="full")`.

        Raises:
            ShapeError, PatchSizeError: unusable views.
            StateMismatchError: `state` was made by another model or for another batch size.
        """
        check_views(image, fxfycxcy, c2w, self.config.patch_size)
        self._check_state(state, image.shape[0])
        return self._pass(state, image, fxfycxcy, c2w, image.shape[1], None)

    def query(
        self,
        state: ReconstructorState,
        image: Tensor,  # (B, V, 3, H, W)
        fxfycxcy: Tensor,  # (B, V, 4)
        c2w: Tensor,  # (B, V, 4, 4)
    ) -> Reconstruction:
        """Decode any views with the weights of `state`, which stays untouched.

        Raises: as `stream`.
        """
        check_views(image, fxfycxcy, c2w, self.config.patch_size)
        self._check_state(state, image.shape[0])
        return self._pass(state, image, fxfycxcy, c2w, None, None)[1]

    def _pass(
        self,
        state: ReconstructorState,
        image: Tensor,
        fxfycxcy: Tensor,
        c2w: Tensor,
        chunk_views: int | None,
        virtual_views: Tensor | None,
    ) -> tuple[ReconstructorState, Reconstruction]:
        views, height, width = image.shape[1], *image.shape[-2:]
        rays = camera_rays(fxfycxcy, c2w, height, width)
        x = self.input_layernorm(self.tokenizer(ray_image(self._cast(image), rays)))  # (B, N, d)
        tokens_per_view = x.shape[1] // views
        chunk_tokens = None if chunk_views is None else chunk_views * tokens_per_view
        layers: list[LayerState] = []
        for block, before in zip(self.blocks, state.layers):
            x, after = block(x, before, views, chunk_tokens)
            layers.append(after)
        if virtual_views is not None:
            x, rays = _gather_views(x, rays, virtual_views)
        # bfloat16 leaves 145 depth levels: the decoder does not follow autocast
        with torch.autocast(x.device.type, enabled=False):
            raw = self.decoder(self._cast(x)).unflatten(-1, (-1, self.config.splat_channels))
        origins, directions = (self._cast(splat_order(t, self.config.patch_size)) for t in rays)
        output = Reconstruction(
            raw=raw.flatten(1, 2),
            fast_weights=tuple(layer.weights for layer in layers),
            ray_origins=origins,
            ray_directions=directions,
        )
        return ReconstructorState(tuple(layers)), output

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self.input_layernorm.weight.dtype)

    def _check_state(self, state: ReconstructorState, batch: int) -> None:
        config = self.config
        if len(state.layers) != config.layers:
            raise StateMismatchError(
                f"state has {len(state.layers)} layers, this model {config.layers}: use a state "
                "from this model's initial_state"
            )
        heads, dim, hidden = (
            config.fast_weight_heads,
            config.fast_weight_head_dim,
            config.fast_weight_hidden,
        )
        expected = (batch * heads, dim, hidden)
        for index, layer in enumerate(state.layers):
            if tuple(layer.weights.w0.shape) != expected:
                raise StateMismatchError(
                    f"state layer {index} has w0 {tuple(layer.weights.w0.shape)}, expected "
                    f"{expected} for batch size {batch}: use initial_state({batch}) of this model"
                )
            if (layer.fisher is not None) != (config.elastic_lambda > 0):
                raise StateMismatchError(
                    f"state layer {index} {'has' if layer.fisher is not None else 'lacks'} the "
                    f"elastic option's tensors, but elastic_lambda is {config.elastic_lambda}: "
                    "use a state of a model with the same setting"
                )


def _check_virtual_views(indices: Tensor, batch: int, views: int) -> None:
    integral = not indices.is_floating_point() and indices.dtype != torch.bool
    if indices.dim() != 2 or indices.shape[0] != batch or not integral or indices.shape[1] == 0:
        raise ViewIndexError(
            f"virtual_views has shape {tuple(indices.shape)} and dtype {indices.dtype}: give "
            f"integers ({batch}, n) with n >= 1"
        )
    if int(indices.min()) < 0 or int(indices.max()) >= views:
        raise ViewIndexError(
            f"virtual_views holds {int(indices.min())}..{int(indices.max())}: indices must lie in "
            f"0..{views - 1}, the input views"
        )


def _gather_views(x: Tensor, rays: Rays, indices: Tensor) -> tuple[Tensor, Rays]:
    """Tokens (B, N, d) and rays of the chosen input views."""
    item = torch.arange(len(indices), device=x.device)[:, None]
    indices = indices.to(x.device)
    tokens_per_view = x.shape[1] // rays.origins.shape[1]
    chosen = x.unflatten(1, (-1, tokens_per_view))[item, indices].flatten(1, 2)
    return chosen, Rays(rays.origins[item, indices], rays.directions[item, indices])
