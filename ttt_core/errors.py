"""Errors that a caller can act on: each message names the field, its value and a remedy."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration field has a value that no model can be built from."""


class ShapeError(ValueError):
    """A tensor has a shape or dtype that the call cannot use."""


class PatchSizeError(ShapeError):
    """The image sides are not whole multiples of the patch size."""


class ScanError(ValueError):
    """The views cannot be scanned as asked: unknown scan, or chunks that do not divide them."""


class ViewIndexError(ValueError):
    """`virtual_views` does not index the input views."""


class PoseError(ValueError):
    """Camera poses that define no frame (wrong shape, not finite, too far, cancelling axes)."""


class ImageError(ValueError):
    """An image with values that are no colours."""


class IntrinsicsError(ValueError):
    """Focal lengths or a principal point that no pinhole camera has."""


class StateMismatchError(ValueError):
    """A carried state does not belong to this model or batch size."""


class CheckpointError(ValueError):
    """A checkpoint does not cover the model's parameters exactly."""


class SequenceError(ValueError):
    """A training sequence that cannot be built, read or written."""


class SequenceCacheError(ValueError):
    """A folder of training sequences that was made by another specification, or is no such one."""


class SequenceWorkerError(RuntimeError):
    """A process that makes training sequences has failed or died."""


class RunStateError(ValueError):
    """The saved state of a training run is damaged or belongs to another run."""


class TrainingError(ValueError):
    """Training cannot go on as configured."""


class UnknownCheckpointError(CheckpointError):
    """A file that holds no checkpoint that this program knows."""


class PictureCheckpointError(CheckpointError):
    """A checkpoint whose model renders pictures: it emits no splats, so nothing can be served."""


class TrainingStateError(CheckpointError):
    """The state of a training run whose model part cannot be used as it is."""
