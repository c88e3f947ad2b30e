"""What the daemon's engine asks of a model, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttt_core.errors import StateMismatchError
from ttt_core.state import read_state_tensors
from ttt_core.views import Prediction, ViewBatch

State = TypeVar("State", bound="CarriedState")


class CarriedState(Protocol):
    """What a model carries from batch to batch; never changed, only replaced."""

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors; bounded however long the stream."""
        ...

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat `name -> tensor` form (not copied) that a file can hold."""
        ...


@runtime_checkable
class LoadableState(CarriedState, Protocol):
    """A carried state that comes back from its tensors."""

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `to_tensors`.

        Raises:
            StateMismatchError: names are unknown or missing.
        """
        ...


class StreamModel(Protocol[State]):
    """Key frames in, predictions out, batch after batch."""

    @property
    def trained(self) -> bool:
        """Whether the residuals of a prediction say anything."""
        ...

    @property
    def device(self) -> torch.device: ...

    def describe(self) -> str:
        """One plain sentence or two on what the output is made of."""
        ...

    def initial_state(self) -> State:
        """The state before the first batch."""
        ...

    def stream(self, state: State, batch: ViewBatch) -> tuple[State, Prediction]:
        """Take in the next key frames: the state afterwards, and what is predicted for them."""
        ...

    def query(self, state: State, batch: ViewBatch) -> Prediction:
        """Predict any views with the memory as it stands; `state` is untouched."""
        ...

    def move(
        self,
        state: State,
        poses: Mapping[int, NDArray[np.float64] | Tensor],
        scales: Mapping[int, float] | None = None,
    ) -> State:
        """The state after corrected poses: by key, (4, 4) camera to world, rigid, and how much
        larger the world around that view became. Unknown keys are ignored."""
        ...

    def warm_up(self, height: int, width: int) -> None:
        """Compile and allocate for images of this size, so that the first batch is not late."""
        ...


def load_carried_state(model: StreamModel[Any], path: str | Path) -> Any:
    """The state of a model from the file that holds its `to_tensors`, on the model's device.

    Raises:
        StateMismatchError: the file is damaged, of another kind of model, or this kind has no
            states that can be loaded.
    """
    initial = model.initial_state()
    if not isinstance(initial, LoadableState):
        raise StateMismatchError(
            f"{path}: the states of a {type(model).__name__} cannot be loaded: begin anew"
        )
    tensors = read_state_tensors(path, model.device)
    for name, tensor in initial.to_tensors().items():
        there = tensors[name].shape if name in tensors else None
        if tensor.numel() and there != tensor.shape:
            raise StateMismatchError(
                f"{path}: {name} is {there}, this model's is {tensor.shape}: it was saved with "
                "other weights; begin anew, or use those"
            )
    return initial.from_tensors(tensors)
