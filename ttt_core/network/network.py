"""The compact network: matching prior in, corrected depth, confidence and splat residuals out.

Cells of the prior become tokens; a decoder along each token's ray weighs the matching cost, what
the carried memory holds there, and where the rendered map is; blocks mix the tokens of a view; a
head at pixel resolution, zero-initialised, blends the prior's depth with the tokens' and corrects
the rest. An untrained network is the prior, exactly.
Shape suffixes: B streams, V views, N tokens of a view, D planes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_core.blocks import Block, linear
from ttt_core.matching import CELL
from ttt_core.memory import MemoryState, PlaceMemory, RidgeMemory, SignedSamples, SwiGluMemory
from ttt_core.network.anchored import AnchoredTokens
from ttt_core.network.config import PATCH, NetworkConfig
from ttt_core.network.inputs import (
    NetworkInput,
    blind_views,
    patch_rays,
    pixel_rays,
)
from ttt_core.network.mixer import Mixer
from ttt_core.network.outputs import RESIDUAL_CHANNELS, Imagined, NetworkOutput, Seen
from ttt_core.network.surfaces import RecalledView, SurfaceMemory
from ttt_core.network.tokens import (
    CELL_INPUT,
    RAY_CHANNELS,
    cell_input,
    expected_depth,
    ray_channels,
    surest_pixels,
    token_cost,
    upsampled,
)
from ttt_core.network.volume import (
    ANSWER_CHANNELS,
    RecordEdit,
    VolumeReader,
    VolumeWriter,
    WriteRecord,
)
from ttt_core.state import ReconstructorState

_PIXEL_INPUT = 8
_FIRST_SHARPNESS = 12.0
_LOGIT_EPS = 1e-4


class CompactNetwork(nn.Module):
    """See the module's description."""

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        width, cell, planes = config.width, config.cell_width, config.planes
        self.cell_stem = nn.Conv2d(CELL_INPUT, cell, 3, padding=1)
        self.token_stem = nn.Conv2d(cell, width, 4, stride=2, padding=1)
        self.token_stem_2 = nn.Conv2d(width, width, 3, padding=1)
        self.log_sharpness = nn.Parameter(torch.tensor(_FIRST_SHARPNESS).log())
        self.prior_planes = _zeroed(nn.Conv2d(width, planes, 1))
        self.ray_1 = nn.Conv1d(RAY_CHANNELS + ANSWER_CHANNELS, config.ray_width, 5, padding=2)
        self.ray_2 = nn.Conv1d(config.ray_width, config.ray_width // 2, 5, padding=2)
        self.ray_3 = _zeroed(nn.Conv1d(config.ray_width // 2, 1, 1, bias=False))
        self.from_ray = linear(config.ray_width // 2 * planes, cell)
        self.merge = nn.Conv2d(width + cell, width, 3, padding=1)
        kind = Block if config.memory == "tokens" else Mixer
        self.blocks = nn.ModuleList(kind(config.blocks()) for _ in range(config.layers))
        self.planes = _zeroed(nn.Conv2d(width, planes, 3, padding=1))
        hidden = config.pixel_width
        self.cell_head = nn.Conv2d(width, 4 * hidden, 1)
        self.cell_skip = nn.Conv2d(cell, hidden, 1)
        self.cell_head_2 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.pixel_in = nn.Conv2d(_PIXEL_INPUT, hidden, 3, padding=1)
        self.pixel_out = _zeroed(nn.Conv2d(hidden, sum(RESIDUAL_CHANNELS.values()), 1))
        self.memory: PlaceMemory | None = None
        if config.memory == "ridge":
            self.memory = RidgeMemory(config.features, config.value_width)
        elif config.memory == "swiglu":
            self.memory = SwiGluMemory()
        if self.memory is not None:
            value_width, channels = self.memory.value_width, self.memory.weight_channels
            self.reader = VolumeReader(width, value_width, config.ray_samples)
            self.writer = VolumeWriter(width, value_width, channels)
            self.color_of_value = nn.Linear(value_width, 3)
        self.anchored = AnchoredTokens(width) if config.memory == "anchored" else None
        self.surfaces: SurfaceMemory | None = None
        if config.memory == "grid":
            sizes = (config.grid_slots, config.grid_samples, planes, cell, hidden)
            self.surfaces = SurfaceMemory(*sizes)

    @property
    def corrects(self) -> bool:
        """Whether the head was trained; if not, every residual is exactly zero."""
        return bool(self.pixel_out.weight.any() or cast(Tensor, self.pixel_out.bias).any())

    def initial_state(self, streams: int = 1) -> MemoryState:
        """Nothing written yet."""
        if self.memory is not None:
            state = self.memory.initial_state(streams).tensors
        elif self.anchored is not None:
            state = self.anchored.initial_state(streams).tensors
        elif self.surfaces is not None:
            device = self.log_sharpness.device
            state = self.surfaces.grid.initial_state(streams, device).tensors
        elif self.config.memory == "tokens":
            layers = tuple(b.initial_state(streams) for b in cast(Iterable[Block], self.blocks))
            state = ReconstructorState(layers).named()
        else:
            return MemoryState()
        written = torch.zeros(streams, dtype=torch.int64, device=self.log_sharpness.device)
        return MemoryState({**state, "written": written})

    def forward(
        self, views: NetworkInput, memory: MemoryState, *, write: bool
    ) -> tuple[NetworkOutput, MemoryState]:
        """One pass over a batch of views.

        Args:
            views: V views of each of B streams, padded to whole patches.
            memory: before the batch; not changed.
            write: take the batch into the memory afterwards (for "tokens": before it is read, as
                in the paper); False only reads.
        """
        rows, columns = (side // PATCH for side in views.image.shape[-2:])
        seen, memory = self._tokens(views, memory, write=write)
        token_log_depth, token_confidence = expected_depth(seen.logits, views.log_range)
        hidden = self._pixels(views, seen, token_log_depth, token_confidence)
        residuals = self._residuals(hidden, views)
        blend = torch.tanh(residuals["blend"][:, :, 0])
        limit = self.config.depth_residual_limit
        shift = limit * torch.tanh(residuals["log_depth"][:, :, 0] / limit)
        target = upsampled(token_log_depth, rows, columns, views.log_depth)
        correction = blend * (target - views.log_depth) + shift
        doubt = self._doubt(views.confidence)
        correction = correction * doubt
        if self.surfaces is not None and seen.recalled is not None:
            taken_over = self.surfaces.correction(hidden, seen.recalled, views.log_depth, doubt)
            correction = correction + taken_over
        trust = residuals["confidence_logit"][:, :, 0]
        if views.settled is not None:
            correction, trust = (torch.where(views.settled, 0.0, t) for t in (correction, trust))
        if views.valid is not None:
            # they have no say in later views either, whatever the head thinks
            trust = torch.where(views.valid, trust, 0.0)
        log_depth = views.log_depth + correction
        logit = torch.logit(views.confidence, eps=_LOGIT_EPS)
        changed = logit + trust
        # written as a difference so that a zero residual returns the prior's value bit for bit
        confidence = views.confidence + (torch.sigmoid(changed) - torch.sigmoid(logit))

        record = None
        if write and memory.tensors:
            core, record = self._written(views, seen.tokens, log_depth, confidence, memory)
            memory = MemoryState({**core.tensors, "written": memory["written"] + 1})
        return NetworkOutput(
            log_depth=log_depth,
            confidence=confidence.clamp(0, 1),
            confidence_logit=changed,
            residuals=residuals,
            plane_logits=seen.logits,
            prior_logits=seen.prior_logits,
            token_log_depth=token_log_depth,
            token_confidence=token_confidence,
            record=record,
        ), memory

    def _doubt(self, confidence: Tensor) -> Tensor:
        """1 where the prior is unsure, falling to 0, exactly, where it is sure."""
        low, high = self.config.unsure_below, self.config.sure_above
        return ((high - confidence) / (high - low)).clamp(0, 1)

    def imagine(
        self,
        memory: MemoryState,
        fxfycxcy: Tensor,
        c2w: Tensor,
        height: int,
        width: int,
        log_range: Tensor,
    ) -> Imagined:
        """Depth and colour of cameras without a picture, from the memory alone (the paper's virtual
        views: apply, no update).

        Args:
            fxfycxcy, c2w: (B, V, 4) pixels, (B, V, 4, 4) camera to sub-map.
            height, width: of the views; multiples of `PATCH`.
            log_range: (B, V, 2) where to look, log depth in sub-map units.

        Raises:
            NotImplementedError: the memory cannot be asked about places.
        """
        if self.memory is None and self.surfaces is None:
            raise NotImplementedError(f"memory {self.config.memory!r} cannot be asked about places")
        views = blind_views(fxfycxcy, c2w, height, width, log_range)
        seen, _ = self._tokens(views, memory, write=False)
        log_depth, confidence = expected_depth(seen.logits, log_range)
        if seen.recalled is not None:
            return Imagined(seen.logits, *seen.recalled.imagined(log_depth, confidence))
        assert self.memory is not None
        origins, directions = patch_rays(views, PATCH)
        places = origins + directions * log_depth.exp()[..., None]
        held, _ = self.memory.read(self._core(memory), places.flatten(1, 2))
        color = torch.sigmoid(self.color_of_value(held)).view(*log_depth.shape, 3)
        return Imagined(seen.logits, log_depth, confidence, color)

    def amend(self, memory: MemoryState, edits: Iterable[RecordEdit]) -> MemoryState:
        """Take records back, or write them as if at their time; solved once, at the end.

        Args:
            edits: drawn one by one, so that all their samples never exist at once.

        Raises:
            NotImplementedError: the memory cannot be edited.
        """
        core = self._core(memory)
        if self.surfaces is not None:
            core = self.surfaces.amend(core, edits)
            return MemoryState({**core.tensors, "written": memory["written"]})
        if self.memory is None:
            raise NotImplementedError(f"memory {self.config.memory!r} cannot be edited")
        retention = self.memory.retention
        changes = (
            SignedSamples(
                *self.writer.samples(edit.record, edit.fxfycxcy, edit.c2w),
                factor=edit.sign * retention(edit.age),
            )
            for edit in edits
        )
        core = self.memory.amend(core, changes)
        return MemoryState({**core.tensors, "written": memory["written"]})

    @property
    def editable(self) -> bool:
        """Whether `amend` works with this memory."""
        return self.surfaces is not None or (self.memory is not None and self.memory.editable)

    @staticmethod
    def _core(memory: MemoryState) -> MemoryState:
        return MemoryState({n: t for n, t in memory.tensors.items() if n != "written"})

    def _written(
        self,
        views: NetworkInput,
        tokens: Tensor,
        log_depth: Tensor,
        confidence: Tensor,
        memory: MemoryState,
    ) -> tuple[MemoryState, WriteRecord | None]:
        """The memory after a batch, without its count, and what the batch wrote if that can be
        told: each token writes what it saw, at its surest valid pixel."""
        core = self._core(memory)
        if self.config.memory == "tokens":
            return core, None  # the blocks have written already
        if self.surfaces is not None:
            record = self.surfaces.describe(views, log_depth, confidence)
            return self.surfaces.write(core, record, views.fxfycxcy, views.c2w), record
        surest = surest_pixels(log_depth, confidence, views.valid, PATCH)
        if self.anchored is not None:
            rays = pixel_rays(views.fxfycxcy, views.c2w, surest.pixels)
            return self.anchored.write(core, tokens, *rays, surest), None
        assert self.memory is not None
        record = self.writer.describe(
            tokens,
            surest.confidence,
            surest.log_depth,
            surest.pixels,
            int(memory["written"].max()),
        )
        if surest.valid is not None:
            record = replace(record, weights=record.weights * surest.valid[..., None, None])
        samples = self.writer.samples(record, views.fxfycxcy, views.c2w)
        return self.memory.write(core, *samples), record

    def _tokens(
        self, views: NetworkInput, memory: MemoryState, *, write: bool
    ) -> tuple[Seen, MemoryState]:
        """Everything up to the tokens' planes; the memory afterwards differs for "tokens" only."""
        streams, count = views.image.shape[:2]
        rows, columns = (side // PATCH for side in views.image.shape[-2:])
        cells = self.cell_stem(cell_input(views))  # (B*V, cell, H/4, W/4)
        recalled = None
        if self.surfaces is not None:
            recalled = self.surfaces.recall(self._core(memory), views)
            cells = cells + self.surfaces.to_cells(recalled.picture)
        cells = F.gelu(cells)
        stem = F.gelu(self.token_stem(cells))
        stem = stem + F.gelu(self.token_stem_2(stem))  # (B*V, width, rows, columns)
        tokens = stem.flatten(2).mT.unflatten(0, (streams, count))  # (B, V, N, width)
        cost = token_cost(views.cells, self.config.planes)  # (B, V, N, D)
        prior_logits = self.prior_planes(stem).flatten(2).mT.unflatten(0, (streams, count))
        prior_logits = prior_logits - self.log_sharpness.exp() * cost
        along = self._along_rays(views, memory, tokens, cost, prior_logits, recalled)
        decoded = self.ray_3(along).squeeze(1).view_as(prior_logits)
        spread = self.from_ray(along.flatten(1))  # (B*V*N, cell)
        spread = spread.view(streams * count, rows, columns, -1).movedim(-1, 1)
        if self.anchored is not None:
            expected, _ = expected_depth(prior_logits.detach(), views.log_range)
            rays = patch_rays(views, PATCH)
            answer = self.anchored.read(self._core(memory), tokens, *rays, expected)
            stem = stem + answer.flatten(0, 1).mT.reshape(stem.shape)
        mixed = F.gelu(self.merge(torch.cat((stem, spread), dim=1)))
        mixed, memory = self._mix(mixed, memory, streams, write)
        logits = self.planes(mixed).flatten(2).mT.unflatten(0, (streams, count))
        logits = logits + prior_logits + decoded
        return Seen(tokens, cells, mixed, prior_logits, logits, recalled), memory

    def _along_rays(
        self,
        views: NetworkInput,
        memory: MemoryState,
        tokens: Tensor,
        cost: Tensor,
        prior_logits: Tensor,
        recalled: RecalledView | None,
    ) -> Tensor:
        """(B*V*N, ray_width/2, D): every token's ray, decoded."""
        planes = self.config.planes
        channels = ray_channels(views, cost, prior_logits).flatten(0, 2)  # (B*V*N, 5, D)
        if recalled is not None:
            answer = recalled.along
        elif self.memory is None:
            answer = channels.new_zeros(len(channels), ANSWER_CHANNELS, planes)
        else:
            rays = patch_rays(views, PATCH)
            answer = self.reader(self.memory, self._core(memory), tokens, *rays, views.log_range)
            answer = answer.flatten(0, 2).mT  # (B*V*N, channels, M)
            answer = F.interpolate(answer, size=planes, mode="linear")
        along = torch.cat((channels, answer.to(channels.dtype)), dim=1)
        return F.gelu(self.ray_2(F.gelu(self.ray_1(along))))

    def _mix(
        self, mixed: Tensor, memory: MemoryState, streams: int, write: bool
    ) -> tuple[Tensor, MemoryState]:
        """The blocks, on (B*V, width, rows, columns)."""
        views = mixed.shape[0] // streams
        x = mixed.flatten(2).mT.unflatten(0, (streams, views)).flatten(1, 2)  # (B, V*N, width)
        if self.config.memory == "tokens":
            before = ReconstructorState.from_tensors(self._core(memory).tensors)
            layers = []
            for block, state in zip(self.blocks, before.layers):
                x, after = block(x, state, views, x.shape[1] if write else None)
                layers.append(after)
            core = ReconstructorState(tuple(layers)).named()
            memory = MemoryState({**core, "written": memory["written"]})
        else:
            for block in self.blocks:
                x = block(x, views)
        return x.unflatten(1, (views, -1)).flatten(0, 1).mT.reshape(mixed.shape), memory

    def _pixels(
        self, views: NetworkInput, seen: Seen, token_log_depth: Tensor, token_confidence: Tensor
    ) -> Tensor:
        """(B*V, pixel_width, H, W) what the head knows of pixels."""
        rows, columns = seen.mixed.shape[-2:]
        at_cells = F.pixel_shuffle(self.cell_head(seen.mixed), 2) + self.cell_skip(seen.cells)
        at_cells = self.cell_head_2(F.gelu(at_cells))
        like = views.log_depth
        apart = upsampled(token_log_depth, rows, columns, like).detach() - like
        pixels = torch.stack(
            (
                torch.logit(views.confidence, eps=_LOGIT_EPS) / 3,
                apart.clamp(-1, 1),
                upsampled(token_confidence, rows, columns, like),
                ((views.map_log_depth - like) * views.map_there).clamp(-1, 1),
                views.map_there,
            ),
            dim=2,
        )
        pixels = torch.cat((pixels, 2 * views.image - 1), dim=2).flatten(0, 1)
        hidden = F.interpolate(at_cells, scale_factor=CELL, mode="nearest")
        hidden = hidden + self.pixel_in(pixels)
        if self.surfaces is not None and seen.recalled is not None:
            said = self.surfaces.to_pixels(seen.recalled.picture)
            hidden = hidden + F.interpolate(said, scale_factor=CELL, mode="nearest")
        return F.gelu(hidden)

    def _residuals(self, hidden: Tensor, views: NetworkInput) -> dict[str, Tensor]:
        residuals = self.pixel_out(hidden).unflatten(0, views.image.shape[:2])
        return dict(
            zip(RESIDUAL_CHANNELS, residuals.split(list(RESIDUAL_CHANNELS.values()), dim=2))
        )


def _zeroed(layer: nn.Conv1d | nn.Conv2d) -> Any:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
