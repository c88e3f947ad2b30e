"""Held-out views against a map: how well it shows what it was never given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gs_decoder import Splats, SurfaceRenderer, SurfaceView, psnr, render_view, ssim
from gs_decoder.refine import offset_motion
from streamer.exposure import estimate_log_gain
from streamer.frames import Frame

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_THERE = 0.5
"""Rendered alpha from which on a pixel of the map has a depth."""
_MOST_DB = 100.0
"""PSNR of a view that is right to the last bit, as a black one is before black: means and JSON have
no room for infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewScore:
    """One held-out view. PSNR in dB and SSIM over valid pixels; `*_gain` after an exposure gain
    that was interpolated from the view's neighbours in time, never fitted to the view itself.
    `*_poses`, where refinement moved cameras: at the pose that follows the neighbours' offsets,
    interpolated likewise.

    Where the view has sensor depth: `depth_error`, the median of |depth / sensor - 1| over the
    pixels that both know, the map's being that of the surface which a pixel shows
    (`SurfaceRenderer`), and `depth_filled`, their share of those that the sensor knows.
    """

    seq: int
    psnr: float
    ssim: float
    psnr_gain: float
    ssim_gain: float
    psnr_poses: float | None = None
    psnr_gain_poses: float | None = None
    ssim_gain_poses: float | None = None
    depth_error: float | None = None
    depth_filled: float | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of all held-out views, and their renders (H, W, 3) in 0..1 at the poses given: as the
    map has them, and with the gain of the neighbours."""

    views: list[ViewScore]
    renders: list[Float32]
    exposed: list[Float32]

    def mean(self, name: str) -> float | None:
        """The mean of a field of `ViewScore` over the views that have it; None without any."""
        values = [value for view in self.views if (value := getattr(view, name)) is not None]
        return float(np.mean(values)) if values else None


@dataclass(frozen=True, slots=True)
class WorldSplats:
    """Splats in world axes, means relative to `origin` (3,) float64."""

    splats: Splats
    origin: Float64

    def render(
        self, frame: Frame, background: Float32, backend: str = "auto"
    ) -> tuple[Float32, Float32, Float32]:
        """rgb (H, W, 3), z-depth, alpha (H, W) at a frame's camera."""
        assert frame.c2w is not None, "held-out frames come from captures, which have poses"
        height, width = frame.image.shape[:2]
        render = render_view(
            self.splats,
            frame.c2w,
            frame.K,
            width,
            height,
            origin=self.origin,
            background=background,
            backend=backend,
        )
        return render.rgb.numpy(), render.depth.numpy(), render.alpha.numpy()

    def surface(self, frame: Frame) -> SurfaceView:
        """What a frame's camera sees of the map's surfaces, by the CPU's kernels."""
        assert frame.c2w is not None, "held-out frames come from captures, which have poses"
        height, width = frame.image.shape[:2]
        return SurfaceRenderer(self.splats, self.origin).render(frame.c2w, frame.K, width, height)


def score(
    world: WorldSplats,
    held_out: Sequence[Frame],
    neighbours: Sequence[Frame],
    background: Float32,
    *,
    offsets: Mapping[int, Float64] | None = None,
    backend: str = "auto",
) -> Scores:
    """Render every held-out frame and compare.

    Args:
        held_out: each with an 11x11 window of valid pixels at least (`HeldOut` has no others).
        neighbours: frames that were given to the map; of each camera the ones before and after a
            held-out frame (by stamp) lend it their exposure and their offset.
        offsets: seq → (6,) of given frames whose cameras refinement moved (`PoseOffsets`).
        backend: of `rasterize`.
    """
    scores = _score(world, held_out, neighbours, background, backend)
    if not offsets:
        return scores
    near = _InTime(neighbours)

    def offset_of(frame: Frame) -> Float64:
        return offsets.get(frame.seq, np.zeros(6))

    following = [_moved(frame, near.between(frame, offset_of, np.zeros(6))) for frame in held_out]
    moved = [_moved(frame, offset_of(frame)) for frame in neighbours]
    views = [
        replace(
            view,
            psnr_poses=follows.psnr,
            psnr_gain_poses=follows.psnr_gain,
            ssim_gain_poses=follows.ssim_gain,
        )
        for view, follows in zip(
            scores.views, _score(world, following, moved, background, backend).views, strict=True
        )
    ]
    return replace(scores, views=views)


def _moved(frame: Frame, offset: Float64) -> Frame:
    assert frame.c2w is not None, "held-out frames come from captures, which have poses"
    return replace(frame, c2w=frame.c2w @ offset_motion(offset))


def _score(
    world: WorldSplats,
    held_out: Sequence[Frame],
    neighbours: Sequence[Frame],
    background: Float32,
    backend: str,
) -> Scores:
    """`score` at the poses that the frames have."""
    exposures = _Exposures(world, neighbours, background, backend)
    views, renders, exposures_applied = [], [], []
    for frame in held_out:
        rgb, _, _ = world.render(frame, background, backend)
        rgb = np.clip(rgb, 0.0, 1.0)
        gain = np.exp(exposures.log_gain_at(frame))
        exposed = np.clip(rgb * gain, 0.0, 1.0).astype(np.float32)
        truth = frame.image.astype(np.float32) / np.float32(255.0)
        depth_error, depth_filled = _compare_depth(world, frame)
        views.append(
            ViewScore(
                seq=frame.seq,
                psnr=min(psnr(rgb, truth, valid=frame.valid), _MOST_DB),
                ssim=ssim(rgb, truth, valid=frame.valid),
                psnr_gain=min(psnr(exposed, truth, valid=frame.valid), _MOST_DB),
                ssim_gain=ssim(exposed, truth, valid=frame.valid),
                depth_error=depth_error,
                depth_filled=depth_filled,
            )
        )
        renders.append(rgb)
        exposures_applied.append(exposed)
    return Scores(views, renders, exposures_applied)


class _InTime:
    """Given frames, and what they lend to one of the same camera between two of them."""

    def __init__(self, given: Sequence[Frame]) -> None:
        self._of_camera: dict[str, list[Frame]] = {}
        for frame in sorted(given, key=lambda frame: frame.stamp_ns):
            self._of_camera.setdefault(frame.camera, []).append(frame)

    def between(
        self, frame: Frame, value_of: Callable[[Frame], NDArray[Any]], nothing: NDArray[Any]
    ) -> NDArray[Any]:
        """The values of its camera's frames before and after, interpolated by time; `nothing`
        where there are none."""
        given = self._of_camera.get(frame.camera, [])
        if not given:
            return nothing
        stamps = np.array([other.stamp_ns for other in given], np.int64)
        after = int(np.searchsorted(stamps, frame.stamp_ns))
        first, second = max(0, after - 1), min(len(given) - 1, after)
        span = max(1, int(stamps[second] - stamps[first]))
        weight = float(np.clip((frame.stamp_ns - stamps[first]) / span, 0.0, 1.0))
        value = (1.0 - weight) * value_of(given[first]) + weight * value_of(given[second])
        return value.astype(nothing.dtype)


class _Exposures:
    """Log gains of the given frames against the map, each estimated when it is asked for."""

    def __init__(
        self, world: WorldSplats, given: Sequence[Frame], background: Float32, backend: str
    ) -> None:
        self._world = world
        self._background = background
        self._backend = backend
        self._near = _InTime(given)
        self._gains: dict[int, Float32] = {}

    def log_gain_at(self, frame: Frame) -> Float32:
        """(3,) at the time of `frame`, between its camera's frames before and after."""
        return self._near.between(frame, self._of, np.zeros(3, np.float32))

    def _of(self, frame: Frame) -> Float32:
        if frame.seq not in self._gains:
            image = frame.image.astype(np.float32) / np.float32(255.0)
            rendered = self._world.render(frame, self._background, self._backend)
            gain = estimate_log_gain(image, rendered, frame.valid)
            self._gains[frame.seq] = np.zeros(3, np.float32) if gain is None else gain
        return self._gains[frame.seq]


def _compare_depth(world: WorldSplats, frame: Frame) -> tuple[float | None, float | None]:
    """Error and filled share of a view; None without a sensor, or where both know no pixel."""
    if frame.depth is None:
        return None, None
    known = np.isfinite(frame.depth) & (frame.depth > 0.0)
    if frame.valid is not None:
        known &= frame.valid
    if not known.any():
        return None, None
    seen = world.surface(frame)
    both = known & (seen.alpha > _THERE)
    filled = float(both.sum() / known.sum())
    if not both.any():
        return None, filled
    return float(np.median(np.abs(seen.depth[both] / frame.depth[both] - 1.0))), filled
