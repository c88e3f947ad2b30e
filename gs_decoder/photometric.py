"""Photometric loss of a rendered view against a camera image, with its gradient in closed form.

L = (1 - w)·mean|x - y| + w·(1 - mean SSIM(x, y)), the loss of 3D Gaussian Splatting (Kerbl et al.
2023, section 5.1, w = 0.2), with the SSIM of Wang et al. 2004: 11x11 Gaussian window, sigma 1.5.
Windows are zero-padded at the border, which makes the blur its own adjoint: the gradient costs
three more blurs and no autograd graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

_C1 = 0.01**2
_C2 = 0.03**2
_WINDOW = 11
_SIGMA = 1.5


@dataclass(frozen=True, slots=True)
class PhotometricLoss:
    """`value` of the loss, `d_rgb` (H, W, 3) its gradient, `mse` over the valid pixels."""

    value: float
    d_rgb: Float32
    mse: float


def _blur(image: Float32) -> Float32:
    return cv2.GaussianBlur(
        image, (_WINDOW, _WINDOW), _SIGMA, sigmaY=_SIGMA, borderType=cv2.BORDER_CONSTANT
    )


def photometric_loss(
    rgb: Float32,
    target: Float32,
    valid: NDArray[np.bool_] | None = None,
    *,
    ssim_weight: float = 0.2,
) -> PhotometricLoss:
    """Loss and gradient of one view.

    Args:
        rgb: rendered colours, (H, W, 3) float32.
        target: camera colours, (H, W, 3) float32 in 0..1.
        valid: (H, W) bool, False where the target says nothing (masks, undistortion border).
        ssim_weight: w above.
    """
    if rgb.shape != target.shape or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"rgb and target must both be (H, W, 3), got {rgb.shape}, {target.shape}")
    if valid is not None:
        # Where nothing is known the target is what was rendered: no error, no gradient.
        target = np.where(valid[..., None], target, rgb)
    count = float(rgb.size if valid is None else max(1, int(valid.sum()) * 3))
    difference = rgb - target
    value = (1.0 - ssim_weight) * float(np.abs(difference).sum()) / count
    d_rgb = np.sign(difference) * np.float32((1.0 - ssim_weight) / count)
    if ssim_weight > 0.0:
        similarity, d_similarity = _ssim_and_gradient(rgb, target)
        value += ssim_weight * (1.0 - similarity)
        d_rgb -= np.float32(ssim_weight) * d_similarity
    if valid is not None:
        d_rgb *= valid[..., None]
    return PhotometricLoss(value, d_rgb, float(np.square(difference).sum()) / count)


def _ssim_and_gradient(x: Float32, y: Float32) -> tuple[float, Float32]:
    """Mean SSIM over pixels and channels, and its gradient with respect to x, (H, W, 3)."""
    mu_x, mu_y = _blur(x), _blur(y)
    mu_xx, mu_yy, mu_xy = mu_x * mu_x, mu_y * mu_y, mu_x * mu_y
    var_x = _blur(x * x) - mu_xx
    var_y = _blur(y * y) - mu_yy
    cov = _blur(x * y) - mu_xy
    luminance_n, luminance_d = 2.0 * mu_xy + _C1, mu_xx + mu_yy + _C1
    contrast_n, contrast_d = 2.0 * cov + _C2, var_x + var_y + _C2
    denominator = luminance_d * contrast_d
    ssim = luminance_n * contrast_n / denominator
    # Derivatives of the map with respect to blur(x), blur(x²) and blur(xy).
    d_var = -ssim / contrast_d
    d_cov = 2.0 * luminance_n / denominator
    d_mu = (
        2.0 * mu_y * contrast_n / denominator
        - 2.0 * mu_x * ssim / luminance_d
        - 2.0 * mu_x * d_var
        - mu_y * d_cov
    )
    gradient = _blur(d_mu) + 2.0 * x * _blur(d_var) + y * _blur(d_cov)
    return float(ssim.mean()), (gradient / np.float32(x.size)).astype(np.float32, copy=False)
