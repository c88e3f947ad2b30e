"""The live page of a splatstream daemon: a subscriber like any other, which runs Viser."""

from viewer.app import App
from viewer.config import ViewerConfig

__all__ = ["App", "ViewerConfig"]
