"""Views and splats at the borders of what makes sense: always finite, and what one expects."""

import math

import numpy as np
import pytest
import torch
from raster_scenes import INPUTS, random_scene

from gs_decoder.raster import NumbaRasterizer, rasterize

BACKENDS = ("numba", "reference")


def one_splat(**changes):
    """A splat in the middle of a 9x9 view, one unit away; focal length 10 px."""
    inputs = {
        "means": torch.tensor([[0.0, 0.0, 1.0]]),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "scales": torch.full((1, 3), 0.1),
        "opacities": torch.tensor([0.8]),
        "colors": torch.tensor([[1.0, 0.5, 0.25]]),
        "viewmat": torch.eye(4),
        "K": torch.tensor([[10.0, 0.0, 4.5], [0.0, 10.0, 4.5], [0.0, 0.0, 1.0]]),
        "width": 9,
        "height": 9,
    }
    return {**inputs, **changes}


def assert_finite_gradients(inputs, backend):
    leaves = {
        k: v.detach().clone().requires_grad_() if isinstance(v, torch.Tensor) else v
        for k, v in inputs.items()
    }
    render = rasterize(**leaves, backend=backend)
    (render.rgb.sum() + render.depth.sum() + render.alpha.sum()).backward()
    for image in (render.rgb, render.depth, render.alpha):
        assert torch.isfinite(image).all()
    for name in INPUTS:
        if name in leaves and leaves[name].grad is not None:
            assert torch.isfinite(leaves[name].grad).all(), name
    return render, leaves


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_splat_by_hand(backend):
    render = rasterize(**one_splat(), background=torch.tensor([0.0, 0.0, 1.0]), backend=backend)
    # cov2d = (10*0.1)^2 + 0.3; the centre of pixel (4,4) is the centre of the splat.
    for dx in range(4):
        alpha = 0.8 * math.exp(-0.5 * dx * dx / 1.3)
        alpha = alpha if alpha >= 1 / 255 else 0.0
        assert render.alpha[4, 4 + dx] == pytest.approx(alpha, abs=1e-6)
        assert render.depth[4, 4 + dx] == pytest.approx(1.0 if alpha else 0.0, abs=1e-5)
        expected = [alpha, 0.5 * alpha, 0.25 * alpha + 1 - alpha]
        np.testing.assert_allclose(render.rgb[4, 4 + dx], expected, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 37), (37, 1), (17, 15), (16, 16), (33, 64)])
def test_odd_sizes(backend, size):
    scene = random_scene(3, 20, *size)
    inputs = {**scene.leaves(), "width": size[0], "height": size[1]}
    render, _ = assert_finite_gradients(inputs, backend)
    assert render.rgb.shape == (size[1], size[0], 3)
    assert render.depth.shape == render.alpha.shape == (size[1], size[0])
    assert render.rgb.dtype == torch.float32


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sh_degree", [None, 0, 3])
def test_no_splats(backend, sh_degree):
    background = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    inputs = one_splat(
        means=torch.zeros(0, 3, requires_grad=True),
        quats=torch.zeros(0, 4),
        scales=torch.zeros(0, 3),
        opacities=torch.zeros(0),
        colors=torch.zeros(0, 3) if sh_degree is None else torch.zeros(0, 16, 3),
    )
    render = rasterize(**inputs, sh_degree=sh_degree, background=background, backend=backend)
    assert (render.rgb == background).all()
    assert not render.depth.any() and not render.alpha.any()
    render.rgb.sum().backward()
    np.testing.assert_allclose(background.grad, [81.0] * 3)
    assert inputs["means"].grad.shape == (0, 3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("z", [-1.0, 0.0, 0.005, 0.01, math.nan, math.inf])
def test_not_in_front(backend, z):
    """Behind the camera, inside the near plane, or nowhere at all: not drawn, no gradient."""
    inputs = one_splat(means=torch.tensor([[0.0, 0.0, z]]))
    if backend == "reference" and not math.isfinite(z):
        pytest.skip("plain torch multiplies it by zero; only the kernels promise this")
    render, leaves = assert_finite_gradients(inputs, backend)
    assert not render.alpha.any()
    assert not leaves["means"].grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_near_is_an_argument(backend):
    assert rasterize(**one_splat(), near=0.99, backend=backend).alpha.any()
    assert not rasterize(**one_splat(), near=1.01, backend=backend).alpha.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("opacity", [0.0, 0.0039, 1.0])
def test_extreme_opacities(backend, opacity):
    render, _ = assert_finite_gradients(one_splat(opacities=torch.tensor([opacity])), backend)
    expected = 0.0 if opacity < 1 / 255 else min(opacity, 0.999)
    assert float(render.alpha.detach().max()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_max_alpha_stops_the_gradient(backend):
    inputs = one_splat(opacities=torch.tensor([1.0], requires_grad=True))
    render = rasterize(**inputs, max_alpha=0.9, backend=backend)
    assert float(render.alpha[4, 4].detach()) == pytest.approx(0.9, abs=1e-6)
    render.alpha[4, 4].backward()
    assert not inputs["opacities"].grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_quaternions_without_length(backend):
    inputs = one_splat(quats=torch.zeros(1, 4), scales=torch.tensor([[0.1, 0.2, 0.3]]))
    render, _ = assert_finite_gradients(inputs, backend)
    expected = rasterize(
        **{**inputs, "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]])}, backend=backend
    )
    torch.testing.assert_close(render.rgb, expected.rgb)


@pytest.mark.parametrize("backend", BACKENDS)
def test_quaternions_are_normalised(backend):
    quat = torch.tensor([[0.3, -0.4, 0.5, 0.2]])
    scales = torch.tensor([[0.05, 0.2, 0.1]])
    one = rasterize(**one_splat(quats=quat, scales=scales), backend=backend)
    two = rasterize(**one_splat(quats=quat * 7, scales=scales), backend=backend)
    torch.testing.assert_close(one.rgb, two.rgb)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e3, 1e8])
def test_extreme_scales(backend, scale):
    render, _ = assert_finite_gradients(one_splat(scales=torch.full((1, 3), scale)), backend)
    if scale == 1e3:
        assert (render.alpha - 0.8).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["near", "needles", "huge", "tiny"])
def test_finite_gradients_of_hard_scenes(kind):
    for seed in range(5):
        scene = random_scene(seed, 300, 45, 31, kind)
        assert_finite_gradients({**scene.leaves(), "width": 45, "height": 31}, "numba")


@pytest.mark.parametrize("backend", BACKENDS)
def test_harmonics_below_what_the_coefficients_hold(backend):
    scene = random_scene(1, 25, 20, 20, sh_degree=3)
    low = scene.leaves()
    render = rasterize(**low, width=20, height=20, sh_degree=1, backend=backend)
    render.rgb.sum().backward()
    assert low["colors"].grad.shape == (25, 16, 3)
    assert not low["colors"].grad[:, 4:].any() and low["colors"].grad[:, :4].any()
    cut = rasterize(
        **{**low, "colors": low["colors"].detach()[:, :4].contiguous()},
        width=20, height=20, sh_degree=1, backend=backend,
    )  # fmt: skip
    torch.testing.assert_close(render.rgb, cut.rgb)


def test_views_that_are_not_contiguous():
    scene = random_scene(2, 40, 30, 22)
    expected = rasterize(**scene.leaves(), width=30, height=22)
    strided = scene.leaves()
    for name in ("means", "scales", "colors"):
        values = strided[name].detach()
        strided[name] = values.T.contiguous().T.requires_grad_()
        assert not strided[name].is_contiguous()
    render = rasterize(**strided, width=30, height=22)
    assert torch.equal(render.rgb, expected.rgb)
    render.rgb.permute(1, 0, 2).sum().backward()
    assert strided["means"].grad.shape == (40, 3)


def test_thousands_on_one_pixel_and_ties_in_depth():
    """More splats on a block than one portion holds; equal depths keep the order of the input."""
    count = 1500
    inputs = one_splat(
        means=torch.tensor([[0.0, 0.0, 1.0]]).repeat(count, 1),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        scales=torch.full((count, 3), 0.1),
        opacities=torch.full((count,), 0.006),
        colors=torch.rand((count, 3), generator=torch.Generator().manual_seed(0)),
    )
    pair = {k: rasterize(**inputs, backend=k).rgb for k in BACKENDS}
    torch.testing.assert_close(pair["numba"], pair["reference"], atol=2e-5, rtol=0)


def test_statistics_of_the_backward():
    scene = random_scene(4, 50, 40, 40)
    arrays = [getattr(scene, k).numpy() for k in INPUTS[:5]]
    rasterizer = NumbaRasterizer(threads=1)
    render = rasterizer.forward(*arrays, scene.viewmat.numpy(), scene.K.numpy(), 40, 40)
    ones = np.ones((40, 40, 3), np.float32)
    found = rasterizer.backward(render, ones)
    # With a loss that is the sum of one channel, a colour's gradient is its summed weight.
    np.testing.assert_allclose(found.weight, found.colors[:, 0], rtol=1e-5, atol=1e-6)
    assert found.weight.sum() == pytest.approx(render.alpha.sum(), rel=1e-4)
    assert ((found.pixels > 0) == (found.weight > 0)).all()
    assert (found.pixels == np.round(found.pixels)).all()
    assert (found.pixels <= (2 * found.radius + 1) ** 2).all()
    assert (found.center_gradient[found.pixels == 0] == 0).all()
