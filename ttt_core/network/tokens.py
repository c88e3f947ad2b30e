"""Between pixels, cells of the prior and tokens: what the network reads, and depth from planes.

Shape suffixes: B streams, V views, N tokens of a view (row-major), D planes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ttt_core.matching import CELL, CELL_CHANNELS
from ttt_core.network.config import PATCH
from ttt_core.network.inputs import NetworkInput, log_planes, patch_centres, plane_histogram

CELL_INPUT = len(CELL_CHANNELS) + 3 * CELL**2 + 6
"""Channels of `cell_input`."""
RAY_CHANNELS = 5
"""Channels of `ray_channels`."""
_COST_PLANES = sum(name.startswith("cost_") for name in CELL_CHANNELS)
_NARROWEST = 1e-6  # range of log depth; it may be a single depth
_WINDOW = 2  # planes on each side of the mode that a token's depth is the mean of


def expected_depth(logits: Tensor, log_range: Tensor) -> tuple[Tensor, Tensor]:
    """Mean log depth near the most likely plane, and the probability of that neighbourhood.

    Args:
        logits: (B, V, N, D).
        log_range: (B, V, 2).

    Returns:
        (B, V, N) each.
    """
    planes = logits.shape[-1]
    probability = logits.softmax(-1)
    mode = logits.argmax(-1, keepdim=True)
    near = (torch.arange(planes, device=logits.device) - mode).abs() <= _WINDOW
    inside = probability * near
    mass = inside.sum(-1)
    depth = log_planes(log_range, planes)[:, :, None]
    return (inside * depth).sum(-1) / (mass + 1e-8), mass


def patches(picture: Tensor, side: int) -> Tensor:
    """(B, V, H, W) -> (B, V, N, side*side), row-major inside and outside."""
    cut = picture.unflatten(-1, (-1, side)).unflatten(-3, (-1, side)).transpose(-3, -2)
    return cut.flatten(-2).flatten(-3, -2)


class SurestPixels(NamedTuple):
    """The surest valid pixel of each token, where the token writes."""

    confidence: Tensor  # (B, V, N), 0..1
    log_depth: Tensor  # (B, V, N)
    pixels: Tensor  # (B, V, N, 2), x and y
    valid: Tensor | None  # (B, V, N) bool, False where no pixel is valid; None: all are


def surest_pixels(
    log_depth: Tensor,  # (B, V, H, W)
    confidence: Tensor,  # (B, V, H, W)
    valid: Tensor | None,  # (B, V, H, W) bool; None: all are
    side: int,
) -> SurestPixels:
    """Where tokens of `side` pixels are surest; gradients end here."""
    depth, trust = (patches(t.detach(), side) for t in (log_depth, confidence))
    says = None if valid is None else patches(valid, side)
    if says is not None:
        trust = torch.where(says, trust, -1.0)
    best, place = trust.max(dim=-1)  # (B, V, N)
    columns = log_depth.shape[-1] // side
    token = torch.arange(place.shape[-1], device=place.device)
    x = (token % columns) * side + place % side
    y = (token // columns) * side + place // side
    return SurestPixels(
        confidence=best if says is None else best.clamp_min(0),
        log_depth=depth.gather(-1, place[..., None]).squeeze(-1),
        pixels=torch.stack((x, y), dim=-1).to(log_depth.dtype) + 0.5,
        valid=None if says is None else says.any(dim=-1),
    )


def upsampled(tokens: Tensor, rows: int, columns: int, like: Tensor) -> Tensor:
    """(B, V, N) to the pixels of `like` (B, V, H, W), bilinear."""
    picture = tokens.flatten(0, 1).view(-1, 1, rows, columns)
    size = like.shape[-2:]
    return F.interpolate(picture, size=size, mode="bilinear").view_as(like)


def token_cost(cells: Tensor, planes: int) -> Tensor:
    """Matching cost of tokens (B, V, N, D) from that of their cells."""
    cost = cells[..., :_COST_PLANES].movedim(-1, 2).flatten(0, 1)  # (B*V, K, Hc, Wc)
    cost = F.avg_pool2d(cost, 2).flatten(2).mT  # (B*V, N, K)
    if planes != _COST_PLANES:
        cost = F.interpolate(cost, size=planes, mode="linear")
    return cost.unflatten(0, cells.shape[:2])


def cell_cost(views: NetworkInput, log_depth: Tensor) -> Tensor:
    """Matching cost of cells at depths (B, V, H/CELL, W/CELL), between planes; beyond them, of the
    last."""
    cost = views.cells[..., :_COST_PLANES]
    near, far = (edge[..., None] for edge in views.log_range.split(1, dim=-1))
    place = (log_depth - near) / (far - near).clamp_min(_NARROWEST) * _COST_PLANES - 0.5
    place = place.clamp(0, _COST_PLANES - 1)[..., None]
    low = place.long().clamp_max(_COST_PLANES - 2)
    before, after = cost.gather(-1, low), cost.gather(-1, low + 1)
    return torch.lerp(before, after, place - low).squeeze(-1)


def cell_input(views: NetworkInput) -> Tensor:
    """(B*V, CELL_INPUT, H/CELL, W/CELL)."""
    cells = views.cells.movedim(-1, 2)
    colors = F.pixel_unshuffle(2 * views.image - 1, CELL)
    ratio = (views.map_log_depth - views.log_depth).clamp(-1, 1) * views.map_there
    of_map = torch.stack((ratio, views.map_there), dim=2).flatten(0, 1)
    of_map = F.avg_pool2d(of_map, CELL).unflatten(0, cells.shape[:2])
    rows, columns = cells.shape[-2:]
    centres = patch_centres(rows, columns, CELL, views.fxfycxcy)
    focal, centre = views.fxfycxcy[..., None, :].split(2, dim=-1)
    plane = ((centres - centre) / focal).mT.unflatten(-1, (rows, columns))
    edges = views.log_range[..., None, None].expand(*views.log_range.shape, rows, columns)
    return torch.cat((cells, colors, of_map, plane, edges), dim=2).flatten(0, 1)


def ray_channels(views: NetworkInput, cost: Tensor, prior_logits: Tensor) -> Tensor:
    """(B, V, N, RAY_CHANNELS, D): what is known along the rays of tokens without a memory.

    Args:
        cost, prior_logits: (B, V, N, D).
    """
    # Both the sure part of the prior and all of it: where nothing was matched, what it filled
    # in from around is the best guess there is.
    sure, all_of_it, in_map = (
        plane_histogram(depth, weight, views.log_range, cost.shape[-1], PATCH)
        for depth, weight in (
            (views.log_depth, views.confidence),
            (views.log_depth, torch.ones_like(views.confidence)),
            (views.map_log_depth, views.map_there),
        )
    )
    return torch.stack((cost, prior_logits.softmax(-1), sure, all_of_it, in_map), dim=-2)
