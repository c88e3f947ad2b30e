"""Decoder output of a `Reconstructor` as the per-pixel maps of a `Prediction`.

A released model says for every pixel a whole splat: place on the ray, size, turn, opacity,
harmonics. A prediction carries depth, confidence, colour and residuals on a splat that is laid out
from them. What gets across is stated at `predict_pixels`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ttt_core.errors import ShapeError
from ttt_core.reconstructor import Reconstruction
from ttt_core.views import Prediction

FAR = 500.0
"""Distance along the unit ray at which the depth sigmoid saturates, sub-map units."""
NEAR = 1e-3
"""Least z-depth, sub-map units: a sigmoid can underflow to zero, a depth must not."""
_LOG_SCALE_SHIFT, _LOG_SCALE_MAX = -2.3, -1.2
_LOG_SCALE_MIN = -20.0  # far below anything that renders; an underflow to 0 has no logarithm
_OPACITY_SHIFT = -2.0
_SH_DC = 0.5 / math.sqrt(math.pi)  # the constant harmonic: colour = 0.5 + this * coefficient
_LOGIT_EPS = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class SplatLayout:
    """How the reader of a prediction lays out a splat without residuals. The defaults are those of
    `gs_decoder.FootprintConfig`, for one splat a pixel."""

    sigma: float = 0.35
    """Standard deviation across the view, pixels, as given to the renderer."""
    renderer_blur: float = 0.3
    """Variance that the renderer adds, pixels²."""
    thickness: float = 0.3
    """Standard deviation along the normal, relative to that across the view."""
    opacity_gain: float = 6.0
    opacity_midpoint: float = 0.25
    """opacity = logistic(gain · (confidence - midpoint) + residual)."""


def predict_pixels(
    output: Reconstruction,
    fxfycxcy: Tensor,  # (V, 4)
    size: tuple[int, int],
    *,
    patch_size: int,
    unit: float,
    layout: SplatLayout | None = None,
) -> Prediction:
    """The prediction (float32) that comes nearest to the splats of one batch item.

    - depth: distance along the unit ray, `FAR`·sigmoid(mean of 3), as z-depth: exact.
    - confidence: the opacity.
    - opacity: exact for one splat a pixel; the residual undoes the layout's own curve.
    - colour: the constant harmonic. LOST: how colour changes with the direction of view.
    - size: as wide across the view as the splat is, mean over directions, as rendered (with the
      renderer's blur, so that it holds for coarser splats too), and as flat as the splat is.
      LOST: which way it is stretched.
    - LOST: the splat's turn. The reader lays a splat on the surface that its neighbours form;
      rotation residuals are zero.

    Args:
        output: of a batch of one, for V views padded to whole patches at the right and below.
        fxfycxcy: pixels.
        size: height and width without the padding.
        patch_size: side of a patch, pixels.
        unit: world units of one sub-map unit.

    Raises:
        ShapeError: `output` does not hold V padded views of that size.
    """
    layout = layout or SplatLayout()
    views, (height, width) = len(fxfycxcy), size
    rows, columns = -(-height // patch_size), -(-width // patch_size)
    expected = (1, views * rows * columns * patch_size**2)
    if tuple(output.raw.shape[:2]) != expected:
        raise ShapeError(
            f"the decoder's output is {tuple(output.raw.shape)}: for {views} views of "
            f"{width}x{height} in patches of {patch_size} expected {(*expected, 'C')}"
        )
    raw = output.raw[0].float()  # (N, C)
    channels = torch.cat(
        (
            raw[:, :3].mean(-1, keepdim=True),
            raw[:, 3:6],  # rgb runs fastest: the first three are the constant harmonic
            raw[:, -8:],  # scale 3, rotation 4, opacity 1
            output.ray_directions[0].float(),
        ),
        dim=-1,
    )
    planes = channels.view(views, rows, columns, patch_size, patch_size, -1)
    planes = planes.permute(0, 5, 1, 3, 2, 4).reshape(
        views, -1, rows * patch_size, columns * patch_size
    )
    parts = planes[..., :height, :width].split([1, 3, 3, 4, 1, 3], dim=1)
    distance, harmonic, scale, quaternion, opacity, ray = parts

    slope = _ray_slope(fxfycxcy.float(), height, width)
    depth = (FAR * torch.sigmoid(distance[:, 0]) / slope).clamp_min(NEAR)
    opaque = torch.sigmoid(opacity[:, 0] + _OPACITY_SHIFT)
    opacity_logit = torch.logit(opaque, eps=_LOGIT_EPS)
    scale = torch.exp((scale + _LOG_SCALE_SHIFT).clamp(_LOG_SCALE_MIN, _LOG_SCALE_MAX))
    across = _width_across(scale, quaternion, ray)
    focal = fxfycxcy[:, :2].float().prod(-1).sqrt()[:, None, None]
    pixels = across * focal / depth
    blur = layout.renderer_blur
    wider = 0.5 * torch.log((pixels.square() + blur) / (layout.sigma**2 + blur))
    flatter = torch.log(scale.amin(1) / across) - math.log(layout.thickness)
    return Prediction(
        depth=depth * unit,
        confidence=opaque,
        color=(0.5 + _SH_DC * harmonic).clamp(0, 1),
        log_scale_residual=torch.stack((wider, wider, wider + flatter), dim=1),
        opacity_logit_residual=opacity_logit
        - layout.opacity_gain * (opaque - layout.opacity_midpoint),
        rotation_residual=torch.zeros_like(ray),
    )


def _ray_slope(fxfycxcy: Tensor, height: int, width: int) -> Tensor:
    """(V, H, W): length of the ray of each pixel at z-depth 1."""
    fx, fy, cx, cy = fxfycxcy[..., None, None].unbind(1)
    u = torch.arange(width, device=fxfycxcy.device) + 0.5
    v = (torch.arange(height, device=fxfycxcy.device) + 0.5)[:, None]
    return torch.sqrt(1 + ((u - cx) / fx).square() + ((v - cy) / fy).square())


def _width_across(scale: Tensor, quaternion: Tensor, ray: Tensor) -> Tensor:
    """Root mean variance of splats in the plane across their rays: (V, H, W).

    Args:
        scale: (V, 3, H, W) standard deviations.
        quaternion: (V, 4, H, W) wxyz, any length, in the frame of the rays.
        ray: (V, 3, H, W), unit.
    """
    w, u = F.normalize(quaternion, dim=1).split([1, 3], dim=1)
    # the ray in the splat's own axes: the rotation's inverse turns it
    turned = torch.linalg.cross(u, ray, dim=1)
    own = ray - 2 * w * turned + 2 * torch.linalg.cross(u, turned, dim=1)
    variance = scale.square()
    along = (variance * own.square()).sum(1)
    least = variance.amin(1)
    return torch.maximum((variance.sum(1) - along) / 2, least).sqrt()
