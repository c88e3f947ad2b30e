"""How near a mesh comes to what a depth sensor saw, and how much of it is there.

    splatstream eval CAPTURE --frames 0:150 --steps 800 --only learned --out EVAL
    python benchmarks/mesh.py EVAL/maps/CAPTURE/learned/map.ply CAPTURE [--frames 0:150]
                              [--hold-out 8] [--every 4] [--voxel V] [--variants NAME...]
                              [--long-side 240] [--out RESULT.json] [--pictures FOLDER]

The map is made from pictures alone, held-out frames not among them; with fixed steps it is the same
to the bit whatever else the machine does (any other map.ply with its cameras.json will do as well).
It is meshed as `splatstream mesh` does it, and with parts of that left out, and drawn from the
held-out frames and every fourth of the others; its depth is compared with the sensor's along the
same rays, over the pixels where the sensor measured (above 0.2 m). Shares of those pixels, for the
held-out frames and for all:

    hole      no mesh at all along the ray
    in_front  mesh more than 10 % nearer than the sensor: a surface in free space
    behind    mesh more than 10 % farther: what was seen is missing, or lies too far
    within_5_percent

`median_error` and `mean_error` are |depth/sensor - 1| where the mesh is; `enclosed` is the share of
all pixels without mesh that the mesh surrounds: holes in the sense of the eye. `planar` is the
share of the measured pixels about which (11x11) a plane fits the sensor's depth to 1 %: walls,
floors, tables; `planar_hole` and `planar_within_5_percent` are shares of those. The same figures
for the splats' own expected depth and for their surfaces' depth, without a mesh. CPU seconds are
of meshing alone.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tyro

from gs_decoder import SurfaceRenderer, render_view
from gs_decoder.mesh import MeshConfig, ViewConfig, draw_mesh
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
_WINDOW = 11
_FLAT = 0.01
VARIANTS = {
    "as it is": MeshConfig(),
    "depth as rendered": MeshConfig(views=ViewConfig(completion=None)),
    "holes stay": MeshConfig(close_holes=0),
    "neither": MeshConfig(close_holes=0, views=ViewConfig(completion=None)),
}


@dataclass(kw_only=True)
class Options:
    map: tyro.conf.Positional[Path]
    """The map, from pictures alone."""
    capture: tyro.conf.Positional[Path]
    """The capture with its sensor's depth."""
    frames: str = "0:150"
    hold_out: int = 8
    voxel: float | None = None
    variants: tuple[str, ...] = ("as it is", "depth as rendered")
    every: int = 4
    """Of the frames that the map was made from every so many-th is looked from too."""
    long_side: int = 240
    out: Path | None = None
    pictures: Path | None = None
    """Folder for a sheet of each variant."""


def planar(depth: np.ndarray) -> np.ndarray:
    """(H, W) pixels about which a plane fits the measured depth (0 = none)."""
    known = (depth > _NEAREST_M).astype(np.float64)
    inverse = known / np.where(depth > _NEAREST_M, depth, 1.0)
    rows, columns = np.indices(depth.shape)
    # On a plane inverse depth is linear in the pixels.
    terms = [known, known * (columns - depth.shape[1] / 2), known * (rows - depth.shape[0] / 2)]
    base = [np.ones_like(known), terms[1], terms[2]]

    def mean(image: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.blur(image, (_WINDOW, _WINDOW), borderType=cv2.BORDER_CONSTANT))

    matrix = np.stack([np.stack([mean(t * o) for o in base], -1) for t in terms], -2)
    right = np.stack([mean(inverse * o) for o in base], -1)
    enough = (known > 0) & (matrix[..., 0, 0] > 0.8)
    plane = np.zeros_like(right)
    plane[enough] = np.linalg.solve(matrix[enough], right[enough][..., None])[..., 0]
    off = mean(inverse**2) - (plane * right).sum(-1)
    fits = off <= _FLAT**2 * matrix[..., 0, 0] * np.square(inverse)
    return np.asarray(enough & fits)


def judge(
    depths: list[np.ndarray], frames: list[Frame], flat: list[np.ndarray]
) -> dict[str, float]:
    """Shares and errors of depth images (0 = none) against the frames' sensor.

    Args:
        flat: `planar` of every frame.
    """
    ratios, measured, enclosed, pixels = [], 0, 0, 0
    walls = []
    for depth, frame, plain in zip(depths, frames, flat, strict=True):
        assert frame.depth is not None
        valid = frame.depth > _NEAREST_M
        both = valid & (depth > 0)
        measured += int(valid.sum())
        ratios.append(depth[both] / frame.depth[both])
        walls.append(depth[plain] / frame.depth[plain])
        enclosed += _enclosed(depth == 0)
        pixels += depth.size
    ratio, wall = np.concatenate(ratios), np.concatenate(walls)
    error = np.abs(ratio - 1.0)
    return {
        "hole": round(1.0 - len(error) / measured, 4),
        "planar": round(len(wall) / measured, 4),
        "planar_hole": round(float((wall == 0).mean()), 4),
        "planar_within_5_percent": round(float((np.abs(wall - 1.0) < 0.05).mean()), 4),
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
    """Expected depth and that of surfaces, both where alpha is at least a half."""
    surfaces = SurfaceRenderer(world.splats, world.origin)
    expected, surface = [], []
    for frame in frames:
        assert frame.c2w is not None
        height, width = frame.image.shape[:2]
        render = render_view(world.splats, frame.c2w, frame.K, width, height, origin=world.origin)
        expected.append(np.where(render.alpha.numpy() >= 0.5, render.depth.numpy(), 0.0))
        seen = surfaces.render(frame.c2w, frame.K, width, height)
        surface.append(np.where(seen.alpha >= 0.5, seen.depth, 0.0))
    return expected, surface


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
    flat = [planar(np.asarray(frame.depth)) for frame in frames]
    world = open_map(str(options.map))

    def both(depths: list[np.ndarray]) -> dict[str, dict[str, float]]:
        held = slice(len(kept))
        return {
            "held_out": judge(depths[held], frames[held], flat[held]),
            "all": judge(depths, frames, flat),
        }

    expected, surface = splat_depths(world, frames)
    result: dict[str, Any] = {
        "capture": capture.name,
        "frames": options.frames,
        "held_out_frames": len(kept),
        "all_frames": len(frames),
        "splats": world.splats.count,
        "hardware": hardware(),
        "splats_surface_depth": both(surface),
        "splats_expected_depth": both(expected),
        "meshes": {},
    }
    for name in options.variants:
        began = time.process_time()
        fusion = mesh_map(world, config=replace(VARIANTS[name], voxel=options.voxel))
        cpu_seconds = time.process_time() - began
        drawn = []
        for frame in frames:
            assert frame.c2w is not None
            height, width = frame.image.shape[:2]
            drawn.append(draw_mesh(fusion.mesh, frame.c2w, frame.K, width, height))
        result["meshes"][name] = {
            "voxel": round(fusion.voxel, 4),
            "views_fused": fusion.views,
            "triangles": len(fusion.mesh.faces),
            "cpu_seconds": round(cpu_seconds, 1),
            **both([depth for depth, _ in drawn]),
        }
        print(name, json.dumps(result["meshes"][name], indent=1), flush=True)
        if options.pictures is not None:
            options.pictures.mkdir(parents=True, exist_ok=True)
            path = options.pictures / f"{name.replace(' ', '_')}.png"
            sheet(path, frames[: len(kept)], drawn[: len(kept)])
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
