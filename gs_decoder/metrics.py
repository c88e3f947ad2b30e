"""PSNR and SSIM of images with values in 0..1.

SSIM is that of Wang et al. 2004: 11x11 Gaussian window of sigma 1.5 with weights that sum to 1,
K1 = 0.01, K2 = 0.03, data range 1, variances and covariance as weighted means (not the unbiased
ones), every channel by itself, and the mean over channels and over those windows that lie wholly
inside the image (no padding).
"""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

WINDOW = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


@overload
def psnr(image: np.ndarray, truth: np.ndarray, *, valid: np.ndarray | None = None) -> float: ...
@overload
def psnr(image: Tensor, truth: Tensor, *, valid: Tensor | None = None) -> Tensor: ...
def psnr(
    image: np.ndarray | Tensor,
    truth: np.ndarray | Tensor,
    *,
    valid: np.ndarray | Tensor | None = None,
) -> float | Tensor:
    """Peak signal-to-noise ratio in dB, peak 1; infinite for equal images.

    Args:
        image, truth: (H, W) or (H, W, C), floating point, 0..1.
        valid: (H, W) bool, pixels that count.

    Returns:
        A float for numpy, a differentiable scalar for torch.

    Raises:
        ValueError: shapes that differ, integer images, or no valid pixel.
    """
    x, y, mask = _as_planes(image, truth, valid)
    squared = (x - y).square()
    mean = squared.mean() if mask is None else squared[:, mask].mean()
    result = -10.0 * torch.log10(mean)
    return result if isinstance(image, Tensor) else float(result)


@overload
def ssim(image: np.ndarray, truth: np.ndarray, *, valid: np.ndarray | None = None) -> float: ...
@overload
def ssim(image: Tensor, truth: Tensor, *, valid: Tensor | None = None) -> Tensor: ...
def ssim(
    image: np.ndarray | Tensor,
    truth: np.ndarray | Tensor,
    *,
    valid: np.ndarray | Tensor | None = None,
) -> float | Tensor:
    """Structural similarity, -1..1, as this module defines it.

    Args:
        image, truth: (H, W) or (H, W, C), floating point, 0..1, at least 11x11.
        valid: (H, W) bool; only windows of valid pixels alone count.

    Returns:
        A float for numpy, a differentiable scalar for torch.

    Raises:
        ValueError: shapes that differ, integer images, images below 11x11, or no valid window.
    """
    x, y, mask = _as_planes(image, truth, valid)
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(
            f"images of {x.shape[-2]}x{x.shape[-1]} pixels: SSIM needs at least {WINDOW}x{WINDOW}"
        )
    mean_x, mean_y = _window_means(x), _window_means(y)
    variance_x = _window_means(x * x) - mean_x.square()
    variance_y = _window_means(y * y) - mean_y.square()
    covariance = _window_means(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + C1) * (2 * covariance + C2)) / (
        (mean_x.square() + mean_y.square() + C1) * (variance_x + variance_y + C2)
    )
    if mask is None:
        result = similarity.mean()
    else:
        invalid = (~mask)[None, None].to(x)
        whole = functional.max_pool2d(invalid, WINDOW, stride=1)[0, 0] == 0
        if not bool(whole.any()):
            raise ValueError("valid leaves no 11x11 window of valid pixels: SSIM is not defined")
        result = similarity[:, whole].mean()
    return result if isinstance(image, Tensor) else float(result)


def _as_planes(
    image: np.ndarray | Tensor, truth: np.ndarray | Tensor, valid: np.ndarray | Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both images as (C, H, W), and the mask (H, W)."""
    x, y = torch.as_tensor(image), torch.as_tensor(truth)
    if x.shape != y.shape or x.ndim not in (2, 3) or x.numel() == 0:
        raise ValueError(
            f"image has shape {tuple(x.shape)}, truth {tuple(y.shape)}: give both (H, W) or "
            "(H, W, C)"
        )
    if not (x.is_floating_point() and y.is_floating_point()):
        raise ValueError(f"image is {x.dtype}, truth {y.dtype}: give floats in 0..1")
    mask = None
    if valid is not None:
        mask = torch.as_tensor(valid, device=x.device).bool()
        if mask.shape != x.shape[:2]:
            raise ValueError(f"valid has shape {tuple(mask.shape)}: expected {tuple(x.shape[:2])}")
        if not bool(mask.any()):
            raise ValueError("valid is False everywhere: there is nothing to compare")
    if x.ndim == 2:
        x, y = x[..., None], y[..., None]
    kind = torch.promote_types(x.dtype, y.dtype)
    if not isinstance(image, Tensor):
        # Variances are differences of means: in float32 they lose flat regions' last digits.
        kind = torch.float64
    return x.to(kind).permute(2, 0, 1), y.to(kind).permute(2, 0, 1), mask


def _window_means(planes: Tensor) -> Tensor:
    """(C, H, W) to (C, H - 10, W - 10): Gaussian-weighted means of all whole windows."""
    offset = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-0.5 * (offset / SIGMA).square())
    weights = (weights / weights.sum()).to(planes)
    down = functional.conv2d(planes[:, None], weights.view(1, 1, -1, 1))
    return functional.conv2d(down, weights.view(1, 1, 1, -1))[:, 0]
