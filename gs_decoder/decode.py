"""Raw decoder channels to splats: the activations of the reconstructor's output."""

from __future__ import annotations

import torch
from torch import Tensor

from gs_decoder.splats import Splats

FAR = 500.0
"""Distance along the unit ray at which the depth sigmoid saturates, scene units."""
_LOG_SCALE_SHIFT = -2.3
_LOG_SCALE_MAX = -1.2
_OPACITY_SHIFT = -2.0


def raw_channels(sh_degree: int) -> int:
    """Channels a splat: depth 3, SH 3·(degree + 1)², scale 3, rotation 4, opacity 1."""
    return 3 + 3 * (sh_degree + 1) ** 2 + 3 + 4 + 1


def decode_splats(
    raw: Tensor,  # (B, N, C)
    ray_origins: Tensor,  # (B, N, 3)
    ray_directions: Tensor,  # (B, N, 3), unit
    sh_degree: int = 3,
) -> Splats:
    """Activate decoder output: `Splats` (B, N, …) in the frame of the rays. Differentiable.

    Channels in order: three values whose mean m gives the distance 500·sigmoid(m) along the unit
    ray; SH coefficients (K, rgb), rgb fastest; log scales, shifted by -2.3 and at most -1.2;
    quaternion wxyz; opacity logit, shifted by -2. Scale, rotation and SH are not turned by the
    camera's pose: the network gives them in the frame of the rays.

    Source: the released tttLRM decoder (paper section 3; our sheet, section 2).

    Raises:
        ValueError: shapes that do not fit each other or the SH degree, with the shape received.
    """
    if sh_degree not in range(4):
        raise ValueError(f"sh_degree is {sh_degree}: give 0 to 3")
    channels = raw_channels(sh_degree)
    if raw.ndim < 2 or raw.shape[-1] != channels:
        raise ValueError(
            f"raw has shape {tuple(raw.shape)}: expected (B, N, {channels}) at SH degree "
            f"{sh_degree}"
        )
    for name, rays in (("ray_origins", ray_origins), ("ray_directions", ray_directions)):
        if rays.shape != (*raw.shape[:-1], 3):
            raise ValueError(
                f"{name} has shape {tuple(rays.shape)}: expected {(*raw.shape[:-1], 3)}, as raw"
            )
    coefficients = (sh_degree + 1) ** 2
    depth, sh, scale, rotation, opacity = raw.split([3, 3 * coefficients, 3, 4, 1], dim=-1)
    distance = FAR * torch.sigmoid(depth.mean(-1, keepdim=True))
    return Splats(
        means=ray_origins + distance * ray_directions,
        quats_wxyz=rotation,
        scales=torch.exp((scale + _LOG_SCALE_SHIFT).clamp_max(_LOG_SCALE_MAX)),
        opacities=torch.sigmoid(opacity.squeeze(-1) + _OPACITY_SHIFT),
        sh=sh.unflatten(-1, (coefficients, 3)),
    )


def most_opaque(
    opacities: Tensor,
    keep_ratio: float,
    random_ratio: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Indices of the splats to keep: the most opaque, and some of the rest by chance.

    `int(keep_ratio·N)` of the highest opacity (or logit), then
    `int((1 - keep_ratio)·random_ratio·N)` random ones of the others: the pruning of the released
    tttLRM (our sheet, section 4.5).

    Args:
        opacities: (..., N).
        keep_ratio: share kept for its opacity, 0..1.
        random_ratio: share of the rest kept by chance, 0..1.
        generator: of the chance; drawn on the CPU.

    Returns:
        (..., M) int64 indices into N, by falling opacity, the random ones last.
    """
    for name, ratio in (("keep_ratio", keep_ratio), ("random_ratio", random_ratio)):
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"{name} is {ratio}: give a share from 0 to 1")
    if opacities.ndim < 1:
        raise ValueError("opacities is a scalar: expected (..., N)")
    count = opacities.shape[-1]
    top = int(keep_ratio * count)
    extra = min(int((1 - keep_ratio) * random_ratio * count), count - top)
    order = opacities.detach().argsort(dim=-1, descending=True, stable=True)
    if extra == 0:
        return order[..., :top]
    rest = order[..., top:].reshape(-1, count - top)
    chosen = torch.stack(
        [
            row[torch.randperm(count - top, generator=generator)[:extra].to(row.device)]
            for row in rest
        ]
    )
    return torch.cat([order[..., :top], chosen.view(*order.shape[:-1], extra)], -1)
