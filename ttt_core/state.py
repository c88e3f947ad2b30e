"""What a stream carries from batch to batch: plain tensors, saved and restored bit for bit.

Shape suffixes: B batch items, H fast-weight heads, D head dimension, M hidden units.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import Tensor

from ttt_core.errors import StateMismatchError


class FastWeights(NamedTuple):
    """One tensor for each matrix of the SwiGLU memory `x -> (silu(x w0) * (x w2)) w1`."""

    w0: Tensor  # (B*H, D, M)
    w1: Tensor  # (B*H, M, D)
    w2: Tensor  # (B*H, D, M)

    def map(self, function: Callable[[Tensor], Tensor]) -> FastWeights:
        return FastWeights(function(self.w0), function(self.w1), function(self.w2))


@dataclass(frozen=True, slots=True)
class LayerState:
    """The memory of one layer.

    Attributes:
        weights: the fast weights as they stand, (B*H, D, M), (B*H, M, D), (B*H, D, M).
        norms: column norms of the INITIAL weights, (B*H, 1, M), (B*H, 1, D), (B*H, 1, M); fixed for
            the life of the stream, every update is scaled back to them.
        fisher: running mean of squared updates, shaped as `weights`; None without the elastic
            option.
        anchor: slow copy that the elastic option pulls towards; None without it.
    """

    weights: FastWeights
    norms: FastWeights
    fisher: FastWeights | None = None
    anchor: FastWeights | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> LayerState:
        return LayerState(
            weights=self.weights.map(function),
            norms=self.norms.map(function),
            fisher=None if self.fisher is None else self.fisher.map(function),
            anchor=None if self.anchor is None else self.anchor.map(function),
        )


_KEY = re.compile(r"layers\.(\d+)\.(weights|norms|fisher|anchor)\.(w0|w1|w2)")


@dataclass(frozen=True, slots=True)
class ReconstructorState:
    """Everything that `Reconstructor.stream` carries; its size does not grow with the stream."""

    layers: tuple[LayerState, ...]

    def map(self, function: Callable[[Tensor], Tensor]) -> ReconstructorState:
        """The state with `function` applied to every tensor, e.g. `lambda t: t.to(device)`."""
        return ReconstructorState(tuple(layer.map(function) for layer in self.layers))

    def detach(self) -> ReconstructorState:
        """The same values cut from the graph: truncates back-propagation through the stream."""
        return self.map(Tensor.detach)

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors."""
        return sum(t.numel() * t.element_size() for t in self.to_tensors().values())

    def named(self) -> dict[str, Tensor]:
        """A flat `name -> tensor` view, still part of the graph."""
        tensors: dict[str, Tensor] = {}
        for index, layer in enumerate(self.layers):
            for group in ("weights", "norms", "fisher", "anchor"):
                value: FastWeights | None = getattr(layer, group)
                if value is not None:
                    for name, tensor in value._asdict().items():
                        tensors[f"layers.{index}.{group}.{name}"] = tensor
        return tensors

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat `name -> tensor` view (detached, not copied) that a larger file can embed."""
        return {name: tensor.detach() for name, tensor in self.named().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ReconstructorState:
        """The inverse of `to_tensors`.

        Raises:
            StateMismatchError: a name is unknown or missing.
        """
        groups: dict[int, dict[str, dict[str, Tensor]]] = {}
        for key, tensor in tensors.items():
            match = _KEY.fullmatch(key)
            if match is None:
                raise StateMismatchError(
                    f"state tensor {key!r} is unknown: expected layers.<index>.<weights|norms|"
                    "fisher|anchor>.<w0|w1|w2>; was this file written by save_state?"
                )
            index, group, name = int(match[1]), match[2], match[3]
            groups.setdefault(index, {}).setdefault(group, {})[name] = tensor
        layers = []
        for index in range(len(groups)):
            layer = groups.get(index, {})
            complete = all(value.keys() == set(FastWeights._fields) for value in layer.values())
            if not {"weights", "norms"} <= layer.keys() or not complete:
                raise StateMismatchError(
                    f"state layer {index} of {len(groups)} is incomplete: it needs weights and "
                    "norms, each with w0, w1 and w2; the file is damaged or was cut"
                )
            layers.append(LayerState(**{group: FastWeights(**v) for group, v in layer.items()}))
        return cls(tuple(layers))


def write_tensors(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Write `tensors` as safetensors, whole or not at all (written aside, then renamed).

    Of types that numpy has, so no bfloat16: safetensors.torch makes a ctypes type for every size of
    tensor that it meets, and Python keeps those for ever, some 3 kB each.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    save_file({name: t.detach().cpu().contiguous().numpy() for name, t in tensors.items()}, aside)
    os.replace(aside, path)


def read_state_tensors(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read what `write_tensors` wrote.

    Raises:
        StateMismatchError: the file is no safetensors file, or it was cut.
    """
    try:
        return load_file(path, device=str(device))
    except SafetensorError as error:
        raise StateMismatchError(
            f"state file {path} is no whole safetensors file ({error}): restore it from a copy or "
            "start from an initial state"
        ) from error


def save_state(state: ReconstructorState, path: str | Path) -> None:
    """Write `state` to `path` as safetensors; `load_state` returns it bit for bit."""
    write_tensors(state.to_tensors(), path)


def load_state(path: str | Path, device: str | torch.device = "cpu") -> ReconstructorState:
    """Read a state that `save_state` wrote.

    Raises:
        StateMismatchError: the file is damaged or holds something else.
    """
    return ReconstructorState.from_tensors(read_state_tensors(path, device))
