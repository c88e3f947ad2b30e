"""AdamW and Muon over one model, with state by parameter name.

Muon (Jordan et al. 2024) orthogonalises the momentum of hidden matrices; everything else is
AdamW (Loshchilov & Hutter 2019), without weight decay on norms, biases and scalars.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttt_core.errors import ConfigError, RunStateError
from ttt_core.fast_weights import newton_schulz

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_SMALLEST_MATRIX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """Rates, decays and the guard against bad gradients."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.05
    """Decoupled, on tensors of two and more axes only."""
    muon: bool = False
    """Muon for the matrices of linear layers."""
    muon_learning_rate: float = 0.02
    muon_momentum: float = 0.95
    muon_weight_decay: float = 0.01
    muon_exclude: tuple[str, ...] = ("tokenizer", "embed", "head", "decoder", "lr_fc")
    """Layers with one of these in their name stay with AdamW: first and last ones."""
    clip: float = 1.0
    """Largest norm of the whole gradient."""
    skip_above: float = 4.0
    """A step whose gradient norm is beyond this many running medians is skipped."""
    ema_decay: float = 0.999
    """Memory of the averaged weights that are evaluated and exported."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "muon_learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: give a number > 0")
        for name in ("beta1", "beta2", "muon_momentum", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}: give a number in 0..1, below 1"
                )
        for name in ("weight_decay", "muon_weight_decay"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: give 0 or more")
        if not self.skip_above > 1:
            raise ConfigError(f"skip_above is {self.skip_above}: give a number > 1")


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decoupled weight decay.

    The step of an (R, K) matrix is scaled by sqrt(max(1, R/K)), which keeps the change of the
    layer's output alike for all shapes (Jordan et al. 2024).
    """

    def __init__(
        self, parameters: list[Tensor], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Takes the step from the gradients as they are; parameters without one are left alone."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for (rows, columns), alike in by_shape.items():
                updates = torch.stack([self._momentum(p, group["momentum"]) for p in alike])
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for parameter, update in zip(alike, newton_schulz(updates)):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(scale * update.to(parameter.dtype))

    def _momentum(self, parameter: Tensor, decay: float) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(parameter.grad, 1 - decay)
        return parameter.grad.lerp(momentum, decay)


class Optimizer:
    """AdamW, and Muon where the configuration asks for it, as one."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self._named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self._named:
            raise ConfigError("the model has no parameter that requires a gradient: nothing to do")
        hidden = _hidden_matrices(model, config) if config.muon else set()
        decayed: list[Tensor] = []
        plain: list[Tensor] = []
        matrices: list[Tensor] = []
        for name, parameter in self._named.items():
            if name in hidden:
                matrices.append(parameter)
            else:
                (decayed if parameter.dim() >= 2 else plain).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self._parts: list[torch.optim.Optimizer] = []
        if decayed or plain:
            betas = (config.beta1, config.beta2)
            self._parts.append(torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas))
        if matrices:
            self._parts.append(
                Muon(
                    matrices,
                    lr=config.muon_learning_rate,
                    momentum=config.muon_momentum,
                    weight_decay=config.muon_weight_decay,
                )
            )
        self._rates = [part.defaults["lr"] for part in self._parts]
        self.muon_names = frozenset(hidden)

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained, in the model's order."""
        return list(self._named.values())

    def zero_grad(self) -> None:
        for parameter in self._named.values():
            parameter.grad = None

    def step(self, factor: float) -> None:
        """One step at `factor` times the configured rates."""
        for part, rate in zip(self._parts, self._rates):
            for group in part.param_groups:
                group["lr"] = factor * rate
            part.step()

    def to_tensors(self) -> dict[str, Tensor]:
        """Moments as `<parameter>/<moment>`; not copied."""
        tensors = {}
        for name, parameter in self._named.items():
            for part in self._parts:
                for moment, value in part.state.get(parameter, {}).items():
                    tensors[f"{name}/{moment}"] = value
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `to_tensors`.

        Raises:
            RunStateError: moments of other parameters, of another optimizer or another shape.
        """
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, moment = key.rpartition("/")
            by_name.setdefault(name, {})[moment] = value
        unknown = sorted(by_name.keys() - self._named.keys())
        if unknown:
            raise RunStateError(
                f"the state has moments of {unknown[0]!r}, which this model does not train: resume "
                "with the configuration that the run was started with"
            )
        for name, moments in by_name.items():
            parameter = self._named[name]
            expected = ("momentum",) if name in self.muon_names else _MOMENTS
            if set(moments) != set(expected):
                raise RunStateError(
                    f"the state has {sorted(moments)} of {name!r}, expected {sorted(expected)}: "
                    "resume with the optimizer that the run was started with"
                )
            part = self._part_of(name)
            part.state[parameter] = {
                moment: _like(value, parameter, name, moment) for moment, value in moments.items()
            }

    def _part_of(self, name: str) -> torch.optim.Optimizer:
        kinds = (Muon,) if name in self.muon_names else (torch.optim.AdamW,)
        return next(part for part in self._parts if isinstance(part, kinds))


def _like(value: Tensor, parameter: Tensor, name: str, moment: str) -> Tensor:
    if moment == "step":
        # AdamW keeps its count of steps on the CPU
        return value.to(torch.float32)
    if value.shape != parameter.shape:
        raise RunStateError(
            f"the state's {moment} of {name!r} has shape {tuple(value.shape)}, the parameter "
            f"{tuple(parameter.shape)}: resume with the model that the run was started with"
        )
    return value.to(parameter.device, parameter.dtype)


def _hidden_matrices(model: nn.Module, config: OptimizerConfig) -> set[str]:
    return {name for name, _ in _linear_weights(model, config)}


def _linear_weights(model: nn.Module, config: OptimizerConfig) -> Iterator[tuple[str, Tensor]]:
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or not module.weight.requires_grad:
            continue
        if min(module.weight.shape) < _SMALLEST_MATRIX:
            continue
        if any(word in name for word in config.muon_exclude):
            continue
        yield (f"{name}.weight" if name else "weight"), module.weight
