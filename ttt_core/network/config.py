"""Sizes of the compact network."""

from __future__ import annotations

from dataclasses import dataclass

from ttt_core.config import ReconstructorConfig
from ttt_core.errors import ConfigError
from ttt_core.matching import CELL

PATCH = 2 * CELL
"""Side of a token in pixels."""

MEMORIES = ("ridge", "swiglu", "grid", "tokens", "anchored", "none")
"""Forms of the carried memory: two fast-weight volumes, read along the ray (ridge regression, and
the paper's SwiGLU with Muon steps), a grid of surfaces, read along the ray too, the paper's
token-level fast weights, others whose keys are anchored in 3D, and nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Sizes of `CompactNetwork`.

    Raises:
        ConfigError: a value out of range.
    """

    memory: str = "ridge"
    """One of `MEMORIES`."""
    width: int = 64
    """Channels of a token."""
    cell_width: int = 48
    """Channels of a 4x4-pixel cell."""
    pixel_width: int = 24
    """Hidden channels of a pixel."""
    layers: int = 2
    """Blocks of attention inside a view (and fast weights, for "tokens") and MLP."""
    attention_head_dim: int = 32
    planes: int = 32
    """Depth planes of a token, log-spaced over the view's depth range."""
    ray_samples: int = 16
    """Planes at which the memory is read; divides `planes`."""
    ray_width: int = 16
    """Channels of the decoder along the ray."""
    features: int = 256
    """Fourier features of the ridge memory: 256 hold a room."""
    value_width: int = 32
    """Channels of what the ridge memory holds at a place."""
    grid_slots: int = 1 << 17
    """Corners that a surface grid holds, a power of two; 36 bytes each."""
    grid_samples: int = 64
    """Samples at which a surface grid is asked along a ray; a multiple of `planes`."""
    depth_residual_limit: float = 0.5
    """Largest correction of log depth beside the blend with the tokens' depth."""
    unsure_below: float = 0.4
    sure_above: float = 0.7
    """Prior confidences between which the correction of depth fades: what was matched well has
    detail that cells of 4x4 pixels cannot add to."""

    def __post_init__(self) -> None:
        if self.memory not in MEMORIES:
            raise ConfigError(f"memory is {self.memory!r}: give one of {', '.join(MEMORIES)}")
        sizes = ("width", "cell_width", "pixel_width", "layers", "planes", "ray_samples")
        for name in (*sizes, "ray_width", "value_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: give at least 1")
        if self.planes % self.ray_samples or self.planes < 8:
            raise ConfigError(
                f"planes is {self.planes}: give a multiple of ray_samples ({self.ray_samples}), "
                "at least 8"
            )
        if self.features % 4 or self.features < 4:
            raise ConfigError(f"features is {self.features}: give a multiple of 4")
        if self.grid_slots < 1 or self.grid_slots & (self.grid_slots - 1):
            raise ConfigError(f"grid_slots is {self.grid_slots}: give a power of two, e.g. 131072")
        if self.memory == "grid" and (self.grid_samples < 1 or self.grid_samples % self.planes):
            raise ConfigError(
                f"grid_samples is {self.grid_samples}: give a multiple of planes ({self.planes})"
            )
        if not self.depth_residual_limit > 0:
            raise ConfigError(
                f"depth_residual_limit is {self.depth_residual_limit}: give a number > 0"
            )
        if not 0 <= self.unsure_below < self.sure_above <= 1:
            raise ConfigError(
                f"unsure_below is {self.unsure_below}, sure_above is {self.sure_above}: give "
                "0 <= unsure_below < sure_above <= 1"
            )
        self.blocks()

    def blocks(self) -> ReconstructorConfig:
        """Configuration of the blocks; they are the reconstructor's."""
        return ReconstructorConfig(
            width=self.width,
            layers=self.layers,
            patch_size=PATCH,
            attention_head_dim=self.attention_head_dim,
            fast_weight_head_dim=self.attention_head_dim,
        )
