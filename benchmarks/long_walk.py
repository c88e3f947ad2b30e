"""What the memory still holds of a long walk, asked by pose alone.

    python benchmarks/long_walk.py views [--scenes 12] [--batches 65] [--weights FILE] [--json FILE]
    python benchmarks/long_walk.py recall [--json FILE]

`views` streams generated scenes through the packaged checkpoint. After the last batch it asks the
memory, without a picture, for the views of 1, 4, 16 and 64 batches ago; and before every batch for
the views that are about to come, which were never seen. Depth and colour of 8x8-pixel tokens are
compared with the truth, beside the same from explicit points: all that was predicted so far,
splatted into the view (storage grows). `recall` needs no scenes: it writes random fields and says
how well (cosine) they are read back after further batches, for several sizes of the memory.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from streamer.hardware import hardware
from ttt_core import StreamingModel, default_model
from ttt_core.memory import PlaceMemory, RidgeMemory, SwiGluMemory
from ttt_core.network import PATCH, CompactNetwork
from ttt_core.network.inputs import patch_centres, pixel_rays
from ttt_core.scenes import SceneConfig, make_sequence
from ttt_core.training.build import StreamSpec, build_sequence
from ttt_core.training.collate import StreamStep, collate
from ttt_core.training.loss import IMAGINED_LOG_RANGE, token_depth

AGES = (1, 4, 16, 64)
_CONFIDENT = 0.5


@dataclass(kw_only=True)
class Views:
    """Views without a picture, from the memory and from points."""

    scenes: int = 12
    batches: int = 65
    views_per_batch: int = 3
    height: int = 96
    width: int = 128
    first_seed: int = 5000
    weights: Path | None = None
    json: Path | None = None


@dataclass(kw_only=True)
class Recall:
    """Random fields, written and read back."""

    repeats: int = 4
    points: int = 800
    """Written at a time."""
    json: Path | None = None


class Points:
    """Everything predicted so far, as coloured points in the sub-map's frame."""

    def __init__(self) -> None:
        self.places: list[Tensor] = []
        self.colors: list[Tensor] = []

    def add(self, step: StreamStep, log_depth: Tensor, confidence: Tensor) -> None:
        """The confident pixels of a batch, every second in both directions."""
        views = step.views
        height, width = log_depth.shape[-2:]
        centres = patch_centres(height, width, 1, log_depth).view(height, width, 2)[1::2, 1::2]
        centres = centres.flatten(0, 1).expand(*views.fxfycxcy.shape[:2], -1, -1)
        origins, directions = pixel_rays(views.fxfycxcy, views.c2w, centres)
        depth = log_depth[..., 1::2, 1::2].flatten(2)[..., None].exp()
        sure = confidence[..., 1::2, 1::2].flatten(2) > _CONFIDENT
        self.places.append((origins + directions * depth)[sure])
        self.colors.append(views.image[..., 1::2, 1::2].flatten(3).mT[sure])

    def seen(self, step: StreamStep) -> tuple[Tensor, Tensor]:
        """Depth (V, N) of tokens, NaN where points fill less than half, and colours (V, N, 3).

        A z-buffer of pixels, every point two pixels wide as they are that far apart; then the
        median of each token, as in the truth that it is compared with.
        """
        places, colors = torch.cat(self.places), torch.cat(self.colors)
        height, width = step.known.shape[-2:]
        depths, shown = [], []
        for c2w, camera in zip(step.views.c2w[0], step.views.fxfycxcy[0]):
            local = (places - c2w[:3, 3]) @ c2w[:3, :3]
            z = local[:, 2]
            corner = local[:, :2] / z.clamp_min(1e-3)[:, None] * camera[:2] + camera[2:] - 0.5
            buffer = torch.full((height * width,), math.inf)
            picture = torch.zeros(height * width, 3)
            # far ones first, so that what is nearer is written over it
            order = z.argsort(descending=True)
            order = order[z[order] > 0.02]
            for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
                x, y = corner[order].floor().long().unbind(-1)
                x, y = x + dx, y + dy
                inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
                index, points = (y * width + x)[inside], order[inside]
                nearer = z[points] < buffer[index]
                index, points = index[nearer], points[nearer]
                buffer[index], picture[index] = z[points], colors[points]
            filled = buffer.isfinite().view(1, 1, height, width)
            log_depth = buffer.log().view(1, 1, height, width)
            depth, enough = token_depth(torch.where(filled, log_depth, 0.0), filled, PATCH)
            depths.append(torch.where(enough, depth.exp(), torch.nan)[0, 0])
            painted = (picture.view(height, width, 3) * filled[0, 0, ..., None]).movedim(-1, 0)
            share = F.avg_pool2d(filled[0].float(), PATCH)
            tone = F.avg_pool2d(painted, PATCH) / share.clamp_min(1e-6)
            shown.append(tone.flatten(1).mT)
        return torch.stack(depths), torch.stack(shown)


@torch.no_grad()
def views(options: Views) -> dict[str, Any]:
    model = default_model(options.weights or "packaged")
    if (
        not isinstance(model, StreamingModel)
        or not model.trained
        or not asked_by_pose(model.network)
    ):
        raise SystemExit("there is no trained checkpoint whose memory can be asked by pose")
    rows: dict[str, dict[str, list[Tensor]]] = {}
    for number in range(options.scenes):
        _walk(model.network, options, options.first_seed + number, rows)
        print(f"{number + 1} of {options.scenes} scenes", flush=True)
    result: dict[str, Any] = {
        "scenes": options.scenes,
        "batches": options.batches,
        "state_bytes": model.network.initial_state().nbytes,
    }
    for name, columns in rows.items():
        result[name] = _summary({key: torch.cat(parts) for key, parts in columns.items()})
        print(name, json.dumps(result[name]))
    return result


def asked_by_pose(network: CompactNetwork) -> bool:
    """Whether the memory can be asked about views without a picture."""
    return network.memory is not None or network.surfaces is not None


def _walk(
    network: CompactNetwork, options: Views, seed: int, rows: dict[str, dict[str, list[Tensor]]]
) -> None:
    count = options.batches * options.views_per_batch
    config = SceneConfig(height=options.height, width=options.width, views=count)
    scene = make_sequence(seed, "validation", config)
    spec = StreamSpec(batches=options.batches, views_per_batch=options.views_per_batch, alone=False)
    steps = collate([build_sequence(scene, spec, seed=seed)], np.random.default_rng(0))
    memory, points = network.initial_state(1), Points()
    for number, step in enumerate(steps):
        if number in (1, 4, 16, 64):
            _compare(network, memory, points, step, rows, f"never seen, before batch {number + 1}")
        output, memory = network(step.views, memory, write=True)
        points.add(step, output.log_depth, output.confidence)
    for age in AGES:
        if age < len(steps):
            step = steps[len(steps) - 1 - age]
            _compare(network, memory, points, step, rows, f"seen {age} batches ago")


def _compare(
    network: CompactNetwork,
    memory: Any,
    points: Points,
    step: StreamStep,
    rows: dict[str, dict[str, list[Tensor]]],
    name: str,
) -> None:
    views = step.views
    height, width = step.known.shape[-2:]
    log_range = views.log_range.new_tensor(IMAGINED_LOG_RANGE).expand_as(views.log_range)
    imagined = network.imagine(memory, views.fxfycxcy, views.c2w, height, width, log_range)
    splatted, splatted_color = points.seen(step)
    truth, known = (t[0] for t in token_depth(step.true_log_depth, step.known, PATCH))
    color = F.avg_pool2d(views.image[0], PATCH).flatten(2).mT
    found = {
        "memory": (imagined.log_depth[0] - truth).exp().sub(1).abs(),
        "points": (splatted.log() - truth).exp().sub(1).abs(),
        "memory_color": (imagined.color[0] - color).square().mean(-1),
        "points_color": (splatted_color - color).square().mean(-1),
    }
    columns = rows.setdefault(name, {})
    for key, values in found.items():
        columns.setdefault(key, []).append(values[known])


def _summary(columns: dict[str, Tensor]) -> dict[str, float]:
    """All tokens, and those that points fill."""
    filled = columns["points"].isfinite()
    row = {"filled_by_points": float(filled.float().mean())}
    for name in ("memory", "points"):
        error, color = columns[name], columns[f"{name}_color"]
        if name == "memory":
            row["memory_median"] = float(error.median())
            row["memory_color_db"] = float(-10 * color.mean().log10())
        row[f"{name}_median_where_filled"] = float(error[filled].median())
        row[f"{name}_mean_where_filled"] = float(error[filled].mean())
        row[f"{name}_color_db_where_filled"] = float(-10 * color[filled].mean().log10())
    return row


@torch.no_grad()
def recall(options: Recall) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "ridge, 128 features": lambda: RidgeMemory(128, 32),
        "ridge, 256 features (ships)": lambda: RidgeMemory(256, 32),
        "ridge, 512 features": lambda: RidgeMemory(512, 32),
        "SwiGLU 64 x 2, Muon": lambda: SwiGluMemory(),
    }
    ages = (0, 1, 4, 16, 63)
    result: dict[str, Any] = {}
    for name, build in sizes.items():
        rows = []
        for seed in range(options.repeats):
            torch.manual_seed(seed)
            rows.append(_recalled(build(), options.points, ages))
        memory = build()
        result[name] = {
            "state_floats": sum(t.numel() for t in memory.initial_state(1).tensors.values()),
            "cosine_by_age": {str(a): float(np.mean([r[a] for r in rows])) for a in ages},
        }
        print(f"{name:30s}", result[name])
    return result


def _recalled(memory: PlaceMemory, points: int, ages: tuple[int, ...]) -> dict[int, float]:
    """A smooth random field in a room five units wide, a part a batch, read back where written."""
    width = memory.value_width
    field = torch.randn(3, 64) * 2.0
    mix = torch.randn(64, width)

    def values(places: Tensor) -> Tensor:
        return F.normalize(torch.sin(places @ field) @ mix, dim=-1)

    state = memory.initial_state(1)
    batches = []
    for number in range(max(ages) + 1):
        # a sunflower: every batch writes elsewhere in the room
        angle, radius = 2.4 * number, 2 * math.sqrt(number / max(ages))
        centre = torch.tensor([radius * math.cos(angle), radius * math.sin(angle), 0.0])
        places = centre + torch.rand(1, points, 3) * torch.tensor([1.2, 1.2, 1.0]) - 0.5
        batches.append(places)
        weights = torch.ones(1, points, memory.weight_channels)
        state = memory.write(state, places, values(places), weights)
    found = {}
    for age in ages:
        places = batches[len(batches) - 1 - age]
        answer, _ = memory.read(state, places)
        found[age] = float(F.cosine_similarity(answer, values(places), dim=-1).mean())
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return {k: _rounded(v) for k, v in value.items()} if isinstance(value, dict) else value


def main(options: Views | Recall) -> None:
    torch.set_num_threads(1)
    found = views(options) if isinstance(options, Views) else recall(options)
    if options.json is not None:
        found = {"hardware": hardware(), **found}
        options.json.write_text(json.dumps(_rounded(found), indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.extras.subcommand_cli_from_dict({"views": Views, "recall": Recall}))
