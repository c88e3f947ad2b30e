"""The reconstructor: tokens, blocks, fast weights, streaming state, and the model that streams."""

from ttt_core.checkpoints import load_parameters
from ttt_core.config import ReconstructorConfig
from ttt_core.default_model import compact_model, default_model
from ttt_core.errors import (
    CheckpointError,
    ConfigError,
    ImageError,
    IntrinsicsError,
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
from ttt_core.streaming import StreamingConfig, StreamingModel
from ttt_core.streaming_state import (
    StreamingState,
    load_streaming_state,
    save_streaming_state,
)
from ttt_core.submap import SubmapFrame
from ttt_core.views import Prediction, ViewBatch

__all__ = [
    "CheckpointError",
    "ConfigError",
    "FastWeights",
    "ImageError",
    "IntrinsicsError",
    "LayerState",
    "NormalizedPoses",
    "PatchSizeError",
    "PoseError",
    "Prediction",
    "Reconstruction",
    "Reconstructor",
    "ReconstructorConfig",
    "ReconstructorState",
    "ScanError",
    "ShapeError",
    "StateMismatchError",
    "StreamingConfig",
    "StreamingModel",
    "StreamingState",
    "SubmapFrame",
    "ViewBatch",
    "ViewIndexError",
    "compact_model",
    "default_model",
    "load_parameters",
    "load_state",
    "load_streaming_state",
    "normalize_poses",
    "save_state",
    "save_streaming_state",
]
