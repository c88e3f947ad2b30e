"""The fast-weight memory: gradient of the inner loss, orthogonalised update, read.

The memory is a SwiGLU network `f(x) = (silu(x w0) * (x w2)) w1` whose three matrices are rewritten
while views arrive. One update takes the gradient of `-<f(k), v>` summed over the tokens of a chunk,
orthogonalises it (Muon's Newton-Schulz iteration, without momentum or scale) and adds it; columns
are then scaled back to the norms that they had at the start.

Source: tttLRM, test-time training layer (LaCT, arXiv 2505.23884); `Muon` (Jordan et al. 2024).
Shape suffixes: B batch items, H heads, N tokens, D head dimension, M hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ttt_core.state import FastWeights, LayerState

NORM_EPS = 1e-5
_NEWTON_SCHULZ_EPS = 1e-7
_NEWTON_SCHULZ_STEPS = 5
_NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_FISHER_EPS = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRule:
    """How a gradient becomes an update; see `ReconstructorConfig` for the fields' meaning."""

    newton_schulz_dtype: torch.dtype
    elastic_lambda: float
    fisher_alpha: float
    anchor_beta: float

    @property
    def elastic(self) -> bool:
        return self.elastic_lambda > 0


def drawn_weights(heads: int, head_dim: int, hidden: int) -> FastWeights:
    """Random weights before anything was learned: w0 and w2 (H, D, M), w1 (H, M, D), drawn so that
    inputs of unit variance give outputs of unit variance."""
    return FastWeights(
        w0=torch.randn(heads, head_dim, hidden) / math.sqrt(head_dim),
        w1=torch.randn(heads, hidden, head_dim) / math.sqrt(hidden),
        w2=torch.randn(heads, head_dim, hidden) / math.sqrt(head_dim),
    )


def newton_schulz(
    gradient: Tensor,  # (..., R, K)
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Push all singular values of `gradient` towards 1 with five quintic steps.

    Args:
        gradient: (..., R, K), any floating dtype.
        dtype: precision of the iteration. bfloat16 is what the released model uses; the result is
            then dominated by rounding for ill-conditioned gradients. float32 means "at least
            float32": float64 gradients stay float64.

    Returns:
        (..., R, K) in `dtype` (promoted as above).
    """
    if dtype != torch.bfloat16:
        dtype = torch.promote_types(gradient.dtype, dtype)
    a, b, c = _NEWTON_SCHULZ_COEFFICIENTS
    tall = gradient.shape[-2] > gradient.shape[-1]
    # autocast would silently lower the float32 iteration to bfloat16
    with torch.autocast(gradient.device.type, enabled=False):
        x = gradient.to(dtype)
        x = x.mT if tall else x
        x = x / (torch.linalg.matrix_norm(x, keepdim=True) + _NEWTON_SCHULZ_EPS)
        for _ in range(_NEWTON_SCHULZ_STEPS):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def column_norms(weight: Tensor) -> Tensor:
    """L2 norm over the input axis: (..., I, O) -> (..., 1, O)."""
    return torch.linalg.vector_norm(weight, dim=-2, keepdim=True)


def initial_layer_state(initial: FastWeights, batch_size: int, elastic: bool) -> LayerState:
    """The state before the first chunk: every batch item starts from the same (H, ...) weights."""
    weights = initial.map(lambda w: w.repeat(batch_size, 1, 1))
    return LayerState(
        weights=weights,
        norms=weights.map(column_norms),
        fisher=weights.map(torch.zeros_like) if elastic else None,
        anchor=weights if elastic else None,
    )


def read(weights: FastWeights, queries: Tensor) -> Tensor:
    """Apply the memory: (B*H, N, D) -> (B*H, N, D)."""
    return (F.silu(queries @ weights.w0) * (queries @ weights.w2)) @ weights.w1


def ascent_direction(
    weights: FastWeights,
    keys: Tensor,  # (B*H, N, D)
    values: Tensor,  # (B*H, N, D)
    rates: Tensor,  # (B*H, N, 3)
) -> FastWeights:
    """Gradient of `sum_n <f(k_n), v_n>`, token n weighted by its own rate for each matrix."""
    gate = keys @ weights.w0  # (B*H, N, M)
    up = keys @ weights.w2
    sigmoid = torch.sigmoid(gate)
    silu = gate * sigmoid
    d_hidden = values @ weights.w1.mT
    d_gate = d_hidden * up * sigmoid * (1 + gate * (1 - sigmoid))
    rate0, rate1, rate2 = rates.split(1, dim=-1)
    return FastWeights(
        w0=(keys * rate0).mT @ d_gate,
        w1=(silu * up * rate1).mT @ values,
        w2=(keys * rate2).mT @ (d_hidden * silu),
    )


def scaled_step(
    weights: FastWeights,
    direction: FastWeights,
    scales: Tensor,  # (3,), of the steps of w0, w1 and w2
    norms: FastWeights,
) -> FastWeights:
    """One orthogonalised step along `direction`; columns are then scaled to `norms` (see
    `column_norms`)."""
    stepped = []
    for index, (old, gradient, norm) in enumerate(zip(weights, direction, norms)):
        new = old + scales[index] * newton_schulz(gradient)
        stepped.append(new / (column_norms(new) + NORM_EPS) * norm)
    return FastWeights(*stepped)


def _elastic_pull(
    weight: Tensor, step: Tensor, fisher: Tensor, anchor: Tensor, rule: UpdateRule
) -> tuple[Tensor, Tensor]:
    """Pull unimportant entries of `weight` back to `anchor`; returns (weight, new fisher).

    Importance is the running mean of the squared ORTHOGONALISED step, relative to its maximum over
    the whole tensor: batch items and heads are coupled, as in the released model.
    """
    fisher = rule.fisher_alpha * fisher + (1 - rule.fisher_alpha) * step.square()
    importance = fisher / (fisher.amax() + _FISHER_EPS)
    return weight - rule.elastic_lambda * (1 - importance) * (weight - anchor), fisher


def write(
    state: LayerState,
    keys: Tensor,  # (B*H, N, D)
    values: Tensor,  # (B*H, N, D)
    rates: Tensor,  # (B*H, N, 3)
    rule: UpdateRule,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> LayerState:
    """The memory after one chunk of tokens was written into it; `state` is untouched.

    `reduce` sums the gradient over processes when the chunk's tokens are spread over several.
    """
    direction = ascent_direction(state.weights, keys, values, rates)
    if reduce is not None:
        direction = direction.map(reduce)
    weights, fishers, anchors = [], [], []
    for index, (old, gradient, norm) in enumerate(zip(state.weights, direction, state.norms)):
        step = newton_schulz(gradient, rule.newton_schulz_dtype).to(old.dtype)
        new = old + step
        if state.fisher is not None and state.anchor is not None:
            new, fisher = _elastic_pull(new, step, state.fisher[index], state.anchor[index], rule)
            fishers.append(fisher)
        new = new / (column_norms(new) + NORM_EPS) * norm
        if state.anchor is not None:
            anchors.append(rule.anchor_beta * state.anchor[index] + (1 - rule.anchor_beta) * new)
        weights.append(new)
    return LayerState(
        weights=FastWeights(*weights),
        norms=state.norms,
        fisher=FastWeights(*fishers) if fishers else None,
        anchor=FastWeights(*anchors) if anchors else None,
    )
