"""The splats: activated 3D Gaussians as five tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gs_decoder.rotations import multiply_quaternions, quaternion_from_matrix, split_similarity
from gs_decoder.sh import degree_of, evaluate_sh, rotate_sh, sh_from_rgb

FIELDS = ("means", "quats_wxyz", "scales", "opacities", "sh")


class InvalidSplats(ValueError):
    """Splats whose arrays do not fit together or hold values that no splat can have."""


@dataclass(frozen=True, slots=True, eq=False)
class Splats:
    """N splats, with any leading batch dimensions in common.

    Raises:
        InvalidSplats: a field that is not a floating-point tensor, or of another shape, type or
            device than the rest; the message names the field and the received shape.
    """

    means: Tensor
    """(..., N, 3), metres."""
    quats_wxyz: Tensor
    """(..., N, 4), any length but zero."""
    scales: Tensor
    """(..., N, 3), standard deviations along the splat's own axes, metres, linear."""
    opacities: Tensor
    """(..., N), 0..1."""
    sh: Tensor
    """(..., N, K, 3), K = (degree + 1)², coefficient 0 is DC, rgb last."""

    def __post_init__(self) -> None:
        for name in FIELDS:
            value = getattr(self, name)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise InvalidSplats(f"{name} is {kind}: give a floating-point tensor")
            if value.dtype != self.means.dtype or value.device != self.means.device:
                raise InvalidSplats(
                    f"{name} is {value.dtype} on {value.device}, means are {self.means.dtype} "
                    f"on {self.means.device}: give all fields alike"
                )
        if self.means.ndim < 2 or self.means.shape[-1] != 3:
            raise InvalidSplats(f"means have shape {tuple(self.means.shape)}: expected (..., N, 3)")
        lead = tuple(self.means.shape[:-1])
        for name, tail in (("quats_wxyz", (4,)), ("scales", (3,)), ("opacities", ())):
            shape = tuple(getattr(self, name).shape)
            if shape != lead + tail:
                raise InvalidSplats(f"{name} have shape {shape}: expected {lead + tail}, as means")
        shape = tuple(self.sh.shape)
        if len(shape) != len(lead) + 2 or shape[:-2] != lead or shape[-1] != 3:
            raise InvalidSplats(f"sh has shape {shape}: expected {lead} + (K, 3), as means")
        try:
            degree_of(shape[-2])
        except ValueError as error:
            raise InvalidSplats(f"sh has shape {shape}: {error}") from None

    @property
    def count(self) -> int:
        """N."""
        return self.means.shape[-2]

    @property
    def sh_degree(self) -> int:
        """0 to 3."""
        return degree_of(self.sh.shape[-2])

    @staticmethod
    def empty(sh_degree: int = 0) -> Splats:
        """No splats, float32 on the CPU."""
        return Splats(
            means=torch.zeros(0, 3),
            quats_wxyz=torch.zeros(0, 4),
            scales=torch.zeros(0, 3),
            opacities=torch.zeros(0),
            sh=torch.zeros(0, (sh_degree + 1) ** 2, 3),
        )

    @staticmethod
    def cat(parts: Sequence[Splats]) -> Splats:
        """One after another along N; lower SH degrees are filled up with zeros, which is exact."""
        if not parts:
            return Splats.empty()
        if len(parts) == 1:
            return parts[0]
        degree = max(part.sh_degree for part in parts)
        return Splats(
            means=torch.cat([part.means for part in parts], -2),
            quats_wxyz=torch.cat([part.quats_wxyz for part in parts], -2),
            scales=torch.cat([part.scales for part in parts], -2),
            opacities=torch.cat([part.opacities for part in parts], -1),
            sh=torch.cat([part.with_sh_degree(degree).sh for part in parts], -3),
        )

    def select(self, index: Tensor | np.ndarray | slice | Sequence[int]) -> Splats:
        """The splats at `index` along N: (M,) integers, an (N,) mask, or a slice."""
        where: Tensor | slice
        if isinstance(index, slice):
            where = index
        else:
            where = torch.as_tensor(index, device=self.means.device)
            if where.numel() == 0 and where.dtype != torch.bool:
                where = where.long()
        return Splats(
            means=self.means[..., where, :],
            quats_wxyz=self.quats_wxyz[..., where, :],
            scales=self.scales[..., where, :],
            opacities=self.opacities[..., where],
            sh=self.sh[..., where, :, :],
        )

    def with_sh_degree(self, degree: int) -> Splats:
        """Cut the SH to `degree`, or fill them up with zeros."""
        wanted = (degree + 1) ** 2
        have = self.sh.shape[-2]
        if wanted == have:
            return self
        if wanted < have:
            sh = self.sh[..., :wanted, :]
        else:
            fill = self.sh.new_zeros(*self.sh.shape[:-2], wanted - have, 3)
            sh = torch.cat([self.sh, fill], -2)
        return Splats(self.means, self.quats_wxyz, self.scales, self.opacities, sh)

    def seen_from(self, center: npt.ArrayLike | Tensor) -> Splats:
        """The same splats of SH degree 0, in the colours that they have from one place.

        Args:
            center: (3,) in the frame of the splats.
        """
        if self.sh_degree == 0:
            return self
        away = self.means - torch.as_tensor(center).to(self.means)
        colors = evaluate_sh(self.sh, torch.nn.functional.normalize(away, dim=-1))
        sh = sh_from_rgb(colors)[..., None, :]
        return Splats(self.means, self.quats_wxyz, self.scales, self.opacities, sh)

    def transform(self, similarity: npt.ArrayLike | Tensor) -> Splats:
        """All splats moved, turned and scaled by one (4, 4) similarity, SH included.

        Differentiable in the splats. The arithmetic is that of the splats' own type: with a
        translation of millions of metres, subtract an origin from it first.

        Raises:
            InvalidSimilarity: not a similarity.
        """
        T = split_similarity(similarity)
        linear = torch.from_numpy(T.scale * T.rotation).to(self.means)
        translation = torch.from_numpy(T.translation).to(self.means)
        turn = quaternion_from_matrix(torch.from_numpy(T.rotation)).to(self.means)
        return Splats(
            means=self.means @ linear.mT + translation,
            quats_wxyz=multiply_quaternions(turn, self.quats_wxyz),
            scales=self.scales * T.scale,
            opacities=self.opacities,
            sh=rotate_sh(self.sh, T.rotation),
        )

    def detach(self) -> Splats:
        """The same splats outside the autograd graph."""
        return Splats(*(getattr(self, name).detach() for name in FIELDS))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Splats:
        """The same splats on another device or in another type."""
        return Splats(*(getattr(self, name).to(device=device, dtype=dtype) for name in FIELDS))

    def to_numpy(self) -> dict[str, np.ndarray]:
        """The five fields by name; shares memory with float32 tensors on the CPU."""
        return {name: getattr(self, name).detach().cpu().numpy() for name in FIELDS}

    @staticmethod
    def from_numpy(arrays: Mapping[str, np.ndarray]) -> Splats:
        """Splats of the five fields by name, float32; contiguous float32 arrays are shared.

        Raises:
            InvalidSplats: a field is missing or of the wrong shape.
        """
        missing = [name for name in FIELDS if name not in arrays]
        if missing:
            raise InvalidSplats(f"the splats lack {', '.join(missing)}: give {', '.join(FIELDS)}")
        fields = {}
        for name in FIELDS:
            array = np.ascontiguousarray(arrays[name], dtype=np.float32)
            # A tensor cannot be read-only: a received message's buffer has to be copied.
            fields[name] = torch.from_numpy(array if array.flags.writeable else array.copy())
        return Splats(**fields)

    def equals(self, other: Splats) -> bool:
        """Whether both hold the same numbers, to the bit."""
        return all(torch.equal(getattr(self, name), getattr(other, name)) for name in FIELDS)

    def check_values(self) -> None:
        """Raise InvalidSplats, naming the field, where a value is one that no splat can have."""
        for name in FIELDS:
            value = getattr(self, name)
            # A finite sum says it at once; one that is not may have overflowed.
            if not math.isfinite(float(value.sum())) and not bool(torch.isfinite(value).all()):
                raise InvalidSplats(
                    f"{name} hold values that are not finite: remove those splats first"
                )
        if self.means.numel() == 0:
            return
        if float(self.scales.amin()) < 0:
            raise InvalidSplats(
                f"scales go down to {float(self.scales.amin()):.3g}: give linear metres, not logs"
            )
        low, high = float(self.opacities.amin()), float(self.opacities.amax())
        if low < 0 or high > 1:
            raise InvalidSplats(f"opacities span {low:.3g} to {high:.3g}: give 0..1, not logits")
