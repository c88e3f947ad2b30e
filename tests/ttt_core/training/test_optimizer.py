"""Groups of parameters, Muon, averaged weights, the guard against bad gradients, the schedule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ttt_core.errors import ConfigError, RunStateError
from ttt_core.training.ema import WeightAverage
from ttt_core.training.gradients import GradientGuard
from ttt_core.training.optimizer import Optimizer, OptimizerConfig
from ttt_core.training.schedule import Schedule, ScheduleConfig


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokenizer = nn.Linear(12, 16)
        self.hidden = nn.Linear(16, 24)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 8)
        self.scale = nn.Parameter(torch.tensor(0.5))


def gradients(model: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_only_matrices_decay() -> None:
    model = Net()
    optimizer = Optimizer(model, OptimizerConfig(learning_rate=0.1, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.5)
    for name, parameter in model.named_parameters():
        factor = 1 - 0.5 * 0.1 * 0.5 if parameter.dim() == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_muon_takes_hidden_matrices_and_makes_their_step_orthogonal() -> None:
    model = Net()
    config = OptimizerConfig(muon=True, muon_learning_rate=0.1, muon_weight_decay=0.0)
    optimizer = Optimizer(model, config)
    assert optimizer.muon_names == {"hidden.weight"}
    before = model.hidden.weight.detach().clone()
    gradients(model)
    optimizer.step(1.0)
    step = (before - model.hidden.weight.detach()) / (0.1 * (24 / 16) ** 0.5)
    singular = torch.linalg.svdvals(step)
    assert float(singular.min()) > 0.6 and float(singular.max()) < 1.3


def test_moments_come_back_by_name() -> None:
    config = OptimizerConfig(muon=True)
    one, other = Net(), Net()
    first = Optimizer(one, config)
    for seed in range(3):
        gradients(one, seed)
        first.step(1.0)
    second = Optimizer(other, config)
    other.load_state_dict(one.state_dict())
    second.load_tensors({name: t.clone() for name, t in first.to_tensors().items()})
    for model, optimizer in ((one, first), (other, second)):
        gradients(model, 9)
        optimizer.step(0.7)
    for a, b in zip(one.parameters(), other.parameters()):
        assert torch.equal(a, b)
    with pytest.raises(RunStateError, match=r"moments of 'absent'"):
        second.load_tensors({"absent/exp_avg": torch.zeros(1)})
    with pytest.raises(RunStateError, match="expected"):
        second.load_tensors({"scale/momentum": torch.zeros(())})
    with pytest.raises(RunStateError, match="shape"):
        second.load_tensors({"hidden.weight/momentum": torch.zeros(2, 2)})


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="no parameter"):
        Optimizer(nn.ReLU(), OptimizerConfig())


def test_the_average_follows_and_is_only_borrowed() -> None:
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(1.0)
    for _ in range(300):
        average.update(model)
    with torch.no_grad():
        model.weight.fill_(3.0)
    average.update(model)
    with pytest.raises(KeyError), average.applied(model):
        torch.testing.assert_close(model.weight, torch.full((2, 3), 1.2), rtol=1e-4, atol=0)
        raise KeyError
    assert bool((model.weight == 3.0).all())
    with pytest.raises(RunStateError, match="averaged weights"):
        average.load_tensors({}, 1)


def test_the_guard_clips_and_skips() -> None:
    guard = GradientGuard(1.0, 4.0)
    weight = nn.Parameter(torch.zeros(4))

    def check(size: float) -> bool:
        weight.grad = torch.full((4,), size / 2)
        report = guard.check([weight])
        if not report.skip:
            torch.testing.assert_close(float(weight.grad.norm()), min(size, 1.0), atol=1e-5, rtol=0)
        return report.skip

    assert not any(check(2.0 + 0.01 * i) for i in range(30))
    assert not check(8.0)
    assert check(9.0)
    assert check(float("nan")) and check(float("inf"))
    other = GradientGuard(1.0, 4.0)
    other.restore(guard.norms)
    assert other.norms == guard.norms and len(guard.norms) == 32
    # a lasting change of scale is followed in the end
    assert not all(check(20.0) for _ in range(60))


@settings(max_examples=50, deadline=None)
@given(
    warmup=st.integers(0, 50),
    share=st.floats(0, 1),
    started=st.floats(0, 1e4),
    seconds=st.floats(1, 1e4),
    at=st.floats(0, 1),
    step=st.integers(0, 200),
)
def test_the_schedule_rises_once_and_falls_once(
    warmup: int, share: float, started: float, seconds: float, at: float, step: int
) -> None:
    config = ScheduleConfig(warmup_steps=warmup, decay_share=share)
    schedule = Schedule.of_run(config, started, seconds)
    now = started + at * seconds
    factor = schedule.factor(step, now)
    assert 0 <= factor <= 1
    assert factor <= schedule.factor(step + 1, now)
    assert schedule.factor(step, now + 1) <= factor
    if step >= warmup and not schedule.decays(now):
        assert factor == 1
    if share > 0.01:
        assert schedule.factor(step, started + seconds) < 1e-6
