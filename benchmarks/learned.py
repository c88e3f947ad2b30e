"""The packaged checkpoint against the prior that it starts from.

    python benchmarks/learned.py scenes --cache CACHE [--json FILE]     depth, generated streams
    python benchmarks/learned.py depth CAPTURE [--json FILE]            depth, a capture's sensor
    python benchmarks/learned.py map [CAPTURE ...] [--json FILE]        held-out views of the map

`scenes` measures all pixels of the streams of a cache (made by `python -m
ttt_core.training.generate` from a split that was not trained on). `depth` streams every n-th frame
of a capture and compares with its depth sensor, which nothing else sees; no rendered map is handed
in. `map` feeds frames through
the daemon's engine, every eighth held out, first without any refinement, then with ten seconds of
it; without captures it makes scenes of the kept-out split.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from gs_decoder import world_origin
from streamer.frames import Frame
from streamer.hardware import hardware
from streamer.report import WorldSplats, score
from streamer.session.batching import view_batch
from streamer.session.engine import Engine
from streamer.session.settings import EngineConfig
from streamer.session.threads import use_all_cores
from streamer.sources import load_frame, open_capture, parse_range
from ttt_core import StreamingModel, default_model
from ttt_core.scenes import SceneConfig, make_sequence
from ttt_core.training.collate import Draw
from ttt_core.training.evaluate import stream_errors
from ttt_core.training.samples import load_sequence

Float32 = NDArray[np.float32]
MODELS = ("none", "packaged")


@dataclass(kw_only=True)
class Scenes:
    """Depth errors on generated streams."""

    cache: Path
    count: int = 96
    weights: Path | None = None
    json: Path | None = None


@dataclass(kw_only=True)
class Depth:
    """Depth errors on a capture with a depth sensor, which the model does not see."""

    capture: tyro.conf.Positional[Path]
    frames: str = "0:300"
    every: int = 4
    batch: int = 4
    long_side: int = 240
    weights: Path | None = None
    json: Path | None = None


@dataclass(kw_only=True)
class Map:
    """Held-out views of the map, without refinement and after ten seconds of it."""

    captures: tyro.conf.Positional[tuple[Path, ...]] = ()
    frames: str = "0:150"
    hold_out: int = 8
    long_side: int = 240
    refine_seconds: float = 10.0
    scenes: int = 6
    """Generated scenes, where no capture is given."""
    weights: Path | None = None
    json: Path | None = None


def model_of(name: str, weights: Path | None) -> StreamingModel:
    """The bare prior, or the checkpoint."""
    model = default_model("none" if name == "none" else weights or "packaged")
    if not isinstance(model, StreamingModel):
        raise SystemExit(f"{weights}: not a compact checkpoint, so it has no prior to beat")
    if name == "packaged" and not model.trained:
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


def scenes(options: Scenes) -> dict[str, Any]:
    paths = sorted(options.cache.glob("*.safetensors"))[: options.count]
    if len(paths) < options.count:
        raise SystemExit(f"{options.cache} holds {len(paths)} sequences: make {options.count}")
    sequences = [load_sequence(path) for path in paths]
    network = model_of("packaged", options.weights).network
    result: dict[str, Any] = {"sequences": len(sequences)}
    for name, draw in (("with the map", Draw()), ("without the map", Draw(drop_map=1.0))):
        carried = stream_errors(network, sequences, draw)
        reset = stream_errors(network, sequences, draw, reset=True)
        result[name] = {
            "prior": summary(carried.prior, carried.prior_confidence),
            "learned": summary(carried.network, carried.confidence),
            "learned, memory reset": summary(reset.network, reset.confidence),
        }
    return result


def depth(options: Depth) -> dict[str, Any]:
    capture = open_capture(options.capture)
    chosen = capture.frames[slice(*parse_range(options.frames))][:: options.every]
    frames = [
        load_frame(capture, f, seq=i, long_side=options.long_side, with_depth=True)
        for i, f in enumerate(chosen)
    ]
    result: dict[str, Any] = {"capture": capture.name, "key_frames": len(frames)}
    for name in MODELS:
        model = model_of(name, options.weights)
        model.warm_up(*frames[0].image.shape[:2])
        for reset in (False, True) if name == "packaged" else (False,):
            errors, confidences = _streamed(model, frames, options.batch, reset)
            label = f"{name}, memory reset" if reset else name
            result[label] = summary(np.concatenate(errors), np.concatenate(confidences))
            result[label]["median_by_batch"] = [float(np.nanmedian(e)) for e in errors]
    return result


def _streamed(
    model: StreamingModel, frames: Sequence[Frame], batch: int, reset: bool
) -> tuple[list[Float32], list[Float32]]:
    """Errors and confidences of every batch, NaN where the sensor saw nothing."""
    state = model.initial_state()
    errors, confidences = [], []
    for start in range(0, len(frames) - batch + 1, batch):
        part = frames[start : start + batch]
        truth = np.stack([cast(Float32, frame.depth) for frame in part])
        unseen = [dataclasses.replace(frame, depth=None) for frame in part]
        poses = {frame.seq: cast(NDArray[np.float64], frame.c2w) for frame in part}
        empty = [np.zeros(truth.shape[1:], np.float32)] * len(part)
        if reset:
            fresh = model.initial_state().memory
            state = dataclasses.replace(state, memory=fresh, records=())
        state, prediction = model.stream(state, view_batch(unseen, poses, empty))
        predicted = prediction.depth.numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(truth > 0, np.abs(predicted / truth - 1), np.nan)
        errors.append(error.ravel().astype(np.float32))
        confidences.append(prediction.confidence.numpy().ravel())
    return errors, confidences


def maps(options: Map) -> dict[str, Any]:
    use_all_cores()
    result: dict[str, Any] = {"refine_seconds": options.refine_seconds}
    for name, frames in _streams(options):
        held_out = frames[:: options.hold_out]
        given = [f for i, f in enumerate(frames) if i % options.hold_out]
        result[name] = {
            which: _mapped(model_of(which, options.weights), given, held_out, options)
            for which in MODELS
        }
        print(name, json.dumps(_rounded(result[name])), flush=True)
    return result


def _streams(options: Map) -> Iterator[tuple[str, list[Frame]]]:
    for path in options.captures:
        capture = open_capture(path)
        chosen = capture.frames[slice(*parse_range(options.frames))]
        yield (
            capture.name,
            [
                load_frame(capture, f, seq=i, long_side=options.long_side)
                for i, f in enumerate(chosen)
            ],
        )
    if not options.captures:
        size = SceneConfig(width=options.long_side, height=options.long_side * 2 // 3, views=48)
        for seed in range(options.scenes):
            scene = make_sequence(seed, "kept_out", size)
            yield f"scene {seed} ({scene.kind})", [*_scene_frames(scene)]


def _scene_frames(scene: Any) -> Iterator[Frame]:
    for i, image in enumerate(scene.image):
        fx, fy, cx, cy = scene.fxfycxcy[i].double().tolist()
        yield Frame(
            seq=i,
            stamp_ns=i * 100_000_000,
            camera="",
            image=np.ascontiguousarray(image.permute(1, 2, 0).numpy()),
            K=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]),
            c2w=scene.c2w[i].numpy(),
        )


def _mapped(
    model: StreamingModel, given: Sequence[Frame], held_out: Sequence[Frame], options: Map
) -> dict[str, float]:
    torch.manual_seed(0)
    engine = Engine(EngineConfig(), model=model)
    engine.warm_up(*given[0].image.shape[:2])
    began = time.monotonic()
    for start in range(0, len(given), engine.config.batch):
        engine.process(given[start : start + engine.config.batch])
    streamed = time.monotonic() - began
    figures = {"stream_seconds": streamed}
    figures |= _scores(engine, given, held_out, "")
    began = time.monotonic()
    while engine.wants_refinement and time.monotonic() - began < options.refine_seconds:
        engine.refine()
    figures |= _scores(engine, given, held_out, "refined_")
    figures["splats"] = float(engine.status().splats)
    engine.close()
    return figures


def _scores(
    engine: Engine, given: Sequence[Frame], held_out: Sequence[Frame], prefix: str
) -> dict[str, float]:
    splats = engine.splats_world(origin := world_origin(engine.map.chunks.values()))
    scores = score(WorldSplats(splats, origin), held_out, given, engine.refiner.background)
    return {
        f"{prefix}{name}": cast(float, scores.mean(name)) for name in ("psnr", "psnr_gain", "ssim")
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def main(options: Scenes | Depth | Map) -> None:
    work = {Scenes: scenes, Depth: depth, Map: maps}[type(options)]
    result = {"hardware": hardware(), **work(options)}  # type: ignore[operator]
    print(json.dumps(_rounded(result), indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(_rounded(result), indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.extras.subcommand_cli_from_dict({"scenes": Scenes, "depth": Depth, "map": Map}))
