"""What the compact network sees of a batch of views, and the rays of its tokens.

Shape suffixes: B streams, V views, N tokens of a view (row-major), D planes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ttt_core.matching import CELL, CELL_CHANNELS


@dataclass(frozen=True, slots=True, eq=False)
class NetworkInput:
    """One batch of V views of each of B streams, in the streams' sub-map frames and units.

    H and W are whole patches (see `padded`); depths are logarithms of z-depth.
    """

    image: Tensor  # (B, V, 3, H, W), 0..1
    log_depth: Tensor  # (B, V, H, W), the prior's
    confidence: Tensor  # (B, V, H, W), 0..1, the prior's
    map_log_depth: Tensor  # (B, V, H, W), the rendered map's, where it is there
    map_there: Tensor  # (B, V, H, W), 1 where the map holds something, else 0
    cells: Tensor  # (B, V, H/CELL, W/CELL, F), the prior's
    log_range: Tensor  # (B, V, 2), nearest and farthest plane of the prior's sweep
    fxfycxcy: Tensor  # (B, V, 4), pixels
    c2w: Tensor  # (B, V, 4, 4), camera to sub-map
    settled: Tensor | None = None
    """(B, V, H, W) bool, where the prior was measured and is not to be corrected; None: nowhere."""
    valid: Tensor | None = None
    """(B, V, H, W) bool, False where a pixel says nothing: its confidence stays the prior's and it
    writes nothing; None: all say something."""

    def map(self, function: Callable[[Tensor], Tensor]) -> NetworkInput:
        """The input with `function`, which must keep bools, applied to every tensor there is."""
        return NetworkInput(**{name: function(t) for name, t in self.tensors().items()})

    @classmethod
    def joined(cls, parts: Sequence[NetworkInput]) -> NetworkInput:
        """Streams side by side; all of the same sizes and with the same optional fields."""
        there = [part.tensors() for part in parts]
        return cls(**{name: torch.cat([part[name] for part in there]) for name in there[0]})

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that there is, by name."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def cropped(self, patch_size: int) -> NetworkInput:
        """Sides cut to whole patches; the first pixel stays where it is."""
        height, width = (side // patch_size * patch_size for side in self.image.shape[-2:])

        def cut(picture: Tensor) -> Tensor:
            return picture[..., :height, :width]

        return NetworkInput(
            cut(self.image),
            cut(self.log_depth),
            cut(self.confidence),
            cut(self.map_log_depth),
            cut(self.map_there),
            self.cells[..., : height // CELL, : width // CELL, :],
            self.log_range,
            self.fxfycxcy,
            self.c2w,
            None if self.settled is None else cut(self.settled),
            None if self.valid is None else cut(self.valid),
        )

    def padded(self, patch_size: int) -> NetworkInput:
        """Sides brought to whole patches by repeating the last row and column; what that adds is
        not valid."""
        height, width = self.image.shape[-2:]
        rows, columns = -(-height // patch_size) * patch_size, -(-width // patch_size) * patch_size
        added = (0, columns - width, 0, rows - height)
        settled, valid = self.settled, self.valid
        if any(added):
            if valid is None:
                valid = torch.ones_like(self.log_depth, dtype=torch.bool)
            valid = F.pad(valid, added)
            settled = None if settled is None else F.pad(settled, added)
        return NetworkInput(
            _fitted(self.image, rows, columns),
            _fitted(self.log_depth, rows, columns),
            _fitted(self.confidence, rows, columns),
            _fitted(self.map_log_depth, rows, columns),
            _fitted(self.map_there, rows, columns),
            _fitted(self.cells.movedim(-1, 2), rows // CELL, columns // CELL).movedim(2, -1),
            self.log_range,
            self.fxfycxcy,
            self.c2w,
            settled,
            valid,
        )


def blind_views(
    fxfycxcy: Tensor, c2w: Tensor, height: int, width: int, log_range: Tensor
) -> NetworkInput:
    """Cameras about which nothing is known but where they are: grey pictures, a prior without
    confidence or cost in the middle of `log_range` (B, V, 2), no map."""
    shape = (*fxfycxcy.shape[:2], height, width)
    middle = log_range.mean(-1)[..., None, None].expand(shape)
    nothing = middle.new_zeros(shape)
    cells = (*shape[:2], -(-height // CELL), -(-width // CELL), len(CELL_CHANNELS))
    return NetworkInput(
        image=middle.new_full((*shape[:2], 3, height, width), 0.5),
        log_depth=middle,
        confidence=nothing,
        map_log_depth=middle,
        map_there=nothing,
        cells=middle.new_zeros(cells),
        log_range=log_range,
        fxfycxcy=fxfycxcy,
        c2w=c2w,
    )


def _fitted(picture: Tensor, rows: int, columns: int) -> Tensor:
    """Cut or repeat the last rows and columns of (B, V, ..., H, W)."""
    picture = picture[..., :rows, :columns]
    padding = (0, columns - picture.shape[-1], 0, rows - picture.shape[-2])
    if not any(padding):
        return picture
    flat = picture.flatten(0, 1)
    flat = flat[:, None] if flat.dim() == 3 else flat
    return F.pad(flat, padding, mode="replicate").reshape(*picture.shape[:-2], rows, columns)


def pixel_rays(
    fxfycxcy: Tensor,  # (B, V, 4)
    c2w: Tensor,  # (B, V, 4, 4)
    pixels: Tensor,  # (B, V, N, 2), x and y
) -> tuple[Tensor, Tensor]:
    """Rays `o + z d` with z the z-depth: origins (B, V, 1, 3), directions (B, V, N, 3)."""
    focal, centre = fxfycxcy[..., None, :].split(2, dim=-1)
    plane = (pixels - centre) / focal
    in_camera = torch.cat((plane, torch.ones_like(plane[..., :1])), dim=-1)
    with torch.autocast(c2w.device.type, enabled=False):
        directions = in_camera.to(c2w.dtype) @ c2w[..., :3, :3].mT
    return c2w[..., None, :3, 3], directions


def patch_centres(rows: int, columns: int, side: int, like: Tensor) -> Tensor:
    """(N, 2) x and y of the centres of patches, row-major, pixels."""
    y = (torch.arange(rows, device=like.device, dtype=like.dtype) + 0.5) * side
    x = (torch.arange(columns, device=like.device, dtype=like.dtype) + 0.5) * side
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def patch_rays(views: NetworkInput, side: int) -> tuple[Tensor, Tensor]:
    """Rays through the centres of patches: origins (B, V, 1, 3), directions (B, V, N, 3)."""
    rows, columns = (pixels // side for pixels in views.image.shape[-2:])
    centres = patch_centres(rows, columns, side, views.fxfycxcy)
    centres = centres.expand(*views.fxfycxcy.shape[:2], -1, -1)
    return pixel_rays(views.fxfycxcy, views.c2w, centres)


def log_planes(log_range: Tensor, planes: int) -> Tensor:
    """Log depth of the centres of `planes` equal parts of the range: (B, V, 2) -> (B, V, D)."""
    near, far = log_range.split(1, dim=-1)
    share = (torch.arange(planes, device=near.device, dtype=near.dtype) + 0.5) / planes
    return near + (far - near) * share


def plane_histogram(
    log_depth: Tensor, weight: Tensor, log_range: Tensor, planes: int, side: int
) -> Tensor:
    """How much of each token lies at each plane, every second pixel, split between two planes.

    Args:
        log_depth, weight: (B, V, H, W).
        side: of a token, pixels.

    Returns:
        (B, V, N, D), summing to the token's mean weight (less beyond the range).
    """
    near, far = (edge[..., None] for edge in log_range.split(1, dim=-1))  # (B, V, 1, 1)
    half = side // 2
    depth, weight = (
        t[..., 1::2, 1::2].unflatten(-1, (-1, half)).unflatten(-3, (-1, half)).transpose(-3, -2)
        for t in (log_depth, weight)
    )  # (B, V, rows, columns, half, half)
    depth, weight = (t.flatten(-2).flatten(-3, -2) for t in (depth, weight))  # (B, V, N, P)
    place = (depth - near) / (far - near) * planes - 0.5
    index = torch.arange(planes, device=place.device, dtype=place.dtype)
    share = (1 - (place[..., None] - index).abs()).clamp_min(0)  # (B, V, N, P, D)
    return (share * weight[..., None]).mean(-2)
