"""How near a mesh comes to what a depth sensor saw, and how much of it is there.

    splatstream eval CAPTURE --frames 0:150 --steps 3000 --only learned --out EVAL
    python benchmarks/mesh.py EVAL/maps/CAPTURE/learned/map.ply CAPTURE [--frames 0:150]
                              [--hold-out 8] [--every 4] [--voxel V] [--close-holes N]
                              [--long-side 240] [--out RESULT.json] [--pictures SHEET.png]

The map is made from pictures alone, held-out frames not among them; with fixed steps it is the same
to the bit whatever else the machine does (any other map.ply with its cameras.json will do as well).
It is meshed as `splatstream mesh` does it and drawn from the held-out frames and every fourth of
the others, and its depth compared with the sensor's along the same rays, over the pixels where the
sensor measured (above 0.2 m). Shares of those pixels, for the held-out frames and for all:

    hole      no mesh at all along the ray
    in_front  mesh more than 10 % nearer than the sensor: a surface in free space
    behind    mesh more than 10 % farther: what was seen is missing, or lies too far
    within_5_percent

`median_error` and `mean_error` are |depth/sensor - 1| where the mesh is; `enclosed` is the share of
all pixels without mesh that the mesh surrounds: holes in the sense of the eye. The same figures for
the splats' own expected depth and for their median depth (where it shows a surface), without a
mesh: what the map got wrong no mesh of it can have right. Times are not measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tyro

from gs_decoder import render_view
from gs_decoder.mesh import MeshCamera, MeshConfig, SurfaceRenderer, ViewConfig, draw_mesh
from streamer.frames import Frame
from streamer.hardware import hardware
from streamer.map_source import OpenMap, open_map
from streamer.meshing import mesh_map
from streamer.session.threads import use_all_cores
from streamer.sources import load_frame, open_capture
from streamer.sources.capture import parse_range

_NEAREST_M = 0.2
_ASIDE = 0.1
_SHOWN = 6


@dataclass(kw_only=True)
class Options:
    map: tyro.conf.Positional[Path]
    """The map, from pictures alone."""
    capture: tyro.conf.Positional[Path]
    """The capture with its sensor's depth."""
    frames: str = "0:150"
    hold_out: int = 8
    voxel: float | None = None
    close_holes: int = MeshConfig().close_holes
    least_weight: float = MeshConfig().least_weight
    every: int = 4
    """Of the frames that the map was made from every so many-th is looked from too."""
    long_side: int = 240
    out: Path | None = None
    pictures: Path | None = None


def judge(depths: list[np.ndarray], frames: list[Frame]) -> dict[str, float]:
    """Shares and errors of depth images (0 = none) against the frames' sensor."""
    ratios, measured, enclosed, pixels = [], 0, 0, 0
    for depth, frame in zip(depths, frames, strict=True):
        assert frame.depth is not None
        valid = frame.depth > _NEAREST_M
        both = valid & (depth > 0)
        measured += int(valid.sum())
        ratios.append(depth[both] / frame.depth[both])
        enclosed += _enclosed(depth == 0)
        pixels += depth.size
    ratio = np.concatenate(ratios)
    error = np.abs(ratio - 1.0)
    return {
        "hole": round(1.0 - len(error) / measured, 4),
        "in_front": round(float((ratio < 1.0 - _ASIDE).sum()) / measured, 4),
        "behind": round(float((ratio > 1.0 + _ASIDE).sum()) / measured, 4),
        "within_5_percent": round(float((error < 0.05).sum()) / measured, 4),
        "median_error": round(float(np.median(error)), 4),
        "mean_error": round(float(error.mean()), 4),
        "enclosed": round(enclosed / pixels, 4),
    }


def _enclosed(empty: np.ndarray) -> int:
    """Pixels of the empty regions that do not touch the picture's rim."""
    _, regions = cv2.connectedComponents(empty.astype(np.uint8), connectivity=4)
    rim = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    return int((empty & ~np.isin(regions, rim)).sum())


def splat_depths(world: OpenMap, frames: list[Frame]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Expected depth where alpha is at least a half, and median depth where there is a surface."""
    surfaces = SurfaceRenderer(world.splats, world.origin, ViewConfig())
    expected, median = [], []
    for frame in frames:
        assert frame.c2w is not None
        height, width = frame.image.shape[:2]
        render = render_view(world.splats, frame.c2w, frame.K, width, height, origin=world.origin)
        alpha = render.alpha.numpy()
        expected.append(np.where(alpha >= 0.5, render.depth.numpy(), 0.0))
        median.append(surfaces.view(MeshCamera(frame.c2w, frame.K, width, height)).depth)
    return expected, median


def sheet(path: Path, frames: list[Frame], drawn: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Picture, mesh, sensor's depth and mesh's depth of a few frames, a column each."""
    columns = []
    for i in np.linspace(0, len(frames) - 1, _SHOWN).astype(int):
        frame, (depth, rgb) = frames[i], drawn[i]
        assert frame.depth is not None
        far = float(np.percentile(frame.depth[frame.depth > _NEAREST_M], 98.0))
        rows = [frame.image, rgb]
        for image in (frame.depth, depth):
            scaled = np.clip(255.0 * image / far, 0, 255).astype(np.uint8)
            colours = cv2.applyColorMap(255 - scaled, cv2.COLORMAP_TURBO)[..., ::-1]
            rows.append(np.where(image[..., None] > 0, colours, np.uint8(0)))
        columns.append(np.vstack(rows))
    cv2.imwrite(str(path), np.hstack(columns)[..., ::-1])


def main(options: Options) -> None:
    use_all_cores()
    capture = open_capture(options.capture).select(*parse_range(options.frames))
    given, kept = capture.hold_out(options.hold_out)
    frames = [
        load_frame(capture, frame, seq=frame.index, long_side=options.long_side, with_depth=True)
        for frame in (*kept, *given[:: options.every])
    ]
    world = open_map(str(options.map))
    config = MeshConfig(
        voxel=options.voxel, close_holes=options.close_holes, least_weight=options.least_weight
    )
    fusion = mesh_map(world, config=config)
    drawn = []
    for frame in frames:
        assert frame.c2w is not None
        height, width = frame.image.shape[:2]
        drawn.append(draw_mesh(fusion.mesh, frame.c2w, frame.K, width, height))
    expected, median = splat_depths(world, frames)

    def both(depths: list[np.ndarray]) -> dict[str, dict[str, float]]:
        held = slice(len(kept))
        return {"held_out": judge(depths[held], frames[held]), "all": judge(depths, frames)}

    result: dict[str, Any] = {
        "capture": capture.name,
        "frames": options.frames,
        "held_out_frames": len(kept),
        "all_frames": len(frames),
        "splats": world.splats.count,
        "voxel": round(fusion.voxel, 4),
        "views_fused": fusion.views,
        "close_holes": config.close_holes,
        "least_weight": config.least_weight,
        "triangles": len(fusion.mesh.faces),
        "mesh": both([depth for depth, _ in drawn]),
        "splats_median_depth": both(median),
        "splats_expected_depth": both(expected),
        "hardware": hardware(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    if options.pictures is not None:
        sheet(options.pictures, frames[: len(kept)], drawn[: len(kept)])


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
