"""What a change of the map costs, in CPU time of one thread.

    .venv/bin/python benchmarks/splat_map.py [--chunks 33] [--splats 3000] [--replaced 20]

Prints the median over the repeats, in milliseconds of process time: replacing chunks, draining the
updates, feeding them to a mirror, a copy of the whole map in world axes, making room when the map
is full, and a 240x160 view with depth turned into splats.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from gs_decoder import ChunkMeta, MapConfig, MapMirror, SplatMap, Splats, splats_from_depth


def random_splats(count: int, generator: torch.Generator) -> Splats:
    """`count` splats of SH degree 0."""
    return Splats(
        means=torch.randn(count, 3, generator=generator),
        quats_wxyz=torch.randn(count, 4, generator=generator),
        scales=0.01 * torch.rand(count, 3, generator=generator),
        opacities=torch.rand(count, generator=generator),
        sh=torch.randn(count, 1, 3, generator=generator),
    )


def chunk_meta(frame: int) -> ChunkMeta:
    """Key frames half a metre apart."""
    pose = np.eye(4)
    pose[0, 3] = 0.5 * frame
    return ChunkMeta(frame_seq=frame, stamp_ns=frame, camera="front", T_world_chunk=pose)


def measured(name: str, work: Callable[[], object], repeats: int = 9) -> None:
    """Print the median CPU time of `work`."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(1e3 * (time.process_time() - start))
    print(f"{name:55s} {statistics.median(times):8.2f} ms")


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=33)
    parser.add_argument("--splats", type=int, default=3000, help="a chunk")
    parser.add_argument("--replaced", type=int, default=20, help="chunks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    total = options.chunks * options.splats
    splat_map, mirror = SplatMap(MapConfig(map_budget=total)), MapMirror()
    ids = [
        splat_map.add(chunk_meta(i), random_splats(options.splats, generator))
        for i in range(options.chunks)
    ]
    fresh = [random_splats(options.splats, generator) for _ in range(2 * options.replaced)]
    print(f"{total} splats in {options.chunks} chunks")

    turn = 0

    def replace() -> None:
        nonlocal turn
        turn ^= 1
        for index in range(options.replaced):
            splat_map.replace(ids[index], fresh[2 * index + turn])

    measured(f"replace {options.replaced} chunks of {options.splats}", replace)
    measured(
        "the same, drained and mirrored", lambda: _replace_and_mirror(replace, splat_map, mirror)
    )
    measured("all splats in world axes", splat_map.splats_world)

    def overfill() -> None:
        full = SplatMap(MapConfig(map_budget=total))
        full.merge(splat_map.snapshot())
        full.add(chunk_meta(99), fresh[0])

    measured("snapshot, merge, and room for one more chunk", overfill)
    depth = 2.0 + 0.01 * torch.rand(160, 240, generator=generator)
    color = torch.rand(3, 160, 240, generator=generator)
    measured(
        "splats of a 240x160 view with depth",
        lambda: splats_from_depth(depth, torch.ones_like(depth), color, (200, 200, 120, 80)),
    )


def _replace_and_mirror(
    replace: Callable[[], None], splat_map: SplatMap, mirror: MapMirror
) -> None:
    replace()
    for update in splat_map.drain_updates():
        mirror.apply(update)


if __name__ == "__main__":
    main()
