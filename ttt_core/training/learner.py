"""A model together with all that learning changes: one step, and the whole as tensors and facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ttt_core.errors import RunStateError
from ttt_core.training.ema import WeightAverage
from ttt_core.training.gradients import GradientGuard
from ttt_core.training.optimizer import Optimizer, OptimizerConfig
from ttt_core.training.parallel import Ranks, views_spread
from ttt_core.training.random_state import RandomState

Batch = TypeVar("Batch")
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class StepReport:
    """Of one step on this process: mean loss, the loss function's figures for the last batch, norm
    of the gradient of all processes, and whether the step was skipped."""

    loss: float
    figures: dict[str, float]
    gradient: float
    skipped: bool


class Learner:
    """Model, optimizer, averaged weights, gradient guard and random numbers of one process."""

    def __init__(
        self,
        model: nn.Module,
        config: OptimizerConfig,
        *,
        seed: int,
        device: torch.device,
        ranks: Ranks,
        precision: Precision = "float32",
    ) -> None:
        """Every process starts from the leading one's weights; bfloat16 counts on CUDA only."""
        self.model = model.to(device)
        self._device, self._ranks = device, ranks
        self._mixed = precision == "bfloat16" and device.type == "cuda"
        ranks.same_weights(tensor.data for tensor in self.model.state_dict().values())
        self.optimizer = Optimizer(self.model, config)
        self.average = WeightAverage(self.model, config.ema_decay)
        self.guard = GradientGuard(config.clip, config.skip_above)
        self.random = RandomState(seed, ranks, device)

    def learn(
        self,
        batches: Iterable[Batch],
        loss_of: Callable[[nn.Module, Batch, torch.Generator], tuple[Tensor, Mapping[str, float]]],
        factor: float,
    ) -> StepReport:
        """One step on the mean loss of `batches`, at `factor` times the configured rates."""
        self.model.train()
        self.optimizer.zero_grad()
        losses: list[float] = []
        figures: dict[str, float] = {}
        for batch in batches:
            with views_spread(self.model, self._ranks):
                with self._precision():
                    loss, told = loss_of(self.model, batch, self.random.of_loss)
                loss.backward()  # type: ignore[no-untyped-call]
            losses.append(float(loss.detach()))
            figures = dict(told)
        parameters = self.optimizer.parameters
        if len(losses) > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= len(losses)
        self._ranks.mean_gradients(parameters)
        report = self.guard.check(parameters)
        if not report.skip:
            self.optimizer.step(factor)
            self.average.update(self.model)
        return StepReport(sum(losses) / len(losses), figures, report.norm, report.skip)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model as it is evaluated: averaged weights, no gradients, its own random numbers."""
        with self.average.applied(self.model), self.random.untouched(), torch.no_grad():
            self.model.eval()
            yield self.model

    def to_tensors(self) -> dict[str, Tensor]:
        """Master weights, averaged weights and moments by name; not copied."""
        parts = {
            "model": self.model.state_dict(),
            "average": self.average.to_tensors(),
            "optimizer": self.optimizer.to_tensors(),
        }
        return {f"{part}.{n}": t for part, named in parts.items() for n, t in named.items()}

    def facts(self, draws: dict[str, Any]) -> dict[str, Any]:
        """The rest of the state, fit for JSON; all processes have to ask together.

        Args:
            draws: state of this process's draws, kept with its other random numbers.
        """
        return {
            "average_steps": self.average.steps,
            "norms": self.guard.norms,
            "random": self.random.gather(draws),
        }

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `to_tensors` and `facts`; returns the state of this process's draws.

        Raises:
            RunStateError: they belong to another model, optimizer or number of processes.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        try:
            self.model.load_state_dict(parts["model"])
        except RuntimeError as error:
            raise RunStateError(
                f"the state does not fit the model: {error}; resume with the configuration that "
                "the run was started with"
            ) from error
        self.average.load_tensors(parts["average"], facts["average_steps"])
        self.optimizer.load_tensors(parts["optimizer"])
        self.guard.restore(facts["norms"])
        return self.random.restore(facts["random"])

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", dtype=torch.bfloat16) if self._mixed else nullcontext()
