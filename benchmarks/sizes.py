"""How large should the network be? What held-out depth gains for the time that a batch costs.

    python benchmarks/sizes.py --train CACHE --validation CACHE --out DIR
                               [--only small default ...] [--steps 800] [--json FILE]

Networks of several sizes learn from scratch, without a carried memory, from the same sequences in
the same order, the same number each. Of every one: relative depth errors on validation streams,
the prior alone on the present batch and with earlier key frames and map as in the daemon; paired
over streams with the default size; and CPU time of the network, without its prior, for a batch of
four 240x160 views (median over 16 batches). Runs that are done are not repeated. Caches are made by
`python -m ttt_core.training.generate` (`benchmarks/memory_*.yaml`).
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from fast_weights import Options as Views
from fast_weights import milliseconds, network_input
from memory import Supply, learn
from stream_statistics import CONDITIONS, STATISTICS, paired, rounded, summed_up

from streamer.hardware import hardware
from ttt_core.network import CompactNetwork, NetworkConfig
from ttt_core.training.collate import Draw
from ttt_core.training.evaluate import stream_errors
from ttt_core.training.samples import load_sequence

SIZES: dict[str, dict[str, int]] = {
    "smallest": {"width": 32, "cell_width": 16, "pixel_width": 8, "layers": 1, "ray_width": 8},
    "small": {"width": 32, "cell_width": 32, "pixel_width": 16, "layers": 2, "ray_width": 12},
    "default": {},
    "wide": {"width": 96, "cell_width": 72, "pixel_width": 32, "layers": 2, "ray_width": 24},
    "deep": {"layers": 6},
}
"""What differs from `NetworkConfig`'s defaults."""
MEASURED = ("alone", "both")
_BATCHES = 8
_TIMED = 16


@dataclass(kw_only=True)
class Options:
    train: Path
    validation: Path
    out: Path
    only: tuple[str, ...] = tuple(SIZES)
    steps: int = 800
    streams: int = 2
    """Sequences a step."""
    sequences: int = 400
    """Of the training cache, its first."""
    scenes: int = 96
    json: Path | None = None


def cpu_ms(network: CompactNetwork) -> float:
    """Of a batch of four 240x160 views, one thread."""
    views = network_input(Views())
    memory = network.initial_state()

    def batch() -> None:
        with torch.inference_mode():
            network(views, memory, write=True)

    batch()
    return statistics.median(milliseconds(batch) for _ in range(_TIMED))


def measured(network: CompactNetwork, options: Options) -> dict[str, Any]:
    """By condition: errors summed up, of the network and of the prior, and every stream's own."""
    paths = Supply(options.validation, options.scenes).paths()
    sequences = [load_sequence(path) for path in paths]
    found = {}
    for name in MEASURED:
        draw = CONDITIONS[name]
        draw = Draw(alone=draw.alone, drop_map=draw.drop_map, batches=_BATCHES)
        errors = stream_errors(network.eval(), sequences, draw)
        found[name] = {
            "network": summed_up(errors),
            "prior": summed_up(errors, prior=True),
            "streams": {s: errors.by_scene(slice(None), s).tolist() for s in STATISTICS},
        }
    return found


def trained(name: str, options: Options) -> dict[str, Any]:
    """Facts and errors of a size; trained where it has not been."""
    stored = options.out / f"{name}.json"
    if not stored.exists():
        print(name, flush=True)
        torch.manual_seed(0)
        network = CompactNetwork(NetworkConfig(memory="none", **SIZES[name]))
        cost = learn(
            network,
            Supply(options.train, options.sequences),
            seed=0,
            steps=options.steps,
            streams=options.streams,
            decay=0.4,
        )
        network.requires_grad_(False).eval()
        found = {
            "size": SIZES[name],
            "parameters": sum(p.numel() for p in network.parameters()),
            "training": cost,
            "batch_cpu_ms": cpu_ms(network),
            "errors": measured(network, options),
        }
        stored.write_text(json.dumps(found))
    result: dict[str, Any] = json.loads(stored.read_text())
    return result


def compared(runs: dict[str, Any]) -> dict[str, Any]:
    """Every size less the default one, paired over streams."""
    base = runs["default"]["errors"]
    rows: dict[str, Any] = {}
    for name, run in runs.items():
        for condition, errors in run["errors"].items() if name != "default" else ():
            for statistic in STATISTICS:
                a, b = (
                    np.array(e["streams"][statistic], np.float32) for e in (errors, base[condition])
                )
                row = {**paired(a, b), "relative": float(np.nanmean(a) / np.nanmean(b))}
                rows.setdefault(name, {}).setdefault(condition, {})[statistic] = row
    return rows


def main(options: Options) -> None:
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    runs = {name: trained(name, options) for name in options.only}
    for name, run in runs.items():
        line = f"{name:10s} {run['parameters'] / 1e6:.2f} M, {run['batch_cpu_ms']:.0f} ms a batch"
        for condition, errors in run["errors"].items():
            now, before = errors["network"], errors["prior"]
            line += (
                f"; {condition}: median {now['median']:.4f} (prior {before['median']:.4f}), "
                f"mean {now['mean']:.3f} ({before['mean']:.3f})"
            )
        print(line)
    differences = compared(runs) if "default" in runs else {}
    for name, by_condition in differences.items():
        for condition, row in by_condition.items():
            median = row["median"]
            print(
                f"{name} less default, {condition}: median {median['difference']:+.4f} ± "
                f"{median['standard_error']:.4f} (x {median['relative']:.3f})"
            )
    if options.json is not None:
        for run in runs.values():
            for errors in run["errors"].values():
                del errors["streams"]
        result = {
            "hardware": hardware(),
            "steps": options.steps,
            "sequences": options.sequences,
            "scenes": options.scenes,
            "sizes": runs,
            "less the default size": differences,
        }
        options.json.write_text(json.dumps(rounded(result), indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
