"""The streaming model without what its memory carries: what the fast weights are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttt_core import Prediction, StreamingModel, StreamingState, ViewBatch


class Forgetful:
    """A `StreamModel` whose fast weights are emptied before every batch.

    The earlier key frames that the matching prior sweeps stay.
    """

    def __init__(self, model: StreamingModel) -> None:
        self._model = model

    @property
    def trained(self) -> bool:
        return self._model.trained

    @property
    def device(self) -> torch.device:
        return self._model.device

    def describe(self) -> str:
        return f"{self._model.describe()} Its fast weights are emptied before every batch."

    def initial_state(self) -> StreamingState:
        return self._model.initial_state()

    def stream(self, state: StreamingState, batch: ViewBatch) -> tuple[StreamingState, Prediction]:
        return self._model.stream(self._emptied(state), batch)

    def query(self, state: StreamingState, batch: ViewBatch) -> Prediction:
        return self._model.query(self._emptied(state), batch)

    def move(
        self,
        state: StreamingState,
        poses: Mapping[int, NDArray[np.float64] | Tensor],
        scales: Mapping[int, float] | None = None,
    ) -> StreamingState:
        return self._model.move(self._emptied(state), poses, scales)

    def warm_up(self, height: int, width: int) -> None:
        self._model.warm_up(height, width)

    def _emptied(self, state: StreamingState) -> StreamingState:
        return replace(state, memory=self._model.initial_state().memory, records=())
