"""`splatstream train`: its file, and runs on small made-up streams up to the checkpoint."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import torch
import yaml

from streamer.cli import dispatch
from streamer.config import ConfigError
from streamer.training import CHECKPOINT, _judges, _pools, public_record, train
from streamer.training_config import DataConfig, EvaluationConfig, load_train_config, train_config
from ttt_core.compact_checkpoint import load_compact
from ttt_core.errors import RunStateError, SequenceCacheError
from ttt_core.matching import CELL, CELL_CHANNELS
from ttt_core.network import CompactNetwork, NetworkConfig
from ttt_core.training.cache import SequenceCache
from ttt_core.training.log import read_log
from ttt_core.training.parallel import Ranks
from ttt_core.training.run_state import read_facts
from ttt_core.training.samples import PriorMaps, TrainingSequence

HEIGHT, WIDTH, BATCHES, PER_BATCH = 16, 24, 3, 2


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    scenes = {"config": {"height": HEIGHT, "width": WIDTH, "views": BATCHES * PER_BATCH}}
    return {
        "model": {
            "width": 16, "cell_width": 8, "pixel_width": 8, "layers": 1, "attention_head_dim": 8,
            "planes": 8, "ray_samples": 4, "ray_width": 8, "features": 16, "value_width": 8,
        },
        "data": {
            "cache": str(folder / "train"),
            "workers": 0,
            "at_least": 4,
            "scenes": scenes,
            "stream": {"batches": BATCHES, "views_per_batch": PER_BATCH},
        },
        "evaluation": {
            "cache": str(folder / "evaluation"),
            "workers": 0,
            "sequences": 2,
            "scenes": {"split": "validation", **scenes},
            "stride": 2,
        },
        "optimizer": {"learning_rate": 3e-3, "schedule": {"warmup_steps": 2}},
        "loop": {"batch_size": 2, "evaluate_every_s": 12},
        **changes,
    }  # fmt: skip


def stream(seed: int) -> TrainingSequence:
    """A wall seen by a camera that moves sideways; the prior is 30 % too far."""
    generator = torch.Generator().manual_seed(seed)
    views = BATCHES * PER_BATCH
    depth = torch.full((views, HEIGHT, WIDTH), 2.0).half()
    c2w = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    c2w[:, 0, 3] = 0.1 * torch.arange(views)
    cells = torch.rand(
        views, HEIGHT // CELL, WIDTH // CELL, len(CELL_CHANNELS), generator=generator
    )
    prior = PriorMaps(
        depth=1.3 * depth,
        confidence=torch.full((views, HEIGHT, WIDTH), 200, dtype=torch.uint8),
        cells=cells.half(),
        depth_range=torch.tensor([0.5, 8.0]).repeat(views, 1),
    )
    return TrainingSequence(
        keys=torch.arange(views),
        batch=torch.arange(views) // PER_BATCH,
        image=torch.randint(256, (views, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator),
        fxfycxcy=torch.tensor([20.0, 20.0, 12.0, 8.0]).repeat(views, 1),
        c2w=c2w,
        true_depth=depth,
        sky=torch.zeros(views, HEIGHT, WIDTH, dtype=torch.bool),
        unit=2.6,
        prior=prior,
        prior_alone=None,
        map_depth=torch.zeros(views, HEIGHT, WIDTH).half(),
    )


def made_ready(folder: Path, values: dict[str, Any]) -> Path:
    """Streams where the settings look for them, and the settings as a file."""
    config = train_config(values)
    data, judges = config.stages[0].data, config.evaluation
    for place, scenes, count in (
        (data.cache, data.scenes, 4),
        (judges.cache, judges.scenes, judges.sequences),
    ):
        cache = SequenceCache(place, data.stream, scenes)
        for index in range(count):
            cache.save(index, stream(index))
        cache.close()
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


class Ticking:
    """A clock on which every look takes a second: runs do not depend on the machine's speed."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_a_run_goes_on_and_its_checkpoint_fits(tmp_path: Path) -> None:
    values = settings(tmp_path)
    values["stages"] = [
        {"name": "depth", "until_step": 3},
        {"name": "pictures", "batch_size": 1, "loss": {"picture": 0.5}, "data": {"draw": {}}},
    ]
    # the prior of these scenes is sure of everything, and what is sure is not corrected
    values["model"] |= {"unsure_below": 0.99, "sure_above": 1.0}
    config, out = load_train_config(made_ready(tmp_path, values)), tmp_path / "run"
    train(config, out, 16, device="cpu", clock=Ticking())
    step = read_facts(out / "state")["step"]
    told: list[str] = []
    outcome = train(config, out, 16, resume=True, device="cpu", clock=Ticking(), tell=told.append)
    assert told[-1].startswith("training 0.02 M parameters on cpu")
    lines = read_log(out / "log.jsonl")
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, outcome.step + 1))
    assert outcome.step > step > 3
    assert "loss/picture" not in steps[2] and steps[3]["loss/picture"] > 0
    figures = [line["figures"] for line in lines if line["kind"] == "evaluation"][-1]
    assert figures["prior/median"] == pytest.approx(0.3, abs=0.01)
    assert figures["median"] != figures["prior/median"]
    assert {"batch_1/median", "batch_3/median", "batch_3/median_reset"} <= figures.keys()
    assert 0 < figures["memory/doubt"] < 1 < figures["memory/condition"]
    assert figures["memory/solution_norm"] > 0

    settings_told, tensors, words = load_compact(out / CHECKPOINT)
    network = CompactNetwork(NetworkConfig(**settings_told["network"]))
    network.load_state_dict(tensors)
    assert network.corrects
    assert words["training"]["step"] == len(steps)
    assert words["figures"] == figures and words["licence"] == "Apache-2.0"

    # what was trained can begin another run, and a run is not written over
    with pytest.raises(RunStateError, match="already holds a training run"):
        train(config, out, 10, device="cpu", clock=Ticking())
    other = tmp_path / "other"
    train(config, other, 6, device="cpu", clock=Ticking(), start=out / CHECKPOINT)
    assert load_compact(other / CHECKPOINT)[2]["training"]["started_from"] == CHECKPOINT

    # with another memory too, which is said
    values = settings(tmp_path)
    values["model"]["memory"] = "none"
    forgetful, said = train_config(values), list[str]()
    third = tmp_path / "third"
    train(
        forgetful, third, 6, device="cpu", clock=Ticking(), start=out / CHECKPOINT, tell=said.append
    )
    assert any("memory 'ridge': of that nothing is taken over" in line for line in said)
    assert load_compact(third / CHECKPOINT)[0]["network"]["memory"] == "none"


def test_stages_share_a_pool_only_for_the_same_streams(tmp_path: Path) -> None:
    values = settings(tmp_path)
    values["stages"] = [
        {"name": "few", "until_step": 3, "data": {"count": 2, "at_least": 1}},
        {"name": "more", "until_step": 5, "data": {"count": 4, "at_least": 3}},
        {"name": "others", "data": {"scenes": {"split": "validation"}}},
    ]
    few, more, others = load_train_config(made_ready(tmp_path, values)).stages
    with ExitStack() as stack:
        pools = _pools([few, more], Ranks(), stack, print)
        assert pools[few.data] is pools[more.data]
        assert len(pools[few.data]) == 4
    with ExitStack() as stack, pytest.raises(SequenceCacheError, match="another specification"):
        _pools([few, others], Ranks(), stack, print)
    more = replace(more, data=replace(more.data, count=9, at_least=9))
    with ExitStack() as stack, pytest.raises(SequenceCacheError, match="holds 4 of 9"):
        _pools([few, more], Ranks(), stack, print)


def test_processes_without_workers_wait_for_the_streams_of_the_leading_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_train_config(made_ready(tmp_path, settings(tmp_path)))
    spec, judged = config.stages[-1].data.stream, config.evaluation
    late = judged.cache / "00000001.safetensors"
    late.rename(tmp_path / "aside")
    follower = Ranks(rank=1, size=2)
    monkeypatch.setattr("streamer.training._PATIENCE_S", 0.01)
    with ExitStack() as stack, pytest.raises(SequenceCacheError, match="holds 1 of 2"):
        _judges(judged, spec, follower, stack, print)
    monkeypatch.setattr("streamer.training._PATIENCE_S", 60.0)
    timer = Timer(0.2, (tmp_path / "aside").rename, [late])
    timer.start()
    with ExitStack() as stack:
        assert _judges(judged, spec, follower, stack, print) == []
    assert late.exists()
    timer.join()
    with ExitStack() as stack:
        assert len(_judges(judged, spec, Ranks(), stack, print)) == 2


def test_defaults_and_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    config = load_train_config(path)
    assert config == train_config({})
    assert [stage.name for stage in config.stages] == ["all"]
    assert config.stages[0].data == DataConfig()
    assert config.evaluation == EvaluationConfig()


def test_stages_change_what_they_name_and_nothing_else() -> None:
    config = train_config(
        {
            "data": {"at_least": 5, "draw": {"drop_map": 0.25}, "stream": {"batches": 4}},
            "loss": {"edges": 0.7},
            "stages": [
                {"name": "a", "until_s": 60, "data": {"stream": {"views_per_batch": 2}}},
                {"name": "b", "batch_size": 1, "loss": {"picture": 1.0}},
            ],
        }
    )
    a, b = config.stages
    assert (a.data.at_least, a.data.stream.batches, a.data.stream.views_per_batch) == (5, 4, 2)
    assert (b.data.draw.drop_map, b.data.stream.views_per_batch) == (0.25, 3)
    assert (a.loss.edges, a.loss.picture, b.loss.edges, b.loss.picture) == (0.7, 0, 0.7, 1)
    assert (a.until_s, a.batch_size, b.until_s, b.batch_size) == (
        60,
        config.loop.batch_size,
        None,
        1,
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, "modle: there is no such section; did you mean 'model'"),
        ({"model": {"widht": 3}}, "model.widht: there is no such setting; did you mean 'width'"),
        ({"model": {"memory": "disk"}}, "model: memory is 'disk'"),
        ({"data": {"stream": {"noise": {"shares": 1}}}}, "data.stream.noise.shares: there is no"),
        ({"data": {"workers": "two"}}, "data.workers: 'two' is not a whole number"),
        ({"data": {"count": 3}}, "data: count is 3: give at_least"),
        (
            {"data": {"stream": {"batches": 400}}},
            "scenes.config.views is 24: the stream needs 1200",
        ),
        ({"optimizer": {"schedule": {"decay_share": 7}}}, "optimizer: decay_share is 7"),
        ({"loop": {"precision": "half"}}, "loop.precision: 'half' is not one of float32, bfloat16"),
        ({"loop": {"accumulate": 0}}, "loop: accumulate is 0"),
        ({"stages": [{"loss": {"edge": 1}}]}, r"stages\[0\].loss.edge: there is no such setting"),
        ({"stages": [{}, {}]}, r"stages\[0\]: every stage but the last needs"),
        ({"stages": {"a": 1}}, "is not a list of stages"),
        ([1], "is not a mapping of sections"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(values: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_config(values)


def test_a_file_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--config", str(tmp_path / "none.yaml"), "--out", str(tmp_path)]
    assert dispatch([*command, "--seconds", "1"]) == 2
    assert capsys.readouterr().err.startswith("splatstream train: --config: there is no file")


@pytest.mark.parametrize("name", ["scenes", "captures"])
def test_the_examples_are_settings_that_training_knows(name: str) -> None:
    examples = Path(__file__).resolve().parents[2] / "examples" / "training"
    config = load_train_config(examples / f"{name}.yaml")
    assert bool(config.stages[0].data.captures.folders) == (name == "captures")


def test_a_checkpoint_does_not_tell_of_the_folders_of_its_machine() -> None:
    record = {
        "step": 3,
        "config": {"model": {}},
        "settings": {
            "stages": [
                {"data": {"cache": "/home/ann/streams", "captures": {"folders": ["/data/attic"]}}}
            ]
        },
    }
    public = public_record(record)
    assert public == {
        "step": 3,
        "settings": {"stages": [{"data": {"captures": {"folders": ["attic"]}}}]},
    }
