"""Photometric refinement of a splat map between batches."""

from gs_decoder.refine.parameters import SplatParameters
from gs_decoder.refine.refiner import RefineConfig, Refiner, RefineView
from gs_decoder.refine.saved import RefinerState, refiner_state, restore_refiner

__all__ = [
    "RefineConfig",
    "RefineView",
    "Refiner",
    "RefinerState",
    "SplatParameters",
    "refiner_state",
    "restore_refiner",
]
