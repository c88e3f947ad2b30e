"""Photometric refinement of a splat map between batches."""

from gs_decoder.refine.parameters import SplatParameters
from gs_decoder.refine.refiner import RefineConfig, Refiner, RefineView

__all__ = ["RefineConfig", "RefineView", "Refiner", "SplatParameters"]
