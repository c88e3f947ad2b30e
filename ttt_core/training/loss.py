"""What the network is trained for: depth of tokens and pixels, honest confidence, pictures.

One call runs whole streams through the network, memory carried, and sums the loss over all their
batches; gradients flow through the carried state, truncated every few batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ttt_core.errors import ConfigError
from ttt_core.memory import MemoryState
from ttt_core.network import PATCH, CompactNetwork, NetworkOutput
from ttt_core.network.inputs import plane_histogram
from ttt_core.training.collate import StreamStep

IMAGINED_LOG_RANGE = (-2.0, 2.2)
"""Where an imagined view is looked for: log depth in sub-map units, the first batch's median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """Weights of the terms, and how memory is treated in training.

    Raises:
        ConfigError: a value out of range.
    """

    token_depth: float = 1.0
    """L1 of the tokens' log depth."""
    planes: float = 0.3
    """Cross entropy of the tokens' planes against the true histogram."""
    prior_planes: float = 0.1
    """The same, of the logits before the decoder along the ray."""
    depth: float = 1.0
    """L1 of the pixels' log depth."""
    detail: float = 0.0
    """`detail_scale` log(1 + |error| / `detail_scale`) of the pixels' log depth: its pull is
    strongest where the depth is almost right, so that gross errors elsewhere do not buy blurred
    surfaces."""
    detail_scale: float = 0.02
    edges: float = 0.25
    """L1 of the differences between neighbouring pixels' log depth."""
    confidence: float = 0.2
    """Cross entropy of the confidence against "within `agreement` of the truth"."""
    agreement: float = 0.05
    """Relative depth error up to which a pixel is right."""
    imagined: float = 0.0
    """Depth (L1 and planes) and colour (L1) of the views from the memory alone, before they are
    seen; for memories that can be asked about places."""
    imagined_share: float = 0.3
    """Probability of that in every batch but the first, so that it does not cost too much."""
    picture: float = 0.0
    """L1 of held-out views rendered from the predictions."""
    truncate: int = 8
    """Batches after which back-propagation through the memory is cut."""
    reset: float = 0.1
    """Probability, before every batch but the first, that a stream forgets everything: the network
    must not learn to expect a memory."""

    def __post_init__(self) -> None:
        if self.truncate < 1:
            raise ConfigError(f"truncate is {self.truncate}: give at least 1 batch")
        if not 0 <= self.reset <= 1:
            raise ConfigError(f"reset is {self.reset}: give a probability")
        if not self.detail_scale > 0:
            raise ConfigError(f"detail_scale is {self.detail_scale}: give a number > 0")
        if not 0 < self.agreement < 1:
            raise ConfigError(
                f"agreement is {self.agreement}: give a share of the depth, e.g. 0.05"
            )


Mean = Callable[[Tensor, Tensor], Tensor]


class RenderLoss(Protocol):
    """Renders held-out views from predictions and compares them; handed in by the caller, because
    this package knows no renderer."""

    def __call__(self, step: StreamStep, output: NetworkOutput, rng: torch.Generator) -> Tensor:
        """Scalar loss of one batch of views."""


def sequence_loss(
    network: CompactNetwork,
    steps: Sequence[StreamStep],
    config: LossConfig,
    rng: torch.Generator,
    picture_loss: RenderLoss | None = None,
    mean: Mean | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Mean loss over the batches of streams, and figures for the log.

    `mean(values, mask)` is the mean of the masked values; processes that share a batch's views
    hand in `Ranks.masked_mean`.

    Returns:
        the loss, and by name: "depth" and "prior_depth" (mean L1 of log depth of pixels, network
        and prior), "token_depth", "confidence", and "last_depth" (of the last batch).
    """
    mean = mean or _masked_mean
    streams = steps[0].known.shape[0]
    memory = network.initial_state(streams)
    total = torch.zeros((), device=steps[0].known.device)
    figures: dict[str, list[Tensor]] = {}
    for number, step in enumerate(steps):
        if number and number % config.truncate == 0:
            memory = memory.detach()
        if number and config.reset:
            forgets = torch.rand(streams, generator=rng) < config.reset
            memory = _reset(memory, network.initial_state(streams), forgets)
        # what the last batch would write nobody reads, unless it is written before it is read
        write = number + 1 < len(steps) or network.config.memory == "tokens"
        blind = number > 0 and bool(torch.rand((), generator=rng) < config.imagined_share)
        imagined = _imagined(network, memory, step, mean) if blind and config.imagined else None
        output, memory = network(step.views, memory, write=write)
        terms = _terms(output, step, config, mean)
        if imagined is not None:
            terms["imagined"] = imagined
        if picture_loss is not None and config.picture:
            terms["picture"] = picture_loss(step, output, rng)
        total = total + sum(getattr(config, name) * term for name, term in terms.items())
        for name, term in terms.items():
            figures.setdefault(name, []).append(term.detach())
        prior = mean((step.views.log_depth - step.true_log_depth).abs(), step.known)
        figures.setdefault("prior_depth", []).append(prior)
    return total / len(steps), _told(figures)


def _told(figures: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """Means of scalars, fetched at once: every single look at a device stops it."""
    flat = torch.stack([value.float() for values in figures.values() for value in values])
    fetched = iter(flat.tolist())
    values = {name: [next(fetched) for _ in listed] for name, listed in figures.items()}
    means = {name: float(np.mean(listed)) for name, listed in values.items()}
    return {**means, "last_depth": values["depth"][-1]}


def _terms(
    output: NetworkOutput, step: StreamStep, config: LossConfig, mean: Mean
) -> dict[str, Tensor]:
    known, truth = step.known, step.true_log_depth
    token_truth, token_known = token_depth(truth, known, PATCH)
    error = (output.log_depth - truth).abs()
    right = (error.detach() < config.agreement) & known
    judged = known | step.sky
    log_range = step.views.log_range
    return {
        "token_depth": mean((output.token_log_depth - token_truth).abs(), token_known),
        "planes": _cross_entropy(output.plane_logits, step, log_range, mean),
        "prior_planes": _cross_entropy(output.prior_logits, step, log_range, mean),
        "depth": mean(error, known),
        "detail": mean(config.detail_scale * torch.log1p(error / config.detail_scale), known),
        "edges": _edges(output.log_depth - truth, known, mean),
        "confidence": mean(
            F.binary_cross_entropy_with_logits(
                output.confidence_logit, right.to(truth.dtype), reduction="none"
            ),
            judged,
        ),
    }


def _cross_entropy(logits: Tensor, step: StreamStep, log_range: Tensor, mean: Mean) -> Tensor:
    """Of the planes (B, V, N, D) over `log_range` against the true histogram of every token."""
    weight = step.known.to(logits.dtype)
    planes = logits.shape[-1]
    histogram = plane_histogram(step.true_log_depth, weight, log_range, planes, PATCH)
    mass = histogram.sum(-1)
    target = histogram / mass.clamp_min(1e-6)[..., None]
    return mean(-(target * logits.log_softmax(-1)).sum(-1), mass > 0.5)


def _imagined(network: CompactNetwork, memory: MemoryState, step: StreamStep, mean: Mean) -> Tensor:
    """Loss of what the memory says of this batch's cameras before it is taken in."""
    views = step.views
    height, width = step.known.shape[-2:]
    log_range = views.log_range.new_tensor(IMAGINED_LOG_RANGE).expand_as(views.log_range)
    imagined = network.imagine(memory, views.fxfycxcy, views.c2w, height, width, log_range)
    truth, known = token_depth(step.true_log_depth, step.known, PATCH)
    color = F.avg_pool2d(views.image.flatten(0, 1), PATCH).flatten(2).mT.view_as(imagined.color)
    return (
        mean((imagined.log_depth - truth).abs(), known)
        + 0.3 * _cross_entropy(imagined.plane_logits, step, log_range, mean)
        + mean((imagined.color - color).abs().mean(-1), known)
    )


def token_depth(log_depth: Tensor, known: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Median log depth of every token, (B, V, N), and which tokens are known by half or more."""
    depth = torch.where(known, log_depth, torch.nan)
    cut = depth.unflatten(-1, (-1, side)).unflatten(-3, (-1, side)).transpose(-3, -2)
    cut = cut.flatten(-2).flatten(-3, -2)  # (B, V, N, side*side)
    enough = cut.isfinite().float().mean(-1) >= 0.5
    return torch.where(enough, cut.nanmedian(-1).values, 0.0), enough


def _edges(difference: Tensor, known: Tensor, mean: Mean) -> Tensor:
    down = mean(difference.diff(dim=-2).abs(), known[..., 1:, :] & known[..., :-1, :])
    across = mean(difference.diff(dim=-1).abs(), known[..., 1:] & known[..., :-1])
    return down + across


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp_min(1)


def _reset(memory: MemoryState, initial: MemoryState, forgets: Tensor) -> MemoryState:
    """`memory`, with the streams that `forgets` (S,) marks back at the start.

    A stream owns an equal share of every tensor's leading axis (several heads each, for some).
    """
    if not forgets.any():
        return memory

    def mixed(name: str, tensor: Tensor) -> Tensor:
        marks = forgets.to(tensor.device).repeat_interleave(tensor.shape[0] // len(forgets))
        return torch.where(marks.view(-1, *[1] * (tensor.dim() - 1)), initial[name], tensor)

    return MemoryState({name: mixed(name, t) for name, t in memory.tensors.items()})
