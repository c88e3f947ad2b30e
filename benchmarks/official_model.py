"""The released model's size: a checkpoint in its layout, loaded and run; time and peak memory.

    python benchmarks/official_model.py [--views 4] [--height 256] [--width 256] [--threads 2]
                                        [--json benchmarks/results/official_model.json]
    python benchmarks/official_model.py --device cuda --height 536 --width 960 --views 16 32 64
                                        --batch 4 --recompute --render

Writes random parameters under the released names (the arithmetic does not depend on what they
say), loads the file as `--weights FILE` does, and streams its views in batches of `--batch`
through the engine's adapter. `--recompute` also times the released way, all views at once with an
update every four ("ar"), `--render` the decoding and drawing of all splats at every view with
gsplat (numba on the CPU). `--weights FILE` takes a real checkpoint in the place of the random one.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import tyro
from torch import Tensor

from streamer.hardware import hardware
from ttt_core import Reconstructor, ReconstructorConfig, ViewBatch, normalize_poses
from ttt_core.checkpoint_files import recognise
from ttt_core.official import OfficialModel, load_official

Result = TypeVar("Result")
PAPER_SECONDS = {16: 3.6, 32: 7.2, 64: 14.8}
"""Published for 960x540 (tttLRM, DL3DV), beside ours in the report."""


@dataclass(kw_only=True)
class Options:
    """Time and peak memory of a model of the released size."""

    weights: Path | None = None
    """A tttLRM checkpoint; none writes a random one of the sizes below."""
    model_width: int = 768
    layers: int = 24
    fast_weight_head_dim: int = 768
    device: str = "cpu"
    height: int = 256
    width: int = 256
    views: list[int] = field(default_factory=lambda: [4])
    batch: int = 4
    repeats: int = 1
    threads: int = 2
    newton_schulz: Literal["float32", "bfloat16"] = "float32"
    recompute: bool = False
    render: bool = False
    json: Path | None = None


def write_checkpoint(path: Path, options: Options) -> None:
    """Random parameters in the released layout: a pickled dict with the key `model`."""
    torch.manual_seed(0)
    model = Reconstructor(
        ReconstructorConfig(
            width=options.model_width,
            layers=options.layers,
            patch_size=8,
            attention_head_dim=64,
            fast_weight_head_dim=options.fast_weight_head_dim,
        )
    )
    torch.save({"model": model.state_dict()}, path)


def write_in_another_process(path: Path, options: Options) -> None:
    """So that the peak memory of this one is that of loading and running."""
    writer = multiprocessing.get_context("spawn").Process(
        target=write_checkpoint, args=(path, options)
    )
    writer.start()
    writer.join()
    if writer.exitcode != 0:
        raise RuntimeError(f"writing {path} failed with exit code {writer.exitcode}")


def camera_arc(options: Options, views: int) -> ViewBatch:
    """Random pictures on a small arc."""
    generator = torch.Generator().manual_seed(1)
    c2w = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    angle = torch.linspace(-0.6, 0.6, views, dtype=torch.float64)
    c2w[:, 0, 0] = c2w[:, 2, 2] = angle.cos()
    c2w[:, 0, 2], c2w[:, 2, 0] = angle.sin(), -angle.sin()
    c2w[:, 0, 3] = -angle.sin()
    camera = torch.tensor([options.width, options.width, options.width / 2, options.height / 2])
    return ViewBatch(
        keys=tuple(range(views)),
        image=torch.rand(views, 3, options.height, options.width, generator=generator),
        fxfycxcy=camera.float().expand(views, 4).contiguous(),
        c2w=c2w,
    )


def part(batch: ViewBatch, views: slice) -> ViewBatch:
    return ViewBatch(
        keys=batch.keys[views],
        image=batch.image[views],
        fxfycxcy=batch.fxfycxcy[views],
        c2w=batch.c2w[views],
    )


def timed(device: str, work: Callable[[], Result]) -> tuple[Result, float, float]:
    """Result, wall seconds and CPU seconds, the device's queue drained before and after."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    if cuda:
        torch.cuda.synchronize()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def peak_gib(device: str) -> dict[str, float]:
    """Peak memory of this process so far, and of the device."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
    if device.startswith("cuda"):
        peaks["device"] = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
    return peaks


def stream_row(model: OfficialModel, options: Options, views: int) -> dict[str, Any]:
    """Batches of `--batch` views, one after the other."""
    batch = camera_arc(options, views)
    slices = [slice(i, i + options.batch) for i in range(0, views, options.batch)]
    wall: list[list[float]] = []
    cpu: list[list[float]] = []
    for _ in range(options.repeats):
        state = model.initial_state()
        wall.append([])
        cpu.append([])
        for views_of_batch in slices:
            chosen = part(batch, views_of_batch)
            before = state
            (state, prediction), seconds, spent = timed(
                options.device, lambda s=before, b=chosen: model.stream(s, b)
            )
            if not bool(torch.isfinite(prediction.depth).all()):
                raise RuntimeError("the prediction is not finite")
            wall[-1].append(seconds)
            cpu[-1].append(spent)
    per_batch = [statistics.median(times) for times in zip(*wall)]
    return {
        "views": views,
        "batch": options.batch,
        "tokens_per_batch": min(options.batch, views)
        * -(-options.height // 8)
        * -(-options.width // 8),
        "first_batch_wall_s": per_batch[0],
        "last_batch_wall_s": per_batch[-1],
        "all_batches_wall_s": sum(per_batch),
        "first_batch_cpu_s": statistics.median(times[0] for times in cpu),
        "state_mb": state.nbytes / 1e6,
        "peak_gib": peak_gib(options.device),
    }


@torch.no_grad()
def recompute_row(model: OfficialModel, options: Options, views: int) -> dict[str, Any]:
    """The released way: all views at once, an update every four, the last weights read."""
    batch = camera_arc(options, views)
    poses = normalize_poses(batch.c2w, "first_cam")
    inputs: list[Tensor] = [
        t.to(options.device)[None] for t in (batch.image, batch.fxfycxcy, poses.normalized)
    ]

    def reconstruct() -> Any:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.autocast):
            return model.reconstructor.reconstruct(*inputs, scan="ar", views_per_update=4)

    reconstruct()
    times = []
    for _ in range(options.repeats):
        output, seconds, _ = timed(options.device, reconstruct)
        times.append(seconds)
    row: dict[str, Any] = {"views": views, "reconstruct_wall_s": statistics.median(times)}
    if options.render:
        row |= render_figures(output, poses.normalized, batch, options)
    row["peak_gib"] = peak_gib(options.device)
    row["paper_s"] = PAPER_SECONDS.get(views)
    return row


def render_figures(
    output: Any, c2w: Tensor, batch: ViewBatch, options: Options
) -> dict[str, float]:
    """Decoding with the released pruning, and one picture from each camera."""
    from gs_decoder import decode_splats, most_opaque, rasterize

    many = len(batch.keys) >= 64

    def decode() -> Any:
        splats = decode_splats(output.raw.float(), output.ray_origins, output.ray_directions)
        kept = most_opaque(
            splats.opacities[0],
            *((0.3, 0.05) if many else (0.4, 0.1)),
            generator=torch.Generator().manual_seed(0),
        )
        return [
            t[0, kept].contiguous()
            for t in (splats.means, splats.quats_wxyz, splats.scales, splats.opacities, splats.sh)
        ]

    means, quats, scales, opacities, harmonics = decode()
    splats, decoding, _ = timed(options.device, decode)
    viewmats = torch.linalg.inv(c2w).float().to(options.device)
    K = torch.eye(3).repeat(len(batch.keys), 1, 1)
    K[:, 0, 0], K[:, 1, 1] = batch.fxfycxcy[:, 0], batch.fxfycxcy[:, 1]
    K[:, :2, 2] = batch.fxfycxcy[:, 2:]
    K = K.to(options.device)

    def draw(view: int) -> None:
        rasterize(
            means,
            quats,
            scales,
            opacities,
            harmonics,
            viewmats[view],
            K[view],
            options.width,
            options.height,
            sh_degree=3,
            backend="gsplat" if options.device.startswith("cuda") else "numba",
        )

    draw(0)
    _, drawing, _ = timed(options.device, lambda: [draw(v) for v in range(len(batch.keys))])
    return {
        "splats": float(len(splats[0])),
        "decode_wall_s": decoding,
        "render_wall_s_per_view": drawing / len(batch.keys),
    }


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    machine = f"{hardware()}; {options.threads} threads; torch {torch.__version__}"
    print(machine)
    with tempfile.TemporaryDirectory() as folder:
        path = options.weights
        if path is None:
            path = Path(folder) / "official.pt"
            write_in_another_process(path, options)
        size = path.stat().st_size / 2**30
        kind = recognise(path)
        model, loading, _ = timed(options.device, lambda: load_official(path, options.device))
    reconstructor = model.reconstructor
    parameters = sum(p.numel() for p in reconstructor.parameters())
    if options.newton_schulz == "bfloat16":
        for block in reconstructor.blocks:
            block.module_list[1].f.rule = ReconstructorConfig(
                **{**asdict(reconstructor.config), "newton_schulz_dtype": "bfloat16"}
            ).update_rule()
    report: dict[str, Any] = {
        "hardware": machine,
        "options": {name: str(value) for name, value in asdict(options).items()},
        "kind": kind.value,
        "model": asdict(reconstructor.config),
        "parameters": parameters,
        "file_gib": size,
        "load_wall_s": loading,
        "peak_gib_after_loading": peak_gib(options.device),
        "stream": [],
        "recompute": [],
    }
    print(
        f"{kind.value}, {parameters / 1e6:.1f} M parameters, file of {size:.2f} GiB, loaded in "
        f"{loading:.1f} s"
    )
    if options.device.startswith("cuda"):
        model.warm_up(options.height, options.width)
    for views in options.views:
        row = stream_row(model, options, views)
        report["stream"].append(row)
        print(
            f"streaming {views} views of {options.width}x{options.height} by {options.batch}: "
            f"first batch {row['first_batch_wall_s']:.2f} s, last "
            f"{row['last_batch_wall_s']:.2f} s, all {row['all_batches_wall_s']:.2f} s; "
            f"first batch's CPU {row['first_batch_cpu_s']:.1f} s; "
            f"state {row['state_mb']:.0f} MB; peak "
            + ", ".join(f"{name} {gib:.2f} GiB" for name, gib in row["peak_gib"].items())
        )
        if options.recompute:
            row = recompute_row(model, options, views)
            report["recompute"].append(row)
            print("  released way: " + ", ".join(f"{k} {v}" for k, v in row.items()))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
