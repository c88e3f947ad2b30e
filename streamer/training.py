"""A training run put together: data, network, loss, renderer, trainer, exported checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from streamer.config import ConfigError
from streamer.hardware import hardware
from streamer.training_config import (
    CapturesConfig,
    DataConfig,
    EvaluationConfig,
    StageConfig,
    TrainConfig,
    as_mapping,
)
from streamer.training_data import CaptureSource
from streamer.training_render import PictureLoss, SplatRenderer
from ttt_core.network import CompactNetwork
from ttt_core.training.begin import begin_with
from ttt_core.training.build import StreamSpec
from ttt_core.training.collate import Draw, StreamStep, collate
from ttt_core.training.evaluate import stream_errors
from ttt_core.training.export import export_compact
from ttt_core.training.loss import sequence_loss
from ttt_core.training.memory_figures import MemoryFigures
from ttt_core.training.parallel import Ranks, dealt, joined
from ttt_core.training.pool import SequencePool
from ttt_core.training.samples import TrainingSequence
from ttt_core.training.sources import SceneSource, SequenceSource
from ttt_core.training.trainer import Outcome, Stage, Trainer

CHECKPOINT = "checkpoint.safetensors"
_PATIENCE_S = 3600.0  # for the next stream of another process


def train(
    config: TrainConfig,
    out: Path,
    seconds: float,
    *,
    resume: bool = False,
    device: str = "auto",
    start: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Train for `seconds` after the first streams are there; leaves `checkpoint.safetensors`.

    Several processes take part when `torchrun` started them.

    Args:
        start: a checkpoint of ours whose weights a new run begins with.
        tell: hears what is going on, on the leading process.
        clock: seconds.

    Raises:
        ConfigError, RunStateError, TrainingError, CheckpointError, SequenceCacheError: see there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: this machine has no CUDA device that torch can use; say cpu")
    with (
        joined(device, sequence_size=config.loop.processes_per_stream) as ranks,
        ExitStack() as stack,
    ):
        say = tell if ranks.leads else lambda text: None
        judges = _judges(config.evaluation, config.stages[-1].data.stream, ranks, stack, say)
        pools = _pools(config.stages, ranks, stack, say)
        torch.manual_seed(config.loop.seed)
        network = CompactNetwork(config.model)
        left_out = None if start is None or resume else begin_with(network, start)
        if left_out is not None:
            say(left_out)
        network = network.to(ranks.device)
        if config.loop.compile and ranks.device.type == "cuda":
            network.compile()
        settings = {
            "model": as_mapping(config.model),
            "prior": _prior(config.stages[-1].data.stream),
        }

        def evaluate(model: nn.Module) -> Mapping[str, float]:
            assert isinstance(model, CompactNetwork)
            return figures_of(model, judges, config.evaluation, ranks.device)

        def export(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
            export_compact(
                out / CHECKPOINT,
                tensors,
                config={"network": settings["model"], "prior": settings["prior"]},
                record=public_record(record),
                figures=record["evaluation"],
                dtype=config.loop.export,
            )

        trainer = Trainer(
            network,
            [_stage(stage, pools[stage.data], config, ranks) for stage in config.stages],
            out,
            config=config.loop,
            optimizer=config.optimizer,
            schedule=config.optimizer.schedule,
            evaluate=evaluate if judges else None,
            export=export,
            facts={
                "config": settings,
                "settings": as_mapping(config),
                "hardware": hardware(),
                "started_from": None if start is None else start.name,
            },
            device=ranks.device,
            ranks=ranks,
            clock=clock,
        )
        parameters = sum(p.numel() for p in network.parameters())
        say(f"training {parameters / 1e6:.2f} M parameters on {ranks.device}, {seconds:g} s")
        return trainer.run(seconds, resume=resume)


def public_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its training: without the folders of the machine."""

    def public(value: Any) -> Any:
        if isinstance(value, Mapping):
            kept = {name: public(v) for name, v in value.items() if name != "cache"}
            if "folders" in kept:
                kept["folders"] = [Path(folder).name for folder in kept["folders"]]
            return kept
        return [public(v) for v in value] if isinstance(value, list | tuple) else value

    return {name: public(value) for name, value in record.items() if name != "config"}


def figures_of(
    network: CompactNetwork,
    sequences: Sequence[TrainingSequence],
    config: EvaluationConfig,
    device: torch.device,
) -> dict[str, float]:
    """Relative depth errors on fixed streams: pooled, of single batches, and of a memory that is
    reset before every batch; the matching prior's for comparison; and how the memory fares."""
    memory = MemoryFigures(network)
    found = stream_errors(
        network, sequences, config.draw, stride=config.stride, device=device, memory=memory
    )
    batches = found.network.shape[1]
    figures = {
        "median": found.median(),
        "mean": found.mean(),
        "prior/median": float(np.nanmedian(found.prior)),
        "prior/mean": float(np.nanmean(found.prior)),
        "batch_1/median": found.median(0),
    }
    if batches > 1:
        figures |= {f"batch_{batches}/median": found.median(-1)}
        figures |= {f"batch_{batches}/mean": found.mean(-1)}
        unseen = found.network[:, 1:][~found.seen[:, 1:]]
        if np.isfinite(unseen).any():
            figures["unseen/mean"] = float(np.nanmean(unseen))
        if network.config.memory != "none":
            forgetful = stream_errors(
                network, sequences, config.draw, reset=True, stride=config.stride, device=device
            )
            figures[f"batch_{batches}/median_reset"] = forgetful.median(-1)
    return figures | memory.figures()


def _stage(
    stage: StageConfig, pool: SequencePool, config: TrainConfig, ranks: Ranks
) -> Stage[TrainingSequence, list[StreamStep]]:
    picture = PictureLoss(renderer=SplatRenderer(cell=config.loop.picture_cell))

    def loss(
        model: nn.Module, steps: list[StreamStep], rng: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        assert isinstance(model, CompactNetwork)
        return sequence_loss(model, steps, stage.loss, rng, picture, ranks.masked_mean)

    return Stage(
        name=stage.name,
        sampler=pool,
        collate=_Collate(stage.data.draw, ranks),
        loss=loss,
        batch_size=stage.batch_size,
        until_step=stage.until_step,
        until_s=stage.until_s,
    )


class _Collate:
    """Streams side by side on this process's device, with this process's share of their views."""

    def __init__(self, draw: Draw, ranks: Ranks) -> None:
        self._draw, self._ranks = draw, ranks

    def __call__(
        self, items: Sequence[TrainingSequence], rng: np.random.Generator
    ) -> list[StreamStep]:
        steps = collate(items, rng, self._draw, self._ranks.device)
        return [dealt(step, self._ranks) for step in steps]


def _pools(
    stages: Sequence[StageConfig], ranks: Ranks, stack: ExitStack, say: Callable[[str], None]
) -> dict[DataConfig, SequencePool]:
    """One pool for all stages that learn from the same streams; a folder that two of them describe
    differently is refused by the second pool."""
    shared: dict[tuple[Path, StreamSpec, SceneSource, CapturesConfig], list[DataConfig]] = {}
    for data in (stage.data for stage in stages):
        place = (data.cache, data.stream, data.scenes, data.captures)
        shared.setdefault(place, []).append(data)
    pools: dict[DataConfig, SequencePool] = {}
    for (cache, stream, scenes, captures), users in shared.items():
        counts = [data.count for data in users if data.count is not None]
        pool = stack.enter_context(
            SequencePool(
                cache,
                stream,
                max(data.workers for data in users) if ranks.leads else 0,
                source=_source(scenes, captures, stream),
                count=max(counts) if len(counts) == len(users) else None,
            )
        )
        _wait(pool, max(data.at_least for data in users), ranks, say)
        pools |= dict.fromkeys(users, pool)
    return pools


def _judges(
    config: EvaluationConfig,
    spec: StreamSpec,
    ranks: Ranks,
    stack: ExitStack,
    say: Callable[[str], None],
) -> list[TrainingSequence]:
    """The evaluation's streams; other processes than the leading one need none, but wait until they
    are there: what processes tell each other has a time limit that making them may exceed."""
    if config.sequences == 0:
        return []
    pool = SequencePool(
        config.cache,
        spec,
        config.workers if ranks.leads else 0,
        source=_source(config.scenes, config.captures, spec),
        count=config.sequences,
    )
    with pool:
        _wait(pool, config.sequences, ranks, say)
        return [pool.load(index) for index in range(config.sequences if ranks.leads else 0)]


def _wait(pool: SequencePool, count: int, ranks: Ranks, say: Callable[[str], None]) -> None:
    if len(pool) < count:
        say(f"{pool.cache.folder}: making streams, {len(pool)} of {count} are there")
    if ranks.leads:
        pool.wait(count)
        return
    # without workers of its own: as long as those of the leading process make more
    while (there := len(pool)) < count:
        pool.wait(there + 1, _PATIENCE_S)


def _source(scenes: SceneSource, captures: CapturesConfig, spec: StreamSpec) -> SequenceSource:
    if captures.folders:
        return CaptureSource(**asdict(captures), views=spec.views)
    return scenes


def _prior(spec: StreamSpec) -> dict[str, Any]:
    """What of the matching prior the network was trained on, so that it is run on the same."""
    prior = as_mapping(spec.prior)
    prior.pop("threads", None)
    return {**prior, "kept_views": spec.kept_views, "recent_views": spec.recent_views}
