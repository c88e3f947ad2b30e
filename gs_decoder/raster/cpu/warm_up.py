"""Compile every kernel before the first frame."""

import numpy as np

from gs_decoder.raster.cpu.rasterizer import NumbaRasterizer


def warm_up() -> None:
    """Compile all kernels, or load them from the cache (about 10 s the first time, then 0.2 s).

    Two renders of one splat in front of the camera, forward and backward, with plain colours
    and with harmonics; every kernel has a single signature.
    """
    splats = (
        np.array([[0.0, 0.0, 1.0]], np.float32),
        np.array([[1.0, 0.0, 0.0, 0.0]], np.float32),
        np.full((1, 3), 0.1, np.float32),
        np.full(1, 0.5, np.float32),
    )
    view = np.eye(4, dtype=np.float32)
    K = np.array([[4.0, 0.0, 2.0], [0.0, 4.0, 2.0], [0.0, 0.0, 1.0]], np.float32)
    rasterizer = NumbaRasterizer(threads=1)
    d_rgb = np.ones((4, 4, 3), np.float32)
    ways: tuple[tuple[np.ndarray, int | None], ...] = (
        (np.ones((1, 3), np.float32), None),
        (np.ones((1, 1, 3), np.float32), 0),
    )
    for colors, degree in ways:
        result = rasterizer.forward(*splats, colors, view, K, 4, 4, sh_degree=degree)
        rasterizer.backward(result, d_rgb)
