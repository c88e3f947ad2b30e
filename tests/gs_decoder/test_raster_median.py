"""The median depth against its definition, pixel by pixel, and where expected depth fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from map_helpers import random_splats

from gs_decoder import NumbaRasterizer, Splats, rasterize

WIDTH, HEIGHT = 37, 26
K = np.array([[30.0, 0.0, 18.0], [0.0, 30.0, 13.0], [0.0, 0.0, 1.0]], np.float32)
VIEW = np.eye(4, dtype=np.float32)


def median(
    splats: Splats, window: float, threads: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Median depth, share, alpha and expected depth."""
    a = splats.to_numpy()
    rasterizer = NumbaRasterizer(threads)
    render = rasterizer.forward(
        a["means"], a["quats_wxyz"], a["scales"], a["opacities"], a["sh"], VIEW, K, WIDTH, HEIGHT,
        sh_degree=0,
    )  # fmt: skip
    depth, share, _ = rasterizer.median_depth(render, window)
    return depth, share, render.alpha, render.depth


def weight_within(splats: Splats, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight of the splats with low <= z <= high in every pixel, and the sum of their weight * z:
    what the plain reference renders where only their colour is not black."""
    z = splats.means[:, 2]
    inside = ((z >= low) & (z <= high)).float()
    rgb = rasterize(
        splats.means, splats.quats_wxyz, splats.scales, splats.opacities,
        torch.stack([inside, inside * z, inside], 1), torch.from_numpy(VIEW),
        torch.from_numpy(K), WIDTH, HEIGHT, backend="reference",
    ).rgb.numpy()  # fmt: skip
    return rgb[..., 0], rgb[..., 1]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_half_of_the_light_passes_before_the_median(seed: int) -> None:
    splats = random_splats(150, seed, spread=0.8)
    splats.means[:, 2] += 3.0
    # So narrow a window holds one splat alone: its depth is the median itself.
    depth, _, alpha, _ = median(splats, 1e-7)
    assert ((depth > 0) == (alpha > 0)).all()
    generator = np.random.default_rng(seed)
    rows, columns = np.nonzero(alpha > 0.05)
    for i in generator.choice(len(rows), min(8, len(rows)), replace=False):
        at = (rows[i], columns[i])
        z = float(depth[at])
        assert np.abs(splats.means[:, 2].numpy() - z).min() < 1e-5
        before = weight_within(splats, 0.0, z - 1e-5)[0][at]
        upto = weight_within(splats, 0.0, z + 1e-5)[0][at]
        assert before <= 0.5 * alpha[at] + 1e-4 and upto >= 0.5 * alpha[at] - 1e-4


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), window=st.sampled_from([0.02, 0.1, 0.5]))
def test_depth_and_share_are_those_of_the_window(seed: int, window: float) -> None:
    splats = random_splats(150, seed, spread=0.8)
    splats.means[:, 2] += 3.0
    depth, share, alpha, _ = median(splats, window)
    exact, _, _, _ = median(splats, 1e-7)
    generator = np.random.default_rng(seed)
    rows, columns = np.nonzero(alpha > 0.05)
    for i in generator.choice(len(rows), min(6, len(rows)), replace=False):
        at = (rows[i], columns[i])
        z = float(exact[at])
        near, total = weight_within(splats, z * (1 - window), z * (1 + window))
        assert share[at] == pytest.approx(near[at] / alpha[at], abs=2e-3)
        assert depth[at] == pytest.approx(total[at] / near[at], rel=2e-3)


def test_a_veil_before_a_wall_does_not_move_the_wall() -> None:
    grid = torch.stack(
        torch.meshgrid(torch.linspace(-3, 3, 61), torch.linspace(-3, 3, 61), indexing="ij"), -1
    ).reshape(-1, 2)

    def sheet(z: float, opacity: float) -> Splats:
        count = len(grid)
        return Splats(
            means=torch.cat([grid, torch.full((count, 1), z)], 1),
            quats_wxyz=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
            scales=torch.tensor([0.08, 0.08, 0.001]).repeat(count, 1),
            opacities=torch.full((count,), opacity),
            sh=torch.zeros(count, 1, 3),
        )

    splats = Splats.cat([sheet(1.0, 0.08), sheet(3.0, 0.95)])
    depth, share, alpha, expected = median(splats, 0.05)
    inner = (slice(4, -4), slice(4, -4))
    assert alpha[inner].min() > 0.95
    assert expected[inner].max() < 2.9
    assert np.abs(depth[inner] - 3.0).max() < 1e-3
    assert share[inner].min() > 0.5 and share[inner].max() < 0.97


@settings(max_examples=8, deadline=None)
@given(
    wide=st.floats(0.02, 0.4),
    flat=st.floats(0.1, 1.0),
    behind=st.floats(0.02, 0.4),
    depth=st.floats(1.0, 8.0),
)
def test_sigma_is_the_width_of_what_lies_there(
    wide: float, flat: float, behind: float, depth: float
) -> None:
    def ellipse(width: float, z: float) -> float:
        """Standard deviation in pixels, the root of its area, with the rasteriser's blur."""
        axes = np.array([width, flat * width]) * 30.0 / z
        return float(np.prod(np.sqrt(axes**2 + 0.3)) ** 0.5)

    z = np.array([depth, 1.02 * depth, 3.0 * depth], np.float32)
    widths = np.array([wide, behind, 0.5], np.float32)
    splats = Splats(
        means=torch.from_numpy(np.outer(z, [0.5 / 30.0, 0.5 / 30.0, 1.0])).float(),
        quats_wxyz=torch.tensor([1.0, 0, 0, 0]).repeat(3, 1),
        scales=torch.from_numpy(widths[:, None] * np.array([1.0, flat, 0.1], np.float32)),
        opacities=torch.tensor([0.6, 0.5, 0.9]),
        sh=torch.zeros(3, 1, 3),
    )
    a = splats.to_numpy()
    rasterizer = NumbaRasterizer(1)
    render = rasterizer.forward(
        a["means"], a["quats_wxyz"], a["scales"], a["opacities"], a["sh"], VIEW, K, WIDTH, HEIGHT,
        sh_degree=0,
    )  # fmt: skip
    # Pixel (13, 18) has its centre half a pixel from the axis on both sides, as the splats have.
    alone = rasterizer.median_depth(render, 1e-7)[2]
    assert alone[13, 18] == pytest.approx(ellipse(wide, depth), rel=0.02)
    both = rasterizer.median_depth(render, 0.05)[2]
    areas = np.square([ellipse(wide, z[0]), ellipse(behind, z[1])])
    mean = np.sqrt((0.6 * areas[0] + 0.4 * 0.5 * areas[1]) / (0.6 + 0.4 * 0.5))
    assert both[13, 18] == pytest.approx(mean, rel=0.02)
    assert (both[render.alpha == 0] == 0).all()


def test_threads_and_old_renders() -> None:
    splats = random_splats(300, 4)
    splats.means[:, 2] += 4.0
    assert np.array_equal(median(splats, 0.05, 1)[0], median(splats, 0.05, 3)[0])
    a = splats.to_numpy()
    rasterizer = NumbaRasterizer(1)
    arguments = (
        a["means"], a["quats_wxyz"], a["scales"], a["opacities"], a["sh"], VIEW, K, WIDTH, HEIGHT,
    )  # fmt: skip
    first = rasterizer.forward(*arguments, sh_degree=0)
    rasterizer.forward(*arguments, sh_degree=0)
    with pytest.raises(RuntimeError, match="not the last"):
        rasterizer.median_depth(first, 0.05)
