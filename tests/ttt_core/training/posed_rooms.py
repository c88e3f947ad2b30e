"""Posed sequences of the textured room, and a picklable source of them for worker processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from textured_room import view_batch

from ttt_core.training.build import StreamSpec
from ttt_core.training.pose_noise import PoseNoise
from ttt_core.training.samples import PosedSequence

HEIGHT, WIDTH = 46, 62
QUIET = PoseNoise(share=0.0)
SMALL = StreamSpec(batches=3, views_per_batch=2, noise=QUIET)


def room(views: int, *, first: int = 0, height: int = HEIGHT, width: int = WIDTH) -> PosedSequence:
    """Views `first` and on of the walk; no sky, all depth known."""
    batch, depth = view_batch(range(first, first + views), height=height, width=width)
    return PosedSequence(
        image=(batch.image * 255).round().to(torch.uint8),
        fxfycxcy=batch.fxfycxcy,
        c2w=batch.c2w,
        depth=depth,
    )


@dataclass(frozen=True)
class RoomSource:
    """Sequence n begins n views further on; the numbers in `broken` raise."""

    views: int = 6
    broken: tuple[int, ...] = field(default=())

    def __call__(self, index: int) -> PosedSequence:
        if index in self.broken:
            raise ZeroDivisionError(f"no room {index}")
        return room(self.views, first=index)

    def identity(self) -> Mapping[str, Any]:
        return {"rooms": self.views}
