"""The live page of a splatstream daemon: a subscriber like any other, which runs Viser."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from viewer.config import ViewerConfig

if TYPE_CHECKING:
    from viewer.app import App

__all__ = ["App", "ViewerConfig"]


def __getattr__(name: str) -> object:
    # `python -m viewer` reads its arguments before it loads torch and viser.
    if name != "App":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("viewer.app").App
