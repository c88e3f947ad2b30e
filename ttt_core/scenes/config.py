"""What a procedural sequence is made from and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ttt_core.errors import ConfigError

Split = Literal["train", "validation", "kept_out"]
Kind = Literal["room", "objects", "outdoor", "aerial"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SHARES = (0.4, 0.2, 0.2, 0.2)  # of the kinds, where none is asked for
SPLITS: tuple[Split, ...] = get_args(Split)

KEPT_OUT_TEXTURE = "voronoi"  # a family that train and validation never see
KEPT_OUT_CAMERA = "sidestep"  # a camera mode that train and validation never see


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneConfig:
    """Size of a sequence and what a camera does to its pictures."""

    height: int = 96
    width: int = 144
    views: int = 32
    kind: Kind | None = None
    """All sequences of one kind; None draws them by `SHARES`."""
    step: float = 1.0
    """Factor on the length of the steps and the turns between views."""
    step_spread: float = 1.0
    """Every sequence's own factor lies between `step` and `step` times this, evenly in its
    logarithm: streams of different pace in one set."""
    textures: int = 12
    """Textures made for each scene."""
    texture_size: int = 256
    """Texels along one side of a texture, a power of two."""
    smooth_edges: bool = True
    """Silhouettes are sampled four times a pixel, everything else once."""
    exposure: bool = True
    """Automatic exposure with lag, white balance drift and vignetting; else one fixed gain."""
    noise: bool = True
    jpeg: bool = True
    blur: bool = True

    def __post_init__(self) -> None:
        """Raises `ConfigError` for sizes that nothing can be rendered at."""
        for name in ("height", "width", "views", "textures"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: give at least 1")
        size = self.texture_size
        if size < 16 or size & (size - 1):
            raise ConfigError(f"texture_size is {size}: give a power of two from 16 up")
        if not 0 < self.step < 100:
            raise ConfigError(f"step is {self.step}: give a factor above 0 and below 100")
        if not 1 <= self.step_spread < 100:
            raise ConfigError(f"step_spread is {self.step_spread}: give 1 to 100")
        if self.kind is not None and self.kind not in KINDS:
            raise ConfigError(f"kind is {self.kind!r}: give one of {', '.join(KINDS)} or None")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneSequence:
    """A rendered stream with its exact geometry. OpenCV cameras, metres, world z up."""

    seed: int
    kind: Kind
    trajectory: str
    """Camera mode."""
    textures: tuple[str, ...]
    """Families of the scene's textures."""
    image: torch.Tensor
    """(V, 3, H, W) uint8 RGB."""
    depth: torch.Tensor
    """(V, H, W) float32 z-depth in metres; 0 is sky, infinitely far."""
    fxfycxcy: torch.Tensor
    """(V, 4) float32, pixels; the centre of the first pixel is (0.5, 0.5)."""
    c2w: torch.Tensor
    """(V, 4, 4) float64 camera to world, exact."""
