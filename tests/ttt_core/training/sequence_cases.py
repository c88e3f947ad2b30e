"""Small training sequences made by hand, and networks of test size."""

from __future__ import annotations

import torch

from ttt_core.matching import CELL, CELL_CHANNELS
from ttt_core.network import CompactNetwork, NetworkConfig
from ttt_core.training.samples import PriorMaps, TrainingSequence

HEIGHT, WIDTH = 18, 27
"""No whole patches: collation cuts them to 16 x 24."""
UNIT = 2.5


def prior_maps(generator: torch.Generator, views: int, depth: torch.Tensor) -> PriorMaps:
    """A prior that is wrong by a few percent, and unsure."""
    height, width = depth.shape[-2:]
    error = 0.2 * torch.randn(views, height, width, generator=generator)
    cells = (views, -(-height // CELL), -(-width // CELL), len(CELL_CHANNELS))
    return PriorMaps(
        depth=(depth * error.exp()).half(),
        confidence=torch.randint(0, 256, (views, height, width), generator=generator).byte(),
        cells=torch.rand(cells, generator=generator).half(),
        depth_range=torch.tensor([[1.0, 12.0]]).repeat(views, 1),
    )


def sequence(
    seed: int,
    *,
    batches: int = 3,
    per_batch: int = 2,
    height: int = HEIGHT,
    width: int = WIDTH,
    alone: bool = False,
) -> TrainingSequence:
    """A slanted wall with random pictures; the left edge is unknown, the top row sky."""
    generator = torch.Generator().manual_seed(seed)
    views = batches * per_batch
    wall = torch.linspace(3.0, 5.0, width).expand(views, height, width)
    depth = wall + 0.2 * torch.rand(views, 1, 1, generator=generator)
    truth, sky = depth.clone(), torch.zeros(views, height, width, dtype=torch.bool)
    truth[:, :, :3], truth[:, :1], sky[:, :1] = 0.0, 0.0, True
    c2w = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    c2w[:, 0, 3] = 7.0 + 0.1 * torch.arange(views)
    map_depth = torch.where(torch.rand(depth.shape, generator=generator) > 0.5, depth, 0.0)
    picture = torch.randint(0, 256, (views, 3, height, width), generator=generator)
    return TrainingSequence(
        keys=torch.arange(views),
        batch=torch.arange(views) // per_batch,
        image=picture.byte(),
        fxfycxcy=torch.tensor([[25.0, 25.0, width / 2, height / 2]]).repeat(views, 1),
        c2w=c2w,
        true_depth=truth.half(),
        sky=sky,
        unit=UNIT,
        prior=prior_maps(generator, views, depth),
        prior_alone=prior_maps(generator, views, depth) if alone else None,
        map_depth=map_depth.half(),
    )


def network(memory: str = "ridge", *, acting: float = 0.0, seed: int = 0) -> CompactNetwork:
    config = NetworkConfig(
        memory=memory,
        width=32,
        cell_width=16,
        pixel_width=8,
        attention_head_dim=16,
        planes=16,
        ray_samples=8,
        ray_width=8,
        features=64,
        value_width=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = CompactNetwork(config)
        if acting:
            for name in ("prior_planes", "ray_3", "planes", "pixel_out"):
                torch.nn.init.normal_(getattr(made, name).weight, std=acting)
    return made
