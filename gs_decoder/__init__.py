"""Splats: what comes out of the reconstructor, the map they form, and files of them."""

from gs_decoder.chunk import Chunk, ChunkMeta, importance, importance_order
from gs_decoder.map import MapConfig, SplatMap, UnknownChunk
from gs_decoder.mirror import MapMirror
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

__all__ = [
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
