"""Scores of a finished map against held-out views, and the files that `run` and `demo` leave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gs_decoder import Splats, psnr, rasterize, ssim
from streamer.exposure import estimate_log_gain
from streamer.frames import Frame

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_SHEET_VIEWS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewScore:
    """One held-out view. PSNR in dB over valid pixels; `*_gain` after an exposure gain that was
    interpolated from the view's neighbours in time, never fitted to the view itself."""

    seq: int
    psnr: float
    ssim: float
    psnr_gain: float
    ssim_gain: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of all held-out views, and the renders (H, W, 3) they belong to."""

    views: list[ViewScore]
    renders: list[Float32]

    def mean(self, name: str) -> float | None:
        """The mean of a field of `ViewScore`; None without views."""
        values = [getattr(view, name) for view in self.views]
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
        local = frame.c2w.copy()
        local[:3, 3] -= self.origin
        height, width = frame.image.shape[:2]
        splats = self.splats
        with torch.no_grad():
            render = rasterize(
                splats.means,
                splats.quats_wxyz,
                splats.scales,
                splats.opacities,
                splats.sh,
                torch.from_numpy(np.linalg.inv(local)).float(),
                torch.from_numpy(frame.K).float(),
                width,
                height,
                sh_degree=splats.sh_degree,
                background=torch.from_numpy(background),
                backend=backend,
            )
        return render.rgb.numpy(), render.depth.numpy(), render.alpha.numpy()


def score(
    world: WorldSplats,
    held_out: Sequence[Frame],
    neighbours: Sequence[Frame],
    background: Float32,
) -> Scores:
    """Render every held-out frame and compare.

    Args:
        neighbours: frames that were given to the map; the ones before and after a held-out frame
            (by stamp) lend it their exposure.
    """
    given = sorted(neighbours, key=lambda frame: frame.stamp_ns)
    stamps = np.array([frame.stamp_ns for frame in given], np.int64)
    gains: dict[int, Float32] = {}

    def gain_of(place: int) -> Float32:
        if place not in gains:
            frame = given[place]
            image = frame.image.astype(np.float32) / 255.0
            gain = estimate_log_gain(image, world.render(frame, background), frame.valid)
            gains[place] = np.zeros(3, np.float32) if gain is None else gain
        return gains[place]

    views, renders = [], []
    for frame in held_out:
        rgb = np.clip(world.render(frame, background)[0], 0.0, 1.0)
        log_gain = np.zeros(3, np.float32)
        if given:
            after = int(np.searchsorted(stamps, frame.stamp_ns))
            first, second = max(0, after - 1), min(len(given) - 1, after)
            span = max(1, int(stamps[second] - stamps[first]))
            weight = float(np.clip((frame.stamp_ns - stamps[first]) / span, 0.0, 1.0))
            log_gain = (1.0 - weight) * gain_of(first) + weight * gain_of(second)
        exposed = np.clip(rgb * np.exp(log_gain), 0.0, 1.0).astype(np.float32)
        plain, gained = _compare(rgb, frame), _compare(exposed, frame)
        views.append(
            ViewScore(
                seq=frame.seq,
                psnr=plain[0],
                ssim=plain[1],
                psnr_gain=gained[0],
                ssim_gain=gained[1],
            )
        )
        renders.append(rgb)
    return Scores(views, renders)


def _compare(rgb: Float32, frame: Frame) -> tuple[float, float]:
    truth = frame.image.astype(np.float32) / 255.0
    if frame.valid is not None:
        # Pixels outside the undistorted image are nobody's error.
        share = max(float(frame.valid.mean()), 1e-6)
        rgb = np.where(frame.valid[..., None], rgb, truth)
        return float(psnr(rgb, truth)) + 10.0 * float(np.log10(share)), float(ssim(rgb, truth))
    return float(psnr(rgb, truth)), float(ssim(rgb, truth))


def contact_sheet(path: Path, held_out: Sequence[Frame], scores: Scores) -> None:
    """A PNG of up to eight held-out views, evenly chosen: truth above, rendered below."""
    if not held_out:
        return
    picked = np.linspace(0, len(held_out) - 1, min(_SHEET_VIEWS, len(held_out))).astype(int)
    columns = []
    for place in picked:
        truth = held_out[place].image
        render = (scores.renders[place] * 255.0 + 0.5).astype(np.uint8)
        columns.append(np.vstack([truth, np.full((4, truth.shape[1], 3), 255, np.uint8), render]))
    height = max(column.shape[0] for column in columns)
    columns = [
        cv2.copyMakeBorder(
            column, 0, height - column.shape[0], 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255)
        )
        for column in columns
    ]
    cv2.imwrite(str(path), np.hstack(columns)[..., ::-1])


def write_report(path: Path, figures: dict[str, Any], scores: Scores) -> None:
    """`report.json`: the figures given, the mean scores and the single views."""
    report = {
        **figures,
        "held_out_psnr": scores.mean("psnr"),
        "held_out_ssim": scores.mean("ssim"),
        "held_out_psnr_gain": scores.mean("psnr_gain"),
        "held_out_ssim_gain": scores.mean("ssim_gain"),
        "held_out_views": [asdict(view) for view in scores.views],
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
