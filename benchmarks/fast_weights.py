"""Fast weights: size of the carried state, and time per batch as the stream grows.

    python benchmarks/fast_weights.py [--height 160] [--width 240] [--views 4] [--repeats 3]
                                      [--threads 1] [--capture DIR] [--json FILE]

Streams random views (the arithmetic does not depend on what they show) through the network of the
daemon's configuration and through a mid-size Reconstructor, and prints CPU time at batch 1, 4 and
16: it must be flat. The time of a batch number is the median over `--repeats` streams. With
`--capture` the whole streaming model (prior and network) also runs over the first key frames of a
capture, to tell the network's share of a batch.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

from streamer.sources import load_frame, open_capture
from ttt_core import (
    Reconstructor,
    ReconstructorConfig,
    ReconstructorState,
    StreamingConfig,
    ViewBatch,
    default_model,
)
from ttt_core.matching import CELL, CELL_CHANNELS
from ttt_core.residual_network import GEOMETRY_CHANNELS, NetworkInput
from ttt_core.tokens import RAY_CHANNELS

BATCHES_SHOWN = (1, 4, 16)
MID_SIZE = ReconstructorConfig(
    width=192, layers=6, patch_size=8, attention_head_dim=32, fast_weight_head_dim=64
)

Step = Callable[[ReconstructorState], ReconstructorState]


@dataclass(kw_only=True)
class Options:
    """Fast weights: state size and CPU time per batch at batch 1, 4 and 16."""

    height: int = 160
    width: int = 240
    views: int = 4
    repeats: int = 3
    threads: int = 1
    capture: Path | None = None
    json: Path | None = None


@dataclass(kw_only=True)
class Row:
    """One model's figures."""

    model: str
    parameters: int
    tokens_per_batch: int
    state_mb: float
    cpu_ms: dict[int, float]
    """Median CPU milliseconds by batch number."""


def processor() -> str:
    """Name of the CPU, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return f"{names[0]}, {len(names)} logical cores"
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def time_stream(step: Step, start: ReconstructorState, repeats: int) -> tuple[dict, float]:
    """CPU milliseconds by batch number, and the state's size in MB (checked to be constant)."""
    step(start)  # allocations and thread pools come before the clock
    times: dict[int, list[float]] = {n: [] for n in range(1, max(BATCHES_SHOWN) + 1)}
    sizes = {start.nbytes}
    for _ in range(repeats):
        state = start
        for number in times:
            begin = time.process_time()
            state = step(state)
            times[number].append(1e3 * (time.process_time() - begin))
            sizes.add(state.nbytes)
    if len(sizes) != 1:
        raise RuntimeError(f"the state grew: {sorted(sizes)} bytes")
    return {n: statistics.median(times[n]) for n in BATCHES_SHOWN}, sizes.pop() / 1e6


def network_row(options: Options) -> Row:
    """The daemon's network, without its prior."""
    network = default_model().network
    patch = network.config.patch_size
    height, width = (side + -side % patch for side in (options.height, options.width))
    generator = torch.Generator().manual_seed(0)
    channels = RAY_CHANNELS + GEOMETRY_CHANNELS
    inputs = NetworkInput(
        torch.rand(options.views, height, width, channels, generator=generator),
        torch.rand(
            options.views, height // CELL, width // CELL, len(CELL_CHANNELS), generator=generator
        ),
    )
    cpu_ms, state_mb = time_stream(
        lambda state: network(inputs, state, write=True)[1],
        network.initial_state(),
        options.repeats,
    )
    config = StreamingConfig()
    return Row(
        model=f"daemon's network (width {config.width}, {config.layers} layers)",
        parameters=sum(p.numel() for p in network.parameters()),
        tokens_per_batch=options.views * height * width // patch**2,
        state_mb=state_mb,
        cpu_ms=cpu_ms,
    )


def reconstructor_row(options: Options) -> Row:
    """A mid-size tttLRM, streaming."""
    torch.manual_seed(0)
    model = Reconstructor(MID_SIZE).requires_grad_(False)
    patch = MID_SIZE.patch_size
    height, width = (side + -side % patch for side in (options.height, options.width))
    image = torch.rand(1, options.views, 3, height, width)
    camera = torch.tensor([width, width, width / 2, height / 2], dtype=torch.float32)
    c2w = torch.eye(4).repeat(1, options.views, 1, 1)
    c2w[0, :, 0, 3] = torch.linspace(-1, 1, options.views)
    views = (image, camera.expand(1, options.views, 4), c2w)
    cpu_ms, state_mb = time_stream(
        lambda state: model.stream(state, *views)[0], model.initial_state(1), options.repeats
    )
    return Row(
        model=(
            f"Reconstructor (width {MID_SIZE.width}, {MID_SIZE.layers} layers, "
            f"fast-weight heads of {MID_SIZE.fast_weight_head_dim})"
        ),
        parameters=sum(p.numel() for p in model.parameters()),
        tokens_per_batch=options.views * height * width // patch**2,
        state_mb=state_mb,
        cpu_ms=cpu_ms,
    )


def network_share(options: Options, capture: Path) -> dict[str, float]:
    """CPU milliseconds of a batch of the capture, and the network's part of them."""
    frames = open_capture(capture)
    long_side = max(options.height, options.width)
    chosen = frames.frames[:: max(1, len(frames.frames) // (5 * options.views))]
    loaded = [load_frame(frames, f, seq=i, long_side=long_side) for i, f in enumerate(chosen)]
    model = default_model()
    model.warm_up(*loaded[0].image.shape[:2])
    begun, spent = [0.0], [0.0]
    model.network.register_forward_pre_hook(lambda *_: begun.append(time.process_time()))
    model.network.register_forward_hook(lambda *_: spent.append(time.process_time() - begun[-1]))
    state = model.initial_state()
    whole, network = [], []
    for start in range(0, len(loaded) - options.views + 1, options.views):
        part = loaded[start : start + options.views]
        batch = ViewBatch(
            keys=tuple(frame.seq for frame in part),
            image=_image([frame.image for frame in part]),
            fxfycxcy=torch.tensor(
                [[f.K[0, 0], f.K[1, 1], f.K[0, 2], f.K[1, 2]] for f in part], dtype=torch.float32
            ),
            c2w=torch.from_numpy(np.stack([f.c2w for f in part if f.c2w is not None])),
        )
        begin = time.process_time()
        state, _ = model.stream(state, batch)
        whole.append(1e3 * (time.process_time() - begin))
        network.append(1e3 * spent[-1])
    return {
        "batches": len(whole),
        "batch_cpu_ms": statistics.median(whole),
        "network_cpu_ms": statistics.median(network),
        "network_share": statistics.median(n / w for n, w in zip(network, whole)),
        "state_mb": state.nbytes / 1e6,
    }


def _image(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    hardware = f"{processor()}; {options.threads} thread(s); torch {torch.__version__}"
    print(hardware)
    print(f"batches of {options.views} views at {options.width}x{options.height}; CPU time")
    with torch.no_grad():
        rows = [network_row(options), reconstructor_row(options)]
    for row in rows:
        print(f"\n{row.model}: {row.parameters / 1e6:.2f} M parameters")
        print(f"  state {row.state_mb:.2f} MB, {row.tokens_per_batch} tokens a batch")
        for number, milliseconds in row.cpu_ms.items():
            print(f"  batch {number:2d}: {milliseconds:8.1f} ms")
    report: dict[str, object] = {
        "hardware": hardware,
        "options": {name: str(value) for name, value in asdict(options).items()},
        "rows": [asdict(row) for row in rows],
    }
    if options.capture is not None:
        share = network_share(options, options.capture)
        report["share"] = share
        print(
            f"\nwhole batch on {options.capture.name}: {share['batch_cpu_ms']:.0f} ms, network "
            f"{share['network_cpu_ms']:.0f} ms = {100 * share['network_share']:.0f} % "
            f"(median of {share['batches']:.0f}); whole state {share['state_mb']:.1f} MB"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
