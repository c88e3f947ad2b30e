"""Where posed sequences come from: any numbered source, made anew in each process that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from ttt_core.scenes.config import SceneConfig, Split
from ttt_core.training.samples import PosedSequence


class SequenceSource(Protocol):
    """A picklable, numbered supply of sequences: the same number gives the same sequence."""

    def __call__(self, index: int) -> PosedSequence:
        """Sequence number `index`, from 0 without an end."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """Everything, as JSON has it, that decides what the numbers give."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSource:
    """Procedural scenes, one a seed."""

    split: Split = "train"
    first_seed: int = 0
    config: SceneConfig = field(default_factory=lambda: SceneConfig(width=128, height=96, views=24))
    device: str = "cpu"
    """Where they are rendered."""

    def __call__(self, index: int) -> PosedSequence:
        # The generator is a large import, and a trainer that only reads a cache has no need of it.
        from ttt_core.scenes import make_sequence

        scene = make_sequence(self.first_seed + index, self.split, self.config, self.device)
        return PosedSequence.from_scene(scene)

    def identity(self) -> Mapping[str, Any]:
        return {
            "scenes": self.split,
            "first_seed": self.first_seed,
            "config": asdict(self.config),
            "device": self.device.partition(":")[0],
        }
