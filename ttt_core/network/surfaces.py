"""The surface grid in the network: asked along the rays of cells, written at predicted surfaces.

For every cell of 4x4 pixels the memory is asked where its ray meets a surface. The answer reaches
the network three times: as evidence along the rays of tokens, beside the matching cost; as a
picture, compared in depth and colour with what the cell sees; and as a depth for pixels, which
gates, zero at first, may take over. The predicted surfaces are then written, one point a cell, each
with a weight that grows with its confidence.
Shape suffixes: B streams, V views, N cells of a view (row-major), D planes, S samples of a ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_core.matching import CELL
from ttt_core.memory import MemoryState, Recalled, SurfaceGrid, SurfacePoints
from ttt_core.network.config import PATCH
from ttt_core.network.inputs import NetworkInput, patch_rays, pixel_rays, plane_histogram
from ttt_core.network.tokens import cell_cost, surest_pixels
from ttt_core.network.volume import ANSWER_CHANNELS, RecordEdit, WriteRecord

_PICTURE = 9
"""Channels of `RecalledView.picture`: how far it is from the prior, whether something is held,
with how much evidence, how open the way there is, what matching costs there and at the prior's
depth, and how far its colour is from the picture's."""
_FOOTPRINT = 0.03
"""Side of what a ray stands for, as a share of its depth: about 1.7 degrees, whatever the pictures'
resolution, on which the room in the table must not depend."""
_TRUST = 4  # power of the confidence in the weight of what is written
_CERTAIN = 1.02  # keeps the weight of a certain pixel finite: 50, an even guess has 0.1
_CLOSE = 0.15  # difference of log depth up to which memory and prior mean the same surface
_QUICK = 8.0  # how much faster than other layers the gates learn
_HALF_THERE = 0.1  # log(1 + weight) from which something held counts half


@dataclass(frozen=True, slots=True, eq=False)
class RecalledView:
    """What the memory says of a batch of views."""

    log_depth: Tensor  # (B, V, H, W)
    there: Tensor  # (B, V, H, W), 0..1, whether anything is held
    picture: Tensor  # (B*V, _PICTURE, H/CELL, W/CELL)
    along: Tensor  # (B*V*tokens, ANSWER_CHANNELS, D), evidence along the rays of tokens
    color: Tensor  # (B, V, 3, H/CELL, W/CELL)

    def imagined(self, log_depth: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log depth, confidence (B, V, N) and colour (B, V, N, 3) of tokens: what is held, and as
        far as nothing is, what is given."""

        def pooled(pictures: Tensor, side: int) -> Tensor:
            return F.avg_pool2d(pictures.flatten(0, 1), side).flatten(2).mT.unflatten(0, views)

        views = self.there.shape[:2]
        there = pooled(self.there[:, :, None], PATCH)
        held = pooled((self.there * self.log_depth)[:, :, None], PATCH)
        depth = held + (1 - there) * log_depth[..., None]
        sure = there + (1 - there) * confidence[..., None]
        return depth[..., 0], sure[..., 0], pooled(self.color, PATCH // CELL)


class SurfaceMemory(nn.Module):
    """A surface grid and what is trained about it: how the network listens to it."""

    def __init__(
        self, slots: int, samples: int, planes: int, cell_width: int, pixel_width: int
    ) -> None:
        """
        Args:
            slots, samples: of the grid.
            planes: D, divides `samples`.
            cell_width, pixel_width: channels of the network that the answers join.
        """
        super().__init__()
        self.planes = planes
        self.grid = SurfaceGrid(slots, samples)
        self.to_cells = nn.Conv2d(_PICTURE, cell_width, 3, padding=1)
        self.to_pixels = nn.Conv2d(_PICTURE, pixel_width, 3, padding=1)
        self.gate = nn.Conv2d(pixel_width, 2, 1)
        for layer in (self.to_cells, self.to_pixels, self.gate):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        self.reduce: Callable[[Tensor], Tensor] | None = None
        """Sums over processes when a batch's views are spread over several."""
        self.dealt = (0, 1)
        """Number of the first view, and of processes that views are dealt out to in turn."""

    @torch.no_grad()
    def recall(self, state: MemoryState, views: NetworkInput) -> RecalledView:
        """Asks along the rays through the centres of all cells."""
        shape = views.log_depth.shape
        origins, directions = patch_rays(views, CELL)
        count = directions.shape[2]
        found = self.grid.recall(
            state,
            origins.expand_as(directions).flatten(1, 2),
            directions.flatten(1, 2),
            origins.new_full((shape[0], shape[1] * count), _FOOTPRINT),
            views.log_range[:, :, None].expand(*shape[:2], count, 2).flatten(1, 2),
        )
        cells = (*shape[:2], shape[2] // CELL, shape[3] // CELL)
        found = Recalled(*(t.view(*cells, *t.shape[2:]).to(origins) for t in found))
        there = found.weight / (found.weight + _HALF_THERE)
        log_depth, at_pixels = _at_pixels(found.log_depth, there)
        prior = F.avg_pool2d(views.log_depth.flatten(0, 1), CELL).view(cells)
        apart = (found.log_depth - prior).clamp(-1, 1) * there
        costs = (there * cell_cost(views, depth) for depth in (found.log_depth, prior))
        color = found.color.movedim(-1, 2)
        image = F.avg_pool2d(views.image.flatten(0, 1), CELL).view_as(color)
        said = torch.stack((apart, there, found.weight / 3, found.open, *costs), dim=2)
        picture = torch.cat((said, (color - image) * there[:, :, None]), dim=2)
        along = self._along(views, found, log_depth, at_pixels)
        return RecalledView(log_depth, at_pixels, picture.flatten(0, 1), along, color)

    def _along(
        self, views: NetworkInput, found: Recalled, log_depth: Tensor, there: Tensor
    ) -> Tensor:
        """All evidence, the part of it that is met first, and the depth in `recall`'s picture."""
        # cells of a token together, and samples of a plane
        pool = (PATCH // CELL, PATCH // CELL, self.grid.samples // self.planes)
        profiles = torch.stack((found.held, found.first)).flatten(0, 2)
        profiles = pool[2] * F.avg_pool3d(profiles, pool)  # (2*B*V, rows, columns, D)
        profiles = profiles.unflatten(0, (2, -1)).flatten(1, 3)
        depths = plane_histogram(log_depth, there, views.log_range, self.planes, PATCH)
        along = torch.stack((*profiles, depths.flatten(0, 2)), dim=1)
        return F.pad(along, (0, 0, 0, ANSWER_CHANNELS - along.shape[1]))

    def correction(
        self, hidden: Tensor, recalled: RecalledView, log_depth: Tensor, doubt: Tensor
    ) -> Tensor:
        """What pixels take over from the memory, of their log depth.

        Where both nearly agree the memory may refine whatever the prior is sure of: it is the mean
        of other views. Where they differ it must leave alone what was matched well.

        Args:
            hidden: (B*V, C, H, W) what is known of pixels.
            log_depth, doubt: (B, V, H, W), the prior's.
        """
        gates = torch.tanh(_QUICK * self.gate(hidden)).unflatten(0, log_depth.shape[:2])
        near, far = gates.unbind(2)
        apart = recalled.log_depth - log_depth
        close = torch.exp(-(apart / _CLOSE).square())
        return recalled.there * apart * (near * close + far * doubt)

    def describe(self, views: NetworkInput, log_depth: Tensor, confidence: Tensor) -> WriteRecord:
        """What these views write: every cell its surest pixel, and its mean colour."""
        surest = surest_pixels(log_depth, confidence, views.valid, CELL)
        weight = surest.confidence**_TRUST / (_CERTAIN - surest.confidence)
        if surest.valid is not None:
            weight = weight * surest.valid
        color = F.avg_pool2d(views.image.flatten(0, 1), CELL).flatten(2).mT
        return WriteRecord(
            features=color.unflatten(0, log_depth.shape[:2]),
            weights=weight[..., None, None],
            log_depth=surest.log_depth,
            pixels=surest.pixels,
            free=torch.zeros_like(surest.log_depth),
        )

    def write(
        self, state: MemoryState, record: WriteRecord, fxfycxcy: Tensor, c2w: Tensor
    ) -> MemoryState:
        """The state after a batch that wrote `record`."""
        points = _points(record, fxfycxcy, c2w)
        return self.grid.write(state, self._of_all(points))

    def amend(self, state: MemoryState, edits: Iterable[RecordEdit]) -> MemoryState:
        """The state after records were taken back, or written as if at their time."""
        for edit in edits:
            points = _flat(_points(edit.record, edit.fxfycxcy, edit.c2w))
            factor = edit.sign * self.grid.retention(edit.age)
            state = self.grid.amend(state, points, factor)
        return state

    def _of_all(self, points: SurfacePoints) -> SurfacePoints:
        """Points (B, N, ...) of all views, though they be spread over processes."""
        _, processes = self.dealt
        if self.reduce is None or processes == 1:
            return _flat(points)
        mine = torch.cat([t if t.dim() == 4 else t[..., None] for t in points], dim=-1)
        every = mine.new_zeros(*mine.shape[:2], processes, *mine.shape[2:])
        every[:, :, self.dealt[0]] = mine
        # in the order of the views: which corner gets a slot must not depend on who wrote first
        every = self.reduce(every).flatten(1, 3)
        places, sizes, colors, weights = every.split((3, 1, 3, 1), dim=-1)
        return SurfacePoints(places, sizes[..., 0], colors, weights[..., 0])


def _points(record: WriteRecord, fxfycxcy: Tensor, c2w: Tensor) -> SurfacePoints:
    """Points (B, V, N, ...) of a record, for cameras (B, V, ...)."""
    origins, directions = pixel_rays(fxfycxcy, c2w, record.pixels)
    z = record.log_depth.exp()
    return SurfacePoints(
        places=origins + directions * z[..., None],
        sizes=z * _FOOTPRINT,
        colors=record.features,
        weights=record.weights[..., 0, 0],
    )


def _flat(points: SurfacePoints) -> SurfacePoints:
    return SurfacePoints(*(t.flatten(1, 2) for t in points))


def _at_pixels(log_depth: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Cells (B, V, rows, columns) as pixels: depth bilinear between cells that hold something."""
    weight = (there + 1e-6).flatten(0, 1)[:, None]
    both = torch.cat((weight * log_depth.flatten(0, 1)[:, None], weight), dim=1)
    both = F.interpolate(both, scale_factor=CELL, mode="bilinear")
    total, weight = both.unflatten(0, there.shape[:2]).unbind(2)
    held = F.interpolate(there.flatten(0, 1)[:, None], scale_factor=CELL, mode="nearest")
    return total / weight, held.view_as(weight)
