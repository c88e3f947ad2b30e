"""What a run's process is told, and what it leaves: both are JSON files in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

JOB, OUTCOME, LOG = "job.json", "run.json", "log.txt"
Mode = Literal["batch", "stream"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run: a capture through the engine, started one way.

    Attributes:
        capture, frames, hold_out, long_side: as of `splatstream eval`.
        method: slug.
        with_depth: give the engine sensor depth where the capture has it.
        at: marks, wall seconds from the first frame read, rising.
        rate: frames a second in mode `stream`.
        steps: refinement steps in the place of wall time; then `at` is empty.
        refine_poses, sh_degree: as `SessionConfig`.
        weights: checkpoint of the learned methods; None: the packaged one.
        out: folder for the maps.
    """

    capture: str
    frames: str | None
    hold_out: int
    long_side: int
    method: str
    with_depth: bool
    mode: Mode
    at: tuple[float, ...]
    rate: float
    steps: int | None
    seed: int
    refine_poses: bool
    sh_degree: int
    device: Literal["auto", "cpu", "cuda"]
    background: Literal["auto", "black", "white"]
    weights: str | None
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRecord:
    """A map that was written, and what it had cost until then.

    Attributes:
        file: name of the PLY in the run's folder.
        at: the mark in seconds; None for maps after a batch or after steps.
        batch: number of the batch, from 1, after whose time the map was written; None for marks.
        written: wall seconds from the first frame read to the map written.
        cpu_seconds: of the process in that time, all threads.
        peak_memory_mb: largest resident set of the process so far, libraries included.
        newest: index in the capture of the newest frame in the map.
    """

    file: str
    at: float | None
    batch: int | None
    written: float
    cpu_seconds: float
    peak_memory_mb: float
    frames_in: int
    newest: int
    keyframes: int
    refinement_steps: int
    splats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run did.

    Attributes:
        model: what the output is made of, in the model's words.
        background: RGB 0..1 behind the map.
        stream_seconds: until the last frame was in.
        settled_after: seconds after which refinement had nothing left to do; None: it never did.
        unreadable: index in the capture and reason, of frames that were passed over.
    """

    model: str
    background: tuple[float, float, float]
    frames_in: int
    frames_done: int
    stream_seconds: float
    settled_after: float | None
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    maps: list[MapRecord] = field(default_factory=list)


def write(path: Path, value: Job | Outcome) -> None:
    """As JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def read_job(path: Path) -> Job:
    """What `write` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Job)


def read_outcome(path: Path) -> Outcome:
    """What `write` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Outcome)


def poses_path(map_path: Path) -> Path:
    """Where the cameras' offsets of a map are."""
    return map_path.with_suffix(".poses.json")


def write_offsets(map_path: Path, offsets: Mapping[int, NDArray[np.float64]]) -> None:
    """By how much refinement moved the given frames' cameras for this map.

    Args:
        offsets: index in the capture → (6,), see `gs_decoder.refine.offset_motion`.
    """
    entries = {str(index): offset.tolist() for index, offset in offsets.items()}
    poses_path(map_path).write_bytes(msgspec.json.encode(entries) + b"\n")


def read_offsets(map_path: Path) -> dict[int, NDArray[np.float64]]:
    """What `write_offsets` wrote; empty where it did not."""
    path = poses_path(map_path)
    if not path.exists():
        return {}
    entries = msgspec.json.decode(path.read_bytes(), type=dict[str, list[float]])
    return {int(index): np.array(offset) for index, offset in entries.items()}
