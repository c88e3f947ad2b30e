"""A map that grows from a real capture: device poses, sensor depth, images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from gs_decoder import ChunkMeta, MapConfig, SplatMap, rasterize, splats_from_depth
from streamer.sources import open_capture

WIDTH, HEIGHT = 48, 32
MAP_BUDGET = 6_000


@dataclass(frozen=True)
class View:
    """A key frame of the capture at the map's working size."""

    seq: int
    c2w: np.ndarray
    K: np.ndarray
    rgb: np.ndarray
    """(HEIGHT, WIDTH, 3) uint8."""
    depth: np.ndarray
    """(HEIGHT, WIDTH) float32 metres, 0 where there is none."""

    def jpeg(self) -> bytes:
        ok, data = cv2.imencode(".jpg", self.rgb[..., ::-1])
        assert ok
        return data.tobytes()


def views(capture: Path, step: int = 12) -> Iterator[View]:
    """Every `step`-th frame."""
    opened = open_capture(capture)
    for frame in list(opened.frames)[::step]:
        camera = opened.cameras[frame.camera]
        bgr = cv2.imread(str(frame.image_path))
        depth = cv2.imread(str(frame.depth_path), cv2.IMREAD_UNCHANGED)
        size = (WIDTH, HEIGHT)
        scale = WIDTH / bgr.shape[1]
        fx, fy, cx, cy = camera.params[:4]
        yield View(
            seq=frame.index,
            c2w=np.asarray(frame.c2w),
            K=np.array([[fx * scale, 0, cx * scale], [0, fy * scale, cy * scale], [0, 0, 1.0]]),
            rgb=cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)[..., ::-1].copy(),
            depth=cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST).astype(np.float32)
            * frame.depth_unit_m,
        )


def new_map() -> SplatMap:
    return SplatMap(MapConfig(chunk_budget=WIDTH * HEIGHT, map_budget=MAP_BUDGET))


def add_view(into: SplatMap, view: View) -> int:
    """One chunk: a splat on every pixel with sensor depth. Returns its id."""
    splats = splats_from_depth(
        torch.from_numpy(view.depth),
        torch.ones(HEIGHT, WIDTH),
        torch.from_numpy(view.rgb).permute(2, 0, 1).float() / 255.0,
        [view.K[0, 0], view.K[1, 1], view.K[0, 2], view.K[1, 2]],
    )
    meta = ChunkMeta(
        frame_seq=view.seq,
        stamp_ns=view.seq * 100_000_000,
        camera="front",
        T_world_chunk=view.c2w,
    )
    return into.add(meta, splats)


def rendered(of: SplatMap, c2w: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8: our own picture of the map through a camera (3, 3) that looks at the middle
    of its picture."""
    width, height = round(2 * K[0, 2]), round(2 * K[1, 2])
    splats = of.splats_world()
    picture = rasterize(
        splats.means, splats.quats_wxyz, splats.scales, splats.opacities, splats.sh,
        torch.from_numpy(np.linalg.inv(c2w)).float(), torch.from_numpy(K).float(),
        width, height, sh_degree=splats.sh_degree,
    )  # fmt: skip
    alpha = picture.alpha.reshape(height, width, 1)
    rgb = (picture.rgb / alpha.clamp_min(1e-6)).clamp(0, 1)
    rgba = np.concatenate([rgb.numpy(), alpha.numpy()], axis=2)
    return np.rint(rgba * 255).astype(np.uint8)
