"""Fast weights that are asked once a token, with keys anchored in 3D.

As in the paper (tttLRM; LaCT, arXiv 2505.23884) a token is the query, not a point along its ray;
but its key also knows the ray and the place where it looks: the prior's expected surface for what
is asked, the predicted surface for what is written. The answer joins the token's feature.
Shape suffixes: B streams, V views, N tokens of a view, C token channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_core import fast_weights
from ttt_core.blocks import linear
from ttt_core.memory import FourierFeatures, MemoryState
from ttt_core.memory.swiglu import DEVIATIONS, FIRST_STEP, KEY_EPS, PLACE_FEATURES
from ttt_core.network.tokens import SurestPixels
from ttt_core.state import FastWeights

_WIDTH = 64
_HIDDEN = 128
_RAY = 9  # origin, direction, moment
_SURFACE = 11  # place, origin, log depth, confidence, direction
_PREFIX = "anchored."


class AnchoredTokens(nn.Module):
    """Fast weights (w0, w1, w2) of tokens; every write is one Muon step, columns keep their first
    norms.

    It forgets gradually, cannot tell where nothing was written, and cannot be edited.
    """

    def __init__(self, width: int) -> None:
        """
        Args:
            width: C.
        """
        super().__init__()
        self.features = FourierFeatures(PLACE_FEATURES, DEVIATIONS)
        self.to_query = nn.Linear(width + _RAY + PLACE_FEATURES, _WIDTH)
        self.to_key = nn.Linear(width + _RAY + PLACE_FEATURES, _WIDTH)
        self.to_value = nn.Linear(width + _SURFACE, _WIDTH)
        self.rate = nn.Linear(width + 1, 3)
        first = fast_weights.drawn_weights(1, _WIDTH, _HIDDEN)
        self.w0, self.w1, self.w2 = map(nn.Parameter, first)
        self.log_steps = nn.Parameter(torch.full((3,), math.log(FIRST_STEP)))
        self.out = linear(_WIDTH, width, bias=True)
        self.reduce: Callable[[Tensor], Tensor] | None = None
        """Sums a batch's gradient over processes when its views are spread over several."""

    def initial_state(self, streams: int) -> MemoryState:
        """Nothing written yet: the same weights, (B, 64, 128) or (B, 128, 64), for every stream."""
        return _state(self._first().map(lambda w: w.repeat(streams, 1, 1)))

    def read(
        self,
        state: MemoryState,
        tokens: Tensor,  # (B, V, N, C)
        origins: Tensor,  # (B, V, 1, 3)
        directions: Tensor,  # (B, V, N, 3)
        log_depth: Tensor,  # (B, V, N)
    ) -> Tensor:
        """What the memory adds to tokens, (B, V, N, C).

        Args:
            origins, directions: rays `o + z d`, sub-map units, z the z-depth.
            log_depth: where along them a token is expected to look.
        """
        places = origins + directions * log_depth.exp()[..., None]
        queries = self._unit(self.to_query, tokens, origins, directions, places)
        return self.out(fast_weights.read(_weights(state), queries)).view_as(tokens)

    def write(
        self,
        state: MemoryState,
        tokens: Tensor,  # (B, V, N, C)
        origins: Tensor,  # (B, V, 1, 3)
        directions: Tensor,  # (B, V, N, 3)
        surest: SurestPixels,
    ) -> MemoryState:
        """The state after one batch; tokens without a valid pixel write nothing.

        Args:
            origins, directions: rays of the surest pixels, as in `read`.
        """
        origins = origins.expand_as(directions)
        depth, confidence = surest.log_depth[..., None], surest.confidence[..., None]
        places = origins + directions * depth.exp()
        surface = torch.cat((tokens, places, origins, depth, confidence, directions), dim=-1)
        keys = self._unit(self.to_key, tokens, origins, directions, places)
        values = self.to_value(surface).flatten(1, 2)
        rates = F.softplus(self.rate(torch.cat((tokens, confidence), dim=-1)))
        if surest.valid is not None:
            rates = rates * surest.valid[..., None]
        before = _weights(state)
        ascent = fast_weights.ascent_direction(before, keys, values, rates.flatten(1, 2))
        if self.reduce is not None:
            ascent = ascent.map(self.reduce)
        norms = self._first().map(fast_weights.column_norms)
        return _state(fast_weights.scaled_step(before, ascent, self.log_steps.exp(), norms))

    def _first(self) -> FastWeights:
        return FastWeights(self.w0, self.w1, self.w2)

    def _unit(
        self, to: nn.Linear, tokens: Tensor, origins: Tensor, directions: Tensor, places: Tensor
    ) -> Tensor:
        """Keys or queries of unit length, (B, V*N, _WIDTH)."""
        origins = origins.expand_as(directions)
        moments = torch.linalg.cross(origins, directions)
        # of amplitude 1, or the place would hardly count beside the token's feature
        waves = self.features(places) * math.sqrt(self.features.count / 2)
        described = torch.cat((tokens, origins, directions, moments, waves), dim=-1)
        return F.normalize(to(described).flatten(1, 2), dim=-1, eps=KEY_EPS)


def _state(weights: FastWeights) -> MemoryState:
    # named apart from those of `SwiGluMemory`, which have the same shapes
    return MemoryState({_PREFIX + name: w for name, w in weights._asdict().items()})


def _weights(state: MemoryState) -> FastWeights:
    return FastWeights(*(state[_PREFIX + name] for name in FastWeights._fields))
