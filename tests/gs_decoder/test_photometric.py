"""The closed-form photometric gradient against torch autograd of the same formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gs_decoder.photometric import photometric_loss


def autograd_loss(rgb, target, valid, weight):
    x = torch.tensor(rgb, dtype=torch.float64, requires_grad=True)
    y = torch.tensor(target, dtype=torch.float64)
    if valid is not None:
        y = torch.where(torch.tensor(valid)[..., None], y, x.detach())
    count = x.numel() if valid is None else int(valid.sum()) * 3
    axis = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(axis**2) / (2 * 1.5**2))
    window = (window / window.sum())[:, None] * (window / window.sum())[None, :]
    kernel = window.expand(3, 1, 11, 11)

    def blur(image):
        return torch.nn.functional.conv2d(
            image.permute(2, 0, 1)[None], kernel, padding=5, groups=3
        )[0].permute(1, 2, 0)

    mu_x, mu_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mu_x**2, blur(y * y) - mu_y**2
    cov = blur(x * y) - mu_x * mu_y
    ssim = ((2 * mu_x * mu_y + 1e-4) * (2 * cov + 9e-4)) / (
        (mu_x**2 + mu_y**2 + 1e-4) * (var_x + var_y + 9e-4)
    )
    loss = (1 - weight) * (x - y).abs().sum() / count + weight * (1 - ssim.mean())
    (gradient,) = torch.autograd.grad(loss, x)
    if valid is not None:
        gradient = gradient * torch.tensor(valid)[..., None]
    return float(loss.detach()), gradient.numpy()


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 24),
    width=st.integers(1, 30),
    weight=st.sampled_from([0.0, 0.2, 1.0]),
    masked=st.booleans(),
)
def test_value_and_gradient_are_those_of_autograd(seed, height, width, weight, masked):
    rng = np.random.default_rng(seed)
    rgb = rng.random((height, width, 3), dtype=np.float32)
    target = rng.random((height, width, 3), dtype=np.float32)
    valid = rng.random((height, width)) < 0.7 if masked else None
    if valid is not None:
        valid[0, 0] = True
    loss = photometric_loss(rgb, target, valid, ssim_weight=weight)
    value, gradient = autograd_loss(rgb, target, valid, weight)
    assert loss.value == pytest.approx(value, rel=1e-4)
    scale = max(np.abs(gradient).max(), 1e-9)
    assert np.abs(loss.d_rgb - gradient).max() / scale < 2e-3


def test_a_perfect_render_has_no_loss():
    image = np.random.default_rng(0).random((20, 31, 3), dtype=np.float32)
    loss = photometric_loss(image, image)
    assert loss.value == pytest.approx(0.0, abs=1e-6)
    assert loss.mse == 0.0


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        photometric_loss(np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32))
