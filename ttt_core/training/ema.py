"""Running average of the weights: what is evaluated and exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ttt_core.errors import RunStateError


class WeightAverage:
    """Exponential moving average of all floating entries of a model's state dict.

    Early on the memory is shorter, min(decay, (1 + n) / (10 + n)) after n steps, so that the
    initial weights do not linger.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.steps = 0
        self._shadow = {name: t.detach().clone() for name, t in _floating(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model's present weights."""
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        current = _floating(model)
        torch._foreach_lerp_(
            list(self._shadow.values()), [current[name] for name in self._shadow], 1 - decay
        )

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights for the time of the block."""
        current = _floating(model)
        kept = {name: tensor.clone() for name, tensor in current.items()}
        _copy(self._shadow, current)
        try:
            yield
        finally:
            _copy(kept, _floating(model))

    def to_tensors(self) -> dict[str, Tensor]:
        """By the names of the model's state dict; not copied."""
        return dict(self._shadow)

    def load_tensors(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """The inverse of `to_tensors`.

        Raises:
            RunStateError: other names or shapes than the model's.
        """
        if {n: t.shape for n, t in tensors.items()} != {
            n: t.shape for n, t in self._shadow.items()
        }:
            raise RunStateError(
                "the state's averaged weights do not fit the model: resume with the configuration "
                "that the run was started with"
            )
        self.steps = steps
        _copy(tensors, self._shadow)


def _floating(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach() for n, t in model.state_dict().items() if t.is_floating_point()}


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
