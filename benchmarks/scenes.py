"""Procedural scenes: fully shaded rays a second.

    python benchmarks/scenes.py [--sequences 12] [--views 24] [--height 96] [--width 128]
                                [--device cpu] [--json benchmarks/results/scenes_cpu.json]

Makes whole sequences (scene, textures, trajectory, rays with shadows, camera effects) of every
kind and divides their pixels by the time: CPU time of one thread on a CPU, wall time on a GPU.
The rays for shadows, for smooth edges and for choosing a trajectory are not counted.
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import torch
import tyro

from ttt_core.scenes import KINDS, SceneConfig, make_sequence


@dataclass(kw_only=True)
class Options:
    """Fully shaded rays a second, by kind of scene."""

    sequences: int = 12
    """Of each kind; one more before them is not counted."""
    views: int = 24
    height: int = 96
    width: int = 128
    device: str = "cpu"
    json: Path | None = None


def processor() -> str:
    """Name of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main(options: Options) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    on_cpu = options.device == "cpu"
    hardware = f"{processor()}, one thread" if on_cpu else torch.cuda.get_device_name()
    clock = time.process_time if on_cpu else time.perf_counter
    rays = options.views * options.height * options.width
    rows: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        config = SceneConfig(
            height=options.height, width=options.width, views=options.views, kind=kind
        )
        make_sequence(10_000, "train", config, options.device)
        start = clock()
        for seed in range(options.sequences):
            make_sequence(seed, "train", config, options.device)
        seconds = (clock() - start) / options.sequences
        rows[kind] = {"seconds_per_sequence": seconds, "rays_per_second": rays / seconds}
    report = {
        "hardware": f"{hardware}; torch {torch.__version__}",
        "options": {key: str(value) for key, value in asdict(options).items()},
        "rows": rows,
    }
    print(json.dumps(report, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
