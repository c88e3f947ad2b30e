"""Matching prior on a capture: depth error by confidence, and CPU seconds per key frame.

    python benchmarks/prior.py CAPTURE [--stride 4] [--frames 0:300] [--hold-out 8]
                               [--long-side 240] [--batch 4] [--kept 16] [--threads 1]
                               [--pictures DIR]

Every `--stride`-th frame that is not held out is a key frame, in stream order, in batches; the
`--kept` last ones stay as sources with the depth that was predicted for them. The pictures alone
are matched; where the capture has sensor depth it is the truth, and errors are |depth/truth - 1|
over the pixels that have it. Without sensor depth only times and shares of confident pixels are
printed. `--pictures` writes one sheet a batch: picture, depth, confidence, confident depth, truth.
CPU seconds are those of the whole process, compilation done before.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray

from streamer.frames import Frame
from streamer.hardware import hardware
from streamer.sources import load_frame, open_capture
from streamer.sources.capture import parse_range
from ttt_core.matching import MatchingPrior, PosedImage, PriorConfig, PriorDepth

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_CONFIDENT = 0.6


@dataclass(kw_only=True)
class Options:
    capture: tyro.conf.Positional[Path]
    """Folder of the capture."""
    stride: int = 4
    frames: str | None = None
    hold_out: int = 8
    long_side: int = 240
    batch: int = 4
    kept: int = 16
    threads: int = 1
    pictures: Path | None = None


def key_frames(options: Options) -> list[Frame]:
    """The key frames of the capture, with sensor depth where it has any."""
    capture = open_capture(options.capture).select(*parse_range(options.frames))
    train, _ = capture.hold_out(options.hold_out)
    return [
        load_frame(capture, frame, seq=frame.index, long_side=options.long_side, with_depth=True)
        for frame in list(train)[:: options.stride]
    ]


def posed(frame: Frame) -> PosedImage:
    """What the prior needs of a frame: its picture and camera, never its sensor depth."""
    assert frame.c2w is not None
    gray = np.ascontiguousarray(frame.image.astype(np.float32) @ _LUMA / np.float32(255.0))
    return PosedImage(frame.seq, gray, frame.K, frame.c2w, frame.valid)


def stream(
    prior: MatchingPrior, frames: list[Frame], options: Options
) -> tuple[list[PriorDepth], float]:
    """Predictions for all key frames, batch after batch, and CPU seconds per key frame."""
    results: list[PriorDepth] = []
    earlier: list[PosedImage] = []
    spent = 0.0
    for first in range(0, len(frames), options.batch):
        views = [posed(frame) for frame in frames[first : first + options.batch]]
        start = time.process_time()
        new = prior.predict(views, earlier[-options.kept :] if options.kept else [])
        spent += time.process_time() - start
        results += new
        earlier += [
            replace(view, depth=result.depth, confidence=result.confidence)
            for view, result in zip(views, new, strict=True)
        ]
    return results, spent / max(len(frames), 1)


def print_errors(results: list[PriorDepth], truths: list[NDArray[np.float32]]) -> None:
    """One line for all pixels with sensor depth, one for each decile of confidence."""
    truth = np.stack(truths)
    there = np.isfinite(truth) & (truth > 0)
    error = np.abs(np.stack([r.depth for r in results])[there] / truth[there] - 1.0)
    confidence = np.stack([r.confidence for r in results])[there]

    def line(name: str, part: NDArray[np.bool_] | NDArray[np.intp]) -> None:
        e = error[part]
        if e.size:
            print(
                f"{name:>22}  {e.size / error.size:6.1%}  {confidence[part].mean():10.3f}"
                f"  {np.median(e):7.4f}  {e.mean():7.4f}  {(e < 0.05).mean():6.1%}"
                f"  {(e > 0.2).mean():6.1%}"
            )

    print(f"{'pixels':>22}  {'share':>6}  {'confidence':>10}  {'median':>7}  {'mean':>7}", end="")
    print(f"  {'< 5 %':>6}  {'> 20 %':>6}")
    line("all", np.ones(error.shape, bool))
    line(f"confidence > {_CONFIDENT}", confidence > _CONFIDENT)
    for k, part in enumerate(np.array_split(np.argsort(confidence, kind="stable"), 10)):
        line(f"decile {k + 1}", part)


def colour(picture: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    level = np.clip((picture - low) / max(high - low, 1e-9), 0.0, 1.0)
    return cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_TURBO)


def sheet_row(frame: Frame, result: PriorDepth) -> NDArray[np.uint8]:
    """Picture, depth, confidence, confident depth and truth of one key frame, side by side."""
    log_depth = np.log(result.depth)
    low, high = np.percentile(log_depth, [1, 99])
    depth = colour(log_depth, low, high)
    sure = np.where(result.confidence[..., None] > _CONFIDENT, depth, 0).astype(np.uint8)
    parts = [frame.image[:, :, ::-1], depth, colour(result.confidence, 0.0, 1.0), sure]
    if frame.depth is not None:
        there = frame.depth > 0
        truth = colour(np.log(np.where(there, frame.depth, 1.0)), low, high)
        parts.append(np.where(there[..., None], truth, 0).astype(np.uint8))
    return np.hstack(parts)


def main(options: Options) -> None:
    frames = key_frames(options)
    height, width = frames[0].image.shape[:2]
    prior = MatchingPrior(PriorConfig(threads=options.threads))
    prior.warm_up(height, width)
    results, seconds = stream(prior, frames, options)
    sure = np.mean([(result.confidence > _CONFIDENT).mean() for result in results])
    print(f"{options.capture.name}: {len(frames)} key frames of {width}x{height}")
    print(f"{hardware()}; {options.threads} thread(s)")
    print(f"{seconds:.3f} CPU-seconds a key frame; {sure:.1%} of all pixels confident")
    if all(frame.depth is not None for frame in frames):
        print_errors(results, [frame.depth for frame in frames if frame.depth is not None])
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for first in range(0, len(frames), options.batch):
            rows = map(sheet_row, frames[first:][: options.batch], results[first:])
            cv2.imwrite(str(options.pictures / f"batch_{first:04d}.png"), np.vstack(list(rows)))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
