"""What the network and its carried memory bring to a map, as held-out views see it.

    python benchmarks/learned_maps.py CAPTURE... [--frames 0:150] [--steps 0 300] [--seed 0]
                                      [--starts sweep-only learned learned-reset]
                                      [--long-side 240] [--weights FILE] [--out DIR] [--json FILE]

Each capture is mapped by `splatstream eval` from the prior alone, with the packaged network (or
that of `--weights`), and with the network whose memory is emptied before every batch: all frames
first, a batch of four after the other, without refinement between them, then exactly so many steps
(0: the feed-forward map).
`--starts sweep-only sensor-depth` tells what depth without any error would bring, so what a network
that corrects depth can bring at most; captures without depth are left out. The load of the machine
changes nothing. Differences between two ways are paired over captures, with standard errors.
`newer half`: held-out views of the second half of the capture alone. Generated captures are made by
`splatstream scenes --captures`. The result is written after every capture.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from stream_statistics import paired, rounded

from streamer.evaluation.evaluate import Settings, evaluate
from streamer.evaluation.methods import Slug
from streamer.evaluation.results import CaptureResult, MapResult
from streamer.hardware import hardware

STARTS: tuple[Slug, ...] = ("sweep-only", "learned", "learned-reset")
PAIRS: tuple[tuple[Slug, Slug], ...] = (
    ("learned", "sweep-only"),
    ("learned", "learned-reset"),
    ("sensor-depth", "sweep-only"),
)
FIGURES = ("psnr", "psnr_gain", "ssim", "ssim_gain", "depth_error", "depth_filled")
NEWER = "psnr, newer half"


@dataclass(kw_only=True)
class Options:
    captures: tyro.conf.Positional[tuple[Path, ...]]
    frames: str | None = None
    steps: tuple[int, ...] = (0, 300)
    starts: tuple[Slug, ...] = STARTS
    seed: int = 0
    long_side: int = 240
    weights: Path | None = None
    """Checkpoint of the learned ways; without one the packaged."""
    out: Path = Path("learned_maps")
    """Folder for the maps."""
    json: Path | None = None


def figures(result: MapResult) -> dict[str, float]:
    """What one map is worth; NaN for what the capture has no truth for."""
    found = {name: getattr(result, name) for name in FIGURES}
    newer = sorted(result.views, key=lambda view: view.seq)[len(result.views) // 2 :]
    found[NEWER] = float(np.mean([view.psnr for view in newer]))
    return {name: math.nan if value is None else value for name, value in found.items()}


def measured(capture: CaptureResult) -> dict[str, dict[str, float]]:
    """Figures by start, and how many key frames there were."""
    found = {}
    for run in capture.runs:
        if run.failed is not None:
            raise SystemExit(f"{capture.capture}, {run.label}: {run.failed}")
        (last,) = run.maps
        keyframes = {"keyframes": last.record.keyframes, "splats": last.record.splats}
        found[run.method] = {**figures(last), **keyframes}
    return found


def compared(maps: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> dict[str, Any]:
    """Paired differences over captures, by steps, pair and figure."""
    result: dict[str, Any] = {}
    for steps in next(iter(maps.values())):
        for a, b in PAIRS:
            if not all({a, b} <= ways[steps].keys() for ways in maps.values()):
                continue
            rows = result.setdefault(steps, {}).setdefault(f"{a} - {b}", {})
            for name in (*FIGURES, NEWER):
                one, other = (
                    np.array([ways[steps][start][name] for ways in maps.values()], np.float32)
                    for start in (a, b)
                )
                if np.isfinite(one - other).any():
                    rows[name] = paired(one, other)
    return result


def main(options: Options) -> None:
    maps: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    about = {
        "hardware": hardware(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "frames": options.frames,
        "seed": options.seed,
        "long_side": options.long_side,
        "weights": None if options.weights is None else options.weights.name,
    }
    result: dict[str, Any] = {}
    for path in options.captures:
        by_steps = {}
        for steps in options.steps:
            settings = Settings(
                frames=options.frames,
                steps=steps,
                seed=options.seed,
                long_side=options.long_side,
                weights=None if options.weights is None else str(options.weights),
                methods=options.starts,
            )
            out = options.out / f"{steps}_steps"
            out.mkdir(parents=True, exist_ok=True)
            (capture,) = evaluate([path], settings, out, tell=print).captures
            by_steps[f"{steps} steps"] = measured(capture)
        if any(found.keys() < set(options.starts) for found in by_steps.values()):
            print(f"{path.name}: left out, it has no depth to start from")
            continue
        maps[path.name] = by_steps
        result = {**about, "captures": len(maps), "paired": compared(maps), "maps": maps}
        if options.json is not None:
            options.json.write_text(json.dumps(without_nan(rounded(result)), indent=1) + "\n")
    if not maps:
        raise SystemExit("no capture has what these starts need")
    print(json.dumps(without_nan(rounded(result["paired"])), indent=1))


def without_nan(value: Any) -> Any:
    """NaN is not JSON."""
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
