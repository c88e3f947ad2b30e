"""Configuration of the reconstructor."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ttt_core.errors import ConfigError
from ttt_core.fast_weights import UpdateRule

_NEWTON_SCHULZ_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructorConfig:
    """Sizes and rules of a `Reconstructor`. The released model is `width=768, layers=24,
    patch_size=8, attention_head_dim=64, fast_weight_head_dim=768`.

    Raises:
        ConfigError: a value out of range, or head dimensions that do not divide the width.
    """

    width: int
    """Channels of a token."""
    layers: int
    """Number of blocks."""
    patch_size: int
    """Side of the square patch that becomes a token, pixels."""
    attention_head_dim: int
    """Channels of one attention head; divides `width`."""
    fast_weight_head_dim: int
    """Channels of one fast-weight head; divides `width`."""
    fast_weight_expansion: int = 4
    """Hidden units of a fast-weight head, in multiples of its channels."""
    sh_degree: int = 3
    """Degree of the spherical harmonics that the decoder emits, 0..3."""
    newton_schulz_dtype: str = "float32"
    """"float32" is reproducible; "bfloat16" imitates the released model's rounding."""
    qk_norm_eps: float = 1.1920929e-7
    """eps of the attention's q and k norms; 0.0078125 imitates mixed-precision training under
    torch 2.5, which the released weights saw."""
    elastic_lambda: float = 0.0
    """Strength of the elastic pull towards a slow anchor; 0 switches the option off."""
    fisher_alpha: float = 0.5
    """Memory of the elastic option's importance estimate, 0..1."""
    anchor_beta: float = 0.8
    """Memory of the elastic option's anchor, 0..1."""

    def __post_init__(self) -> None:
        sizes = (
            "width",
            "layers",
            "patch_size",
            "attention_head_dim",
            "fast_weight_head_dim",
            "fast_weight_expansion",
        )
        for name in sizes:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} is {value!r}: give a whole number >= 1")
        for name in ("attention_head_dim", "fast_weight_head_dim"):
            if self.width % getattr(self, name):
                raise ConfigError(
                    f"{name} is {getattr(self, name)}, which does not divide width {self.width}: "
                    "choose a divisor"
                )
        if self.sh_degree not in range(4):
            raise ConfigError(f"sh_degree is {self.sh_degree!r}: give 0, 1, 2 or 3")
        if self.newton_schulz_dtype not in _NEWTON_SCHULZ_DTYPES:
            raise ConfigError(
                f"newton_schulz_dtype is {self.newton_schulz_dtype!r}: give one of "
                f"{sorted(_NEWTON_SCHULZ_DTYPES)}"
            )
        if not self.qk_norm_eps >= 0:
            raise ConfigError(f"qk_norm_eps is {self.qk_norm_eps!r}: give a number >= 0")
        if not self.elastic_lambda >= 0:
            raise ConfigError(
                f"elastic_lambda is {self.elastic_lambda!r}: give a number >= 0 (0 is off)"
            )
        for name in ("fisher_alpha", "anchor_beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: give a number in 0..1")

    @property
    def fast_weight_heads(self) -> int:
        return self.width // self.fast_weight_head_dim

    @property
    def fast_weight_hidden(self) -> int:
        """Hidden units of one fast-weight head."""
        return self.fast_weight_head_dim * self.fast_weight_expansion

    @property
    def splat_channels(self) -> int:
        """Raw channels of a splat: depth 3, SH 3(s+1)^2, scale 3, rotation 4, opacity 1."""
        return 3 + 3 * (self.sh_degree + 1) ** 2 + 3 + 4 + 1

    def update_rule(self) -> UpdateRule:
        return UpdateRule(
            newton_schulz_dtype=_NEWTON_SCHULZ_DTYPES[self.newton_schulz_dtype],
            elastic_lambda=self.elastic_lambda,
            fisher_alpha=self.fisher_alpha,
            anchor_beta=self.anchor_beta,
        )
