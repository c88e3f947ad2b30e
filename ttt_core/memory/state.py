"""What a memory carries from batch to batch: named tensors, whatever its form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class MemoryState:
    """Named tensors with a leading axis of B streams; never changed in place.

    An empty one belongs to a model that carries nothing.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def map(self, function: Callable[[Tensor], Tensor]) -> MemoryState:
        """The state with `function` applied to every tensor, e.g. `lambda t: t.to(device)`."""
        return MemoryState({name: function(t) for name, t in self.tensors.items()})

    def detach(self) -> MemoryState:
        """The same values cut from the graph: truncates back-propagation through the stream."""
        return self.map(Tensor.detach)

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat `name -> tensor` view (detached, not copied) that a larger file can embed."""
        return {name: t.detach() for name, t in self.tensors.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> MemoryState:
        """The inverse of `to_tensors`; whether it fits a model, the model checks."""
        return cls(dict(tensors))
