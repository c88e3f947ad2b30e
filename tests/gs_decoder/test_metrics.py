"""PSNR and SSIM against their definitions, written out pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gs_decoder import psnr, ssim


def images(seed: int = 0, height: int = 17, width: int = 14) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.uniform(size=(height, width, 3))
    truth[:, : width // 2] = 0.3  # a flat part: variances of zero
    noisy = np.clip(truth + 0.1 * generator.normal(size=truth.shape), 0, 1)
    return noisy, truth


def ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(H - 10, W - 10, C), one window after the other, by the formula of the paper."""
    weights = np.array(
        [
            [math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)]
            for i in range(11)
        ]
    )
    weights /= weights.sum()
    height, width, channels = x.shape
    result = np.zeros((height - 10, width - 10, channels))
    for row, column, channel in np.ndindex(result.shape):
        a = x[row : row + 11, column : column + 11, channel]
        b = y[row : row + 11, column : column + 11, channel]
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        var_a = (weights * (a - mean_a) ** 2).sum()
        var_b = (weights * (b - mean_b) ** 2).sum()
        cov = (weights * (a - mean_a) * (b - mean_b)).sum()
        result[row, column, channel] = (
            (2 * mean_a * mean_b + 1e-4)
            * (2 * cov + 9e-4)
            / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
        )
    return result


def test_ssim_is_the_formula() -> None:
    x, y = images()
    assert ssim(x, y) == pytest.approx(ssim_map(x, y).mean(), abs=1e-12)
    assert ssim(x[..., 0], y[..., 0]) == pytest.approx(
        ssim_map(x[..., :1], y[..., :1]).mean(), abs=1e-12
    )
    assert ssim(x.astype(np.float32), y.astype(np.float32)) == pytest.approx(
        ssim_map(x, y).mean(), abs=1e-6
    )


def test_psnr_is_the_formula() -> None:
    x, y = images()
    assert psnr(x, y) == pytest.approx(10 * math.log10(1 / ((x - y) ** 2).mean()))
    assert psnr(np.zeros((5, 5)), np.full((5, 5), 0.1)) == pytest.approx(20.0)
    assert psnr(y, y) == math.inf
    assert ssim(y, y) == pytest.approx(1.0)


def test_only_valid_pixels_and_whole_valid_windows_count() -> None:
    x, y = images(1)
    valid = np.ones(x.shape[:2], dtype=bool)
    valid[0, 3] = valid[16, 13] = False
    broken = x.copy()
    broken[~valid] = 1.0 - broken[~valid]
    assert psnr(broken, y, valid=valid) == pytest.approx(psnr(x, y, valid=valid))
    assert psnr(x, y, valid=valid) == pytest.approx(-10 * math.log10(((x - y)[valid] ** 2).mean()))
    whole = np.ones((7, 4), dtype=bool)
    whole[0, :] = False  # the windows over pixel (0, 3)
    whole[6, 3] = False  # the one over pixel (16, 13)
    assert ssim(broken, y, valid=valid) == pytest.approx(ssim_map(x, y)[whole].mean(), abs=1e-12)


def test_torch_images_give_the_same_and_carry_gradients() -> None:
    x, y = images(2)
    tx = torch.from_numpy(x).requires_grad_()
    ty = torch.from_numpy(y)
    assert ssim(tx, ty).item() == pytest.approx(ssim(x, y), abs=1e-12)
    assert psnr(tx, ty).item() == pytest.approx(psnr(x, y), abs=1e-12)
    small = tx[2:14, 1:13, 0].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda image: ssim(image, ty[2:14, 1:13, 0]), (small,))
    psnr(tx, ty).backward()
    assert tx.grad is not None and bool((tx.grad != 0).any())


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_images_that_cannot_be_compared(measure) -> None:
    x, y = images()
    with pytest.raises(ValueError, match=r"\(17, 14, 3\), truth \(16, 14, 3\)"):
        measure(x, y[1:])
    with pytest.raises(ValueError, match="uint8"):
        measure((255 * x).astype(np.uint8), (255 * y).astype(np.uint8))
    with pytest.raises(ValueError, match="nothing to compare"):
        measure(x, y, valid=np.zeros((17, 14), dtype=bool))
    with pytest.raises(ValueError, match=r"valid has shape \(3, 3\)"):
        measure(x, y, valid=np.ones((3, 3), dtype=bool))


def test_images_too_small_for_a_window() -> None:
    with pytest.raises(ValueError, match="10x20 pixels"):
        ssim(np.zeros((10, 20)), np.zeros((10, 20)))
    holes = np.ones((17, 14), dtype=bool)
    holes[8] = False
    with pytest.raises(ValueError, match="no 11x11 window"):
        ssim(*images(), valid=holes)
