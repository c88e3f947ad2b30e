"""Engines at test size, frames of the demo capture, and a reader of what an engine publishes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gs_decoder import MapMirror, Update, psnr
from gs_decoder.refine import RefineConfig
from streamer.demo import CAPTURE
from streamer.frames import Frame
from streamer.render import render_chunks
from streamer.session.engine import Engine
from streamer.session.outbox import Keyframe, Outbox
from streamer.session.settings import EngineConfig
from streamer.sources import load_frame, open_capture
from ttt_core import StreamingModel, default_model

OFFICE = open_capture(CAPTURE)
LONG_SIDE = 64
NEVER = 1e12
"""Seconds between publications: only the test publishes."""


class Reader(Outbox):
    """Mirrors an engine as a subscriber would, and keeps what came."""

    def __init__(self) -> None:
        self.mirror = MapMirror()
        self.log: list[Update] = []
        self.cameras: dict[int, NDArray[np.float64]] = {}
        self.chunks: dict[int, int | None] = {}

    def updates(self, updates: Sequence[Update]) -> None:
        for update in updates:
            self.log.append(update)
            self.mirror.apply(update)

    def keyframes(self, added: Sequence[Keyframe]) -> None:
        self.cameras.update({frame.seq: frame.c2w for frame in added})
        self.chunks.update({frame.seq: frame.chunk for frame in added})

    def keyframes_moved(self, poses: Mapping[int, NDArray[np.float64]]) -> None:
        self.cameras.update(poses)


def make_engine(*, model: StreamingModel | None = None, **options: object) -> tuple[Engine, Reader]:
    """An engine that publishes when it is told to, and who reads it; on the matching alone, unless
    a model is given (`remembering`)."""
    reader = Reader()
    steady = {"publish_every": NEVER, "chunk_interval": 0.0, "refine": RefineConfig(workers=2)}
    settings = {**steady, **options}
    chosen = model or default_model()
    return Engine(EngineConfig(**settings), reader, model=chosen), reader


def remembering() -> StreamingModel:
    """The network that is shipped, which carries a memory; it costs more than the matching does."""
    return default_model("packaged")


def office(first: int, stop: int, long_side: int = LONG_SIDE) -> list[Frame]:
    """Frames of the demo capture, numbered from `first`; their arrays are the caller's own."""
    entries = (replace(entry, c2w=np.array(entry.c2w)) for entry in OFFICE.frames[first:stop])
    return [
        load_frame(OFFICE, entry, seq=seq, long_side=long_side)
        for seq, entry in enumerate(entries, first)
    ]


def feed(engine: Engine, frames: Sequence[Frame], batch: int = 4) -> None:
    """In batches."""
    for start in range(0, len(frames), batch):
        engine.process(frames[start : start + batch])


def refine(engine: Engine, steps: int) -> None:
    for _ in range(steps):
        engine.refine()


def numbered(frames: Iterable[Frame], first: int = 0) -> list[Frame]:
    """The same frames with new numbers and stamps, one after the other."""
    return [
        replace(frame, seq=seq, stamp_ns=seq * 10**8) for seq, frame in enumerate(frames, first)
    ]


def with_depth() -> list[Frame]:
    """Of a slanted wall, with holes; every third frame brings none."""
    frames = []
    for number, frame in enumerate(office(0, 8)):
        height, width = frame.image.shape[:2]
        depth = np.linspace(1.5, 3.0, width, dtype=np.float32)[None].repeat(height, 0)
        depth[: height // 3, : width // 3] = 0.0
        frames.append(frame if number % 3 == 2 else replace(frame, depth=depth))
    return frames


def picture(
    mirror: MapMirror, frame: Frame, c2w: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """What a reader sees of the map from a frame's camera, or from another pose."""
    height, width = frame.image.shape[:2]
    pose = frame.c2w if c2w is None else c2w
    render = render_chunks(list(mirror.chunks.values()), pose, frame.K, width, height)
    return render.rgb.reshape(height, width, 3).numpy()


def truth(frame: Frame) -> NDArray[np.float32]:
    return frame.image.astype(np.float32) / 255.0


def mean_psnr(mirror: MapMirror, frames: Sequence[Frame], cameras: Mapping[int, object]) -> float:
    """Against the images, from the cameras given by seq."""
    return float(
        np.mean([psnr(picture(mirror, f, cameras[f.seq]).clip(0, 1), truth(f)) for f in frames])
    )


def assert_sound(engine: Engine, reader: Reader) -> None:
    """Finite splats, and everybody holds the same."""
    engine.publish()
    for chunk in engine.map.chunks.values():
        chunk.splats.check_values()
        assert chunk.count > 0
    assert engine.map.count == engine.refiner.parameters.count
    assert reader.mirror.equals(engine.map)
    assert set(reader.cameras) == set(engine.keyframes)
    assert {c for c in reader.chunks.values() if c is not None} == set(reader.mirror.chunks)


def same(one: Any, other: Any, path: str = "state") -> None:
    """To the bit, but for the numbers of revisions and contents."""
    assert type(one) is type(other), path
    if is_dataclass(one) and not isinstance(one, type):
        for part in fields(one):
            if part.name not in ("revision", "content"):
                same(getattr(one, part.name), getattr(other, part.name), f"{path}.{part.name}")
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), path
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, Mapping):
        assert list(one) == list(other), path
        for key in one:
            same(one[key], other[key], f"{path}[{key}]")
    elif isinstance(one, Sequence) and not isinstance(one, str | bytes):
        assert len(one) == len(other), path
        for place, (mine, others) in enumerate(zip(one, other)):
            same(mine, others, f"{path}[{place}]")
    elif hasattr(one, "to_tensors"):
        same(one.to_tensors(), other.to_tensors(), path)
    else:
        assert one == other, path
