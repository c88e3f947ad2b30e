"""Splats: what comes out of the reconstructor, the map they form, and files of them."""

from importlib import import_module
from typing import TYPE_CHECKING

from gs_decoder.background import BackgroundMode, estimate_background
from gs_decoder.chunk import Chunk, ChunkMeta, importance, importance_order
from gs_decoder.decode import decode_splats, most_opaque
from gs_decoder.from_depth import FootprintConfig, splats_from_depth
from gs_decoder.map import MapConfig, SplatMap, UnknownChunk
from gs_decoder.metrics import psnr, ssim
from gs_decoder.mirror import MapMirror
from gs_decoder.normals import depth_normals
from gs_decoder.ply import (
    PlyContent,
    decode_ply,
    encode_ply,
    offset_path,
    read_ply,
    write_ply,
)
from gs_decoder.ply_header import InvalidPly
from gs_decoder.rotations import (
    InvalidSimilarity,
    Similarity,
    inverse_similarity,
    split_similarity,
)
from gs_decoder.sh import evaluate_sh, rgb_from_sh, rotate_sh, sh_basis, sh_from_rgb
from gs_decoder.splats import InvalidSplats, Splats
from gs_decoder.updates import ChunkUpdate, DropUpdate, Have, MoveUpdate, ResetUpdate, Update
from gs_decoder.world import to_world, world_origin

if TYPE_CHECKING:
    from gs_decoder.raster import (
        NumbaRasterizer,
        RasterBackendError,
        RasterError,
        Render,
        rasterize,
    )
    from gs_decoder.surface import SurfaceRenderer, SurfaceView
    from gs_decoder.view import local_viewmat, render_view

# numba takes a second to import: whoever only mirrors a map should not wait for it.
_LAZY = {
    **dict.fromkeys(
        ("NumbaRasterizer", "RasterBackendError", "RasterError", "Render", "rasterize"),
        "gs_decoder.raster",
    ),
    **dict.fromkeys(("SurfaceRenderer", "SurfaceView"), "gs_decoder.surface"),
    **dict.fromkeys(("local_viewmat", "render_view"), "gs_decoder.view"),
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


__all__ = [
    "BackgroundMode",
    "FootprintConfig",
    "InvalidPly",
    "NumbaRasterizer",
    "PlyContent",
    "RasterBackendError",
    "RasterError",
    "Render",
    "decode_ply",
    "decode_splats",
    "depth_normals",
    "encode_ply",
    "estimate_background",
    "most_opaque",
    "offset_path",
    "psnr",
    "rasterize",
    "local_viewmat",
    "read_ply",
    "render_view",
    "splats_from_depth",
    "ssim",
    "write_ply",
    "Chunk",
    "ChunkMeta",
    "ChunkUpdate",
    "DropUpdate",
    "Have",
    "InvalidSimilarity",
    "InvalidSplats",
    "MapConfig",
    "MapMirror",
    "MoveUpdate",
    "ResetUpdate",
    "Similarity",
    "SplatMap",
    "Splats",
    "SurfaceRenderer",
    "SurfaceView",
    "UnknownChunk",
    "Update",
    "evaluate_sh",
    "importance",
    "importance_order",
    "inverse_similarity",
    "rgb_from_sh",
    "rotate_sh",
    "sh_basis",
    "sh_from_rgb",
    "split_similarity",
    "to_world",
    "world_origin",
]
