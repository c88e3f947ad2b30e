"""What can be wrong with an evaluation that was asked for."""

from __future__ import annotations


class EvaluationError(ValueError):
    """An evaluation that cannot be done as was asked; the message says what to change."""


class RunFailed(RuntimeError):
    """A run's process ended without a result; the message has its last words."""
