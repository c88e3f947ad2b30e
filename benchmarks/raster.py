"""Time of the rasteriser on this machine: forward, and forward + backward, medians.

    python -m benchmarks.raster [--threads 1] [--repeats 15] [--sh-degree D]
                                [--backend kernels|numba|gsplat]

Scenes: "one per pixel", splats as a depth map gives them (footprint of about a pixel), and
"random, wide", sizes and places at random, a good part of them outside the view. Times are CPU
time for one thread (other programs on the machine disturb it less), wall time otherwise.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gs_decoder.raster import NumbaRasterizer, rasterize, warm_up

SCENES = (
    ("one per pixel", 40_000, 240, 160),
    ("one per pixel", 80_000, 240, 160),
    ("one per pixel", 20_000, 256, 256),
    ("one per pixel", 60_000, 256, 256),
    ("one per pixel", 100_000, 480, 270),
    ("one per pixel", 200_000, 480, 270),
    ("random, wide", 200_000, 480, 270),
)


def processor() -> str:
    """Name of the CPU as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def scene(kind: str, count: int, width: int, height: int) -> dict[str, Any]:
    """What `rasterize` takes of a scene, as float32 arrays."""
    rng = np.random.default_rng(0)
    focal = 0.866 * width
    if kind == "one per pixel":
        z = rng.uniform(2.0, 4.0, count)
        u, v = rng.uniform(0, width, count), rng.uniform(0, height, count)
        sigma = np.exp(rng.normal(np.log(0.7), 0.5, (count, 3))) * np.sqrt(width * height / count)
    else:
        z = rng.uniform(1.5, 5.5, count)
        u = rng.uniform(-0.3 * width, 1.3 * width, count)
        v = rng.uniform(-0.3 * height, 1.3 * height, count)
        sigma = np.exp(rng.normal(np.log(1.6), 0.8, (count, 3)))
    means = np.stack([(u - width / 2) / focal * z, (v - height / 2) / focal * z, z], 1)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    arrays = {
        "means": means,
        "quats": rng.normal(size=(count, 4)),
        "scales": sigma * z[:, None] / focal,
        "opacities": rng.uniform(0.02, 0.98, count),
        "colors": rng.uniform(0, 1, (count, 3)),
        "viewmat": np.eye(4),
        "K": K,
    }
    return {name: a.astype(np.float32) for name, a in arrays.items()}


def kernels(
    arrays: dict[str, Any], width: int, height: int, degree: int | None, threads: int
) -> tuple[Callable[[], object], Callable[[object], object]]:
    """Forward and backward by `NumbaRasterizer`, without torch."""
    rasterizer = NumbaRasterizer(threads)
    rng = np.random.default_rng(1)
    shape = (height, width)
    images = [rng.normal(size=s).astype(np.float32) for s in ((*shape, 3), shape, shape)]

    def forward() -> object:
        return rasterizer.forward(**arrays, width=width, height=height, sh_degree=degree)

    def backward(render: object) -> object:
        return rasterizer.backward(render, *images)  # type: ignore[arg-type]

    return forward, backward


def autograd(
    arrays: dict[str, Any], width: int, height: int, degree: int | None, backend: str
) -> tuple[Callable[[], object], Callable[[object], object]]:
    """Forward and backward through `rasterize`, on CUDA for gsplat."""
    device = "cuda" if backend == "gsplat" else "cpu"
    leaves: dict[str, Any] = {
        k: torch.tensor(a, device=device, requires_grad=k != "K") for k, a in arrays.items()
    }

    def forward() -> object:
        render = rasterize(**leaves, width=width, height=height, sh_degree=degree, backend=backend)
        if device == "cuda":
            torch.cuda.synchronize()
        return render

    def backward(render: object) -> object:
        total = render.rgb.sum() + render.depth.sum() + render.alpha.sum()  # type: ignore[attr-defined]
        total.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return None

    return forward, backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--backend", default="kernels", choices=["kernels", "numba", "gsplat"])
    parser.add_argument("--sh-degree", type=int, default=None, choices=[0, 1, 2, 3])
    options = parser.parse_args()
    warm_up()
    torch.set_num_threads(options.threads)
    if options.backend == "numba":
        import numba

        numba.set_num_threads(options.threads)
    device = torch.cuda.get_device_name() if options.backend == "gsplat" else processor()
    on_cpu_alone = options.threads == 1 and options.backend != "gsplat"
    clock = time.process_time if on_cpu_alone else time.perf_counter
    print(f"{device}; {options.threads} thread(s), {options.backend}; median ms")
    print(f"{'scene':<15}{'splats':>8}{'size':>10}{'forward':>9}{'forward+backward':>18}")
    for kind, count, width, height in SCENES:
        arrays = scene(kind, count, width, height)
        degree = options.sh_degree
        if degree is not None:
            shape = (count, (degree + 1) ** 2, 3)
            harmonics = np.random.default_rng(2).normal(0, 0.3, shape)
            arrays["colors"] = harmonics.astype(np.float32)
        if options.backend == "kernels":
            forward, backward = kernels(arrays, width, height, degree, options.threads)
        else:
            forward, backward = autograd(arrays, width, height, degree, options.backend)
        first, both = [], []
        for _ in range(options.repeats + 1):
            start = clock()
            render = forward()
            middle = clock()
            backward(render)
            first.append(middle - start)
            both.append(clock() - start)
        # The first round fills the workspaces.
        times = [1e3 * statistics.median(values[1:]) for values in (first, both)]
        size = f"{width}x{height}"
        print(f"{kind:<15}{count:>8}{size:>10}{times[0]:>9.1f}{times[1]:>18.1f}", flush=True)


if __name__ == "__main__":
    main()
