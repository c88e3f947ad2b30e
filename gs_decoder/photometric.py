"""Photometric loss of a rendered view against a camera image, with its gradient in closed form.

L = (1 - w)·mean|x - y| + w·(1 - mean SSIM(x, y)), the loss of 3D Gaussian Splatting (Kerbl et al.
2023, section 5.1, w = 0.2), with the SSIM of Wang et al. 2004: 11x11 Gaussian window, sigma 1.5.
Windows are zero-padded at the border, which makes the blur its own adjoint: the gradient costs
three more blurs and no autograd graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numba
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
    blurred = cv2.GaussianBlur(
        image, (_WINDOW, _WINDOW), _SIGMA, sigmaY=_SIGMA, borderType=cv2.BORDER_CONSTANT
    )
    return np.asarray(blurred, np.float32)


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
    rgb = np.ascontiguousarray(rgb, np.float32)
    target = np.ascontiguousarray(target, np.float32)
    if valid is not None:
        # Where nothing is known the target is what was rendered: no error, no gradient.
        target = np.where(valid[..., None], target, rgb)
    count = float(rgb.size if valid is None else max(1, int(valid.sum()) * 3))
    d_rgb = np.empty_like(rgb)
    l1_weight = (1.0 - ssim_weight) / count
    absolute, squared = _l1(rgb.reshape(-1), target.reshape(-1), l1_weight, d_rgb.reshape(-1))
    value = l1_weight * absolute
    if ssim_weight > 0.0:
        value += ssim_weight * (1.0 - _ssim(rgb, target, ssim_weight, d_rgb))
    if valid is not None:
        d_rgb *= valid[..., None]
    return PhotometricLoss(value, d_rgb, squared / count)


def _ssim(x: Float32, y: Float32, weight: float, d_x: Float32) -> float:
    """Mean SSIM over pixels and channels; subtracts weight times its gradient by x from `d_x`."""
    xx, yy, xy = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)
    _products(flat_x, flat_y, xx.reshape(-1), yy.reshape(-1), xy.reshape(-1))
    mu_x, mu_y, blur_xx, blur_yy, blur_xy = (
        _blur(image).reshape(-1) for image in (x, y, xx, yy, xy)
    )
    # The products are not needed any more: their memory takes the three derivatives.
    total = _ssim_terms(
        mu_x,
        mu_y,
        blur_xx,
        blur_yy,
        blur_xy,
        xx.reshape(-1),
        yy.reshape(-1),
        xy.reshape(-1),
    )
    d_mean, d_square, d_product = (_blur(image).reshape(-1) for image in (xx, yy, xy))
    _ssim_gradient(flat_x, flat_y, d_mean, d_square, d_product, weight / x.size, d_x.reshape(-1))
    return total / x.size


@numba.njit(nogil=True, cache=True, fastmath=True)
def _l1(x: Float32, y: Float32, weight: float, d_x: Float32) -> tuple[float, float]:
    """Sums of |x - y| and (x - y)²; `d_x` becomes weight · sign(x - y). All (N,)."""
    step = np.float32(weight)
    absolute = 0.0
    squared = 0.0
    for n in range(x.size):
        difference = x[n] - y[n]
        absolute += abs(difference)
        squared += difference * difference
        d_x[n] = step if difference > 0 else (-step if difference < 0 else np.float32(0))
    return absolute, squared


@numba.njit(nogil=True, cache=True, fastmath=True)
def _products(x: Float32, y: Float32, xx: Float32, yy: Float32, xy: Float32) -> None:
    for n in range(x.size):
        xx[n] = x[n] * x[n]
        yy[n] = y[n] * y[n]
        xy[n] = x[n] * y[n]


@numba.njit(nogil=True, cache=True, fastmath=True)
def _ssim_terms(
    mu_x: Float32,
    mu_y: Float32,
    blur_xx: Float32,
    blur_yy: Float32,
    blur_xy: Float32,
    d_mean: Float32,
    d_square: Float32,
    d_product: Float32,
) -> float:
    """The sum of the SSIM map, and its derivatives by blur(x), blur(x²) and blur(xy). All (N,)."""
    c1, c2, two = np.float32(_C1), np.float32(_C2), np.float32(2)
    total = 0.0
    for n in range(mu_x.size):
        a, b = mu_x[n], mu_y[n]
        luminance_n, luminance_d = two * a * b + c1, a * a + b * b + c1
        contrast_n = two * (blur_xy[n] - a * b) + c2
        contrast_d = blur_xx[n] - a * a + blur_yy[n] - b * b + c2
        inverse = np.float32(1) / (luminance_d * contrast_d)
        ssim = luminance_n * contrast_n * inverse
        by_square = -ssim / contrast_d
        by_product = two * luminance_n * inverse
        d_mean[n] = (
            two * b * contrast_n * inverse
            - two * a * ssim / luminance_d
            - two * a * by_square
            - b * by_product
        )
        d_square[n] = by_square
        d_product[n] = by_product
        total += ssim
    return total


@numba.njit(nogil=True, cache=True, fastmath=True)
def _ssim_gradient(
    x: Float32,
    y: Float32,
    d_mean: Float32,
    d_square: Float32,
    d_product: Float32,
    weight: float,
    d_x: Float32,
) -> None:
    """d_x -= weight · (d_mean + 2x·d_square + y·d_product), the adjoint of the three blurs."""
    step, two = np.float32(weight), np.float32(2)
    for n in range(x.size):
        d_x[n] -= step * (d_mean[n] + two * x[n] * d_square[n] + y[n] * d_product[n])
