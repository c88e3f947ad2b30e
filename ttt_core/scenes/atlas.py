"""The textures of a scene with their mips in one table, looked up trilinearly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, embedding_bag

from ttt_core.scenes.types import Array


class Atlas:
    """Textures (T, S, S, 3) of linear RGB on one device."""

    def __init__(self, textures: Array, device: torch.device) -> None:
        level = torch.from_numpy(textures).to(device).permute(0, 3, 1, 2)
        self.count, self.size = level.shape[0], level.shape[2]
        self.mean = level.mean((0, 2, 3))
        self.levels = self.size.bit_length()
        flat, starts, start = [], [], 0
        for _ in range(self.levels):
            flat.append(level.permute(0, 2, 3, 1).reshape(-1, 3))
            starts.append(start)
            start += flat[-1].shape[0]
            level = avg_pool2d(level, 2) if level.shape[2] > 1 else level
        texels = torch.cat(flat)
        self._texels = torch.cat([texels, texels.new_zeros(len(texels), 1)], 1)
        self._starts = torch.tensor(starts, dtype=torch.int32, device=device)

    def __call__(self, texture: Tensor, u: Tensor, v: Tensor, lod: Tensor) -> Tensor:
        """Colours (3, N) of `texture` (N,) int32 at (u, v), repeated beyond 0…1, at mip `lod`."""
        lod = lod.clamp(0, self.levels - 1)
        lower = lod.floor()
        blend = lod - lower
        level = lower.to(torch.int32)
        index = torch.empty(len(u), 8, dtype=torch.int32, device=u.device)
        weight = torch.empty(len(u), 8, device=u.device)
        upper = (level + 1).clamp_(max=self.levels - 1)
        for half, (which, share) in enumerate(((level, 1 - blend), (upper, blend))):
            size = torch.bitwise_right_shift(self.size, which)
            x, y = u * size - 0.5, v * size - 0.5
            left, above = x.floor(), y.floor()
            x, y = x - left, y - above
            mask = size - 1
            x0, y0 = left.to(torch.int32), above.to(torch.int32)
            x1, y1 = (x0 + 1) & mask, (y0 + 1) & mask
            x0, y0 = x0 & mask, y0 & mask
            base = self._starts.index_select(0, which) + texture * size * size
            above_row, below_row = base + y0 * size, base + y1 * size
            lower_share = share * y
            upper_share = share - lower_share
            at = 4 * half
            torch.add(above_row, x0, out=index[:, at])
            torch.add(above_row, x1, out=index[:, at + 1])
            torch.add(below_row, x0, out=index[:, at + 2])
            torch.add(below_row, x1, out=index[:, at + 3])
            right_above, right_below = upper_share * x, lower_share * x
            weight[:, at] = upper_share - right_above
            weight[:, at + 1] = right_above
            weight[:, at + 2] = lower_share - right_below
            weight[:, at + 3] = right_below
        colour = embedding_bag(index, self._texels, per_sample_weights=weight, mode="sum")
        return colour[:, :3].t().contiguous()
