"""Random batches of views, and small networks whose head acts as a trained one's would."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ttt_core.matching import CELL, CELL_CHANNELS
from ttt_core.network import CompactNetwork, NetworkConfig, NetworkInput

SMALL = NetworkConfig(
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
ZEROED = ("prior_planes", "ray_3", "planes", "pixel_out")
"""Layers that an untrained network has at zero."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(memory: str, *, acting: float = 0.0, seed: int = 0) -> CompactNetwork:
    """A network of test size; with `acting` its zeroed layers are drawn at that deviation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CompactNetwork(replace(SMALL, memory=memory)).requires_grad_(False)
    generator = seeded(seed)
    zeroed = [getattr(network, name) for name in ZEROED]
    if network.surfaces is not None:
        zeroed.append(network.surfaces)
    for layer in zeroed if acting else ():
        for parameter in layer.parameters():
            parameter.copy_(acting * torch.randn(parameter.shape, generator=generator))
    return network


def poses(generator: torch.Generator, streams: int, views: int) -> Tensor:
    """(B, V, 4, 4) rigid, about one unit apart, looking about the same way."""
    axis = 0.2 * torch.randn(streams, views, 3, generator=generator)
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))
    pose = torch.eye(4).repeat(streams, views, 1, 1)
    pose[..., :3, :3] = torch.linalg.matrix_exp(skew)
    pose[..., :3, 3] = 0.5 * torch.randn(streams, views, 3, generator=generator)
    return pose


def views(
    seed: int, *, streams: int = 1, count: int = 2, height: int = 16, width: int = 24
) -> NetworkInput:
    generator = seeded(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(streams, count, *shape, generator=generator)

    cells = (-(-height // CELL), -(-width // CELL), len(CELL_CHANNELS))
    log_depth = -0.8 + 1.6 * uniform(height, width)
    there = (uniform(height, width) > 0.5).float()
    camera = torch.tensor([0.9 * width, 0.9 * width, 0.5 * width, 0.5 * height])
    return NetworkInput(
        image=uniform(3, height, width),
        log_depth=log_depth,
        confidence=uniform(height, width),
        map_log_depth=log_depth + 0.3 * there * uniform(height, width),
        map_there=there,
        cells=uniform(*cells),
        log_range=torch.tensor([-1.0, 1.0]) + 0.1 * uniform(2),
        fxfycxcy=camera.repeat(streams, count, 1),
        c2w=poses(generator, streams, count),
    )


def one_stream(inputs: NetworkInput, number: int) -> NetworkInput:
    return inputs.map(lambda t: t[number : number + 1])
