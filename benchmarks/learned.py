"""The packaged checkpoint against the prior that it starts from.

    python benchmarks/learned.py scenes --cache CACHE [--json FILE]
    python benchmarks/learned.py streams --cache CACHE [--weights FILES] [--json FILE]
    python benchmarks/learned.py depth CAPTURE [--weights FILES] [--json FILE]

`scenes` measures every third pixel in both directions of the streams of a cache, made by `python -m
ttt_core.training.generate` from a split that was not trained on (`benchmarks/learned_scenes.yaml`);
earlier key frames and the map of earlier points are given, as in the daemon.
`streams` takes longer ones (`benchmarks/learned_streams.yaml`) and the conditions of
`benchmarks/memory.py`: the memory carried, emptied before every batch, and the prior. A network
that was trained with a memory relies on it, so that emptying it overstates what it is worth.
`depth` streams every n-th frame of a capture and compares with its depth sensor, which nothing else
sees; no rendered map is handed in. All ways are paired, here over batches, which are not
independent of each other. Both take several checkpoints: those that `memory.py` trains with a
memory and without.
What it is worth in held-out views of the map says `splatstream eval` (docs/evaluation.md).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from stream_statistics import (
    CONDITIONS,
    SHOWN,
    STATISTICS,
    by_batch,
    in_unseen_places,
    in_words,
    of_scenes,
    paired,
    rounded,
    summed_up,
)

from streamer.evaluation.forgetful import Forgetful
from streamer.frames import Frame
from streamer.hardware import hardware
from streamer.session.batching import view_batch
from streamer.sources import load_frame, open_capture, parse_range
from ttt_core import StreamingModel, default_model
from ttt_core.network import CompactNetwork
from ttt_core.training.build import StreamSpec, has_pose_noise
from ttt_core.training.collate import Draw
from ttt_core.training.evaluate import StreamErrors, stream_errors
from ttt_core.training.samples import TrainingSequence, load_sequence

Float32 = NDArray[np.float32]


@dataclass(kw_only=True)
class Scenes:
    """Depth errors on generated streams."""

    cache: Path
    count: int = 96
    weights: Path | None = None
    json: Path | None = None


@dataclass(kw_only=True)
class Streams:
    """What the carried memory changes along generated streams."""

    cache: Path
    count: int = 32
    weights: tuple[Path, ...] = ()
    """Checkpoints, called by their files' names; without any the packaged one."""
    json: Path | None = None


@dataclass(kw_only=True)
class Depth:
    """Depth errors on a capture with a depth sensor, which the model does not see."""

    capture: tyro.conf.Positional[Path]
    frames: str = "0:300"
    every: int = 4
    batch: int = 4
    long_side: int = 240
    weights: tuple[Path, ...] = ()
    """Checkpoints, called by their files' names; without any the packaged one."""
    json: Path | None = None


def trained_model(weights: Path | None) -> StreamingModel:
    """The checkpoint, by default the packaged one."""
    model = default_model(weights or "packaged")
    if not isinstance(model, StreamingModel):
        raise SystemExit(f"{weights}: not a compact checkpoint, so it has no prior to beat")
    if not model.trained:
        raise SystemExit("there is no trained checkpoint: give one with --weights")
    return model


def summary(error: Float32, confidence: Float32) -> dict[str, Any]:
    """Median and mean abs-rel error, all and by tenth of the confidence (surest first)."""
    known = np.isfinite(error)
    error, confidence = error[known], confidence[known]
    order = np.argsort(-confidence, kind="stable")
    tenths = [error[part] for part in np.array_split(order, 10)]
    return {
        "median": float(np.median(error)),
        "mean": float(np.mean(error)),
        "median_by_confidence": [float(np.median(tenth)) for tenth in tenths],
        "mean_by_confidence": [float(np.mean(tenth)) for tenth in tenths],
        "within_5_percent": float(np.mean(error < 0.05)),
        "confident_share": float(np.mean(confidence > 0.55)),
        "confident_median": float(np.median(error[confidence > 0.55])),
        "confident_mean": float(np.mean(error[confidence > 0.55])),
    }


def first_sequences(cache: Path, count: int) -> list[TrainingSequence]:
    """Of a cache; those of higher numbers are left out."""
    paths = sorted(cache.glob("*.safetensors"))[:count]
    if len(paths) < count:
        raise SystemExit(f"{cache} holds {len(paths)} sequences: make {count}")
    return [load_sequence(path) for path in paths]


def scenes(options: Scenes) -> dict[str, Any]:
    sequences = first_sequences(options.cache, options.count)
    network = trained_model(options.weights).network
    carried = stream_errors(network, sequences, Draw())
    reset = stream_errors(network, sequences, Draw(), reset=True)
    prior = replace(carried, network=carried.prior)
    result: dict[str, Any] = {
        "sequences": len(sequences),
        "prior": summary(carried.prior, carried.prior_confidence),
        "learned": summary(carried.network, carried.confidence),
        "learned, memory reset": summary(reset.network, reset.confidence),
    }
    for pair, other in (("learned - prior", prior), ("learned - reset", reset)):
        by_scene = {
            s: [errors.by_scene(slice(None), s) for errors in (carried, other)] for s in STATISTICS
        }
        result[f"{pair}, paired"] = {s: paired(*values) for s, values in by_scene.items()}
    return result


def streams(options: Streams) -> dict[str, Any]:
    sequences = first_sequences(options.cache, options.count)
    networks = {w.stem: trained_model(w).network for w in options.weights}
    networks = networks or {"": trained_model(None).network}
    noisy = np.array([has_pose_noise(StreamSpec(), index) for index in range(len(sequences))])
    noise = (("exact poses", ~noisy), ("noisy poses", noisy))
    batches = len(sequences[0].batch.unique())
    ends = [last for last in SHOWN if last <= batches]
    spans = [(last, last) for last in ends] + [(last // 2 + 1, last) for last in ends if last > 8]
    conditions: dict[str, Any] = {}
    pairs: list[dict[str, Any]] = []
    for condition, draw in CONDITIONS.items():
        ways: dict[str, StreamErrors] = {}
        for name, network in networks.items():
            ways |= _carried_and_reset(name, network, sequences, draw)
        learned = list(ways)
        some = ways[learned[0]]
        ways["prior"] = replace(some, network=some.prior)
        conditions[condition] = {name: summed_up(errors) for name, errors in ways.items()}
        for a, b in itertools.combinations(ways, 2):
            pairs += by_batch(f"{a} - {b}", condition, ways[a], ways[b], spans)
            pairs += in_unseen_places(f"{a} - {b}", condition, ways[a], ways[b])
        for (a, b), (poses, here) in itertools.product(itertools.combinations(learned, 2), noise):
            one, other = of_scenes(ways[a], here), of_scenes(ways[b], here)
            pairs += by_batch(f"{a} - {b}, {poses}", condition, one, other, spans)
        print(condition, *(in_words(p) for p in pairs if p["condition"] == condition), sep="\n")
    return {
        "streams": len(sequences),
        "batches": batches,
        "with_pose_noise": int(noisy.sum()),
        "conditions": conditions,
        "paired": pairs,
    }


def _carried_and_reset(
    name: str, network: CompactNetwork, sequences: Sequence[TrainingSequence], draw: Draw
) -> dict[str, StreamErrors]:
    """Errors of one network, by what is done with its memory if it has one."""
    carried = stream_errors(network, sequences, draw)
    if network.config.memory == "none":
        return {name: carried}
    of_name = f"{name}, " if name else ""
    return {
        f"{of_name}carried": carried,
        f"{of_name}reset": stream_errors(network, sequences, draw, reset=True),
    }


def depth(options: Depth) -> dict[str, Any]:
    capture = open_capture(options.capture)
    chosen = capture.frames[slice(*parse_range(options.frames))][:: options.every]
    frames = [
        load_frame(capture, f, seq=i, long_side=options.long_side, with_depth=True)
        for i, f in enumerate(chosen)
    ]
    result: dict[str, Any] = {"capture": capture.name, "key_frames": len(frames)}
    models: dict[str, StreamingModel | Forgetful] = {"none": prior_model()}
    for weights in options.weights or (None,):
        name, model = "packaged" if weights is None else weights.stem, trained_model(weights)
        models[name] = model
        if model.network.config.memory != "none":
            models[f"{name}, memory reset"] = Forgetful(model)
    for name, model in models.items():
        model.warm_up(*frames[0].image.shape[:2])
        errors, confidences = _streamed(model, frames, options.batch)
        result[name] = summary(np.concatenate(errors), np.concatenate(confidences))
        result[name]["median_by_batch"] = [float(np.nanmedian(e)) for e in errors]
    result["medians of batches, paired"] = {
        f"{one} - {other}": paired(
            *(np.array(result[name]["median_by_batch"], np.float32) for name in (one, other))
        )
        for other, one in itertools.combinations(models, 2)
    }
    return result


def prior_model() -> StreamingModel:
    model = default_model("none")
    assert isinstance(model, StreamingModel)
    return model


def _streamed(
    model: StreamingModel | Forgetful, frames: Sequence[Frame], batch: int
) -> tuple[list[Float32], list[Float32]]:
    """Errors and confidences of every batch, NaN where the sensor saw nothing."""
    state = model.initial_state()
    errors, confidences = [], []
    for start in range(0, len(frames) - batch + 1, batch):
        part = frames[start : start + batch]
        truth = np.stack([cast(Float32, frame.depth) for frame in part])
        unseen = [replace(frame, depth=None) for frame in part]
        poses = {frame.seq: cast(NDArray[np.float64], frame.c2w) for frame in part}
        empty = [np.zeros(truth.shape[1:], np.float32)] * len(part)
        state, prediction = model.stream(state, view_batch(unseen, poses, empty))
        predicted = prediction.depth.numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(truth > 0, np.abs(predicted / truth - 1), np.nan)
        errors.append(error.ravel().astype(np.float32))
        confidences.append(prediction.confidence.numpy().ravel())
    return errors, confidences


def main(options: Scenes | Streams | Depth) -> None:
    torch.set_num_threads(1)
    if isinstance(options, Scenes):
        work = scenes(options)
    else:
        work = streams(options) if isinstance(options, Streams) else depth(options)
    result = rounded({"hardware": hardware(), **work})
    if not isinstance(options, Streams):
        print(json.dumps(result, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    commands = {"scenes": Scenes, "streams": Streams, "depth": Depth}
    main(tyro.extras.subcommand_cli_from_dict(commands))
