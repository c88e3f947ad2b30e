"""Compiled kernels give the same bits whether they were compiled just now or come from the cache.

A process that compiles holds the helpers of a kernel twice: as compiled for themselves, and as
compiled once more with the kernel. Where such a helper is not inlined the first of them is called,
in a process that loads the kernel from the cache the second; with fast-math the two may associate
differently, and a session would not go on to the bit on the day after its first.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher

import gs_decoder
import streamer
import ttt_core

ROOT = Path(__file__).resolve().parents[1]

MATCH = """
import hashlib
import numpy as np
from ttt_core.matching.sgm import aggregate
from ttt_core.matching.sweep import sweep_cost

random = np.random.default_rng(0)
height, width, planes = 24, 36, 12
image, other = random.normal(size=(2, height, width)).astype(np.float32)
rotations = np.eye(3)[None] + random.normal(size=(1, 3, 3)) * [[1e-3], [1e-3], [1e-6]]
cost = np.empty((height, width, planes), np.float32)
sweep_cost(
    image, other[None], np.array([[height, width]]), rotations, random.normal(size=(1, 3)) * 5,
    np.linspace(0.1, 2.0, planes), np.float32(0.01), cost,
)
total = np.empty_like(cost)
aggregate(cost, image, 0.02, 0.2, 0.1, total)
print(hashlib.sha256(cost.tobytes() + total.tobytes()).hexdigest())
"""


def kernels() -> Iterator[Dispatcher]:
    for package in (gs_decoder, streamer, ttt_core):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if module.name.endswith("__main__"):
                continue
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, Dispatcher):
                    yield value


def called(kernel: Dispatcher) -> Iterator[Dispatcher]:
    """The kernels that this one calls by a global name."""
    function = kernel.py_func
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, Dispatcher):
            yield value


def test_fast_math_helpers_of_kernels_are_inlined() -> None:
    helpers = {helper for kernel in kernels() for helper in called(kernel)}
    fast = {helper for helper in helpers if helper.targetoptions.get("fastmath")}
    assert len(fast) >= 8, "the search finds the matching's helpers"
    loose = {h.py_func.__qualname__ for h in fast if not h.targetoptions.get("forceinline")}
    assert not loose, f"give them forceinline=True: {loose}"


@pytest.mark.timeout(300)
def test_the_matching_is_the_same_compiled_and_loaded(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", MATCH],
            capture_output=True, text=True, check=True, env=environment, timeout=240,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert list(tmp_path.rglob("*.nbc")), "the second process had something to load"
    assert outputs[0] == outputs[1]
