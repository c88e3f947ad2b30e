"""What a network is trained on: posed sequences, and streams cut into batches with their prior."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ttt_core.errors import SequenceError
from ttt_core.matching import CELL, CELL_CHANNELS

FORMAT = "splatstream training sequence 1"

_Expected = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


class Scene(Protocol):
    """A rendered scene with exact depth, 0 where there is sky (`ttt_core.scenes.SceneSequence`)."""

    @property
    def image(self) -> Tensor: ...
    @property
    def depth(self) -> Tensor: ...
    @property
    def fxfycxcy(self) -> Tensor: ...
    @property
    def c2w(self) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PosedSequence:
    """Pictures of one size in the order of a stream, with cameras and what is known of depth.

    Attributes:
        image: (V, 3, H, W) uint8 RGB.
        fxfycxcy: (V, 4) float32 pixels; the first pixel's centre is (0.5, 0.5).
        c2w: (V, 4, 4) float64 camera to world, OpenCV axes, exact as far as is known.
        depth: (V, H, W) float32 z-depth in world units, 0 = sky or unknown.
        sky: (V, H, W) bool, infinitely far; None: nowhere known to be sky.
        valid: (V, H, W) bool, False where the picture is to be ignored; None: nowhere.

    Raises:
        SequenceError: a shape or dtype is wrong, or a pose is not finite.
    """

    image: Tensor
    fxfycxcy: Tensor
    c2w: Tensor
    depth: Tensor
    sky: Tensor | None = None
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        views, height, width = _picture_shape(self.image)
        pixels = (views, height, width)
        _check(
            self,
            {
                "image": ((views, 3, height, width), torch.uint8),
                "fxfycxcy": ((views, 4), torch.float32),
                "c2w": ((views, 4, 4), torch.float64),
                "depth": (pixels, torch.float32),
                "sky": (pixels, torch.bool),
                "valid": (pixels, torch.bool),
            },
        )
        if not torch.isfinite(self.c2w).all():
            raise SequenceError("c2w is not finite: leave out views without a pose")

    @classmethod
    def from_scene(cls, scene: Scene) -> PosedSequence:
        """A generated scene, brought to the CPU."""
        depth = scene.depth.cpu()
        return cls(
            image=scene.image.cpu(),
            fxfycxcy=scene.fxfycxcy.cpu(),
            c2w=scene.c2w.cpu(),
            depth=depth,
            sky=depth == 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PriorMaps:
    """What the matching prior says of every view, as stored.

    Attributes:
        depth: (V, H, W) float16 z-depth, world units, > 0.
        confidence: (V, H, W) uint8, 255 for 1.
        cells: (V, Hc, Wc, F) float16, channels as in `CELL_CHANNELS`.
        depth_range: (V, 2) float32 first and last plane, world units.
    """

    depth: Tensor
    confidence: Tensor
    cells: Tensor
    depth_range: Tensor

    def check(self, views: int, height: int, width: int) -> None:
        """Raises SequenceError unless the maps are those of so many views of this size."""
        pixels = (views, height, width)
        cells = (views, -(-height // CELL), -(-width // CELL), len(CELL_CHANNELS))
        _check(
            self,
            {
                "depth": (pixels, torch.float16),
                "confidence": (pixels, torch.uint8),
                "cells": (cells, torch.float16),
                "depth_range": ((views, 2), torch.float32),
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingSequence:
    """One stream cut into batches, with everything about it that no gradient passes through.

    All tensors are on the CPU.

    Attributes:
        keys: (V,) int64, distinct.
        batch: (V,) int64 number of the batch that a view arrived in: from 0, non-decreasing.
        image: (V, 3, H, W) uint8 RGB, grey where the picture is to be ignored.
        fxfycxcy: (V, 4) float32 pixels.
        c2w: (V, 4, 4) float64: the poses that the model is told, noise included.
        true_depth: (V, H, W) float16 z-depth in world units, 0 = unknown, not supervised.
        sky: (V, H, W) bool.
        unit: world length of the sub-map's unit (`SubmapFrame.scale` of the first batch's prior).
        prior: as the product makes it, with earlier key frames as further sweep sources.
        prior_alone: from the views of the present batch only; None where it was not asked for.
        map_depth: (V, H, W) float16 z-depth of earlier batches' points, 0 = nothing.

    Raises:
        SequenceError: a shape or dtype is wrong, or batches are out of order.
    """

    keys: Tensor
    batch: Tensor
    image: Tensor
    fxfycxcy: Tensor
    c2w: Tensor
    true_depth: Tensor
    sky: Tensor
    unit: float
    prior: PriorMaps
    prior_alone: PriorMaps | None
    map_depth: Tensor

    def __post_init__(self) -> None:
        views, height, width = _picture_shape(self.image)
        pixels = (views, height, width)
        _check(
            self,
            {
                "keys": ((views,), torch.int64),
                "batch": ((views,), torch.int64),
                "image": ((views, 3, height, width), torch.uint8),
                "fxfycxcy": ((views, 4), torch.float32),
                "c2w": ((views, 4, 4), torch.float64),
                "true_depth": (pixels, torch.float16),
                "sky": (pixels, torch.bool),
                "map_depth": (pixels, torch.float16),
            },
        )
        for maps in (self.prior, self.prior_alone):
            if maps is not None:
                maps.check(views, height, width)
        steps = self.batch.diff()
        if self.batch[0] != 0 or ((steps != 0) & (steps != 1)).any():
            raise SequenceError(
                f"batch is {self.batch.tolist()}: number the batches 0, 1, 2 … in order of arrival"
            )
        if len(set(self.keys.tolist())) != views:
            raise SequenceError(
                f"keys is {self.keys.tolist()}: give every view a number of its own"
            )
        if not 0 < self.unit < float("inf"):
            raise SequenceError(f"unit is {self.unit}: give a finite length > 0")


def save_sequence(sequence: TrainingSequence, path: str | Path) -> None:
    """Writes one safetensors file; it appears under its name only once it is whole."""
    path = Path(path)
    tensors: dict[str, Tensor] = {"unit": torch.tensor(sequence.unit, dtype=torch.float64)}
    for name in _tensor_names(TrainingSequence):
        tensors[name] = getattr(sequence, name)
    for group in ("prior", "prior_alone"):
        maps: PriorMaps | None = getattr(sequence, group)
        if maps is not None:
            tensors |= {f"{group}.{f.name}": getattr(maps, f.name) for f in fields(PriorMaps)}
    draft = path.with_name(f".{path.name}.tmp")
    save_file({k: t.contiguous() for k, t in tensors.items()}, draft, {"format": FORMAT})
    os.replace(draft, path)


def load_sequence(path: str | Path) -> TrainingSequence:
    """Reads what `save_sequence` wrote.

    Raises:
        SequenceError: not such a file, damaged, or made for another version.
    """
    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get("format")
            if found != FORMAT:
                raise SequenceError(
                    f"{path}: is {found or 'no training sequence'}, not {FORMAT!r}: make it anew"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SequenceError(f"{path}: cannot be read ({error}): delete it, make it anew") from error
    try:
        groups = {
            group: PriorMaps(**{f.name: tensors[f"{group}.{f.name}"] for f in fields(PriorMaps)})
            for group in ("prior", "prior_alone")
            if f"{group}.depth" in tensors
        }
        return TrainingSequence(
            **{name: tensors[name] for name in _tensor_names(TrainingSequence)},
            unit=float(tensors["unit"]),
            prior=groups["prior"],
            prior_alone=groups.get("prior_alone"),
        )
    except KeyError as error:
        raise SequenceError(f"{path}: holds no {error}: delete it and make it anew") from error
    except SequenceError as error:
        raise SequenceError(f"{path}: {error}") from None


def _tensor_names(cls: type) -> list[str]:
    other = ("unit", "prior", "prior_alone")
    return [field.name for field in fields(cls) if field.name not in other]


def _picture_shape(image: Tensor) -> tuple[int, int, int]:
    if image.dim() != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise SequenceError(f"image is {tuple(image.shape)}: give (V, 3, H, W), none of them 0")
    views, _, height, width = image.shape
    return views, height, width


def _check(owner: object, expected: _Expected) -> None:
    for name, (shape, dtype) in expected.items():
        tensor: Tensor | None = getattr(owner, name)
        if tensor is not None and (tuple(tensor.shape) != shape or tensor.dtype != dtype):
            raise SequenceError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}: give {dtype} {shape}"
            )
