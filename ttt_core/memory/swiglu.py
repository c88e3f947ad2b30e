"""The paper's fast weights, keyed by place: a SwiGLU network rewritten by orthogonalised steps.

One step a batch, as in tttLRM (LaCT, arXiv 2505.23884), with a learned step for each matrix; but
keys are features of a point in space, so that the memory can be asked along a ray.
Shape suffixes: B streams, N points.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_core import fast_weights
from ttt_core.blocks import RMSNorm, linear
from ttt_core.memory.features import FourierFeatures
from ttt_core.memory.interface import PlaceMemory
from ttt_core.memory.state import MemoryState
from ttt_core.state import FastWeights

PLACE_FEATURES = 96
DEVIATIONS = (1.0, 2.5)
"""Of the first frequencies, radians a unit."""
FIRST_STEP = 0.5
"""Scale of the orthogonalised steps before training."""
KEY_EPS = 1e-5


class SwiGluMemory(PlaceMemory):
    """Fast weights (w0, w1, w2); every write is one Muon step, columns keep their first norms.

    It forgets gradually, cannot tell where nothing was written, and cannot be edited.
    """

    weight_channels = 3
    editable = False

    def __init__(self, value_width: int = 64, expansion: int = 2) -> None:
        super().__init__()
        self.value_width = value_width
        self.features = FourierFeatures(PLACE_FEATURES, DEVIATIONS)
        self.to_key = linear(PLACE_FEATURES, value_width)
        nn.init.normal_(self.to_key.weight, std=1 / math.sqrt(PLACE_FEATURES))
        first = fast_weights.drawn_weights(1, value_width, value_width * expansion)
        self.w0, self.w1, self.w2 = map(nn.Parameter, first)
        self.answer_norm = RMSNorm(value_width, fast_weights.NORM_EPS**2)
        self.log_steps = nn.Parameter(torch.full((3,), math.log(FIRST_STEP)))
        self.reduce: Callable[[Tensor], Tensor] | None = None
        """Sums a batch's gradient over processes when its points are spread over several."""

    def initial_state(self, streams: int) -> MemoryState:
        first = self._first()
        return MemoryState({name: w.repeat(streams, 1, 1) for name, w in first._asdict().items()})

    def read(self, state: MemoryState, places: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.answer_norm(fast_weights.read(self._weights(state), self._keys(places)))
        return answer, answer.new_zeros(answer.shape[:-1])

    def write(
        self, state: MemoryState, places: Tensor, values: Tensor, weights: Tensor
    ) -> MemoryState:
        before, first = self._weights(state), self._first()
        ascent = fast_weights.ascent_direction(before, self._keys(places), values, weights)
        if self.reduce is not None:
            ascent = ascent.map(self.reduce)
        norms = first.map(fast_weights.column_norms)
        after = fast_weights.scaled_step(before, ascent, self.log_steps.exp(), norms)
        return MemoryState(after._asdict())

    def _first(self) -> FastWeights:
        return FastWeights(self.w0, self.w1, self.w2)

    @staticmethod
    def _weights(state: MemoryState) -> FastWeights:
        return FastWeights(**state.tensors)

    def _keys(self, places: Tensor) -> Tensor:
        return F.normalize(self.to_key(self.features(places)), dim=-1, eps=KEY_EPS)
