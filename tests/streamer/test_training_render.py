"""The training renderer lays splats out as the product does, and is differentiable."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gs_decoder import Splats, rasterize
from gs_decoder.fusion import FusionConfig, fuse_view
from streamer.training_render import PictureLoss, RenderConfigError, SplatRenderer
from ttt_core.matching import CELL, CELL_CHANNELS
from ttt_core.network import CompactNetwork, NetworkConfig, NetworkInput
from ttt_core.training.collate import StreamStep

HEIGHT, WIDTH = 25, 34
CAMERA = torch.tensor([30.0, 31.0, 17.2, 12.4])


def maps(seed: int = 0, views: int = 1) -> list[torch.Tensor]:
    """Depth, confidence, color and residuals of a gently waved surface, some of it unsure."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(HEIGHT) / HEIGHT, torch.arange(WIDTH) / WIDTH, indexing="ij")
    wave = 0.2 * torch.sin(5 * x + torch.rand(views, 1, 1, generator=generator)) + 0.1 * y
    residual = 0.1 * torch.randn(views, 7, HEIGHT, WIDTH, generator=generator)
    return [
        2.0 + wave,
        torch.rand(views, HEIGHT, WIDTH, generator=generator),
        torch.rand(views, 3, HEIGHT, WIDTH, generator=generator),
        residual[:, :3],
        residual[:, 6],
        residual[:, 3:6],
    ]


@pytest.mark.parametrize("cell", [1, 2, 4])
def test_splats_are_those_of_the_product(cell: int) -> None:
    """Against fusion made to choose cells of one size, fillers and odd sides included."""
    given = maps()
    residuals = torch.cat((given[3][0], given[5][0], given[4]), 0)  # scales, rotation, opacity
    # Thresholds that make every cell of the level good and every coarser one bad.
    spreads, tolerances = {1: -1.0, 2: 1e9, 4: 1e9}, {1: 0.0, 2: 1e9, 4: 1e9}
    config = FusionConfig(cell_spread=spreads[cell], tolerance=tolerances[cell])
    confidence = given[1].clamp_min(config.confidence) if cell == 1 else given[1]
    given[1] = confidence
    fused = _fuse_at(cell, given, residuals, config)
    eye = torch.eye(4, dtype=torch.float64)[None]
    laid = SplatRenderer(cell=cell, fusion=config).splats(*given, CAMERA[None], eye)
    assert laid.count == fused.count
    for name in ("means", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(laid, name), getattr(fused, name), atol=2e-5, rtol=2e-5)
    same = (laid.quats_wxyz * fused.quats_wxyz).sum(-1).abs()
    assert float(same.min()) > 1 - 1e-5


def _fuse_at(
    cell: int, given: list[torch.Tensor], residuals: torch.Tensor, config: FusionConfig
) -> Splats:
    color = given[2][0].permute(1, 2, 0).contiguous().numpy()
    depth, confidence = given[0][0].numpy(), given[1][0].numpy()
    stacked = np.ascontiguousarray(residuals.permute(1, 2, 0).numpy())
    camera = tuple(CAMERA.tolist())
    if cell != 2:
        return fuse_view(
            color, depth, confidence, camera, rendered=None, residuals=stacked, budget=10**6,
            config=config,
        )  # fmt: skip
    # Fusion never stops at the middle level by itself: ask its level.
    from gs_decoder.fusion import _Level

    hole = confidence < config.confidence
    trust = np.where(hole, np.float32(config.hole_confidence), confidence)
    wanted = np.ones_like(hole)
    level = _Level.finest(color, depth, trust, wanted, hole, stacked).halved()
    return level.splats(np.ones(level.share.shape, np.bool_), camera)


def poses(count: int) -> torch.Tensor:
    c2w = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    c2w[:, 0, 3] = 0.1 * torch.arange(count)
    return c2w


def test_pictures_are_the_rasterisers() -> None:
    renderer, given = SplatRenderer(), maps(views=2)
    cameras = CAMERA.expand(2, 4)
    pictures = renderer(*given, cameras, poses(2), cameras, poses(2), HEIGHT, WIDTH)
    splats = renderer.splats(*given, cameras, poses(2))
    K = torch.tensor([[30.0, 0, 17.2], [0, 31.0, 12.4], [0, 0, 1]])
    view = torch.linalg.inv(poses(2)[1]).float()
    expected = rasterize(
        splats.means, splats.quats_wxyz, splats.scales, splats.opacities, splats.sh, view, K,
        WIDTH, HEIGHT, sh_degree=0,
    )  # fmt: skip
    torch.testing.assert_close(pictures[1], expected.rgb.movedim(-1, 0))
    assert pictures.shape == (2, 3, HEIGHT, WIDTH)
    # a surface seen from where it was predicted looks like its picture
    assert float((pictures[0] - given[2][0]).abs().mean()) < 0.25


def test_every_map_gets_a_gradient_and_descends() -> None:
    given = [t.clone().requires_grad_() for t in maps(views=2)]
    cameras = CAMERA.expand(2, 4)
    target = torch.full((1, 3, HEIGHT, WIDTH), 0.3)
    for cell in (1, 2):
        renderer = SplatRenderer(cell=cell)

        def loss(maps: list[torch.Tensor], renderer: SplatRenderer = renderer) -> torch.Tensor:
            picture = renderer(*maps, cameras, poses(2), cameras[:1], poses(2)[1:], HEIGHT, WIDTH)
            return (picture - target).square().mean()

        before = loss(given)
        gradients = torch.autograd.grad(before, given)
        for gradient in gradients:
            assert bool(torch.isfinite(gradient).all()) and bool(gradient.any())
        norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
        stepped = [t - 0.02 / norm * g for t, g in zip(given, gradients)]
        assert loss(stepped).item() < before.item()


def test_fillers_render_alike_whatever_their_confidence() -> None:
    given = maps()
    low, lower = (torch.full_like(given[1], value) for value in (0.5, 0.1))
    eye = torch.eye(4)[None]
    one, other = (
        SplatRenderer().splats(given[0], c, *given[2:], CAMERA[None], eye) for c in (low, lower)
    )
    torch.testing.assert_close(one.opacities, other.opacities)


def test_the_picture_loss_reaches_the_network() -> None:
    torch.manual_seed(0)
    height, width, views = 16, 24, 3
    network = CompactNetwork(NetworkConfig(width=16, layers=1, cell_width=8, pixel_width=8,
                                           attention_head_dim=8, features=16))  # fmt: skip
    like = torch.ones(1, views, height, width)
    camera = torch.tensor([20.0, 20.0, 12.0, 8.0]).expand(1, views, 4)
    step = StreamStep(
        NetworkInput(
            image=torch.rand(1, views, 3, height, width),
            log_depth=0.7 * like,
            confidence=0.8 * like,
            map_log_depth=0.7 * like,
            map_there=0 * like,
            cells=torch.rand(1, views, height // CELL, width // CELL, len(CELL_CHANNELS)),
            log_range=torch.tensor([-1.0, 2.0]).expand(1, views, 2),
            fxfycxcy=camera,
            c2w=poses(views).float()[None],
        ),
        0.7 * like,
        like > 0,
        like < 0,
    )
    output, _ = network(step.views, network.initial_state(1), write=False)
    loss = PictureLoss()(step, output, torch.Generator().manual_seed(0))
    again = PictureLoss()(step, output, torch.Generator().manual_seed(0))
    assert 0 < loss.item() < 1 and loss.item() == again.item()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = PictureLoss()(step, output, torch.Generator().manual_seed(0))
    assert mixed.item() == loss.item()  # splats are laid out in float32 in mixed precision too
    loss.backward()
    assert network.pixel_out.weight.grad is not None
    assert bool(network.pixel_out.weight.grad.any())


def test_unusable_cells_are_named() -> None:
    with pytest.raises(RenderConfigError, match="cell is 3"):
        SplatRenderer(cell=3)
