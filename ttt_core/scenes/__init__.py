"""Procedural scenes with exact depth and poses to train on, rendered by ray casting in torch."""

from ttt_core.scenes.config import (
    KEPT_OUT_CAMERA,
    KEPT_OUT_TEXTURE,
    KINDS,
    SPLITS,
    Kind,
    SceneConfig,
    SceneSequence,
    Split,
)
from ttt_core.scenes.generate import make_sequence
from ttt_core.scenes.sheet import contact_sheet

__all__ = [
    "KEPT_OUT_CAMERA",
    "KEPT_OUT_TEXTURE",
    "KINDS",
    "SPLITS",
    "Kind",
    "SceneConfig",
    "SceneSequence",
    "Split",
    "contact_sheet",
    "make_sequence",
]
