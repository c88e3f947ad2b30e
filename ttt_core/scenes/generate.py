"""A whole sequence from a seed: scene, trajectory, rays, photographs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttt_core.errors import ConfigError
from ttt_core.scenes.atlas import Atlas
from ttt_core.scenes.cast import ListFan, PictureFan, nearest
from ttt_core.scenes.config import KINDS, SHARES, SPLITS, SceneConfig, SceneSequence, Split
from ttt_core.scenes.layouts import LAYOUTS, Layout
from ttt_core.scenes.photograph import photograph
from ttt_core.scenes.shading import Shader
from ttt_core.scenes.solids import SurfaceTable
from ttt_core.scenes.textures import make_textures
from ttt_core.scenes.trajectories import Trajectory, draw_mode, make_trajectory
from ttt_core.scenes.types import Array

_DEFAULT = SceneConfig()
_GPU_VIEWS = 8  # views that a GPU casts at once
_TRIES = 3
_SAMPLES = ((-0.125, -0.375), (0.375, -0.125), (-0.375, 0.125), (0.125, 0.375))


@torch.no_grad()
def make_sequence(
    seed: int,
    split: Split = "train",
    config: SceneConfig = _DEFAULT,
    device: str | torch.device = "cpu",
) -> SceneSequence:
    """Renders the sequence `seed` of a split, the same each time on one device.

    Seeds of different splits give different scenes. `kept_out` moves by `KEPT_OUT_CAMERA` through
    scenes half of whose textures are of `KEPT_OUT_TEXTURE`; the other splits have neither.

    Returns:
        The sequence, its tensors on the CPU.

    Raises:
        ConfigError: a negative seed or an unknown split.
    """
    if split not in SPLITS:
        raise ConfigError(f"split is {split!r}: give one of {', '.join(SPLITS)}")
    if seed < 0:
        raise ConfigError(f"seed is {seed}: give 0 or more")
    threads = torch.get_num_threads()
    try:
        # The tensors are too small to share: several threads take longer, most of all on a
        # machine with other work.
        torch.set_num_threads(1)
        return _make(seed, split, config, torch.device(device))
    finally:
        torch.set_num_threads(threads)


def _make(seed: int, split: Split, config: SceneConfig, where: torch.device) -> SceneSequence:
    kept_out = split == "kept_out"
    streams = np.random.SeedSequence([SPLITS.index(split), seed]).spawn(5)
    draw, build, paint, move, shoot = (np.random.default_rng(stream) for stream in streams)
    kind = config.kind or KINDS[int(draw.choice(len(KINDS), p=SHARES))]
    if config.step_spread > 1:
        pace = config.step_spread ** draw.uniform()
        config = replace(config, step=config.step * pace, step_spread=1.0)
    layout = LAYOUTS[kind](build, config.textures)
    fxfycxcy = _intrinsics(draw, config)
    trajectory = _best_trajectory(move, layout, config, fxfycxcy, kept_out)
    textures, families = make_textures(
        paint, config.textures, config.texture_size, kept_out=kept_out
    )
    table = SurfaceTable(layout.world)
    shader = Shader(layout.world, table, Atlas(textures, where), where)
    radiance, depth = _render(table, shader, trajectory.c2w, fxfycxcy, config, where)
    image = photograph(shoot, radiance, depth, trajectory.c2w, fxfycxcy, config)
    return SceneSequence(
        seed=seed,
        kind=kind,
        trajectory=trajectory.mode,
        textures=families,
        image=torch.from_numpy(image).permute(0, 3, 1, 2).contiguous(),
        depth=torch.from_numpy(depth),
        fxfycxcy=torch.from_numpy(fxfycxcy.astype(np.float32)),
        c2w=torch.from_numpy(trajectory.c2w),
    )


def _intrinsics(rng: np.random.Generator, config: SceneConfig) -> Array:
    """(V, 4) float64 values that float32 holds exactly, so that the rays are those it says."""
    fov = np.deg2rad(rng.uniform(50, 90))
    fx = 0.5 * config.width / np.tan(0.5 * fov)
    fy = fx * (1 + rng.normal(0, 0.004))
    middle = np.array([config.width, config.height]) * (0.5 + rng.normal(0, 0.01, 2))
    one = np.array([fx, fy, *middle]).astype(np.float32).astype(np.float64)
    return np.tile(one, (config.views, 1))


def _best_trajectory(
    rng: np.random.Generator,
    layout: Layout,
    config: SceneConfig,
    fxfycxcy: Array,
    kept_out: bool,
) -> Trajectory:
    """The best of a few by what a tiny picture of each sees; solids in its way are taken out."""
    mode = draw_mode(rng, layout.kind, kept_out=kept_out)
    solids = layout.world.solids
    best: tuple[float, Trajectory, list[int]] | None = None
    for _ in range(_TRIES):
        trajectory = make_trajectory(rng, layout, config, mode)
        layout.world.solids = solids
        table = SurfaceTable(layout.world)
        near = table.clearance(trajectory.c2w[:, :3, 3]).min(0) < layout.clearance
        near |= table.clearance(layout.world.lamp[None])[0] < 0.05
        keep = np.flatnonzero(~near).tolist()
        layout.world.solids = [solids[i] for i in keep]
        score = _score(SurfaceTable(layout.world), trajectory.c2w, fxfycxcy, config)
        score -= 2.0 * float(near.mean())
        if best is None or score > best[0]:
            best = (score, trajectory, keep)
    assert best is not None
    layout.world.solids = [solids[i] for i in best[2]]
    return best[1]


def _score(table: SurfaceTable, c2w: Array, fxfycxcy: Array, config: SceneConfig) -> float:
    """Entropy of the surfaces in sight, less what is too near or nothing but sky."""
    size = (9, 12)
    chosen = np.unique(np.linspace(0, len(c2w) - 1, 5).astype(int))
    scale = np.array([12 / config.width, 9 / config.height] * 2)
    fan = PictureFan(table, c2w[chosen], fxfycxcy[chosen] * scale, size, torch.device("cpu"))
    t, row = nearest(fan, table)
    t, row = t.reshape(-1, 108), row.reshape(-1, 108)
    total = 0.0
    for index in range(len(t)):
        share = torch.bincount(row[index]).double() / 108
        share = share[share > 0]
        total += float(-(share * share.log()).sum())
        total -= 1.5 * float((t[index] < 0.4).double().mean())
        total -= 2.0 * max(float((row[index] == table.sky).double().mean()) - 0.4, 0.0)
    return total / len(t)


def _views_at_once(device: torch.device) -> int:
    """A CPU goes fastest where a view's temporaries stay in its cache."""
    return 1 if device.type == "cpu" else _GPU_VIEWS


def _render(
    table: SurfaceTable,
    shader: Shader,
    c2w: Array,
    fxfycxcy: Array,
    config: SceneConfig,
    device: torch.device,
) -> tuple[Array, Array]:
    """Radiance (V, H, W, 3) and z-depth (V, H, W) float32, 0 for sky."""
    size = (config.height, config.width)
    radiance = np.empty((len(c2w), *size, 3), np.float32)
    depth = np.empty((len(c2w), *size), np.float32)
    step = _views_at_once(device)
    for first in range(0, len(c2w), step):
        some = slice(first, first + step)
        fan = PictureFan(table, c2w[some], fxfycxcy[some], size, device)
        t, row = nearest(fan, table)
        views = 1 if t.ndim == 2 else len(t)
        start, along = fan.world()
        origin = tuple(_flat(o, t) if isinstance(o, Tensor) else o for o in start)
        direction = tuple(_flat(d, t) for d in along)
        pixel = 1.0 / float(fxfycxcy[0, 0])
        colour = shader(row.reshape(-1), t.reshape(-1), origin, direction, pixel)
        if config.smooth_edges:
            edge = _edges(row.reshape(views, *size)).reshape(-1).nonzero()[:, 0]
            if len(edge):
                fine = _supersample(table, shader, fan, edge, origin, direction, pixel)
                colour[:, edge] = fine
        colour = colour.reshape(3, views, *size).permute(1, 2, 3, 0)
        radiance[some] = colour.cpu().numpy()
        seen = t.masked_fill(row == table.sky, 0.0).reshape(views, *size)
        depth[some] = seen.cpu().numpy()
    return radiance, depth


def _flat(value: Tensor, like: Tensor) -> Tensor:
    return value.expand(like.shape).reshape(-1)


def _edges(row: Tensor) -> Tensor:
    """Pixels of (V, H, W) whose right, lower, left or upper neighbour shows another surface."""
    out = torch.zeros_like(row, dtype=torch.bool)
    across = row[:, :, 1:] != row[:, :, :-1]
    down = row[:, 1:] != row[:, :-1]
    out[:, :, 1:] |= across
    out[:, :, :-1] |= across
    out[:, 1:] |= down
    out[:, :-1] |= down
    return out


def _supersample(
    table: SurfaceTable,
    shader: Shader,
    fan: PictureFan,
    edge: Tensor,
    origin: tuple[Any, ...],
    direction: tuple[Tensor, ...],
    pixel: float,
) -> Tensor:
    """Colours (3, N) of the pixels `edge` from four rays each."""
    across, down = ([_take(s, fan.shape, edge) for s in steps] for steps in fan.steps())
    middle = [d[edge] for d in direction]
    directions = torch.cat(
        [
            torch.stack([m + sx * a + sy * b for m, a, b in zip(middle, across, down)])
            for sx, sy in _SAMPLES
        ],
        1,
    )
    start: Array | Tensor
    if isinstance(origin[0], Tensor):
        start = torch.stack([o[edge].repeat(len(_SAMPLES)) for o in origin])
    else:
        start = np.array(origin)
    rows = {row for row in range(table.solids) if fan.window(row) is not None}
    t, row = nearest(ListFan(table, start, directions, rows), table)
    colour = shader(row, t, tuple(start), tuple(directions), 0.5 * pixel)
    return colour.reshape(3, len(_SAMPLES), -1).mean(1)


def _take(value: Any, shape: tuple[int, ...], edge: Tensor) -> Any:
    return value.expand(shape).reshape(-1)[edge] if isinstance(value, Tensor) else value
