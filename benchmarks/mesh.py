"""How near a mesh comes to what a depth sensor saw, and how much of it is there.

    python benchmarks/mesh.py MAP CAPTURE [--frames 0:150] [--hold-out 8] [--voxel V]
                              [--long-side 240] [--out RESULT.json] [--pictures SHEET.png]

MAP is the map.ply of `splatstream run CAPTURE --frames 0:150` without --depth: made from pictures
alone, held-out frames not among them. It is meshed as `splatstream mesh MAP` does it, from its own
cameras.json. The mesh is then drawn from every held-out frame and its depth compared with the
sensor's, |depth/sensor - 1|, over the pixels where the sensor measured (above 0.2 m).
"Complete" is the share of those where the mesh is; "within 5 %" the share where it is and right.
The same for the splats' own expected depth and for their median depth (where it shows a surface),
without a mesh. Times are not measured.
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
from streamer.sources import load_frame, open_capture
from streamer.sources.capture import parse_range

_NEAREST_M = 0.2
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
    long_side: int = 240
    out: Path | None = None
    pictures: Path | None = None


def judge(depths: list[np.ndarray], frames: list[Frame]) -> dict[str, float]:
    """Errors of depth images (0 = none) against the frames' sensor."""
    errors, measured = [], 0
    for depth, frame in zip(depths, frames, strict=True):
        assert frame.depth is not None
        valid = frame.depth > _NEAREST_M
        both = valid & (depth > 0)
        measured += int(valid.sum())
        errors.append(np.abs(depth[both] / frame.depth[both] - 1.0))
    error = np.concatenate(errors)
    return {
        "complete": round(len(error) / measured, 4),
        "median_error": round(float(np.median(error)), 4),
        "mean_error": round(float(error.mean()), 4),
        "within_5_percent": round(float((error < 0.05).sum()) / measured, 4),
    }


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
    capture = open_capture(options.capture).select(*parse_range(options.frames))
    _, kept = capture.hold_out(options.hold_out)
    frames = [
        load_frame(capture, frame, seq=frame.index, long_side=options.long_side, with_depth=True)
        for frame in kept
    ]
    world = open_map(str(options.map))
    fusion = mesh_map(world, config=MeshConfig(voxel=options.voxel))
    drawn = []
    for frame in frames:
        assert frame.c2w is not None
        height, width = frame.image.shape[:2]
        drawn.append(draw_mesh(fusion.mesh, frame.c2w, frame.K, width, height))
    expected, median = splat_depths(world, frames)
    report = options.map.parent / "report.json"
    made = json.loads(report.read_text()) if report.is_file() else {}
    result: dict[str, Any] = {
        "capture": capture.name,
        "frames": options.frames,
        "held_out_frames": len(frames),
        "splats": world.splats.count,
        "refinement_steps": made.get("refinement_steps"),
        "held_out_psnr_gain": made.get("held_out_psnr_gain"),
        "voxel": round(fusion.voxel, 4),
        "views_fused": fusion.views,
        "triangles": len(fusion.mesh.faces),
        "mesh": judge([depth for depth, _ in drawn], frames),
        "splats_median_depth": judge(median, frames),
        "splats_expected_depth": judge(expected, frames),
        "hardware": hardware(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    if options.pictures is not None:
        sheet(options.pictures, frames, drawn)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
