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
    """Camera poses that define no frame (wrong shape, not finite, cancelling axes)."""


class StateMismatchError(ValueError):
    """A carried state does not belong to this model or batch size."""


class CheckpointError(ValueError):
    """A checkpoint does not cover the model's parameters exactly."""
