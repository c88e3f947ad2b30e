"""What the network and its carried memory bring to a map, as held-out views see it.

    python benchmarks/learned_maps.py CAPTURE... [--frames 0:150 ...] [--steps 0 300] [--seed 0]
                                      [--starts sweep-only learned learned-reset]
                                      [--long-side 240] [--weights FILE] [--out DIR] [--json FILE]

Each capture is mapped by `splatstream eval` from the prior alone, with the packaged network (or
that of `--weights`), and with the network whose memory is emptied before every batch: all frames
first, a batch of four after the other, without refinement between them, then exactly so many steps
(0: the feed-forward map).
`--starts sweep-only sensor-depth` tells what depth without any error would bring, so what a network
that corrects depth can bring at most; captures without depth are left out. The load of the machine
changes nothing. A map hangs on which views it began with: with several `--frames`, such as 0:150
1:150 2:150, which shift what is held out, figures are means over them, and differences between two
ways on a capture have standard errors over them (`by_capture`; they share most frames, so are not
independent). Those of all captures are paired over captures.
`newer half`: held-out views of the second half of the capture alone. Generated captures are made by
`splatstream scenes --captures`. The result is written after every capture.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
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
    frames: tuple[str, ...] = ()
    """Ranges of frames, each mapped by itself; without any all of them."""
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


def over_runs(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Means by start of what `measured` told of every range of frames."""
    found: dict[str, Any] = {}
    for start, first in runs[0].items():
        found[start] = {name: float(np.mean([run[start][name] for run in runs])) for name in first}
    return found


def between_runs(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Differences between ways on one capture, paired over ranges, by pair and figure."""
    rows: dict[str, Any] = {}
    for a, b in PAIRS if len(runs) > 1 else ():
        if {a, b} <= runs[0].keys():
            rows[f"{a} - {b}"] = _pair(*([run[start] for run in runs] for start in (a, b)))
    return rows


def _pair(
    one: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """By figure, where there is one."""
    rows = {}
    for name in (*FIGURES, NEWER):
        a, b = (np.array([found[name] for found in side], np.float32) for side in (one, other))
        if np.isfinite(a - b).any():
            rows[name] = paired(a, b)
    return rows


def compared(maps: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> dict[str, Any]:
    """Paired differences over captures, by steps, pair and figure."""
    result: dict[str, Any] = {}
    for steps in next(iter(maps.values())):
        for a, b in PAIRS:
            if not all({a, b} <= ways[steps].keys() for ways in maps.values()):
                continue
            sides = ([ways[steps][start] for ways in maps.values()] for start in (a, b))
            result.setdefault(steps, {})[f"{a} - {b}"] = _pair(*sides)
    return result


def main(options: Options) -> None:
    maps: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    by_capture: dict[str, dict[str, Any]] = {}
    about = {
        "hardware": hardware(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "frames": list(options.frames),
        "seed": options.seed,
        "long_side": options.long_side,
        "weights": None if options.weights is None else options.weights.name,
    }
    result: dict[str, Any] = {}
    for path in options.captures:
        by_steps, differences = {}, {}
        for steps in options.steps:
            runs = [mapped(path, steps, frames, options) for frames in options.frames or (None,)]
            if any(run.keys() < set(options.starts) for run in runs):
                break
            by_steps[f"{steps} steps"] = over_runs(runs)
            differences[f"{steps} steps"] = between_runs(runs)
        if len(by_steps) < len(options.steps):
            print(f"{path.name}: left out, it has no depth to start from")
            continue
        maps[path.name], by_capture[path.name] = by_steps, differences
        result = {**about, "captures": len(maps), "paired": compared(maps), "maps": maps}
        if len(options.frames) > 1:
            result["by_capture"] = by_capture
        if options.json is not None:
            options.json.write_text(json.dumps(without_nan(rounded(result)), indent=1) + "\n")
    if not maps:
        raise SystemExit("no capture has what these starts need")
    print(json.dumps(without_nan(rounded(result["paired"])), indent=1))


def mapped(
    path: Path, steps: int, frames: str | None, options: Options
) -> dict[str, dict[str, float]]:
    """What the maps of one capture are worth, all ways, one range of frames."""
    settings = Settings(
        frames=frames,
        steps=steps,
        seed=options.seed,
        long_side=options.long_side,
        weights=None if options.weights is None else str(options.weights),
        methods=options.starts,
    )
    out = options.out / f"{steps}_steps"
    out.mkdir(parents=True, exist_ok=True)
    (capture,) = evaluate([path], settings, out, tell=print).captures
    return measured(capture)


def without_nan(value: Any) -> Any:
    """NaN is not JSON."""
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
