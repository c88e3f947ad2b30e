"""Photometric refinement of a splat map between batches."""

from gs_decoder.refine.config import RefineConfig
from gs_decoder.refine.evidence import EvidenceConfig, doubt_splats
from gs_decoder.refine.parameters import SplatParameters
from gs_decoder.refine.poses import PoseOffsets, offset_motion
from gs_decoder.refine.refiner import Refiner
from gs_decoder.refine.resting import (
    Rows,
    forget_chunks,
    put_back,
    resting_rows,
    resting_splats,
    splats_by_chunk,
)
from gs_decoder.refine.saved import RefinerState, refiner_state, restore_refiner
from gs_decoder.refine.views import RefineView

__all__ = [
    "EvidenceConfig",
    "PoseOffsets",
    "RefineConfig",
    "RefineView",
    "Refiner",
    "RefinerState",
    "Rows",
    "SplatParameters",
    "doubt_splats",
    "forget_chunks",
    "offset_motion",
    "put_back",
    "refiner_state",
    "resting_rows",
    "resting_splats",
    "restore_refiner",
    "splats_by_chunk",
]
