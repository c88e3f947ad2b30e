"""The engine's settings, and what they mean on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from gs_decoder.fusion import FusionConfig
from gs_decoder.refine import EvidenceConfig, RefineConfig
from gs_decoder.refine.renderers import NumbaViewRenderer, TorchViewRenderer, ViewRenderer
from streamer.config import ServeConfig
from streamer.session.keyframes import KeyframeConfig

READY_WITHOUT_A_DISK = 120_000
"""Splats held ready where none can rest. Beyond it the least go, which costs a map little: the
office at 240 pixels shows the same after 800 steps with 108,000 as with 156,000, whose steps take
a quarter longer. On the disk whole chunks rest, unrefined, so that a daemon has room for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Attributes:
    batch: frames that one pass of the model takes.
    chunk_budget, map_budget: splats of a key frame, of the whole map.
    resident_budget: splats of it that are held ready; the rest rests on the disk, or, where there
        is no folder for it (`Engine.spill_to`), there is no rest.
    idle_steps: exactly so many refinement steps after the last change of the map, then the session
        sleeps; None: until they bring nothing any more (`Convergence`).
    publish_every: seconds between publications of refined chunks.
    chunk_interval: least seconds between two, however fast batches and corrections come.
    chunks_at_once: refined chunks that one of them brings at most; of a large map each has its
        turn, and no frame waits for thousands.
    background: what lies behind the map; auto reads it off the first batch.
    refine_enabled: whether to optimise between batches at all.
    refine_steps: exactly so many steps after each batch, and none else: the same batches and
        corrections then give the same map. 0: as many as time allows.
    """

    batch: int = 4
    chunk_budget: int = 6000
    map_budget: int = 600_000
    resident_budget: int = READY_WITHOUT_A_DISK
    idle_steps: int | None = None
    publish_every: float = 2.0
    chunk_interval: float = 1.5
    chunks_at_once: int = 128
    refine_enabled: bool = True
    refine_steps: int = 0
    device: str = "cpu"
    background: Literal["auto", "black", "white"] = "auto"
    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)


def engine_config(config: ServeConfig) -> EngineConfig:
    """The engine's part of the daemon's settings."""
    session = config.session
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return EngineConfig(
        batch=session.batch_size,
        chunk_budget=session.chunk_budget,
        map_budget=session.map_budget,
        resident_budget=session.resident_budget,
        device=device,
        background=session.background,
        refine_enabled=session.refine,
        refine_steps=session.refine_steps,
        refine=RefineConfig(refine_poses=session.refine_poses, sh_degree=session.sh_degree),
    )


def view_renderer(device: str, workers: int) -> ViewRenderer:
    """gsplat on CUDA, the numba kernels elsewhere."""
    if device.startswith("cuda"):
        return TorchViewRenderer("gsplat", device)
    return NumbaViewRenderer(workers)
