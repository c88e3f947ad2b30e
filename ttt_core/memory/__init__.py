"""Memories keyed by place: constant state, written and read at 3-D points."""

from ttt_core.memory.features import FourierFeatures
from ttt_core.memory.grid import SurfaceGrid, SurfacePoints
from ttt_core.memory.grid_torch import Recalled
from ttt_core.memory.interface import PlaceMemory, SignedSamples
from ttt_core.memory.ridge import RidgeMemory
from ttt_core.memory.state import MemoryState
from ttt_core.memory.swiglu import SwiGluMemory

__all__ = [
    "FourierFeatures",
    "MemoryState",
    "PlaceMemory",
    "Recalled",
    "RidgeMemory",
    "SignedSamples",
    "SurfaceGrid",
    "SurfacePoints",
    "SwiGluMemory",
]
