"""The three residual parts of a block: attention inside a view, fast weights, MLP.

Parameter names are those of the released checkpoints: `module_list.{0,1,2}.{ln,f}`.
Shape suffixes: B batch items, V views, T tokens of a view, N = V*T, d width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_core import fast_weights as memory
from ttt_core.config import ReconstructorConfig
from ttt_core.state import FastWeights, LayerState

LAYER_NORM_EPS = 1e-5
_INIT_STD = 0.02
# softplus(x + this) is 0.01 at x = 0: the base learning rate of the inner loop
_RATE_OFFSET = math.log(math.expm1(0.01))


def layer_norm(width: int) -> nn.LayerNorm:
    """LayerNorm with a gain and no bias, the only kind in the model."""
    return nn.LayerNorm(width, eps=LAYER_NORM_EPS, bias=False)


def linear(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    """A linear layer with the released initialisation (normal, std 0.02)."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=_INIT_STD)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis, with an explicit eps.

    torch's own default eps changed between versions (it follows the input's dtype in 2.5), so the
    value is always stated here.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class ViewAttention(nn.Module):
    """Full attention among the tokens of one view; views do not see each other here."""

    def __init__(self, config: ReconstructorConfig) -> None:
        super().__init__()
        self.head_dim = config.attention_head_dim
        self.to_qkv = linear(config.width, 3 * config.width)
        self.c_proj = linear(config.width, config.width)
        self.q_norm = RMSNorm(self.head_dim, config.qk_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.qk_norm_eps)

    def forward(self, x: Tensor, views: int) -> Tensor:
        """(B, N, d) -> (B, N, d), tokens ordered view after view."""
        per_view = x.unflatten(1, (views, -1)).flatten(0, 1)  # (B*V, T, d)
        qkv = self.to_qkv(per_view).unflatten(-1, (3, -1, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B*V, heads, T, head_dim)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.c_proj(mixed.transpose(1, 2).reshape(x.shape))


class FastWeightLayer(nn.Module):
    """Writes tokens into the fast weights and reads them back.

    With H > 1 heads the rows of `lr_fc` are ordered (head, {w0, w1, w2}) and `o_norm` runs over the
    whole width after the heads are merged; released checkpoints have H = 1.
    """

    def __init__(self, config: ReconstructorConfig) -> None:
        super().__init__()
        width, head_dim = config.width, config.fast_weight_head_dim
        heads, hidden = config.fast_weight_heads, config.fast_weight_hidden
        self.head_dim = head_dim
        self.rule = config.update_rule()
        self.reduce: Callable[[Tensor], Tensor] | None = None
        """Sums a chunk's gradient over processes when its tokens are spread over several."""
        drawn = memory.drawn_weights(heads, head_dim, hidden)
        self.w0, self.w1, self.w2 = map(nn.Parameter, drawn)
        self.to_qkv = linear(width, 3 * width)
        self.c_proj = linear(width, width)
        self.lr_fc = linear(width, 3 * heads, bias=True)
        self.o_norm = RMSNorm(width, LAYER_NORM_EPS)

    def initial_state(self, batch_size: int) -> LayerState:
        initial = FastWeights(self.w0, self.w1, self.w2)
        return memory.initial_layer_state(initial, batch_size, self.rule.elastic)

    def forward(
        self,
        x: Tensor,  # (B, N, d)
        state: LayerState,
        chunk_tokens: int | None,
    ) -> tuple[Tensor, LayerState]:
        """Write `x` chunk by chunk, then read once with the last weights.

        Args:
            x: normalised tokens (B, N, d).
            state: memory before the call; not changed.
            chunk_tokens: tokens of one update, dividing N; None only reads.

        Returns:
            what the memory answers (B, N, d), and the memory afterwards.
        """
        width = x.shape[-1]
        if chunk_tokens is None:
            q = F.silu(F.linear(x, self.to_qkv.weight[:width]))
        else:
            q, k, v = F.silu(self.to_qkv(x)).chunk(3, dim=-1)
            keys, values, rates = self._unit(self._heads(k)), self._heads(v), self._rates(x)
            for start in range(0, x.shape[1], chunk_tokens):
                chunk = slice(start, start + chunk_tokens)
                state = memory.write(
                    state,
                    keys[:, chunk],
                    values[:, chunk],
                    rates[:, chunk],
                    self.rule,
                    self.reduce,
                )
        answer = memory.read(state.weights, self._unit(self._heads(q)))
        answer = answer.unflatten(0, (x.shape[0], -1)).transpose(1, 2).reshape(x.shape)
        return self.c_proj(self.o_norm(answer)), state

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B*H, N, head_dim)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2).flatten(0, 1)

    @staticmethod
    def _unit(x: Tensor) -> Tensor:
        return x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + memory.NORM_EPS)

    def _rates(self, x: Tensor) -> Tensor:
        """Learning rates of each token for (w0, w1, w2): (B, N, d) -> (B*H, N, 3)."""
        # rates compare tokens with each other: bfloat16 would quantise that comparison
        with torch.autocast(x.device.type, enabled=False):
            rates = F.softplus(self.lr_fc(x.to(self.lr_fc.weight.dtype)) + _RATE_OFFSET)
        return rates.unflatten(-1, (-1, 3)).transpose(1, 2).flatten(0, 1)


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, config: ReconstructorConfig) -> None:
        super().__init__()
        self.c_fc = linear(config.width, 4 * config.width)
        self.c_proj = linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


Part = TypeVar("Part", bound=nn.Module)


class PreNorm(nn.Module, Generic[Part]):
    """Holds one residual part `f` and the LayerNorm before it; `Block` adds the residual."""

    f: Part

    def __init__(self, width: int, part: Part) -> None:
        super().__init__()
        self.ln = layer_norm(width)
        self.f = part


class Block(nn.Module):
    """Attention inside each view, fast weights over all tokens, MLP; each a pre-norm residual."""

    def __init__(self, config: ReconstructorConfig) -> None:
        super().__init__()
        parts = (ViewAttention(config), FastWeightLayer(config), Mlp(config))
        self.module_list = nn.ModuleList(PreNorm(config.width, part) for part in parts)

    def initial_state(self, batch_size: int) -> LayerState:
        return self._parts()[1].f.initial_state(batch_size)

    def _parts(self) -> tuple[PreNorm[ViewAttention], PreNorm[FastWeightLayer], PreNorm[Mlp]]:
        return cast(Any, tuple(self.module_list))

    def forward(
        self,
        x: Tensor,  # (B, N, d)
        state: LayerState,
        views: int,
        chunk_tokens: int | None,
    ) -> tuple[Tensor, LayerState]:
        """One block over the tokens of `views` views; `chunk_tokens` as in `FastWeightLayer`."""
        attention, fast, mlp = self._parts()
        x = x + attention.f(attention.ln(x), views)
        answer, state = fast.f(fast.ln(x), state, chunk_tokens)
        x = x + answer
        return x + mlp.f(mlp.ln(x)), state
