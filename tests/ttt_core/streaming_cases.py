"""Streams of the textured corner, and models whose head acts as a trained one's would."""

from __future__ import annotations

import torch
from textured_room import view_batch

from ttt_core import Prediction, StreamingConfig, StreamingModel, StreamingState, ViewBatch
from ttt_core.network import NetworkConfig

HEIGHT, WIDTH = 48, 64
ZEROED = ("prior_planes", "ray_3", "planes", "pixel_out")
"""Layers that an untrained network has at zero."""


def batches(count: int, per_batch: int = 2) -> list[ViewBatch]:
    return [
        view_batch(range(per_batch * i, per_batch * (i + 1)), height=HEIGHT, width=WIDTH)[0]
        for i in range(count)
    ]


def run(
    model: StreamingModel, stream: list[ViewBatch]
) -> tuple[list[StreamingState], list[Prediction]]:
    """States before the first and after every batch, and what was predicted."""
    states, predictions = [model.initial_state()], []
    for batch in stream:
        state, prediction = model.stream(states[-1], batch)
        states.append(state)
        predictions.append(prediction)
    return states, predictions


def build(memory: str = "ridge", **options: int) -> StreamingModel:
    config = StreamingConfig(network=NetworkConfig(memory=memory), **options)
    return StreamingModel(config).eval().requires_grad_(False)


def with_random_head(
    memory: str = "ridge", *, seed: int = 0, std: float = 0.05, **options: int
) -> StreamingModel:
    """A model whose head acts."""
    model = build(memory, **options)
    generator = torch.Generator().manual_seed(seed)
    network = model.network
    weights = [getattr(network, name).weight for name in ZEROED]
    if network.surfaces is not None:
        weights += [p for p in network.surfaces.parameters() if p.dim() > 1]
    for weight in weights:
        weight.copy_(std * torch.randn(weight.shape, generator=generator))
    return model


def same_state(a: StreamingState, b: StreamingState) -> bool:
    ours, theirs = a.to_tensors(), b.to_tensors()
    return ours.keys() == theirs.keys() and all(torch.equal(t, theirs[k]) for k, t in ours.items())
