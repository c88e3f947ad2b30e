"""The loop: learns, stops in time, resumes bit for bit, is safe to interrupt."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import cv2
import pytest
import torch
from regression import Clock, Inputs, collate, loss_of, trainer
from torch import Tensor

from ttt_core.errors import ConfigError, RunStateError, TrainingError
from ttt_core.training.log import RunLog, read_log
from ttt_core.training.optimizer import OptimizerConfig
from ttt_core.training.parallel import Ranks
from ttt_core.training.run_state import load_run_state, read_facts
from ttt_core.training.schedule import ScheduleConfig
from ttt_core.training.trainer import Stage, TrainerConfig


def test_it_learns_and_leaves_log_and_picture(tmp_path: Path) -> None:
    losses: list[float] = []
    outcome = trainer(tmp_path, losses).run(60)
    assert outcome.step == len(losses) and 55 <= outcome.step <= 60
    assert not outcome.interrupted
    lines = read_log(tmp_path / "log.jsonl")
    errors = [line["figures"]["error"] for line in lines if line["kind"] == "evaluation"]
    assert len(errors) >= 8
    assert errors[-1] < 0.6 * errors[0]
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["loss"] for line in steps] == losses
    assert steps[-1]["rate"] < 0.1 < steps[20]["rate"] == 1.0
    picture = cv2.imread(str(tmp_path / "plot.png"))
    assert picture is not None and picture.shape[1] > 400


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("interrupted_at", [11, 41])
def test_a_resumed_run_has_the_same_losses_and_weights(
    tmp_path: Path, muon: bool, interrupted_at: int
) -> None:
    """In the constant part and in the decay, evaluations in between, batches drawn ahead."""
    optimizer = OptimizerConfig(learning_rate=1e-2, muon=muon, ema_decay=0.9)
    whole: list[float] = []
    trainer(tmp_path / "whole", whole, optimizer=optimizer).run(60)

    parts: list[float] = []

    def stop(step: int) -> None:
        if step == interrupted_at:
            os.kill(os.getpid(), signal.SIGTERM)

    first = trainer(tmp_path / "parts", parts, optimizer=optimizer, after=stop).run(60)
    assert first.interrupted and first.step == interrupted_at
    # what is left of the first run's time
    second = trainer(tmp_path / "parts", parts, optimizer=optimizer)
    outcome = second.run(60 - interrupted_at, resume=True)
    assert not outcome.interrupted
    assert parts == whole
    one, _ = load_run_state(tmp_path / "whole" / "state")
    other, _ = load_run_state(tmp_path / "parts" / "state")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    told = [line["loss"] for line in read_log(tmp_path / "parts" / "log.jsonl") if "loss" in line]
    assert told == whole


def test_a_longer_run_goes_on_from_before_the_decay(tmp_path: Path) -> None:
    schedule = ScheduleConfig(warmup_steps=2, decay_share=0.5)
    losses: list[float] = []
    trainer(tmp_path, losses, schedule=schedule).run(40)
    assert read_facts(tmp_path / "trunk")["step"] == 20
    resumed: list[float] = []
    outcome = trainer(tmp_path, resumed, schedule=schedule).run(20, resume=True)
    assert 35 <= outcome.elapsed <= 40
    # the first of the steps again, as they were before the decay began
    assert resumed[0] == losses[20]
    lines = [line for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "step"]
    assert [line["step"] for line in lines] == list(range(1, outcome.step + 1))
    assert [line["rate"] for line in lines[20:30]] == [1.0] * 10


def test_the_state_is_saved_at_nine_tenths(tmp_path: Path) -> None:
    seen = []

    def look(step: int) -> None:
        if step == 56:
            seen.append(read_facts(tmp_path / "state")["step"])

    exported: list[dict] = []
    run = trainer(tmp_path, [], after=look, export=lambda tensors, record: exported.append(record))
    run.run(60)
    assert seen == [54]
    assert [record["step"] for record in exported] == [54, run.step]
    assert exported[-1]["evaluation"]["error"] > 0
    assert exported[-1]["config"] == {"problem": "teacher"}


class _SignalledRanks(Ranks):
    """SIGTERM comes while the processes agree on what to do next."""

    def decided(self, values: Iterable[float]) -> list[float]:
        given = list(values)
        if given[2] == 0 and given[1] == 1.0:  # not ending, and warmed up
            os.kill(os.getpid(), signal.SIGTERM)
        return super().decided(given)


def test_a_signal_between_asking_and_deciding_is_not_forgotten(tmp_path: Path) -> None:
    outcome = trainer(tmp_path, [], ranks=_SignalledRanks()).run(60)
    assert outcome.interrupted and outcome.step == 6


def test_stages_follow_each_other_and_survive_a_resume(tmp_path: Path) -> None:
    def run(folder: str, seconds: list[float]) -> list[int]:
        sizes: list[int] = []
        for number, time in enumerate(seconds):
            clock = Clock()
            losses: list[float] = []
            stages = []
            for name, size, until in (("a", 4, 6), ("b", 8, 12), ("c", 2, None)):

                def noted(items, rng, size=size) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
                    assert len(items) == size
                    return collate(items, rng)

                base = loss_of(clock, losses)

                def loss(model, batch, rng, base=base):  # type: ignore[no-untyped-def]
                    sizes.append(len(batch[0]))
                    return base(model, batch, rng)

                stages.append(
                    Stage(
                        name=name,
                        sampler=Inputs(),
                        collate=noted,
                        loss=loss,
                        batch_size=size,
                        until_step=until,
                    )
                )
            schedule = ScheduleConfig(decay_share=0.0)
            made = trainer(tmp_path / folder, losses, stages=stages, clock=clock, schedule=schedule)
            made.run(time, resume=number > 0)
        return sizes

    whole = run("whole", [20])
    assert whole[:13] == [4] * 6 + [8] * 6 + [2]
    parts = run("parts", [10, 10])
    assert parts == whole[: len(parts)]


def test_a_new_run_does_not_overwrite_another(tmp_path: Path) -> None:
    trainer(tmp_path, []).run(3)
    with pytest.raises(RunStateError, match="already holds a training run"):
        trainer(tmp_path, []).run(3)


def test_resuming_needs_a_state_and_the_same_configuration(tmp_path: Path) -> None:
    with pytest.raises(RunStateError, match="holds no training state"):
        trainer(tmp_path, []).run(3, resume=True)
    trainer(tmp_path, []).run(3)
    with pytest.raises(RunStateError, match="another configuration"):
        trainer(tmp_path, [], facts={"config": {"problem": "other"}}).run(3, resume=True)
    with pytest.raises(RunStateError, match="optimizer"):
        trainer(tmp_path, [], optimizer=OptimizerConfig(muon=True)).run(3, resume=True)


def test_gradients_that_are_not_finite_are_skipped_then_end_the_run(tmp_path: Path) -> None:
    clock, losses = Clock(), list[float]()
    base = loss_of(clock, losses)

    def loss(model, batch, rng):  # type: ignore[no-untyped-def]
        value, figures = base(model, batch, rng)
        return (value * float("nan") if len(losses) > 5 else value), figures

    stage = Stage(name="a", sampler=Inputs(), collate=collate, loss=loss, batch_size=4)
    made = trainer(tmp_path, losses, stages=[stage], clock=clock)
    with pytest.raises(TrainingError, match="diverged"):
        made.run(1000)
    lines = [line for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "step"]
    assert [line["skipped"] for line in lines[:7]] == [False] * 5 + [True] * 2
    assert all(bool(torch.isfinite(p).all()) for p in made.learner.model.parameters())


def test_a_line_that_was_cut_does_not_take_the_next_one_along(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n{"kind": "step", "st')
    with RunLog(path) as log:
        log.write("resume", step=1)
    assert [line["kind"] for line in read_log(path)] == ["step", "resume"]


def test_unusable_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="accumulate is 0"):
        TrainerConfig(accumulate=0)
    with pytest.raises(ConfigError, match="save_every_s"):
        TrainerConfig(save_every_s=0)
    with pytest.raises(ConfigError, match="decay_share is 2"):
        ScheduleConfig(decay_share=2)
    with pytest.raises(ConfigError, match="skip_above is 1"):
        OptimizerConfig(skip_above=1)
