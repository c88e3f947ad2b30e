"""Settings of `splatstream train`: dataclasses that a YAML file fills, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from streamer.config import ConfigError
from streamer.config_files import config_section
from streamer.suggest import did_you_mean
from ttt_core.network import NetworkConfig
from ttt_core.training.build import StreamSpec
from ttt_core.training.collate import Draw
from ttt_core.training.loss import LossConfig
from ttt_core.training.optimizer import OptimizerConfig
from ttt_core.training.schedule import ScheduleConfig
from ttt_core.training.sources import SceneSource
from ttt_core.training.trainer import TrainerConfig

SECTIONS = ("model", "data", "loss", "optimizer", "evaluation", "loop", "stages")


def _require(condition: bool, key: str, value: object, remedy: str) -> None:
    """Raises what `config_section` puts the section's name before."""
    if not condition:
        raise ValueError(f"{key} is {value!r}: {remedy}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CapturesConfig:
    """Recorded captures to train on; see `streamer.training_data.CaptureSource`."""

    folders: tuple[str, ...] = ()
    """None: procedural scenes instead."""
    long_side: int = 144
    crop: tuple[int, int] | None = None
    """(height, width), so that sequences of different captures can go side by side."""
    strides: tuple[int, ...] = (1, 2, 4)
    frames: str | None = None
    sensor_depth: bool = True
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is learned from: streams in a folder, filled by processes in the background."""

    cache: Path = Path("out/training-data")
    """Folder of the streams; kept, and used again by later runs of the same settings."""
    workers: int = 1
    """Processes that make streams; 0 only reads what is there."""
    count: int | None = 2000
    """Streams in the folder, at most; of stages that share a folder the largest number counts."""
    at_least: int = 32
    """Streams that must be there before the first step."""
    scenes: SceneSource = field(default_factory=SceneSource)
    captures: CapturesConfig = field(default_factory=CapturesConfig)
    stream: StreamSpec = field(default_factory=StreamSpec)
    draw: Draw = field(default_factory=lambda: Draw(alone=0.3, drop_map=0.5, permute=0.3))

    def __post_init__(self) -> None:
        _require(self.workers >= 0, "workers", self.workers, "give 0 or more")
        _require(self.at_least >= 1, "at_least", self.at_least, "give 1 or more")
        enough = self.count is None or self.count >= self.at_least
        _require(enough, "count", self.count, f"give at_least ({self.at_least}) or more")
        views, needed = self.scenes.config.views, self.stream.views
        if not self.captures.folders:
            _require(views >= needed, "scenes.config.views", views, f"the stream needs {needed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Fixed streams that the averaged weights are judged by; other scenes than are trained on."""

    cache: Path = Path("out/evaluation-data")
    workers: int = 1
    sequences: int = 16
    """Made before training begins; 0 evaluates nothing."""
    scenes: SceneSource = field(default_factory=lambda: SceneSource(split="validation"))
    captures: CapturesConfig = field(default_factory=CapturesConfig)
    draw: Draw = field(default_factory=Draw)
    """Probabilities should be 0 or 1 here."""
    stride: int = 3
    """Every so many pixels, in both directions, are measured."""

    def __post_init__(self) -> None:
        _require(self.workers >= 0, "workers", self.workers, "give 0 or more")
        _require(self.sequences >= 0, "sequences", self.sequences, "give 0 or more")
        _require(self.stride >= 1, "stride", self.stride, "give 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSection(OptimizerConfig):
    """`OptimizerConfig` and the schedule of its rate."""

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig(TrainerConfig):
    """`TrainerConfig` and what the command decides around it."""

    batch_size: int = 4
    """Streams side by side in a step, on each process (or group that shares a stream)."""
    compile: bool = False
    """torch.compile of the network, on CUDA only."""
    processes_per_stream: int = 1
    """Processes that share a stream's views; more than 1 is for contexts too long for one."""
    picture_cell: Literal[1, 2, 4] = 2
    """Pixels along a side of a splat in rendered pictures (`loss.picture` > 0)."""
    export: Literal["float16", "bfloat16", "float32"] = "float16"
    """Type of the exported matrices."""

    def __post_init__(self) -> None:
        # super() does not work in dataclasses with slots
        TrainerConfig.__post_init__(self)
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "give 1 or more")
        processes = self.processes_per_stream
        _require(processes >= 1, "processes_per_stream", processes, "give 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """A part of training; `data` and `loss` are the sections with this stage's changes."""

    name: str
    until_step: int | None
    until_s: float | None
    batch_size: int
    data: DataConfig
    loss: LossConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything that `splatstream train` can be told in its file."""

    model: NetworkConfig
    optimizer: OptimizerSection
    evaluation: EvaluationConfig
    loop: LoopConfig
    stages: tuple[StageConfig, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _StageKeys:
    """What a stage may be told; sections are merged into those of the whole file."""

    name: str = ""
    until_step: int | None = None
    until_s: float | None = None
    batch_size: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)


def load_train_config(path: str | Path) -> TrainConfig:
    """Settings of a YAML file.

    Raises:
        ConfigError: no such file, not YAML, or a key or value that training does not know.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"--config: there is no file {str(path)!r}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"--config: {path} is not YAML: {error}") from None
    return train_config({} if values is None else values)


def train_config(values: object) -> TrainConfig:
    """Settings from nested mappings; what is absent keeps its default.

    Raises:
        ConfigError: a key or value that training does not know; the message names its place.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"config: {values!r:.60} is not a mapping of sections")
    for key in values:
        if key not in SECTIONS:
            raise ConfigError(
                f"{key}: there is no such section; {did_you_mean(str(key), SECTIONS)}"
            )
    loop = config_section(LoopConfig, values.get("loop"), "loop")
    return TrainConfig(
        model=config_section(NetworkConfig, values.get("model"), "model"),
        optimizer=config_section(OptimizerSection, values.get("optimizer"), "optimizer"),
        evaluation=config_section(EvaluationConfig, values.get("evaluation"), "evaluation"),
        loop=loop,
        stages=_stages(values, loop.batch_size),
    )


def as_mapping(config: object) -> dict[str, Any]:
    """Settings fit for JSON."""
    mapping: dict[str, Any] = msgspec.to_builtins(config, enc_hook=str)
    return mapping


def _stages(values: Mapping[str, object], batch_size: int) -> tuple[StageConfig, ...]:
    listed = values.get("stages") or [{"name": "all"}]
    if not isinstance(listed, list):
        raise ConfigError(f"stages: {listed!r:.60} is not a list of stages")
    stages = []
    for number, entry in enumerate(listed):
        place = f"stages[{number}]"
        keys = config_section(_StageKeys, entry, place)
        endless = keys.until_step is None and keys.until_s is None
        if endless != (number == len(listed) - 1):
            raise ConfigError(
                f"{place}: every stage but the last needs until_step or until_s, and only those"
            )
        size = batch_size if keys.batch_size is None else keys.batch_size
        if size < 1:
            raise ConfigError(f"{place}.batch_size is {size}: give 1 or more")
        changed = bool(keys.data), bool(keys.loss)
        data, loss = (
            _merged(values.get(name), change, f"{place}.{name}" if change else name)
            for name, change in (("data", keys.data), ("loss", keys.loss))
        )
        stages.append(
            StageConfig(
                name=keys.name or str(number),
                until_step=keys.until_step,
                until_s=keys.until_s,
                batch_size=size,
                data=config_section(DataConfig, data, f"{place}.data" if changed[0] else "data"),
                loss=config_section(LossConfig, loss, f"{place}.loss" if changed[1] else "loss"),
            )
        )
    return tuple(stages)


def _merged(base: object, changes: Mapping[str, Any], place: str) -> dict[str, Any]:
    """`base` with `changes` on top, sections inside sections."""
    if base is not None and not isinstance(base, Mapping):
        raise ConfigError(f"{place}: {base!r:.60} is not a mapping of settings to values")
    merged = dict(base or {})
    for key, value in changes.items():
        inner = merged.get(key)
        nested = isinstance(value, Mapping) and (inner is None or isinstance(inner, Mapping))
        merged[key] = _merged(inner, value, f"{place}.{key}") if nested else value
    return merged
