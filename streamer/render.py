"""Pictures of a map: rendered, and encoded as PNG."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch

from gs_decoder import Chunk, Render, SurfaceRenderer, render_view, to_world, world_origin

COVERED = 0.5
"""Alpha from which a pixel's depth is that of a surface."""
_MILLIMETRE = 0.001
_STEPS = 65535


def render_chunks(
    chunks: Sequence[Chunk],
    c2w: npt.ArrayLike,
    K: npt.ArrayLike,
    width: int,
    height: int,
    *,
    background: npt.ArrayLike | None = None,
    surfaces: bool = False,
) -> Render:
    """The chunks seen from a pinhole camera.

    Args:
        c2w: (4, 4) camera-to-world in the sender's world, OpenCV axes.
        K: (3, 3) intrinsics, pixels, the first pixel's centre at (0.5, 0.5).
        width, height: pixels.
        background: (3,) rgb, 0..1; None: black.
        surfaces: with the depth of the surface that a pixel shows (`SurfaceRenderer`), not with the
            expected one.
    """
    origin = world_origin(chunks)
    splats = to_world(chunks, origin=origin)
    if surfaces:
        seen = SurfaceRenderer(splats, origin).render(c2w, K, width, height, background=background)
        return Render(*map(torch.from_numpy, (seen.rgb, seen.depth, seen.alpha)))
    return render_view(splats, c2w, K, width, height, origin=origin, background=background)


def colour_png(render: Render, *, rgba: bool = False) -> bytes:
    """8-bit PNG of a view; with `rgba` its alpha as a fourth channel, colours not multiplied by it.

    With `rgba` the view must have been rendered on black.
    """
    rgb = render.rgb.cpu().numpy()
    if rgba:
        alpha = render.alpha.cpu().numpy()[..., None]
        rgb = rgb / np.maximum(alpha, 1e-6)
        return _png(np.concatenate([to_bytes(rgb)[..., ::-1], to_bytes(alpha)], -1))
    return _png(to_bytes(rgb)[..., ::-1])


def depth_png(render: Render) -> tuple[bytes, float]:
    """16-bit PNG of a view's z-depth, and the metres a step stands for.

    A step is a millimetre, or more where the farthest depth needs it; 0: the map covers less than
    half of the pixel.
    """
    depth = np.where(render.alpha.cpu().numpy() >= COVERED, render.depth.cpu().numpy(), 0.0)
    unit_m = max(_MILLIMETRE, float(depth.max(initial=0.0)) / _STEPS)
    return _png(np.clip(np.round(depth / unit_m), 0, _STEPS).astype(np.uint16)), unit_m


def to_bytes(values: np.ndarray) -> np.ndarray:
    """0..1 to uint8, clipped."""
    return np.round(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)


def _png(image: np.ndarray) -> bytes:
    ok, png = cv2.imencode(".png", np.ascontiguousarray(image))
    assert ok, "OpenCV encodes every 8 and 16 bit image as PNG"
    return png.tobytes()
