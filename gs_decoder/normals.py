"""Surface normals of a depth map that do not lean across its edges."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

# Share of a full window's spread that is added to what was found: a fit to a handful of
# neighbours gives way to "facing the camera".
RIDGE = 0.005


def depth_normals(
    depth: Tensor,  # (H, W)
    fxfycxcy: Tensor,  # (4,)
    *,
    radius: int = 2,
    edge_slant: float = 78.0,
    wanted: Tensor | None = None,  # (H, W) bool
) -> Tensor:
    """Unit normals (H, W, 3) towards the camera, OpenCV camera axes.

    The inverse depth of a plane is linear in the pixel, 1/z = a·u + b·v + c, and its normal is
    (a·fx, b·fy, a·cx + b·cy + c). The line is fitted by least squares over the neighbours that one
    surface could hold together with the pixel: those that lie less steeply than `edge_slant`
    from it. So a depth edge takes no part in the normals on either side, and a pixel without
    neighbours faces the camera.

    Args:
        depth: z-depth; pixels that are not finite and positive take no part.
        fxfycxcy: pixels.
        radius: of the window, pixels.
        edge_slant: degrees between the image plane and a surface from which on it is an edge.
        wanted: where normals are asked for; elsewhere they may be zero, which saves their time.
    """
    if (
        depth.dtype == torch.float32
        and depth.device.type == "cpu"
        and not _tracked(depth, fxfycxcy)
    ):
        # numba takes a second to import: whoever only mirrors a map should not wait for it.
        from gs_decoder.normals_kernel import fit_planes

        out = np.zeros((*depth.shape, 3), np.float32)
        asked = np.ones(depth.shape, np.bool_) if wanted is None else wanted.numpy()
        camera = fxfycxcy.to(torch.float32).numpy()
        steepest = math.tan(math.radians(edge_slant)) / math.sqrt(camera[0] * camera[1])
        fit_planes(depth.contiguous().numpy(), camera, asked, radius, steepest, RIDGE, out)
        return torch.from_numpy(out)
    return _depth_normals_torch(depth, fxfycxcy, radius, edge_slant)


def _tracked(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _depth_normals_torch(depth: Tensor, fxfycxcy: Tensor, radius: int, edge_slant: float) -> Tensor:
    """The differentiable form, and the definition."""
    fx, fy, cx, cy = fxfycxcy.unbind(-1)
    height, width = depth.shape
    known = torch.isfinite(depth) & (depth > 0)
    inverse = torch.where(known, 1.0 / torch.where(known, depth, 1.0), 0.0)
    padded = functional.pad(inverse, (radius,) * 4)
    steepest = math.tan(math.radians(edge_slant)) / torch.sqrt(fx * fy)

    zero = torch.zeros_like(inverse)
    n, su, sv, suu, suv, svv, sq, suq, svq = (zero,) * 9
    full = 0.0
    for dv in range(-radius, radius + 1):
        for du in range(-radius, radius + 1):
            there = padded[radius + dv : radius + dv + height, radius + du : radius + du + width]
            # |z' - z| <= slope · distance · z / f, written with inverse depths. Both ways, so that
            # the near and the far side of an edge agree that it is one.
            jump = (there - inverse).abs()
            limit = steepest * math.hypot(du, dv) * torch.minimum(there, inverse)
            weight = ((jump <= limit) & (there > 0)).to(inverse)
            rise = weight * (there - inverse)
            n = n + weight
            su, sv = su + du * weight, sv + dv * weight
            suu, suv, svv = suu + du * du * weight, suv + du * dv * weight, svv + dv * dv * weight
            sq, suq, svq = sq + rise, suq + du * rise, svq + dv * rise
            full += du * du
    n = n.clamp_min(1.0)
    cuu = suu - su * su / n + RIDGE * full
    cvv = svv - sv * sv / n + RIDGE * full
    cuv = suv - su * sv / n
    cuq, cvq = suq - su * sq / n, svq - sv * sq / n
    determinant = cuu * cvv - cuv * cuv
    a = (cvv * cuq - cuv * cvq) / determinant
    b = (cuu * cvq - cuv * cuq) / determinant

    u = torch.arange(width, device=depth.device, dtype=depth.dtype) + 0.5
    v = torch.arange(height, device=depth.device, dtype=depth.dtype)[:, None] + 0.5
    # With c from the pixel itself: 1/z = q + a·(u' - u) + b·(v' - v).
    normal = torch.stack([a * fx, b * fy, inverse + a * (cx - u) + b * (cy - v)], -1)
    ray = torch.stack(
        torch.broadcast_tensors((u - cx) / fx, (v - cy) / fy, torch.ones_like(zero)), -1
    )
    normal = torch.where(known[..., None], normal, ray)
    # normal · point = 1 for points of the plane, so it points away from the camera.
    return -functional.normalize(normal, dim=-1)
