"""An engine that spills, on a way there and back along a wall."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from engine_helpers import Reader, make_engine, picture, truth
from strip_walk import beginning, pose

from gs_decoder import psnr
from streamer.frames import Frame
from streamer.session.corrections import rigid
from streamer.session.engine import Engine
from streamer.session.spill_files import SpillFolder
from ttt_core.streaming import StreamingConfig, StreamingModel

STEPS = 16
AWAY = 16
"""Frames of the way out."""


def make(folder: Path | None, **options: object) -> tuple[Engine, Reader]:
    """An engine with room for a part of the wall, and one that cannot spill without a folder."""
    model = StreamingModel(StreamingConfig(network=None)).eval()
    settings = {"chunk_budget": 400, "resident_budget": 1300, "map_budget": 20_000, **options}
    engine, reader = make_engine(model=model, **settings)
    if folder is not None:
        engine.spill_to(SpillFolder(folder, kept=True))
    return engine, reader


def walk(engine: Engine, frames: Sequence[Frame], steps: int = 8) -> None:
    for start in range(0, len(frames), 4):
        engine.process(frames[start : start + 4])
        for _ in range(steps):
            engine.refine()
    engine.publish()


def quality(reader: Reader, world: np.ndarray | None = None) -> float:
    """PSNR of views of the walk's beginning that nothing was made from."""
    T = np.eye(4) if world is None else world
    views = [(frame, rigid(T @ pose(frame))) for frame in beginning()]
    return float(
        np.mean([psnr(picture(reader.mirror, f, c).clip(0, 1), truth(f)) for f, c in views])
    )


def resting(engine: Engine) -> set[int]:
    return {held.id for held in engine.residence.resting}


def assert_whole(engine: Engine, reader: Reader) -> None:
    """Every chunk is in one place, and readers have what the map has."""
    engine.publish()
    parameters = engine.refiner.parameters
    ready = set(parameters.chunks())
    assert not ready & resting(engine)
    assert ready | resting(engine) == set(engine.chunk_of_seq.values())
    assert ready <= set(engine.map.chunks) <= ready | resting(engine)
    assert reader.mirror.equals(engine.map)
    assert {c for c in reader.chunks.values() if c is not None} == set(reader.mirror.chunks)
    status = engine.status()
    assert status.splats == engine.map.count
    assert status.splats_ready + status.splats_on_disk == engine.splats_world().count
    for chunk in engine.map.chunks.values():
        chunk.splats.check_values()
