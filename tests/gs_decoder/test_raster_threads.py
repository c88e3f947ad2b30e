"""The same bits on every run, for every number of threads, and from several threads at once."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import torch
from raster_scenes import INPUTS, random_scene

from gs_decoder.raster import NumbaRasterizer, rasterize


def outputs(scene, threads):
    """All images and gradients as arrays, by a rasteriser of `threads` threads."""
    rasterizer = NumbaRasterizer(threads=threads)
    arrays = [getattr(scene, k).numpy() for k in INPUTS[:7]]
    render = rasterizer.forward(
        *arrays, scene.width, scene.height, sh_degree=scene.sh_degree,
        background=scene.background.numpy(),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    shape = (scene.height, scene.width)
    d_images = [rng.normal(size=s).astype(np.float32) for s in ((*shape, 3), shape, shape)]
    found = rasterizer.backward(render, *d_images)
    names = ("means", "quats", "scales", "opacities", "colors", "viewmat", "K", "weight")
    return [render.rgb, render.depth, render.alpha] + [getattr(found, n).copy() for n in names]


@pytest.mark.parametrize("sh_degree", [None, 3])
def test_thread_count_changes_no_bit(sh_degree):
    scene = random_scene(7, 4003, 150, 101, sh_degree=sh_degree)
    expected = outputs(scene, 1)
    for threads in (2, 3, 8, 2):
        for one, other in zip(expected, outputs(scene, threads)):
            assert one.tobytes() == other.tobytes()


def test_numba_thread_setting_changes_no_bit():
    scene = random_scene(8, 2500, 120, 90)
    before = numba.get_num_threads()
    results = []
    try:
        for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS), 1):
            numba.set_num_threads(threads)
            leaves = scene.leaves()
            render = rasterize(**leaves, width=120, height=90)
            (render.rgb.square().sum() + render.depth.sum()).backward()
            results.append([render.rgb, render.depth, *(leaves[k].grad for k in INPUTS)])
    finally:
        numba.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert torch.equal(a, b)


def test_two_views_at_once():
    scenes = [random_scene(seed, 3000, 120, 80) for seed in (1, 2)]
    expected = [outputs(scene, 1) for scene in scenes]
    jobs = [(scenes[i % 2], 1 + i % 3) for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: outputs(*job), jobs))
    for i, result in enumerate(found):
        for one, other in zip(expected[i % 2], result):
            assert one.tobytes() == other.tobytes()


def test_graphs_held_at_the_same_time():
    """Several renders wait for their backward; each keeps a workspace of its own."""
    scenes = [random_scene(seed, 200, 40, 30) for seed in range(6)]
    alone = []
    for scene in scenes:
        leaves = scene.leaves()
        rasterize(**leaves, width=40, height=30).rgb.square().sum().backward()
        alone.append(leaves["means"].grad)
    held = [scene.leaves() for scene in scenes]
    loss = sum(rasterize(**leaves, width=40, height=30).rgb.square().sum() for leaves in held)
    loss.backward()
    for leaves, expected in zip(held, alone):
        assert torch.equal(leaves["means"].grad, expected)


def test_compiled_code_is_kept_where_it_can_be_written(tmp_path):
    """A second process finds the kernels of the first in the folder that it was given."""
    code = (
        "from gs_decoder.raster.cpu.jit import cache_folder\n"
        "from gs_decoder.raster.cpu.tiles import count_visible\n"
        "import numpy as np\n"
        "n = np.zeros(0, np.uint32)\n"
        "count_visible(np.zeros(0, np.float32), n, 1, n, n, np.zeros(0, np.int16),"
        " np.zeros(2, np.int64), np.zeros(1, np.int64))\n"
        "print(cache_folder(), sum(count_visible.stats.cache_hits.values()))\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    hits = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment, check=True, timeout=120, capture_output=True, text=True,
        )  # fmt: skip
        folder, count = done.stdout.split()
        assert folder.startswith(str(tmp_path))
        hits.append(int(count))
    assert hits == [0, 1]
