"""A small real problem for the trainer: a noisy teacher network, drawn, collated and fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from ttt_core.training.optimizer import OptimizerConfig
from ttt_core.training.schedule import ScheduleConfig
from ttt_core.training.trainer import Stage, Trainer, TrainerConfig


class Clock:
    """Seconds that pass only when told to: every step takes exactly one."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def teacher(x: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, 8 * 3).reshape(8, 3)
    return torch.tanh(0.7 * x @ weights)


class Inputs:
    """A sampler: points for the teacher."""

    def sample(self, rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(rng.standard_normal(8)).float()


def collate(items: Sequence[Tensor], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    x = torch.stack(list(items)) + 0.01 * float(rng.random())
    return x, teacher(x)


def student(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 16),
            nn.GELU(), nn.Linear(16, 3),
        )  # fmt: skip


def loss_of(
    clock: Clock, steps: list[float], after: Callable[[int], None] | None = None
) -> Callable[[nn.Module, tuple[Tensor, Tensor], torch.Generator], tuple[Tensor, dict[str, float]]]:
    """Squared error under input noise; advances the clock and notes every loss."""

    def loss(
        model: nn.Module, batch: tuple[Tensor, Tensor], rng: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        x, y = batch
        value = functional.mse_loss(model(x + 0.01 * torch.randn(x.shape, generator=rng)), y)
        clock.now += 1.0
        steps.append(float(value.detach()))
        if after is not None:
            after(len(steps))
        return value, {"scale": float(y.std())}

    return loss


def evaluate(model: nn.Module) -> Mapping[str, float]:
    assert not model.training
    torch.manual_seed(5)
    x = torch.randn(256, 8)
    return {"error": float(functional.mse_loss(model(x), teacher(x)))}


def trainer(out: Path, losses: list[float], **changes: Any) -> Trainer[Tensor, Any]:
    """One process's trainer of the problem; `changes` go to the constructor."""
    clock = changes.pop("clock", None) or Clock()
    after = changes.pop("after", None)
    stage = Stage(
        name="only",
        sampler=Inputs(),
        collate=collate,
        loss=loss_of(clock, losses, after),
        batch_size=16,
    )
    arguments: dict[str, Any] = {
        "config": TrainerConfig(evaluate_every_s=7, save_every_s=1e9, prepare_ahead=2),
        "optimizer": OptimizerConfig(learning_rate=1e-2, ema_decay=0.9),
        "schedule": ScheduleConfig(warmup_steps=5, decay_share=0.5, horizon_s=60),
        "evaluate": evaluate,
        "facts": {"config": {"problem": "teacher"}},
        **changes,
    }
    stages = arguments.pop("stages", [stage])
    model = arguments.pop("model", None) or student()
    return Trainer(model, stages, out, clock=clock, **arguments)
