"""Raw decoder output to splats, against the numbers of the released computation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gs_decoder import decode_splats, most_opaque

PATCHES = {"dev_a_ar_chunk4": 8, "dev_b_full_two_heads": 8, "dev_c_ar_chunk1_patch4": 4}


def rays_in_splat_order(
    fxfycxcy: torch.Tensor, c2w: torch.Tensor, height: int, width: int, patch: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins and unit directions (B, N, 3): view, patch row and column, row and column inside."""
    batch, views = c2w.shape[:2]
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    fx, fy, cx, cy = fxfycxcy[..., None, None, :].unbind(-1)
    camera = torch.stack(
        [(u - cx) / fx, (v - cy) / fy, torch.ones(batch, views, height, width)], -1
    )
    world = torch.einsum("bvij,bvhwj->bvhwi", c2w[..., :3, :3], camera)
    world = torch.nn.functional.normalize(world, dim=-1)
    origin = c2w[..., None, None, :3, 3].expand(batch, views, height, width, 3)

    def order(rays: torch.Tensor) -> torch.Tensor:
        cells = rays.reshape(batch, views, height // patch, patch, width // patch, patch, 3)
        return cells.permute(0, 1, 2, 4, 3, 5, 6).reshape(batch, -1, 3)

    return order(origin), order(world)


@pytest.mark.parametrize("name", PATCHES)
def test_splats_are_those_of_the_released_computation(
    name: str, fixture_file: Callable[[str], Path]
) -> None:
    data = load_file(fixture_file(f"tttlrm/{name}.safetensors"))
    height, width = data["in/image"].shape[-2:]
    rays = rays_in_splat_order(data["in/fxfycxcy"], data["in/c2w"], height, width, PATCHES[name])
    splats = decode_splats(data["f32/raw"], *rays)
    expected = {k.removeprefix("f32/gauss_every5/"): v for k, v in data.items() if "gauss" in k}
    every5 = splats.select(slice(0, None, 5))
    torch.testing.assert_close(every5.means, expected["xyz"], atol=2e-2, rtol=0)
    torch.testing.assert_close(every5.sh, expected["feature"], atol=1e-6, rtol=0)
    torch.testing.assert_close(every5.scales.log(), expected["scale"], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        torch.logit(every5.opacities), expected["opacity"][..., 0], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(every5.quats_wxyz, expected["rotation"], atol=1e-6, rtol=0)
    assert splats.count == splats.means.shape[1] == data["f32/raw"].shape[1]


@pytest.mark.parametrize("degree", range(4))
def test_every_channel_has_a_gradient(degree: int) -> None:
    channels = 11 + 3 * (degree + 1) ** 2
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(2, 5, channels, generator=generator, dtype=torch.float64)
    raw[..., -8:-5] -= 1  # below the cap of the log scales
    raw.requires_grad_()
    origins, directions = torch.randn(2, 2, 5, 3, generator=generator, dtype=torch.float64)

    def outputs(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        s = decode_splats(values, origins, directions, degree)
        return s.means, s.quats_wxyz, s.scales, s.opacities, s.sh

    assert torch.autograd.gradcheck(outputs, (raw,))
    assert decode_splats(raw, origins, directions, degree).sh_degree == degree


def test_scales_are_capped_and_distances_reach_500() -> None:
    raw = torch.zeros(1, 2, 59)
    raw[0, 0, :3] = torch.tensor([60.0, 0.0, 0.0])
    raw[0, :, 51:54] = 9.0
    raw[0, :, 54] = 2.0
    splats = decode_splats(raw, torch.zeros(1, 2, 3), torch.tensor([0.0, 0, 1]).expand(1, 2, 3))
    torch.testing.assert_close(splats.means[0, :, 2], torch.tensor([500.0, 250.0]))
    torch.testing.assert_close(splats.scales, torch.full((1, 2, 3), -1.2).exp())
    torch.testing.assert_close(splats.opacities, torch.full((1, 2), -2.0).sigmoid())


@pytest.mark.parametrize(
    ("raw", "rays", "degree", "message"),
    [
        ((1, 4, 58), (1, 4, 3), 3, r"\(1, 4, 58\)"),
        ((1, 4, 59), (1, 5, 3), 3, r"ray_origins has shape \(1, 5, 3\)"),
        ((1, 4, 59), (1, 4, 3), 4, "sh_degree is 4"),
    ],
)
def test_shapes_that_do_not_fit(raw: tuple, rays: tuple, degree: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_splats(torch.zeros(raw), torch.zeros(rays), torch.zeros(rays), degree)


class TestMostOpaque:
    def test_the_most_opaque_come_first_and_chance_picks_of_the_rest(self) -> None:
        opacities = torch.rand(1000, generator=torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(1)
        kept = most_opaque(opacities, 0.4, 0.1, generator)
        assert len(kept) == len(set(kept.tolist())) == 460
        order = opacities.argsort(descending=True)
        assert kept[:400].tolist() == order[:400].tolist()
        assert set(kept[400:].tolist()) <= set(order[400:].tolist())
        again = most_opaque(opacities, 0.4, 0.1, torch.Generator().manual_seed(1))
        assert torch.equal(kept, again)
        other = most_opaque(opacities, 0.4, 0.1, torch.Generator().manual_seed(2))
        assert not torch.equal(kept, other)

    @pytest.mark.parametrize(
        ("count", "keep", "chance", "expected"),
        [
            (7, 0.4, 0.1, 2),  # int(2.8) + int(0.42)
            (64, 0.3, 0.05, 21),  # int(19.2) + int(2.24)
            (10, 0.7, 1.0, 10),  # int(7.0) + int(3.0000000000000004)
            (10, 0.9, 1.0, 9),  # int(9.0) + int(0.9999999999999998)
            (29, 0.1, 0.0, 2),
            (5, 0.0, 0.0, 0),
            (5, 1.0, 1.0, 5),
            (0, 0.5, 0.5, 0),
        ],
    )
    def test_counts_are_cut_off_not_rounded(
        self, count: int, keep: float, chance: float, expected: int
    ) -> None:
        assert len(most_opaque(torch.rand(count), keep, chance)) == expected

    def test_every_batch_item_is_pruned_by_itself(self) -> None:
        opacities = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
        kept = most_opaque(opacities, 0.5, 0.2)
        assert kept.shape == (3, 30)
        for row, chosen in zip(opacities, kept, strict=True):
            assert len(set(chosen.tolist())) == 30
            assert row[chosen[:25]].min() >= row[chosen[25:]].max()

    @pytest.mark.parametrize(("keep", "chance"), [(1.1, 0.0), (0.5, -0.1)])
    def test_shares_outside_0_to_1(self, keep: float, chance: float) -> None:
        with pytest.raises(ValueError, match=r"ratio is .*: give a share"):
            most_opaque(torch.rand(4), keep, chance)
