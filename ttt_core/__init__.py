"""The reconstructor: tokens, blocks, fast weights, streaming state."""

from ttt_core.checkpoints import load_checkpoint
from ttt_core.config import ReconstructorConfig
from ttt_core.errors import (
    CheckpointError,
    ConfigError,
    PatchSizeError,
    PoseError,
    ScanError,
    ShapeError,
    StateMismatchError,
    ViewIndexError,
)
from ttt_core.poses import NormalizedPoses, normalize_poses
from ttt_core.reconstructor import Reconstruction, Reconstructor
from ttt_core.state import (
    FastWeights,
    LayerState,
    ReconstructorState,
    load_state,
    save_state,
)

__all__ = [
    "CheckpointError",
    "ConfigError",
    "FastWeights",
    "LayerState",
    "NormalizedPoses",
    "PatchSizeError",
    "PoseError",
    "Reconstruction",
    "Reconstructor",
    "ReconstructorConfig",
    "ReconstructorState",
    "ScanError",
    "ShapeError",
    "StateMismatchError",
    "ViewIndexError",
    "load_checkpoint",
    "load_state",
    "normalize_poses",
    "save_state",
]
