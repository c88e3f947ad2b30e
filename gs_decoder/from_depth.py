"""A view with depth and confidence to splats: one on each pixel, lying on the surface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from gs_decoder.normals import depth_normals
from gs_decoder.rotations import (
    multiply_quaternions,
    quaternion_from_axis_angle,
    quaternion_from_matrix,
)
from gs_decoder.sh import sh_from_rgb
from gs_decoder.splats import Splats


@dataclass(frozen=True, slots=True, kw_only=True)
class FootprintConfig:
    """How a pixel becomes a splat."""

    footprint: float = 0.6
    """Standard deviation across the view as rendered there, in the splat's share of the image
    (the side of its cell): at 0.6 a flat wall is closed."""
    renderer_blur: float = 0.3
    """Variance in pixels² that the rasteriser adds by itself (eps2d): a splat of one pixel is
    mostly that, and would be blurred twice if it was not taken off."""
    min_footprint: float = 0.35
    """Least standard deviation, in sides of the cell, so that a closer view has no holes."""
    thickness: float = 0.3
    """Standard deviation along the normal, relative to that across the view."""
    max_slant: float = 65.0
    """Degrees between a splat's normal and the line of sight: a splat that covers its pixels is
    stretched by 1/cos of it, and a needle is worse than a gap."""
    edge_slant: float = 78.0
    """Degrees: neighbours that lie more steeply than this are not on the same surface."""
    opacity_gain: float = 6.0
    opacity_midpoint: float = 0.25
    """opacity = logistic(gain · (confidence - midpoint) + residual)."""
    min_opacity: float = 0.02
    max_opacity: float = 0.99
    max_log_scale_residual: float = 1.5

    def __post_init__(self) -> None:
        for name in ("footprint", "min_footprint", "thickness"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give more than 0")
        if self.renderer_blur < 0:
            raise ValueError(f"renderer_blur is {self.renderer_blur}: give 0 or more pixels²")
        if not 0 <= self.max_slant < 90 or not 0 < self.edge_slant < 90:
            raise ValueError(
                f"max_slant is {self.max_slant}, edge_slant is {self.edge_slant}: give degrees "
                "below 90"
            )
        if not 0 < self.min_opacity <= self.max_opacity < 1:
            raise ValueError(
                f"opacities from {self.min_opacity} to {self.max_opacity}: give 0 < min <= max < 1"
            )

    def sigma(self, cell: float) -> float:
        """Standard deviation in pixels of a splat that stands for `cell` x `cell` pixels."""
        unblurred = (self.footprint * cell) ** 2 - self.renderer_blur
        return math.sqrt(max(unblurred, (self.min_footprint * cell) ** 2))


def splats_from_depth(
    depth: Tensor,  # (H, W)
    confidence: Tensor,  # (H, W)
    color: Tensor,  # (3, H, W)
    fxfycxcy: Tensor | Sequence[float],  # (4,)
    *,
    stride: int = 1,
    cell: float = 1.0,
    keep: Tensor | None = None,  # (H, W) bool
    log_scale_residual: Tensor | None = None,  # (3, H, W)
    rotation_residual: Tensor | None = None,  # (3, H, W)
    opacity_logit_residual: Tensor | None = None,  # (H, W)
    config: FootprintConfig | None = None,
) -> Splats:
    """Splats (N, …) of SH degree 0 in the view's camera frame, in raster order. Differentiable.

    Each is as wide as its pixels seen from the camera, lies on the surface that its neighbours
    form (see `depth_normals`), and is as opaque as the depth is sure. With neighbours across a
    depth edge, or none, it faces the camera.

    Args:
        depth: z-depth, scene units. Pixels that are not finite and positive give no splat.
        confidence: 0..1.
        color: 0..1.
        fxfycxcy: pixels, of this image.
        stride: one splat on every stride x stride cell, at the pixel in its middle, of the cell's
            mean colour; cells cut by the border give none.
        cell: how many pixels of the view, along a side, one pixel of these maps stands for: maps
            reduced by 2 (and `fxfycxcy` with them) have 2. It only decides how much of the
            splat's width the renderer will add.
        keep: where splats are wanted; read at the same pixel.
        log_scale_residual: added to the log scales, limited to ±1.5; order: along the slant,
            across it, along the normal.
        rotation_residual: axis-angle in radians in the splat's own axes.
        opacity_logit_residual: added to the opacity's logit.

    Raises:
        ValueError: shapes that do not fit, with the shape received.
    """
    config = config or FootprintConfig()
    _check_shapes(
        depth,
        stride,
        confidence=confidence,
        color=color,
        keep=keep,
        log_scale_residual=log_scale_residual,
        rotation_residual=rotation_residual,
        opacity_logit_residual=opacity_logit_residual,
    )
    intrinsics = torch.as_tensor(fxfycxcy).to(depth)
    if intrinsics.shape != (4,):
        raise ValueError(f"fxfycxcy has shape {tuple(intrinsics.shape)}: expected (4,)")
    height, width = depth.shape
    rows = torch.arange(height // stride, device=depth.device) * stride + stride // 2
    columns = torch.arange(width // stride, device=depth.device) * stride + stride // 2
    wanted = torch.isfinite(depth) & (depth > 0)
    if keep is not None:
        wanted = wanted & keep
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    chosen = wanted[row, column]
    row, column = row[chosen], column[chosen]  # (N,)

    fx, fy, cx, cy = intrinsics.unbind()
    z = depth[row, column]
    x = (column.to(z) + 0.5 - cx) / fx
    y = (row.to(z) + 0.5 - cy) / fy
    means = torch.stack([x * z, y * z, z], -1)
    asked = torch.zeros_like(wanted)
    asked[row, column] = True
    normals = depth_normals(depth, intrinsics, edge_slant=config.edge_slant, wanted=asked)
    normals = normals[row, column]
    frame, cosine = _surface_frame(means, normals, config.max_slant)
    quats = quaternion_from_matrix(frame)
    if rotation_residual is not None:
        turn = quaternion_from_axis_angle(rotation_residual[:, row, column].T)
        quats = multiply_quaternions(quats, turn)

    if cell <= 0:
        raise ValueError(f"cell is {cell}: give more than 0 pixels")
    across = z / torch.sqrt(fx * fy) * (config.sigma(stride * cell) / cell)
    scales = torch.stack([across / cosine, across, across * config.thickness], -1)
    if log_scale_residual is not None:
        limit = config.max_log_scale_residual
        scales = scales * log_scale_residual[:, row, column].T.clamp(-limit, limit).exp()

    logits = config.opacity_gain * (confidence[row, column] - config.opacity_midpoint)
    if opacity_logit_residual is not None:
        logits = logits + opacity_logit_residual[row, column]
    rgb = color if stride == 1 else functional.avg_pool2d(color[None], stride)[0]
    return Splats(
        means=means,
        quats_wxyz=quats,
        scales=scales,
        opacities=torch.sigmoid(logits).clamp(config.min_opacity, config.max_opacity),
        sh=sh_from_rgb(rgb[:, row // stride, column // stride].T)[:, None, :],
    )


def _surface_frame(means: Tensor, normals: Tensor, max_slant: float) -> tuple[Tensor, Tensor]:
    """Axes (N, 3, 3) as columns (slant, across, normal) and the cosine (N,) of the slant.

    The normal is bent towards the camera until it is at most `max_slant` degrees from the line of
    sight.
    """
    sight = -functional.normalize(means, dim=-1)
    cosine = (normals * sight).sum(-1, keepdim=True)
    sideways = normals - cosine * sight
    length = sideways.norm(dim=-1, keepdim=True)
    # A normal along the line of sight leans in no direction: any will do.
    spare = torch.zeros_like(sight)
    spare[..., 0] = 1.0
    spare = spare - (spare * sight).sum(-1, keepdim=True) * sight
    lean = functional.normalize(torch.where(length > 1e-4, sideways, spare), dim=-1)
    lowest = math.cos(math.radians(max_slant))
    cosine = cosine.clamp(lowest, 1.0)
    sine = torch.where(length > 1e-4, (1.0 - cosine * cosine).clamp_min(1e-12).sqrt(), 0.0)
    cosine = torch.where(length > 1e-4, cosine, 1.0)
    normal = cosine * sight + sine * lean
    slant = cosine * lean - sine * sight
    return torch.stack([slant, torch.linalg.cross(normal, slant), normal], -1), cosine.squeeze(-1)


def _check_shapes(depth: Tensor, stride: int, **fields: Tensor | None) -> None:
    if depth.ndim != 2:
        raise ValueError(f"depth has shape {tuple(depth.shape)}: expected (H, W), one view")
    if stride < 1:
        raise ValueError(f"stride is {stride}: give at least 1 pixel")
    for name, value in fields.items():
        colors = name in ("color", "log_scale_residual", "rotation_residual")
        expected = (3, *depth.shape) if colors else tuple(depth.shape)
        if value is not None and tuple(value.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}: expected {expected}, as depth"
            )
