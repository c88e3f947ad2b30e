"""Fast weights: size of the carried state, and time per batch as the stream grows.

    python benchmarks/fast_weights.py [--memory ridge swiglu grid tokens anchored none]
                                      [--height 160] [--width 240] [--views 4] [--repeats 3]
                                      [--threads 1] [--skip-recompute] [--capture DIR]
                                      [--json FILE]

Streams random views, the cameras a step further every batch, through the network of the
daemon's configuration, with each form of memory that is named, and through a mid-size
Reconstructor, and prints CPU time at batch 1, 4, 16 and 64: it must be flat. Beside it stands what
recomputing everything costs, the released way: one pass of the same Reconstructor over all views
so far, with no state carried, at batch 1, 4 and 16. The time of a batch number is the median over
`--repeats` streams. With `--capture` the whole streaming model (prior and network) also runs over
key frames of a capture, to tell the network's share of a batch.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
import torch
import tyro
from torch import Tensor

from streamer.sources import load_frame, open_capture
from ttt_core import (
    Reconstructor,
    ReconstructorConfig,
    StreamingConfig,
    StreamingModel,
    ViewBatch,
)
from ttt_core.matching import CELL, CELL_CHANNELS
from ttt_core.memory import MemoryState
from ttt_core.network import PATCH, NetworkInput

BATCHES_SHOWN = (1, 4, 16, 64)
_STEP = 0.25  # units that the cameras go on from batch to batch; surfaces are about 1 away
RECOMPUTED = (1, 4, 16)
MID_SIZE = ReconstructorConfig(
    width=192, layers=6, patch_size=8, attention_head_dim=32, fast_weight_head_dim=64
)

Memory = Literal["ridge", "swiglu", "grid", "tokens", "anchored", "none"]


class Carried(Protocol):
    """A state with a size."""

    @property
    def nbytes(self) -> int: ...


State = TypeVar("State", bound=Carried)


@dataclass(kw_only=True)
class Options:
    """Fast weights: state size and CPU time per batch at batch 1, 4, 16 and 64."""

    memory: tuple[Memory, ...] = ("ridge",)
    height: int = 160
    width: int = 240
    views: int = 4
    repeats: int = 3
    threads: int = 1
    skip_recompute: bool = False
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
    recompute_ms: dict[int, float] = field(default_factory=dict)
    """The same, of one pass over all views so far without a carried state."""


def processor() -> str:
    """Name of the CPU, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return f"{names[0]}, {len(names)} logical cores"
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def milliseconds(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    begin = time.process_time()
    work()
    return 1e3 * (time.process_time() - begin)


def time_stream(
    step: Callable[[State], State], start: State, repeats: int
) -> tuple[dict[int, float], float]:
    """CPU milliseconds by batch number, and the state's size in MB (checked to be constant)."""
    step(start)  # allocations and thread pools come before the clock
    times: dict[int, list[float]] = {n: [] for n in range(1, max(BATCHES_SHOWN) + 1)}
    sizes = {start.nbytes}
    for _ in range(repeats):
        state = start
        for taken in times.values():
            begin = time.process_time()
            state = step(state)
            taken.append(1e3 * (time.process_time() - begin))
            sizes.add(state.nbytes)
    if len(sizes) != 1:
        raise RuntimeError(f"the state grew: {sorted(sizes)} bytes")
    return {n: statistics.median(times[n]) for n in BATCHES_SHOWN}, sizes.pop() / 1e6


def whole_patches(options: Options, patch: int) -> tuple[int, int]:
    """Height and width, padded."""
    return options.height + -options.height % patch, options.width + -options.width % patch


def streaming_model(memory: Memory) -> StreamingModel:
    config = StreamingConfig()
    config = replace(config, network=replace(config.network, memory=memory))
    return StreamingModel(config).eval().requires_grad_(False)


def network_input(options: Options) -> NetworkInput:
    """Random views in front of a random surface, one stream."""
    height, width = whole_patches(options, PATCH)
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(1, options.views, *shape, generator=generator)

    log_depth = uniform(height, width) - 0.5
    c2w = torch.eye(4).repeat(1, options.views, 1, 1)
    c2w[0, :, 0, 3] = torch.linspace(-0.5, 0.5, options.views)
    camera = torch.tensor([width, width, width / 2, height / 2], dtype=torch.float32)
    return NetworkInput(
        image=uniform(3, height, width),
        log_depth=log_depth,
        confidence=uniform(height, width),
        map_log_depth=log_depth,
        map_there=torch.ones_like(log_depth),
        cells=uniform(height // CELL, width // CELL, len(CELL_CHANNELS)),
        log_range=torch.tensor([-1.0, 1.0]).expand(1, options.views, 2),
        fxfycxcy=camera.expand(1, options.views, 4),
        c2w=c2w,
    )


def network_row(options: Options, memory: Memory) -> Row:
    """The daemon's network, without its prior."""
    network = streaming_model(memory).network
    inputs = network_input(options)
    cameras = inputs.c2w

    def step(state: MemoryState) -> MemoryState:
        # a step further every batch: what a grid costs depends on how much of it is taken
        c2w = cameras.clone()
        if state.tensors:
            c2w[..., 0, 3] += _STEP * int(state["written"].max())
        return network(replace(inputs, c2w=c2w), state, write=True)[1]

    cpu_ms, state_mb = time_stream(
        step,
        network.initial_state(),
        options.repeats,
    )
    config = network.config
    height, width = whole_patches(options, PATCH)
    return Row(
        model=f"network, memory {memory} (width {config.width}, {config.layers} layers)",
        parameters=sum(p.numel() for p in network.parameters()),
        tokens_per_batch=options.views * height * width // PATCH**2,
        state_mb=state_mb,
        cpu_ms=cpu_ms,
    )


def reconstructor_row(options: Options) -> Row:
    """A mid-size tttLRM: streaming, and recomputing everything for every batch."""
    torch.manual_seed(0)
    model = Reconstructor(MID_SIZE).requires_grad_(False)
    patch = MID_SIZE.patch_size
    height, width = whole_patches(options, patch)

    def views(count: int) -> tuple[Tensor, Tensor, Tensor]:
        image = torch.rand(1, count, 3, height, width)
        camera = torch.tensor([width, width, width / 2, height / 2], dtype=torch.float32)
        c2w = torch.eye(4).repeat(1, count, 1, 1)
        c2w[0, :, 0, 3] = torch.linspace(-1, 1, count)
        return image, camera.expand(1, count, 4), c2w

    batch = views(options.views)
    cpu_ms, state_mb = time_stream(
        lambda state: model.stream(state, *batch)[0], model.initial_state(1), options.repeats
    )
    recompute_ms = {}
    for number in () if options.skip_recompute else RECOMPUTED:
        everything = views(number * options.views)
        recompute_ms[number] = statistics.median(
            milliseconds(lambda given=everything: model.reconstruct(*given))  # type: ignore[misc]
            for _ in range(options.repeats)
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
        recompute_ms=recompute_ms,
    )


def network_share(options: Options, capture: Path) -> dict[str, float]:
    """CPU milliseconds of a batch of the capture, and the network's part of them."""
    frames = open_capture(capture)
    long_side = max(options.height, options.width)
    chosen = frames.frames[:: max(1, len(frames.frames) // (5 * options.views))]
    loaded = [load_frame(frames, f, seq=i, long_side=long_side) for i, f in enumerate(chosen)]
    model = streaming_model(options.memory[0])
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
        rows = [network_row(options, memory) for memory in options.memory]
        rows.append(reconstructor_row(options))
    for row in rows:
        print(f"\n{row.model}: {row.parameters / 1e6:.2f} M parameters")
        print(f"  state {row.state_mb:.2f} MB, {row.tokens_per_batch} tokens a batch")
        for number, cpu_ms in row.cpu_ms.items():
            line = f"  batch {number:2d}: {cpu_ms:8.1f} ms"
            if number in row.recompute_ms:
                again = row.recompute_ms[number]
                line += f"; recomputing everything {again:8.1f} ms, {again / cpu_ms:.1f} times that"
            print(line)
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
