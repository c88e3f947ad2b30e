"""Test-time regression solved exactly: ridge on Fourier features of place.

The state holds `A = sum beta phi phi^T` and `B = sum beta phi v^T`; what is read is
`phi(x)^T (A + lambda I)^-1 B`, the ridge solution over everything ever written (recursive least
squares in its additive form; MesaNet, arXiv 2506.05233). Because the state is a sum, what was
written can be taken back, moved and merged exactly.
Shape suffixes: B streams, N points, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ttt_core.errors import StateMismatchError
from ttt_core.memory.features import FourierFeatures
from ttt_core.memory.interface import PlaceMemory
from ttt_core.memory.state import MemoryState

_GAIN = 10.0  # of the weights, so that their useful range is around 1
_DEVIATIONS = (1.0, 2.5)  # radians a unit: coarse and fine


class RidgeMemory(PlaceMemory):
    """Fast weights `W = (A + lambda I)^-1 B`, solved after every write.

    Sums age by a learned factor with every write, so that the newest views weigh most.
    """

    weight_channels = 1
    editable = True

    def __init__(self, features: int = 256, value_width: int = 32) -> None:
        super().__init__()
        self.value_width = value_width
        self.features = FourierFeatures(features, _DEVIATIONS)
        self.log_lambda = nn.Parameter(torch.zeros(()))
        self.ageing = nn.Parameter(torch.tensor(4.0))
        self.reduce: Callable[[Tensor], Tensor] | None = None
        """Sums a batch's contribution over processes when its points are spread over several."""

    def initial_state(self, streams: int) -> MemoryState:
        count, reference = self.features.count, self.log_lambda
        zeros = reference.new_zeros
        return MemoryState(
            {
                "gram": zeros(streams, count, count),
                "moment": zeros(streams, count, self.value_width),
                "solution": zeros(streams, count, self.value_width),
                "doubt": torch.eye(count).to(reference).repeat(streams, 1, 1),
            }
        )

    def read(self, state: MemoryState, places: Tensor) -> tuple[Tensor, Tensor]:
        phi = self.features(places)
        with torch.autocast(phi.device.type, enabled=False):
            doubt = ((phi @ state["doubt"]) * phi).sum(-1)
            return phi @ state["solution"], doubt

    def write(
        self, state: MemoryState, places: Tensor, values: Tensor, weights: Tensor
    ) -> MemoryState:
        gram, moment = self._sums(places, values, weights)
        kept = self._kept()
        return self._solved(kept * state["gram"] + gram, kept * state["moment"] + moment)

    def amend(
        self, state: MemoryState, places: Tensor, values: Tensor, weights: Tensor, factor: float
    ) -> MemoryState:
        gram, moment = self._sums(places, values, weights)
        return self._solved(state["gram"] + factor * gram, state["moment"] + factor * moment)

    def retention(self, batches: int) -> float:
        return float(self._kept()) ** batches

    def translate(self, state: MemoryState, offset: Tensor) -> MemoryState:
        """The memory after everything in it moved by `offset` (B, 3) sub-map units; exact."""
        shift = self.features.shift
        gram = shift(shift(state["gram"], offset).mT, offset).mT
        return self._solved(gram, shift(state["moment"], offset))

    def merge(self, one: MemoryState, other: MemoryState) -> MemoryState:
        """The memory of everything that was written into two memories of the same frame; exact.

        Raises:
            StateMismatchError: their numbers of streams differ.
        """
        if one["gram"].shape != other["gram"].shape:
            raise StateMismatchError(
                f"memories of shape {tuple(one['gram'].shape)} and {tuple(other['gram'].shape)} "
                "cannot be merged: give states of the same model and number of streams"
            )
        return self._solved(one["gram"] + other["gram"], one["moment"] + other["moment"])

    def _kept(self) -> Tensor:
        return torch.sigmoid(self.ageing)

    def _sums(self, places: Tensor, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        phi = self.features(places)
        with torch.autocast(phi.device.type, enabled=False):
            weighted = phi * (_GAIN * weights.to(phi.dtype))
            # one product for both sums
            sums = weighted.mT @ torch.cat((phi, values.to(phi.dtype)), dim=-1)
            if self.reduce is not None:
                sums = self.reduce(sums)
        gram, moment = sums.split((phi.shape[-1], self.value_width), dim=-1)
        return gram, moment

    def _solved(self, gram: Tensor, moment: Tensor) -> MemoryState:
        with torch.autocast(gram.device.type, enabled=False):
            ridge = self.log_lambda.exp()
            damped = gram + ridge * torch.eye(gram.shape[-1]).to(gram)
            factor, failed = torch.linalg.cholesky_ex(damped)
            if failed.any():
                # Rounding can make a badly conditioned sum indefinite in float32.
                double = damped.double()
                double = (double + double.mT) / 2
                inverse = torch.linalg.inv(double)
                solution, doubt = (inverse @ moment.double()).to(gram), inverse.to(gram)
            else:
                solution, doubt = torch.cholesky_solve(moment, factor), _inverse(factor)
        return MemoryState(
            {"gram": gram, "moment": moment, "solution": solution, "doubt": ridge * doubt}
        )

    def condition(self, state: MemoryState) -> float:
        """Largest condition number of `A + lambda I` among the streams."""
        ridge = float(self.log_lambda.exp())
        largest = torch.linalg.eigvalsh(state["gram"].double())[..., -1].max()
        return float(largest.clamp_min(0) + ridge) / ridge if math.isfinite(ridge) else math.inf


def _inverse(factor: Tensor) -> Tensor:
    """(L L^T)^-1 from L."""
    eye = torch.eye(factor.shape[-1]).to(factor)
    half = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
    return half.mT @ half
