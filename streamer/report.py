"""The files that `run` and `demo` leave beside a map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamer.frames import Frame
from streamer.scoring import Scores

_SHEET_VIEWS = 8


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
        "held_out_psnr_poses": scores.mean("psnr_poses"),
        "held_out_psnr_gain_poses": scores.mean("psnr_gain_poses"),
        "held_out_ssim_gain_poses": scores.mean("ssim_gain_poses"),
        "held_out_views": [asdict(view) for view in scores.views],
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
