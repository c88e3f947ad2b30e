"""Splats of a depth map lie on its surface, cover its pixels, and never lean across its edges."""

from __future__ import annotations

import math

import pytest
import torch

from gs_decoder import FootprintConfig, depth_normals, rgb_from_sh, splats_from_depth
from gs_decoder.rotations import matrix_from_quaternion

HEIGHT, WIDTH = 36, 48
INTRINSICS = torch.tensor([60.0, 60.0, 24.5, 17.0])


def rays() -> torch.Tensor:
    """(H, W, 3) with z = 1."""
    fx, fy, cx, cy = INTRINSICS
    v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    return torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones(HEIGHT, WIDTH)], -1)


def plane(normal: tuple[float, float, float], distance: float) -> torch.Tensor:
    """z-depth (H, W) of the plane normal · x = -distance, normal towards the camera."""
    n = torch.nn.functional.normalize(torch.tensor(normal, dtype=torch.float32), dim=0)
    return -distance / (rays() @ n)


def covariances(splats) -> torch.Tensor:
    half = matrix_from_quaternion(splats.quats_wxyz) * splats.scales[:, None, :]
    return half @ half.mT


def view(depth: torch.Tensor, **options):
    color = torch.rand(3, *depth.shape, generator=torch.Generator().manual_seed(0))
    return splats_from_depth(depth, torch.ones_like(depth), color, INTRINSICS, **options)


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.5, 0, -1), (0.2, -0.8, -1), (-1.0, 0.4, -0.7)])
def test_normals_of_a_plane_are_those_of_the_plane(normal: tuple) -> None:
    depth = plane(normal, 2.0)
    assert bool((depth > 0).all())
    expected = torch.nn.functional.normalize(torch.tensor(normal, dtype=torch.float32), dim=0)
    cosine = (depth_normals(depth, INTRINSICS) * expected).sum(-1)
    # The ridge pulls slightly towards the camera, most in the corners with their small windows.
    off = torch.rad2deg(cosine.clamp(max=1).acos())
    assert off[2:-2, 2:-2].max() < 0.6
    assert off.max() < 10.0


def test_splats_lie_on_their_pixels_in_raster_order_with_the_colour_of_the_input() -> None:
    depth = plane((0.3, 0.2, -1), 3.0)
    splats = view(depth)
    torch.testing.assert_close(splats.means, (rays() * depth[..., None]).reshape(-1, 3))
    color = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rgb_from_sh(splats.sh[:, 0]), color.reshape(3, -1).T)


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.9, 0, -1), (0.4, -0.9, -1)])
def test_a_splat_is_as_wide_as_its_pixel_whatever_the_slant(normal: tuple) -> None:
    depth = plane(normal, 2.0)
    config = FootprintConfig(footprint=0.7, thickness=0.3, renderer_blur=0.0)
    splats = view(depth, config=config)
    # Projected to the image, without the rasteriser's blur, at the central pixels.
    fx, fy = INTRINSICS[:2]
    x, y, z = splats.means.unbind(-1)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([fx / z, zero, -fx * x / z**2], -1),
            torch.stack([zero, fy / z, -fy * y / z**2], -1),
        ],
        -2,
    )
    image = jacobian @ covariances(splats) @ jacobian.mT
    centre = (x.abs() / z < 0.15) & (y.abs() / z < 0.15)
    sigmas = torch.linalg.eigvalsh(image[centre]).sqrt()
    assert sigmas.min() > 0.65 and sigmas.max() < 0.85


def test_thin_axis_is_the_normal() -> None:
    splats = view(plane((0.5, 0.3, -1), 2.0))
    axes = matrix_from_quaternion(splats.quats_wxyz)
    expected = torch.nn.functional.normalize(torch.tensor([0.5, 0.3, -1]), dim=0)
    cosine = (axes[..., 2] * expected).sum(-1)
    assert torch.rad2deg(cosine.clamp(max=1).acos()).max() < 2.0
    torch.testing.assert_close(splats.scales[:, 2], 0.3 * splats.scales[:, 1])


class TestDepthEdges:
    def test_no_splat_bridges_a_step(self) -> None:
        depth = torch.full((HEIGHT, WIDTH), 1.0)
        depth[:, WIDTH // 2 :] = 3.0
        splats = view(depth)
        expected = view(torch.full((HEIGHT, WIDTH), 1.0))
        per_depth = splats.scales / splats.means[:, 2:]
        # Exactly the splats of two flat walls: as if the edge was not there.
        torch.testing.assert_close(per_depth, expected.scales, rtol=1e-4, atol=0)
        reach = covariances(splats)[:, 2, 2].sqrt() / splats.means[:, 2]
        assert reach.max() < 0.02

    def test_pixels_between_two_surfaces_face_the_camera(self) -> None:
        depth = torch.full((HEIGHT, WIDTH), 1.0)
        depth[:, WIDTH // 2] = 1.7  # a resized depth map leaves such columns
        depth[:, WIDTH // 2 + 1 :] = 3.0
        splats = view(depth)
        longest = splats.scales.amax(-1) / splats.scales[:, 1]
        assert longest.max() < 1.2

    def test_noise_never_makes_a_needle(self) -> None:
        generator = torch.Generator().manual_seed(3)
        depth = torch.exp(torch.randn(HEIGHT, WIDTH, generator=generator))
        config = FootprintConfig()
        splats = view(depth, config=config)
        limit = 1 / math.cos(math.radians(config.max_slant))
        assert (splats.scales[:, 0] / splats.scales[:, 1]).max() <= limit * 1.0001
        towards = -(matrix_from_quaternion(splats.quats_wxyz)[..., 2] * splats.means).sum(-1)
        assert (towards / splats.means.norm(dim=-1)).min() >= 1 / limit - 1e-4

    def test_a_little_noise_leaves_a_wall_a_wall(self) -> None:
        generator = torch.Generator().manual_seed(3)
        depth = 2.0 * torch.exp(0.005 * torch.randn(HEIGHT, WIDTH, generator=generator))
        normals = depth_normals(depth, INTRINSICS)
        assert torch.rad2deg(normals[..., 2].neg().clamp(max=1).acos()).median() < 8.0


def test_invalid_pixels_and_those_not_asked_for_give_no_splat() -> None:
    depth = plane((0.3, 0, -1), 2.0)
    whole = view(depth)
    holes = depth.clone()
    holes[3, 4], holes[5, 6], holes[7, 8], holes[9, 9] = 0.0, math.nan, math.inf, -1.0
    keep = torch.ones_like(depth, dtype=torch.bool)
    keep[20:] = False
    splats = view(holes, keep=keep)
    asked = keep.clone()
    asked[3, 4] = asked[5, 6] = asked[7, 8] = asked[9, 9] = False
    assert splats.count == int(asked.sum())
    torch.testing.assert_close(splats.means, whole.select(asked.reshape(-1)).means)
    splats.check_values()
    assert view(torch.zeros(HEIGHT, WIDTH)).count == 0


def test_a_stride_makes_fewer_and_wider_splats_of_the_cells_colour() -> None:
    depth = plane((0, 0, -1), 2.0)
    fine, coarse = view(depth), view(depth, stride=3)
    assert coarse.count == (HEIGHT // 3) * (WIDTH // 3)
    middle = fine.means.view(HEIGHT, WIDTH, 3)[1::3, 1::3].reshape(-1, 3)
    torch.testing.assert_close(coarse.means, middle)
    centre = fine.scales.view(HEIGHT, WIDTH, 3)[1::3, 1::3].reshape(-1, 3)
    # With the renderer's blur of 0.3 pixels², both are 0.6 (or 0.35 at least) of their cells.
    wider = math.sqrt(1.8**2 - 0.3) / 0.35
    torch.testing.assert_close(coarse.scales, wider * centre)
    cells = fine.sh.view(HEIGHT // 3, 3, WIDTH // 3, 3, 3).mean((1, 3)).reshape(-1, 1, 3)
    torch.testing.assert_close(coarse.sh, cells, atol=1e-5, rtol=1e-5)


def test_a_reduced_view_gives_the_splats_of_the_same_stride() -> None:
    depth = plane((0, 0, -1), 2.0)
    coarse = view(depth, stride=2)
    color = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    small = torch.nn.functional.avg_pool2d(color[None], 2)[0]
    half = depth[::2, ::2]
    splats = splats_from_depth(half, torch.ones_like(half), small, INTRINSICS / 2, cell=2)
    torch.testing.assert_close(splats.scales[:, 1:], coarse.scales[:, 1:])
    torch.testing.assert_close(splats.sh, coarse.sh)


def test_opacity_follows_confidence_within_its_bounds() -> None:
    depth = plane((0, 0, -1), 2.0)
    confidence = torch.linspace(0, 1, HEIGHT * WIDTH).view(HEIGHT, WIDTH)
    config = FootprintConfig(opacity_gain=8, opacity_midpoint=0.5, max_opacity=0.9)
    splats = splats_from_depth(
        depth, confidence, torch.zeros(3, HEIGHT, WIDTH), INTRINSICS, config=config
    )
    expected = torch.sigmoid(8 * (confidence.reshape(-1) - 0.5)).clamp(0.02, 0.9)
    torch.testing.assert_close(splats.opacities, expected)


def test_residuals_of_zero_change_nothing_and_others_do_what_they_say() -> None:
    depth = plane((0.4, 0.1, -1), 2.0)
    plain = view(depth)
    zero3, zero = torch.zeros(3, HEIGHT, WIDTH), torch.zeros(HEIGHT, WIDTH)
    same = view(
        depth, log_scale_residual=zero3, rotation_residual=zero3, opacity_logit_residual=zero
    )
    for name in ("means", "quats_wxyz", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(same, name), getattr(plain, name))
    turn = zero3.clone()
    turn[2] = math.pi / 2
    grow = torch.tensor([0.5, -0.5, 9.0])[:, None, None].expand(3, HEIGHT, WIDTH)
    other = view(
        depth, log_scale_residual=grow, rotation_residual=turn, opacity_logit_residual=zero - 4
    )
    factors = torch.tensor([0.5, -0.5, 1.5]).exp()
    torch.testing.assert_close(other.scales, plain.scales * factors)
    before, after = (matrix_from_quaternion(s.quats_wxyz) for s in (plain, other))
    torch.testing.assert_close(after[..., 2], before[..., 2], atol=1e-5, rtol=0)
    torch.testing.assert_close(after[..., 0], before[..., 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        torch.logit(other.opacities), torch.logit(plain.opacities) - 4, atol=0.15, rtol=0.05
    )


def test_everything_that_can_be_learned_gets_a_finite_gradient() -> None:
    depth = plane((0.4, 0.1, -1), 2.0)
    depth[:, 10] = 5.0
    inputs = {
        "depth": depth,
        "confidence": torch.full((HEIGHT, WIDTH), 0.4),
        "color": torch.full((3, HEIGHT, WIDTH), 0.4),
        "log_scale_residual": torch.zeros(3, HEIGHT, WIDTH),
        "rotation_residual": torch.zeros(3, HEIGHT, WIDTH),
        "opacity_logit_residual": torch.zeros(HEIGHT, WIDTH),
    }
    for value in inputs.values():
        value.requires_grad_()
    splats = splats_from_depth(fxfycxcy=INTRINSICS, **inputs)
    total = sum(
        (getattr(splats, n) * torch.rand_like(getattr(splats, n))).sum()
        for n in ("means", "quats_wxyz", "scales", "opacities", "sh")
    )
    total.backward()
    for name, value in inputs.items():
        assert value.grad is not None and bool(torch.isfinite(value.grad).all()), name
        assert bool((value.grad != 0).any()), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride is 0"),
        ({"cell": 0.0}, r"cell is 0\.0"),
        ({"keep": torch.ones(3, 3, dtype=torch.bool)}, r"keep has shape \(3, 3\)"),
        ({"rotation_residual": torch.zeros(HEIGHT, WIDTH)}, "rotation_residual has shape"),
    ],
)
def test_shapes_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view(plane((0, 0, -1), 2.0), **options)
    with pytest.raises(ValueError, match="max_slant"):
        FootprintConfig(max_slant=90)


@pytest.mark.parametrize("seed", range(6))
def test_the_kernel_finds_the_normals_of_the_differentiable_form(seed):
    generator = torch.Generator().manual_seed(seed)
    depth = 1.0 + torch.rand(23, 31, generator=generator)
    depth[:, 12:] += 2.0
    depth[torch.rand(23, 31, generator=generator) < 0.1] = 0.0
    depth[0, 0], depth[5, 5] = math.nan, math.inf
    tracked = INTRINSICS.clone().requires_grad_()
    expected = depth_normals(depth, tracked).detach()
    assert torch.allclose(depth_normals(depth, INTRINSICS), expected, atol=2e-4)
    wanted = torch.rand(23, 31, generator=generator) < 0.3
    some = depth_normals(depth, INTRINSICS, wanted=wanted)
    assert torch.allclose(some[wanted], expected[wanted], atol=2e-4)
