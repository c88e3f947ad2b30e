"""The training loop: driven by the wall clock, resumable, safe to stop at any time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ttt_core.errors import CheckpointError, ConfigError, RunStateError
from ttt_core.training.draws import Draws, Sampler, new_state
from ttt_core.training.learner import Learner, Precision
from ttt_core.training.log import RunLog, read_log
from ttt_core.training.optimizer import OptimizerConfig
from ttt_core.training.parallel import Ranks
from ttt_core.training.plot import plot_run
from ttt_core.training.run_state import has_run_state, load_run_state, read_facts, save_run_state
from ttt_core.training.schedule import Schedule, ScheduleConfig
from ttt_core.training.stop_signals import StopSignals

Item = TypeVar("Item")
Batch = TypeVar("Batch")

STATE, TRUNK, LOG, PLOT = "state", "trunk", "log.jsonl", "plot.png"
_SAVE_AT = 0.9  # of a run's time


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """How the loop runs; what it learns from is in the stages."""

    seed: int = 0
    precision: Precision = "float32"
    """bfloat16: mixed precision on CUDA; a CPU computes in float32 all the same."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""
    prepare_ahead: int = 1
    """Batches that a thread prepares while a step is computed."""
    save_every_s: float = 300.0
    evaluate_every_s: float = 60.0
    log_every: int = 1
    """Steps of which one line tells: the last one's loss and figures."""

    def __post_init__(self) -> None:
        for name in ("accumulate", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: give 1 or more")
        for name in ("save_every_s", "evaluate_every_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: give seconds > 0")
        if self.prepare_ahead < 0:
            raise ConfigError(f"prepare_ahead is {self.prepare_ahead}: give 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Generic[Item, Batch]):
    """A part of training with its own examples and loss.

    `loss(model, batch, rng)` gives a scalar and figures for the log; `rng` is a CPU generator. The
    stage lasts until `until_step` steps or `until_s` training seconds, counted over all runs,
    whichever comes first; the last stage until the end.
    """

    name: str
    sampler: Sampler[Item]
    collate: Callable[[Sequence[Item], np.random.Generator], Batch]
    loss: Callable[[nn.Module, Batch, torch.Generator], tuple[Tensor, Mapping[str, float]]]
    batch_size: int
    until_step: int | None = None
    until_s: float | None = None

    def over(self, step: int, elapsed: float) -> bool:
        """Whether the next stage has begun."""
        by_step = self.until_step is not None and step >= self.until_step
        return by_step or (self.until_s is not None and elapsed >= self.until_s)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: at which step, after how many training seconds, told to or in time."""

    step: int
    elapsed: float
    interrupted: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the leading process decided for the next turn of the loop."""

    stage: int
    factor: float
    stop: bool
    evaluate: bool
    save: bool
    keep_trunk: bool


class Trainer(Generic[Item, Batch]):
    """Trains `model` in the folder `out`: state/, trunk/, log.jsonl, plot.png.

    `trunk/` is the state from before the learning rate decays; a run that is resumed for more time
    goes on from there. In distributed runs every process makes one, with the same arguments.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage[Item, Batch]],
        out: str | Path,
        *,
        config: TrainerConfig | None = None,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        export: Callable[[Mapping[str, Tensor], Mapping[str, Any]], None] | None = None,
        facts: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
        ranks: Ranks | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            model: trained in place, moved to `device`.
            stages: at least one.
            evaluate: figures of the model, which has the averaged weights at that time; called by
                the leading process only. What it draws does not touch the run's random numbers.
            export: given the averaged weights and the training record whenever the state is saved;
                a CheckpointError is noted in the log, and the run goes on.
            facts: kept in the state and the record; a resumed run must have the same under
                "config".
            clock: seconds.
        """
        if not stages:
            raise ConfigError("stages is empty: give at least one")
        self.config = config or TrainerConfig()
        self._schedule_config = schedule or ScheduleConfig()
        self._device = torch.device(device)
        self._stages, self._out = list(stages), Path(out)
        self._evaluate, self._export = evaluate, export
        self._facts = json.loads(json.dumps(dict(facts or {})))
        self._ranks, self._clock = ranks or Ranks(), clock
        self.learner = Learner(
            model,
            optimizer or OptimizerConfig(),
            seed=self.config.seed,
            device=self._device,
            ranks=self._ranks,
            precision=self.config.precision,
        )
        self._log: RunLog | None = None
        self._draws: Draws[Item, Batch] | None = None
        self._draws_state = new_state(self.config.seed, self._ranks.data_rank)
        self._stage = 0
        self._figures: dict[str, float] = {}
        self.step = 0
        self.samples = 0
        self._elapsed_before = 0.0
        self._started = 0.0
        self._asked_to_stop = False

    @property
    def elapsed(self) -> float:
        """Training seconds that lead to the present weights, over all runs."""
        return self._elapsed_before + self._clock() - self._started

    def run(self, seconds: float, *, resume: bool = False) -> Outcome:
        """Train for `seconds` of wall time, final evaluation and saving included.

        SIGTERM and SIGINT end it early, after the step at hand, with the state saved.

        Args:
            resume: go on from the state in the folder, bit for bit as if it had not been left, if
                the samplers give the same for the same random numbers (see `Sampler`).

        Raises:
            RunStateError: there is no state to resume, there is one although `resume` is False, or
                it belongs to another configuration.
            TrainingError: training diverged.
        """
        if not seconds > 0:
            raise ConfigError(f"seconds is {seconds}: give a time > 0")
        if resume:
            self._resume(seconds)
        elif has_run_state(self._out / STATE):
            raise RunStateError(
                f"{self._out} already holds a training run: resume it, or give another folder"
            )
        self._started = self._clock()
        with RunLog(self._out / LOG) if self._ranks.leads else nullcontext() as log:
            self._log = log
            self._tell("resume" if resume else "start", seconds=seconds, **self._facts)
            with StopSignals(self._stop):
                self._loop(self._elapsed_before + seconds)
            self._tell("end", interrupted=self._asked_to_stop)
        self._draw_picture()
        return Outcome(self.step, self.elapsed, self._asked_to_stop)

    def _stop(self) -> None:
        self._asked_to_stop = True

    def _loop(self, end: float) -> None:
        begun = self._elapsed_before
        schedule = Schedule.of_run(self._schedule_config, begun, end - begun)
        clocks = _Clocks(begun, begun, begun + _SAVE_AT * (end - begun))
        evaluated_at = -1
        trunk_kept = self._schedule_config.horizon_s is not None or schedule.decays(begun)
        while True:
            plan = self._decide(schedule, clocks, end, trunk_kept)
            if plan.keep_trunk:
                self._save(TRUNK)
                trunk_kept = True
            if plan.evaluate or (plan.stop and evaluated_at != self.step):
                if not self._asked_to_stop:
                    clocks.evaluation_took = self._evaluated()
                evaluated_at, clocks.evaluated = self.step, self.elapsed
            if plan.save or plan.stop:
                clocks.saving_took = self._save(STATE)
                clocks.saved = self.elapsed
                clocks.save_at = math.inf if self.elapsed >= clocks.save_at else clocks.save_at
            if plan.stop:
                break
            self._enter(plan.stage)
            clocks.step_took = self._take_step(plan.factor)
        self._leave_stage()

    def _decide(self, schedule: Schedule, clocks: _Clocks, end: float, trunk_kept: bool) -> _Plan:
        elapsed, config = self.elapsed, self.config
        stage = self._stage
        while stage < len(self._stages) - 1 and self._stages[stage].over(self.step, elapsed):
            stage += 1
        wishes = self._ranks.mean([float(self._asked_to_stop)])[0]
        reserve = clocks.evaluation_took + clocks.saving_took + clocks.step_took
        plan = self._ranks.decided(
            [
                stage,
                schedule.factor(self.step, elapsed),
                elapsed >= end or elapsed + reserve > end or wishes > 0,
                elapsed - clocks.evaluated >= config.evaluate_every_s,
                elapsed - clocks.saved >= config.save_every_s or elapsed >= clocks.save_at,
                schedule.decays(elapsed) and not trunk_kept,
            ]
        )
        # a signal that came since the processes were asked must not be forgotten
        self._asked_to_stop = self._asked_to_stop or wishes > 0
        return _Plan(int(plan[0]), plan[1], *(value > 0 for value in plan[2:]))

    def _enter(self, stage: int) -> None:
        if self._draws is not None and stage == self._stage:
            return
        self._leave_stage()
        self._stage = stage
        chosen = self._stages[stage]
        self._tell("note", text=f"stage {chosen.name}")
        self._draws = Draws(
            chosen.sampler,
            chosen.collate,
            batch_size=chosen.batch_size,
            state=self._draws_state,
            ahead=self.config.prepare_ahead,
        )

    def _leave_stage(self) -> None:
        if self._draws is not None:
            self._draws_state = self._draws.state
            self._draws.close()
            self._draws = None

    def _take_step(self, factor: float) -> float:
        """One step; returns the seconds that it took."""
        assert self._draws is not None
        began, stage, draws = self._clock(), self._stages[self._stage], self._draws
        batches = (draws.next() for _ in range(self.config.accumulate))
        report = self.learner.learn(batches, stage.loss, factor)
        self.step += 1
        groups = self._ranks.size // self._ranks.sequence_size
        self.samples += stage.batch_size * self.config.accumulate * groups
        took = self._clock() - began
        if self.step % self.config.log_every == 0:
            self._tell(
                "step",
                loss=self._ranks.mean([report.loss])[0],
                rate=factor,
                gradient=report.gradient,
                skipped=report.skipped,
                seconds=took,
                **{f"loss/{name}": value for name, value in report.figures.items()},
            )
        return took

    def _evaluated(self) -> float:
        """Evaluate the averaged weights; returns the seconds that it took."""
        began = self._clock()
        if self._evaluate is None or not self._ranks.leads:
            return 0.0
        with self.learner.averaged() as model:
            self._figures = {name: float(v) for name, v in self._evaluate(model).items()}
        self._tell("evaluation", figures=self._figures)
        self._draw_picture()
        return self._clock() - began

    def record(self) -> dict[str, Any]:
        """What the present weights were trained on and for how long; fit for JSON."""
        return {
            "step": self.step,
            "samples": self.samples,
            "seconds": round(self.elapsed, 1),
            "stage": self._stages[self._stage].name,
            "device": _device_name(self._device),
            "processes": self._ranks.size,
            "torch": torch.__version__,
            "evaluation": self._figures,
            **self._facts,
        }

    def _save(self, name: str) -> float:
        """Write the state to the folder `name`; returns the seconds that it took."""
        began = self._clock()
        draws = self._draws.state if self._draws is not None else self._draws_state
        facts = self.learner.facts(draws)
        if not self._ranks.leads:
            return 0.0
        facts |= {
            "step": self.step,
            "samples": self.samples,
            "elapsed": self.elapsed,
            "stage": self._stage,
            "figures": {n: v for n, v in self._figures.items() if math.isfinite(v)},
            "run": self._facts,
        }
        save_run_state(self._out / name, self.learner.to_tensors(), facts)
        if name == STATE and self._export is not None:
            try:
                self._export(self.learner.average.to_tensors(), self.record())
            except CheckpointError as error:
                # the run itself is well saved: what cannot be shipped now may come right again
                self._tell("note", text=f"no checkpoint was exported: {error}")
        self._tell("save", folder=name)
        return self._clock() - began

    def _resume(self, seconds: float) -> None:
        folder = self._out / STATE
        elapsed = float(read_facts(folder)["elapsed"])
        if has_run_state(self._out / TRUNK):
            trunk = float(read_facts(self._out / TRUNK)["elapsed"])
            schedule = Schedule.of_run(self._schedule_config, elapsed, seconds)
            if trunk <= elapsed and not schedule.decays(elapsed):
                # what is in `state` has seen the decay of a run that goes on now
                folder = self._out / TRUNK
        tensors, facts = load_run_state(folder, self._device)
        if facts["run"].get("config") != self._facts.get("config"):
            raise RunStateError(
                f"{folder} belongs to a run with another configuration: resume with the one in "
                f"{self._out / LOG}, or start in another folder"
            )
        self._draws_state = self.learner.load(tensors, facts)
        self._figures = dict(facts["figures"])
        self.step, self.samples = facts["step"], facts["samples"]
        self._stage = min(facts["stage"], len(self._stages) - 1)
        self._elapsed_before = float(facts["elapsed"])

    def _tell(self, kind: str, **fields: Any) -> None:
        if self._log is not None:
            self._log.write(
                kind, step=self.step, elapsed=self.elapsed, samples=self.samples, **fields
            )

    def _draw_picture(self) -> None:
        if self._ranks.leads:
            plot_run(read_log(self._out / LOG), self._out / PLOT)


@dataclass(slots=True)
class _Clocks:
    """When what was done last, and how long it took; training seconds."""

    evaluated: float
    saved: float
    save_at: float
    step_took: float = 0.0
    evaluation_took: float = 0.0
    saving_took: float = 0.0


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
