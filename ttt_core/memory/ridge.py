"""Test-time regression solved exactly: ridge on Fourier features of place.

The state holds `A = sum beta phi phi^T` and `B = sum beta phi v^T`; what is read is
`phi(x)^T (A + lambda I)^-1 B`, the ridge solution over everything ever written (recursive least
squares in its additive form; MesaNet, arXiv 2506.05233). Because the state is a sum, what was
written can be taken back, moved and merged exactly.
Shape suffixes: B streams, N points, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ttt_core.errors import StateMismatchError
from ttt_core.memory.features import FourierFeatures
from ttt_core.memory.interface import PlaceMemory, SignedSamples
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
                "doubt": torch.eye(count // 2).to(reference).repeat(streams, 1, 1),
            }
        )

    def read(self, state: MemoryState, places: Tensor) -> tuple[Tensor, Tensor]:
        phi = self.features(places)
        with torch.autocast(phi.device.type, enabled=False):
            fine = self._fine(phi)
            # the fine half of the features has half of their squared length
            doubt = 2 * ((fine @ state["doubt"]) * fine).sum(-1)
            return phi @ state["solution"], doubt

    def write(
        self, state: MemoryState, places: Tensor, values: Tensor, weights: Tensor
    ) -> MemoryState:
        gram, moment = self._sums(places, values, weights)
        kept = self._kept()
        return self._solved(kept * state["gram"] + gram, kept * state["moment"] + moment)

    def amend(self, state: MemoryState, changes: Iterable[SignedSamples]) -> MemoryState:
        gram, moment = state["gram"], state["moment"]
        for places, values, weights, factor in changes:
            # the sums are linear in the weights: the sign may be in them, and one solve will do
            of_gram, of_moment = self._sums(places, values, factor * weights)
            gram, moment = gram + of_gram, moment + of_moment
        return self._solved(gram, moment)

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

    @staticmethod
    def _fine(phi: Tensor) -> Tensor:
        """The half of the features with the higher frequencies: doubt needs no others, and costs
        the square of their number at every place that is read."""
        quarter = phi.shape[-1] // 4
        return torch.cat((phi[..., quarter : 2 * quarter], phi[..., 3 * quarter :]), dim=-1)

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
            eye = torch.eye(gram.shape[-1]).to(gram)
            factor, failed = torch.linalg.cholesky_ex(gram + ridge * eye)
            if failed.any():
                gram_64 = (gram.double() + gram.double().mT) / 2
                # What is as small as the rounding cannot be told: the ridge must not be smaller.
                rounding = _rounding(gram_64)
                ridge = ridge + rounding
                damped = gram_64 + (ridge + rounding) * eye
                solution = torch.linalg.solve(damped, moment.double())
            else:
                damped = gram + ridge * eye
                solution = torch.cholesky_solve(moment, factor)
            of_fine = torch.linalg.inv(self._fine(self._fine(damped).mT))
        return MemoryState(
            {
                "gram": gram,
                "moment": moment,
                "solution": solution.to(gram),
                "doubt": (ridge * of_fine).to(gram),
            }
        )

    def condition(self, state: MemoryState) -> float:
        """Largest condition number of `A + lambda I` among the streams."""
        ridge = float(self.log_lambda.exp())
        largest = torch.linalg.eigvalsh(state["gram"].double())[..., -1].max()
        return float(largest.clamp_min(0) + ridge) / ridge if math.isfinite(ridge) else math.inf


def _rounding(gram: Tensor) -> Tensor:
    """(B, 1, 1) how far rounding has brought eigenvalues of sums (B, F, F) below zero."""
    if not torch.isfinite(gram).all():
        return gram.new_zeros(len(gram), 1, 1)
    least = torch.linalg.eigvalsh(gram.detach())[:, :1, None]
    return (-least).clamp_min(0)
