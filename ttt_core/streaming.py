"""The streaming model that the daemon runs: matching prior, then what a network adds to it.

Geometry comes from matching; the network is residual to it and carries fast weights through the
stream. While no trained weights are loaded the head is zero, so that the output is the prior
exactly; the fast weights run and are carried all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ttt_core.checkpoints import load_parameters
from ttt_core.config import ReconstructorConfig
from ttt_core.errors import ConfigError, StateMismatchError
from ttt_core.kept_views import keep_views
from ttt_core.matching import (
    CELL,
    CELL_CHANNELS,
    MatchingPrior,
    PosedImage,
    PriorConfig,
    PriorDepth,
)
from ttt_core.residual_network import (
    NetworkInput,
    ResidualNetwork,
    fit_cells,
    pad_to_patches,
)
from ttt_core.state import ReconstructorState
from ttt_core.streaming_state import StreamingState
from ttt_core.submap import SubmapFrame
from ttt_core.tokens import camera_rays, ray_image
from ttt_core.views import Prediction, ViewBatch, posed_images

_LOGIT_EPS = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingConfig:
    """Sizes of the streaming model. The defaults fit a CPU: the network costs a small part of the
    prior's time at 240x160 pixels.

    Raises:
        ConfigError: a value out of range.
    """

    patch_size: int = 8
    width: int = 64
    layers: int = 3
    attention_head_dim: int = 32
    fast_weight_head_dim: int = 32
    fast_weight_expansion: int = 4
    memory: str = "tokens"
    """Form of the memory. "tokens": every block writes its tokens into fast weights and reads them
    back."""
    depth_residual_limit: float = 1.0
    """Largest correction of log depth."""
    kept_views: int = 24
    """Earlier key frames kept as matching sources, at most."""
    recent_views: int = 8
    """The newest of them, which always stay."""
    seed: int = 0
    """Of the untrained parameters, so that a restored state meets the network that wrote it."""
    prior: PriorConfig = field(default_factory=PriorConfig)

    def __post_init__(self) -> None:
        if self.memory != "tokens":
            raise ConfigError(f'memory is {self.memory!r}: the only form so far is "tokens"')
        if self.patch_size % CELL:
            raise ConfigError(
                f"patch_size is {self.patch_size}: give a multiple of {CELL}, the side of the "
                "prior's cells"
            )
        if not 1 <= self.recent_views <= self.kept_views:
            raise ConfigError(
                f"recent_views is {self.recent_views}: give 1 to kept_views ({self.kept_views})"
            )
        self.network()
        if not self.depth_residual_limit > 0:
            raise ConfigError(
                f"depth_residual_limit is {self.depth_residual_limit}: give a number > 0"
            )

    def network(self) -> ReconstructorConfig:
        """Configuration of the blocks."""
        return ReconstructorConfig(
            width=self.width,
            layers=self.layers,
            patch_size=self.patch_size,
            attention_head_dim=self.attention_head_dim,
            fast_weight_head_dim=self.fast_weight_head_dim,
            fast_weight_expansion=self.fast_weight_expansion,
        )


class StreamingModel(nn.Module):
    """Key frames in, depth, confidence and splat residuals out, batch after batch.

    Cost and memory per batch do not grow with the stream. A state is never changed: `stream`
    returns a new one, so that a caller may keep or discard either.
    """

    def __init__(self, config: StreamingConfig | None = None) -> None:
        super().__init__()
        self.config = config or StreamingConfig()
        self.prior = MatchingPrior(self.config.prior)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.network = ResidualNetwork(self.config.network(), len(CELL_CHANNELS))

    @property
    def trained(self) -> bool:
        """False while the network's head is zero: the output is then the prior, exactly."""
        return self.network.corrects

    @property
    def device(self) -> torch.device:
        return self.network.input_layernorm.weight.device

    def describe(self) -> str:
        """One plain sentence or two on what the output is made of."""
        parameters = sum(p.numel() for p in self.network.parameters())
        memory = f"{self.initial_state().memory.nbytes / 1e6:.1f} MB"
        network = f"network of {parameters / 1e6:.2f} M parameters, {memory} of fast weights"
        if self.trained:
            return f"Matching prior, corrected by a trained {network}."
        return (
            f"Matching prior alone: the {network}, runs and carries its memory, but no trained "
            "weights are loaded, so it adds nothing to the prior."
        )

    def initial_state(self) -> StreamingState:
        """The state before the first batch."""
        return StreamingState(self.network.initial_state().detach())

    @torch.no_grad()
    def stream(self, state: StreamingState, batch: ViewBatch) -> tuple[StreamingState, Prediction]:
        """Take in the next key frames.

        The first batch fixes the sub-map's frame and unit. Returns the state afterwards and what
        is predicted for the batch.

        Raises:
            StateMismatchError: `state` was made by a model of another configuration.
        """
        self._check(state)
        views = posed_images(batch)
        prior = self._predict_prior(state, batch, views)
        frame = state.frame or SubmapFrame.from_first_batch(
            batch.c2w.cpu(), _stack(prior, "depth"), _stack(prior, "confidence")
        )
        prediction, memory = self._correct(state.memory, frame, batch, prior, write=True)
        depth, confidence = prediction.depth.cpu().numpy(), prediction.confidence.cpu().numpy()
        described = [
            replace(view, depth=depth[i], confidence=confidence[i]) for i, view in enumerate(views)
        ]
        kept = keep_views(
            state.views,
            described,
            limit=self.config.kept_views,
            recent=self.config.recent_views,
            unit=float(frame.scale),
        )
        return StreamingState(memory, frame, kept), prediction

    @torch.no_grad()
    def query(self, state: StreamingState, batch: ViewBatch) -> Prediction:
        """Predict any views with the memory as it stands; `state` is untouched.

        A view that the state keeps (same key) is matched against the others, not against itself.

        Raises:
            StateMismatchError: `state` is empty or was made by a model of another configuration.
        """
        self._check(state)
        if state.frame is None:
            raise StateMismatchError(
                "the state holds no batch yet, so that it has no frame to answer in: call stream "
                "first"
            )
        prior = self._predict_prior(state, batch, posed_images(batch))
        return self._correct(state.memory, state.frame, batch, prior, write=False)[0]

    def warm_up(self, height: int, width: int) -> None:
        """Compile and allocate for images of this size, so that the first batch is not late."""
        self.prior.warm_up(height, width)
        cells = torch.zeros(1, -(-height // CELL), -(-width // CELL), len(CELL_CHANNELS))
        flat = PriorDepth(
            depth=np.ones((height, width), np.float32),
            confidence=np.zeros((height, width), np.float32),
            cells=cells[0].numpy(),
            depth_range=(1.0, 1.0),
            sources=(),
        )
        batch = ViewBatch(
            keys=(0,),
            image=torch.zeros(1, 3, height, width),
            fxfycxcy=torch.tensor([[width, width, width / 2, height / 2]], dtype=torch.float32),
            c2w=torch.eye(4, dtype=torch.float64)[None],
        )
        frame = SubmapFrame(batch.c2w[0], torch.ones((), dtype=torch.float64))
        with torch.no_grad():
            self._correct(self.initial_state().memory, frame, batch, [flat], write=True)

    def _predict_prior(
        self, state: StreamingState, batch: ViewBatch, views: Sequence[PosedImage]
    ) -> list[PriorDepth]:
        present = set(batch.keys)
        earlier = [view for view in state.views if view.key not in present]
        return self.prior.predict(
            views,
            earlier,
            sensor_depth=_depths(batch.sensor_depth, len(views)),
            map_depth=_depths(batch.map_depth, len(views)),
        )

    def _correct(
        self,
        memory: ReconstructorState,
        frame: SubmapFrame,
        batch: ViewBatch,
        prior: Sequence[PriorDepth],
        *,
        write: bool,
    ) -> tuple[Prediction, ReconstructorState]:
        """The network's part: the prior's prediction plus residuals, and the memory afterwards."""
        depth, confidence = (
            _stack(prior, name).to(self.device) for name in ("depth", "confidence")
        )
        image = batch.image.to(self.device)
        views = self._network_input(frame, batch, prior, image, depth, confidence)
        memory = memory.map(lambda t: t.to(self.device))
        residuals, memory = self.network(views, memory, write=write)
        height, width = depth.shape[-2:]
        residuals = {name: r[..., :height, :width] for name, r in residuals.items()}
        limit = self.config.depth_residual_limit
        log_ratio = limit * torch.tanh(residuals["log_depth"][:, 0] / limit)
        if batch.sensor_depth is not None:
            # measured depth is not the network's to correct
            log_ratio = torch.where(batch.sensor_depth.to(self.device) > 0, 0.0, log_ratio)
        logit = torch.logit(confidence, eps=_LOGIT_EPS)
        # written as a difference so that a zero residual returns the prior's value bit for bit
        gain = torch.sigmoid(logit + residuals["confidence_logit"][:, 0]) - torch.sigmoid(logit)
        if batch.sensor_depth is not None:
            gain = torch.where(batch.sensor_depth.to(self.device) > 0, 0.0, gain)
        if batch.valid is not None:
            # masked pixels have no say in later views either, whatever the network thinks
            gain = torch.where(batch.valid.to(self.device), gain, 0.0)
        prediction = Prediction(
            depth=depth * torch.exp(log_ratio),
            confidence=(confidence + gain).clamp(0, 1),
            color=image + residuals["color"],
            log_scale_residual=residuals["log_scale"],
            opacity_logit_residual=residuals["opacity_logit"][:, 0],
            rotation_residual=residuals["rotation"],
        )
        return prediction, memory

    def _network_input(
        self,
        frame: SubmapFrame,
        batch: ViewBatch,
        prior: Sequence[PriorDepth],
        image: Tensor,
        depth: Tensor,
        confidence: Tensor,
    ) -> NetworkInput:
        height, width = depth.shape[-2:]
        if batch.valid is not None:
            # grey: nothing to see
            image = torch.where(batch.valid.to(self.device)[:, None], image, 0.5)
        local = frame.localize(batch.c2w).to(self.device)
        rays = camera_rays(batch.fxfycxcy.to(self.device)[None], local[None], height, width)
        log_depth = torch.log(depth / frame.scale.to(depth))
        if batch.map_depth is None:
            map_there = map_ratio = torch.zeros_like(depth)
        else:
            map_depth = batch.map_depth.to(self.device)
            map_there = (map_depth > 0).to(depth.dtype)
            map_ratio = torch.where(map_depth > 0, torch.log(map_depth / depth), 0.0).clamp(-1, 1)
        geometry = torch.stack((log_depth, confidence, map_ratio, map_there), dim=-1)
        pixels = torch.cat((ray_image(image[None], rays)[0], geometry), dim=-1)
        pixels = pad_to_patches(pixels, self.config.patch_size)
        cells = fit_cells(_stack(prior, "cells").to(self.device), *pixels.shape[1:3])
        return NetworkInput(pixels, cells)

    def _check(self, state: StreamingState) -> None:
        expected = self.network.initial_state().to_tensors()
        given = state.memory.to_tensors()
        if {k: t.shape for k, t in expected.items()} != {k: t.shape for k, t in given.items()}:
            raise StateMismatchError(
                "the state's fast weights do not fit this model: it was made with another "
                "configuration; start from initial_state() or build the model as it was"
            )


def default_model(
    weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> StreamingModel:
    """The model that `serve` and `run` use.

    Args:
        weights: trained parameters of the network (.safetensors); None: the prior alone.

    Raises:
        CheckpointError: `weights` does not fit.
    """
    model = StreamingModel()
    if weights is not None:
        load_parameters(model.network, weights)
    return model.to(device).eval().requires_grad_(False)


def _depths(depth: Tensor | None, views: int) -> list[NDArray[np.float32] | None]:
    """Depth maps view by view; None where a view has no depth at all."""
    if depth is None:
        return [None] * views
    arrays = depth.cpu().numpy()
    return [array if array.any() else None for array in arrays]


def _stack(prior: Sequence[PriorDepth], name: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(view, name) for view in prior]))
