"""What every memory keyed by place can do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn

from ttt_core.memory.state import MemoryState


class SignedSamples(NamedTuple):
    """Samples as `write` takes them, to be added `factor` times; -1 takes them back."""

    places: Tensor  # (B, N, 3), sub-map units
    values: Tensor  # (B, N, value_width)
    weights: Tensor  # (B, N, weight_channels), >= 0
    factor: float


class PlaceMemory(nn.Module):
    """Values written at points of the sub-map's frame and read back at any other points.

    Shape suffixes: B streams, N points, `value_width` channels.
    """

    value_width: int
    weight_channels: int
    """How many weights `write` wants for each point."""
    editable: bool
    """Whether `amend` can take back exactly what was written."""

    @abstractmethod
    def initial_state(self, streams: int) -> MemoryState:
        """Nothing written yet."""

    @abstractmethod
    def read(self, state: MemoryState, places: Tensor) -> tuple[Tensor, Tensor]:
        """Ask what is known of places.

        Args:
            places: (B, N, 3), sub-map units.

        Returns:
            values (B, N, value_width), and doubt (B, N): 1 where nothing was ever written, towards
            0 where much was; all zero for memories that cannot tell.
        """

    @abstractmethod
    def write(
        self, state: MemoryState, places: Tensor, values: Tensor, weights: Tensor
    ) -> MemoryState:
        """The state after one batch.

        Args:
            places: (B, N, 3), sub-map units.
            values: (B, N, value_width).
            weights: (B, N, weight_channels), >= 0.
        """

    def amend(self, state: MemoryState, changes: Iterable[SignedSamples]) -> MemoryState:
        """Add all `changes` without ageing what is there; they are drawn one by one.

        Raises:
            NotImplementedError: `editable` is False.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be edited after the fact")

    def retention(self, batches: int) -> float:
        """How much of what was written is left after so many further batches, 0..1."""
        raise NotImplementedError(f"{type(self).__name__} cannot be edited after the fact")
