"""The surface grid in torch, for devices that numba does not serve, and merging for all.

Shape suffixes: B streams, N points or rays, T slots, S samples of a ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ttt_core.memory.grid_kernels import (
    ENOUGH,
    FARTHEST,
    HIGHEST,
    LEAST_STEP,
    LEAST_WEIGHT,
    LEVELS,
    LITTLE,
    LOWEST,
    MIX,
    NOBODY,
    OF_LEVEL,
    OF_X,
    OF_Y,
    OF_Z,
    PROBES,
    SUMS,
)

_UNCLAIMED = torch.iinfo(torch.int64).max


class Recalled(NamedTuple):
    """What a surface grid holds along rays."""

    log_depth: Tensor  # (B, N), where most evidence is; the middle of the range where none is
    weight: Tensor  # (B, N), evidence there: log(1 + weight of what was written)
    open: Tensor  # (B, N), 0..1, how much of the ray gets there past what is held before it
    color: Tensor  # (B, N, 3)
    held: Tensor  # (B, N, S), 0..1, evidence at every sample
    first: Tensor  # (B, N, S), 0..1, its part that is met first


def recall(
    tags: Tensor,
    sums: Tensor,
    origins: Tensor,
    directions: Tensor,
    footprint: Tensor,
    log_range: Tensor,
    *,
    samples: int,
) -> Recalled:
    """`SurfaceGrid.recall` of a state with `tags` (B, T) and `sums` (B, T, SUMS)."""
    near, far = log_range.split(1, dim=-1)
    step = ((far - near) / samples).clamp_min(LEAST_STEP)
    log_z = near + step * (torch.arange(samples, device=near.device, dtype=near.dtype) + 0.5)
    z = log_z.exp()  # (B, N, S)
    places = (origins[..., None, :] + directions[..., None, :] * z[..., None]).flatten(1, 2)
    level = _level(footprint[..., None] * z).flatten(1, 2)
    held = _nearest(tags, sums, places, level)
    coarse = _nearest(tags, sums, places, level + 1)
    held = torch.where(held[..., :1] > LITTLE, held, coarse).unflatten(1, log_z.shape[1:])
    mean = held[..., 1:] / held[..., :1].clamp_min(1e-12)  # place and colour
    # where along the ray and how far beside it what is held there is
    seen = mean[..., :3] - origins[..., None, :]
    along = (seen * directions[..., None, :]).sum(-1) / directions.square().sum(-1)[..., None]
    aside = seen - along[..., None] * directions[..., None, :]
    log_along = along.clamp_min(1e-12).log()
    miss = aside.square().sum(-1) / (footprint[..., None] * z).square()
    miss = miss + 0.5 * ((log_along - log_z) / step).square()
    weight = held[..., 0].clamp_min(0) * torch.exp(-miss)
    stops = weight / (weight + ENOUGH)
    passed = torch.cumprod(1 - stops, dim=-1)
    passed = torch.cat((torch.ones_like(passed[..., :1]), passed[..., :-1]), dim=-1)
    # around the most likely sample: a mean of two surfaces would be none
    best = F.avg_pool1d(weight, 3, 1, 1).argmax(-1, keepdim=True)
    index = best + torch.arange(-1, 2, device=best.device)
    inside = (index >= 0) & (index < samples)
    index = index.clamp(0, samples - 1)
    share = weight.gather(-1, index) * inside
    total = share.sum(-1)
    share = share / total.clamp_min(1e-12)[..., None]
    color = mean[..., 3:].gather(-2, index[..., None].expand(*index.shape, 3))
    return Recalled(
        log_depth=torch.where(
            total > LITTLE, (share * log_along.gather(-1, index)).sum(-1), log_range.mean(-1)
        ),
        weight=torch.log1p(total),
        open=passed.gather(-1, index[..., :1]).squeeze(-1),
        color=(share[..., None] * color).sum(-2),
        held=stops,
        first=stops * passed,
    )


def added(
    tags: Tensor,
    sums: Tensor,
    places: Tensor,
    sizes: Tensor,
    colors: Tensor,
    weights: Tensor,
    *,
    factor: float,
) -> tuple[Tensor, Tensor]:
    """Tags and sums with points in them `factor` times; where it is above 0, corners may take
    slots."""
    what = factor * torch.cat((torch.ones_like(weights)[..., None], places, colors), -1)
    finest = _level(sizes)
    for coarser in range(LEVELS):
        tag, shares = _corners(places, finest + coarser)
        shares = shares * weights[..., None]
        needed = shares > LEAST_WEIGHT
        if factor > 0:
            tags = _claimed(tags, tag, needed)
        slots, found = _slots(tags, tag)
        spread = (shares * (needed & found))[..., None] * what[..., None, :]
        flat = sums.flatten(0, 1).index_add(0, slots.flatten(), spread.flatten(0, -2))
        sums = flat.view(sums.shape)
    return tags, sums


def merged(
    tags: Tensor, sums: Tensor, other_tags: Tensor, other_sums: Tensor
) -> tuple[Tensor, Tensor]:
    """Tags and sums of everything in two states."""
    tag = other_tags[..., None]
    taken = tag != NOBODY
    tags = _claimed(tags, tag, taken)
    slots, found = _slots(tags, tag)
    what = (other_sums * (taken & found)).flatten(0, 1)
    return tags, sums.flatten(0, 1).index_add(0, slots.flatten(), what).view(sums.shape)


def _level(size: Tensor) -> Tensor:
    """Of cells about as large as `size`: integers, as floats."""
    return torch.log2(size.clamp_min(1e-30)).round().clamp(LOWEST, HIGHEST)


def _nearest(tags: Tensor, sums: Tensor, places: Tensor, level: Tensor) -> Tensor:
    """(B, N, SUMS) sums of the nearest corners, 0 where there are none."""
    corner = (places / torch.exp2(level)[..., None] + 0.5).floor()
    slots, found = _slots(tags, _tag(corner, level)[..., None])
    held = sums.flatten(0, 1)[slots.flatten()].view(*slots.shape[:-1], SUMS)
    return held * found


def _corners(places: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Tags (B, N, 8) of the corners around places (B, N, 3), and their shares."""
    scaled = places / torch.exp2(level)[..., None]
    low = scaled.floor()
    part = (scaled - low)[..., None, :]
    around = torch.cartesian_prod(*[torch.arange(2.0, device=places.device)] * 3)  # (8, 3)
    shares = torch.where(around > 0, part, 1 - part).prod(-1)
    return _tag(low[..., None, :] + around, level[..., None]), shares


def _tag(corner: Tensor, level: Tensor) -> Tensor:
    """(...,) of whole coordinates (..., 3) at levels (...,)."""
    at = corner.clamp(-FARTHEST, FARTHEST).to(torch.int64)
    hashed = at[..., 0] * OF_X ^ at[..., 1] * OF_Y ^ at[..., 2] * OF_Z
    hashed = hashed ^ (level.to(torch.int64) * OF_LEVEL)
    return (hashed ^ (hashed >> 31)) * MIX | 1


def _probes(tag: Tensor, tags: Tensor) -> Iterator[Tensor]:
    """The slots that tags (B, N, C) may have, counted through the tables of all streams."""
    streams, slots = tags.shape
    table = torch.arange(streams, device=tags.device)[:, None, None] * slots
    slot, stride = tag >> 20, (tag >> 40) | 1
    for number in range(PROBES):
        yield ((slot + number * stride) & (slots - 1)) + table


def _slots(tags: Tensor, tag: Tensor) -> tuple[Tensor, Tensor]:
    """The slots of tags (B, N, C), and whether they have one."""
    flat = tags.flatten()
    slots, found = torch.zeros_like(tag), torch.zeros_like(tag, dtype=torch.bool)
    for slot in _probes(tag, tags):
        here = flat[slot] == tag
        slots, found = torch.where(here, slot, slots), found | here
    return slots, found


def _claimed(tags: Tensor, tag: Tensor, needed: Tensor) -> Tensor:
    """`tags` (B, T) with slots for those of tags (B, N, C) that are needed, if any is free."""
    flat = tags.flatten()
    for slot in _probes(tag, tags):
        waiting = needed & ~_slots(flat.view(tags.shape), tag)[1] & (flat[slot] == NOBODY)
        # of several that want one slot the smallest tag gets it, whatever their order
        claims = torch.full_like(flat, _UNCLAIMED)
        claims = claims.scatter_reduce(0, slot[waiting], tag[waiting], "amin")
        flat = torch.where(claims == _UNCLAIMED, flat, claims)
    return flat.view(tags.shape)
