"""The streaming model that the daemon runs: matching prior, then what a network adds to it.

Geometry comes from matching; the network is residual to it and carries fast weights through the
stream. While its head is untrained and zero, the output is the prior exactly; a model without a
network is the prior alone, for less time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ttt_core.errors import ConfigError, StateMismatchError
from ttt_core.kept_views import keep_views, move_views
from ttt_core.key_records import KeyRecord
from ttt_core.matching import (
    CELL,
    CELL_CHANNELS,
    MatchingPrior,
    PosedImage,
    PriorConfig,
    PriorDepth,
)
from ttt_core.memory import MemoryState
from ttt_core.network import PATCH, CompactNetwork, NetworkConfig, NetworkInput, WriteRecord
from ttt_core.rewriting import aimed, rewritten
from ttt_core.streaming_state import StreamingState
from ttt_core.submap import SubmapFrame
from ttt_core.submaps import KEPT_SUBMAPS, Anchor, Submap, bounded, carried, chosen, noted
from ttt_core.views import Prediction, ViewBatch, posed_images


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingConfig:
    """Sizes of the streaming model. The defaults fit a CPU.

    Raises:
        ConfigError: a value out of range.
    """

    network: NetworkConfig | None = field(default_factory=NetworkConfig)
    """None: the prior alone; nothing is carried but the views that it matches against."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    kept_views: int = 24
    """Earlier key frames kept as matching sources, at most."""
    recent_views: int = 8
    """The newest of them, which always stay."""
    kept_records: int = 256
    """Key frames whose contribution to the memory can still be taken back, at most."""
    submap_reach: float = 4.0
    """How far from where a sub-map opened its fast weights are good for something, in its units."""
    kept_submaps: int = KEPT_SUBMAPS
    """Sub-maps whose fast weights are carried, at most; the one left longest ago is forgotten."""
    moved_at_once: int = 16
    """Of them, how many are rewritten at most by one correction and before each later batch."""
    seed: int = 0
    """Of the untrained parameters, so that a restored state meets the network that wrote it."""

    def __post_init__(self) -> None:
        if not 1 <= self.recent_views <= self.kept_views:
            raise ConfigError(
                f"recent_views is {self.recent_views}: give 1 to kept_views ({self.kept_views})"
            )
        if not self.submap_reach > 0:
            raise ConfigError(f"submap_reach is {self.submap_reach}: give a positive number")
        if self.kept_submaps < 1:
            raise ConfigError(f"kept_submaps is {self.kept_submaps}: give 1 or more")
        if self.kept_records < 0:
            raise ConfigError(f"kept_records is {self.kept_records}: give 0 or more")
        if self.moved_at_once < 1:
            raise ConfigError(f"moved_at_once is {self.moved_at_once}: give 1 or more")


class StreamingModel(nn.Module):
    """Key frames in, depth, confidence and splat residuals out, batch after batch.

    Cost and memory per batch do not grow with the stream. A state is never changed: `stream`
    returns a new one, so that a caller may keep or discard either.
    """

    def __init__(self, config: StreamingConfig | None = None) -> None:
        super().__init__()
        self.config = config or StreamingConfig()
        self.prior = MatchingPrior(self.config.prior)
        self.network: CompactNetwork | None = None
        if self.config.network is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.config.seed)
                self.network = CompactNetwork(self.config.network)

    @property
    def trained(self) -> bool:
        """False without a network and while its head is zero: the output is then the prior,
        exactly."""
        return self.network is not None and self.network.corrects

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.network is None else self.network.log_sharpness.device

    def describe(self) -> str:
        """One plain sentence or two on what the output is made of."""
        if self.network is None:
            return "Matching prior alone, without a network: nothing learned."
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
        if self.network is None:
            return StreamingState(MemoryState())
        return StreamingState(self.network.initial_state().detach())

    @torch.no_grad()
    def stream(self, state: StreamingState, batch: ViewBatch) -> tuple[StreamingState, Prediction]:
        """Take in the next key frames.

        The first batch of a sub-map fixes its frame and unit; where the cameras have left it,
        another one is taken up, or opened. Returns the state afterwards and what is predicted for
        the batch.

        Raises:
            StateMismatchError: `state` was made by a model of another configuration.
        """
        self._check(state)
        state = self._settled(self._entered(state, batch, write=True))
        views = posed_images(batch)
        prior = self._predict_prior(state, batch, views)
        frame = state.frame or SubmapFrame.from_first_batch(
            batch.c2w.cpu(), _stack(prior, "depth"), _stack(prior, "confidence")
        )
        prediction, memory, record = self._correct(state.memory, frame, batch, prior, write=True)
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
        records = (*state.records, *self._key_records(batch, record, state.memory))
        records = records[len(records) - min(len(records), self.config.kept_records) :]
        anchor = state.anchor or Anchor(batch.keys[0], batch.c2w[0].cpu().clone())
        left = self._bounded(state.left, len(records))
        return StreamingState(memory, frame, kept, records, anchor, left), prediction

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
        state = self._entered(state, batch, write=False)
        assert state.frame is not None, "what is only asked opens nothing"
        return self._correct(state.memory, state.frame, batch, prior, write=False)[0]

    @torch.no_grad()
    def move(
        self,
        state: StreamingState,
        poses: Mapping[int, NDArray[np.float64] | Tensor],
        scales: Mapping[int, float] | None = None,
    ) -> StreamingState:
        """The state after corrected poses.

        Kept key frames move, so that matching uses the new poses; and where the memory can be
        edited, what the moved ones wrote is taken back and written again where it belongs: at once
        for the newest `moved_at_once`, a few more before every later batch for the others. Poses
        that hardly differ from those written with are left until corrections add up. The sub-map's
        frame stays. Sub-maps that were left move as wholes, with the key frame that each opened
        with. Keys that are not kept are ignored.

        Args:
            poses: camera to world (4, 4), rigid, by key.
            scales: by key, how much larger the world around that view became.
        """
        arrays = {key: np.asarray(pose, dtype=np.float64) for key, pose in poses.items()}
        views = move_views(state.views, arrays, scales)
        records = state.records
        if state.frame is not None:
            records = aimed(records, arrays, scales or {}, float(state.frame.scale))
        left = tuple(carried(submap, arrays, scales or {}) for submap in state.left)
        anchor = noted(state.anchor, arrays)
        return self._settled(replace(state, views=views, records=records, anchor=anchor, left=left))

    def _entered(self, state: StreamingState, batch: ViewBatch, *, write: bool) -> StreamingState:
        """`state` in the sub-map that the batch is in; where it is in none and is to be written, in
        a new one without frame."""
        now = state.submap
        if now is None or self.network is None or not state.memory.tensors:
            return state
        found = chosen(now, state.left, batch.c2w.cpu(), self.config.submap_reach)
        if found is now or (found is None and not write):
            return state
        if found is None:
            left = self._bounded((*state.left, now), 0)
            return replace(self.initial_state(), views=state.views, left=left)
        others = (*(submap for submap in state.left if submap is not found), now)
        return StreamingState(
            memory=found.memory,
            frame=found.frame,
            views=state.views,
            records=found.records,
            anchor=found.anchor,
            left=self._bounded(others, len(found.records)),
        )

    def _bounded(self, left: Sequence[Submap], records: int) -> tuple[Submap, ...]:
        """Sub-maps that were left, beside a present one with so many records."""
        return bounded(
            left,
            most=self.config.kept_submaps - 1,
            records=self.config.kept_records - records,
        )

    def _settled(self, state: StreamingState) -> StreamingState:
        """`state` after a few more of the records that wait were rewritten."""
        if state.frame is None or self.network is None or not self.network.editable:
            return state
        memory, records = rewritten(
            self.network, state.memory, state.records, state.frame, self.config.moved_at_once
        )
        return replace(state, memory=memory, records=records)

    def _key_records(
        self, batch: ViewBatch, record: WriteRecord | None, before: MemoryState
    ) -> list[KeyRecord]:
        if record is None or self.network is None or not self.network.editable:
            return []
        written = int(before["written"].max())
        cpu = record.map(lambda t: t.detach().cpu())
        return [
            KeyRecord(
                key,
                written,
                batch.fxfycxcy[i].cpu().clone(),
                batch.c2w[i].cpu().clone(),
                cpu.view(i).map(lambda t: t.clone()),
            )
            for i, key in enumerate(batch.keys)
        ]

    def warm_up(self, height: int, width: int) -> None:
        """Compile and allocate for images of this size, so that the first batch is not late."""
        self.prior.warm_up(height, width)
        if self.network is None:
            return
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
        memory: MemoryState,
        frame: SubmapFrame,
        batch: ViewBatch,
        prior: Sequence[PriorDepth],
        *,
        write: bool,
    ) -> tuple[Prediction, MemoryState, WriteRecord | None]:
        """The network's part: the prior's prediction plus residuals, and the memory afterwards."""
        depth, confidence = (
            _stack(prior, name).to(self.device) for name in ("depth", "confidence")
        )
        image = batch.image.to(self.device)
        if self.network is None:
            return Prediction.plain(depth, confidence, image), memory, None
        views = self._network_input(frame, batch, prior, depth, confidence)
        memory = memory.map(lambda t: t.to(self.device))
        out, memory = self.network(views.padded(PATCH), memory, write=write)
        height, width = depth.shape[-2:]
        # a ratio, so that no correction returns the prior's depth bit for bit
        log_ratio = out.log_depth[0, :, :height, :width] - views.log_depth[0]
        residuals = {name: r[0, ..., :height, :width] for name, r in out.residuals.items()}
        prediction = Prediction(
            depth=depth * torch.exp(log_ratio),
            confidence=out.confidence[0, :, :height, :width],
            color=image + residuals["color"],
            log_scale_residual=residuals["log_scale"],
            opacity_logit_residual=residuals["opacity_logit"][:, 0],
            rotation_residual=residuals["rotation"],
        )
        return prediction, memory, out.record

    def _network_input(
        self,
        frame: SubmapFrame,
        batch: ViewBatch,
        prior: Sequence[PriorDepth],
        depth: Tensor,
        confidence: Tensor,
    ) -> NetworkInput:
        """One stream's views; sides are not padded yet."""
        image = batch.image.to(self.device)
        settled = None
        if batch.sensor_depth is not None:
            # measured depth is not the network's to correct
            measured = batch.sensor_depth.to(self.device)
            settled = (torch.isfinite(measured) & (measured > 0))[None]
        # Of a view matched with none the network would guess, and be the surer of it each time.
        valid = (confidence > 0).flatten(1).any(1)[None, :, None, None].expand_as(confidence[None])
        if batch.valid is not None:
            known = batch.valid.to(self.device)
            valid, image = valid & known, torch.where(known[:, None], image, 0.5)  # grey
        log_scale = math.log(float(frame.scale))
        log_depth = torch.log(depth) - log_scale
        if batch.map_depth is None:
            there, map_log_depth = torch.zeros_like(depth), log_depth
        else:
            map_depth = batch.map_depth.to(self.device)
            there = (map_depth > 0).to(depth.dtype)
            map_log_depth = torch.where(map_depth > 0, torch.log(map_depth) - log_scale, log_depth)
        ranges = torch.tensor([view.depth_range for view in prior], dtype=torch.float64)
        return NetworkInput(
            image=image[None],
            log_depth=log_depth[None],
            confidence=confidence[None],
            map_log_depth=map_log_depth[None],
            map_there=there[None],
            cells=_stack(prior, "cells").to(self.device)[None],
            log_range=(ranges.log() - log_scale).float().to(self.device)[None],
            fxfycxcy=batch.fxfycxcy.to(self.device)[None],
            c2w=frame.localize(batch.c2w).float().to(self.device)[None],
            settled=settled,
            valid=None if bool(valid.all()) else valid,
        )

    def _check(self, state: StreamingState) -> None:
        expected = self.initial_state().memory.to_tensors()
        given = state.memory.to_tensors()
        if {k: t.shape for k, t in expected.items()} != {k: t.shape for k, t in given.items()}:
            raise StateMismatchError(
                "the state's fast weights do not fit this model: it was made with another "
                "configuration; start from initial_state() or build the model as it was"
            )


def _depths(depth: Tensor | None, views: int) -> list[NDArray[np.float32] | None]:
    """Depth maps view by view; None where a view has no depth at all."""
    if depth is None:
        return [None] * views
    arrays = depth.cpu().numpy()
    return [array if array.any() else None for array in arrays]


def _stack(prior: Sequence[PriorDepth], name: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(view, name) for view in prior]))
