"""Does the carried memory earn its place? Forms of it, trained alike, on the same streams.

    python benchmarks/memory.py train --train CACHE --validation CACHE --out DIR [--only NAMES]
    python benchmarks/memory.py report --out DIR [--json FILE]

`train` starts every form from one base network without memory, trains each for the same number of
sequences (and "none" once more for the CPU time that the ridge took), and measures depth errors on
validation streams under four conditions: what the prior is given (the present batch only, or
earlier key frames as further sweep sources) and whether the network is given the map of earlier
points. (With earlier key frames the prior also takes its depth ranges from that map, as in the
daemon; the network sees nothing of it unless the condition says so.) Half of the streams have pose
noise; the table has both halves together and apart. Runs that are done are not repeated, so that
several commands can share the work. `report` makes the table: pooled medians and means by batch,
and paired differences over scenes with their standard errors, those at places that no earlier batch
saw apart. What was trained are checkpoints, which `learned.py depth` measures on a capture. Caches
are made by `python -m ttt_core.training.generate`; the specifications that the committed results
were made from are in `benchmarks/memory_*.yaml`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from stream_statistics import (
    CONDITIONS,
    PARTS,
    by_batch,
    in_unseen_places,
    in_words,
    of_scenes,
    rounded,
    summed_up,
)

from streamer.hardware import hardware
from ttt_core.network import CompactNetwork, NetworkConfig
from ttt_core.training.build import StreamSpec, has_pose_noise
from ttt_core.training.collate import Draw, collate
from ttt_core.training.evaluate import StreamErrors, stream_errors
from ttt_core.training.export import export_compact
from ttt_core.training.learner import Learner
from ttt_core.training.loss import LossConfig, sequence_loss
from ttt_core.training.optimizer import OptimizerConfig
from ttt_core.training.parallel import Ranks
from ttt_core.training.samples import TrainingSequence, load_sequence

TRAINING = Draw(views=2, alone=0.5, drop_map=0.5, permute=0.5)
RUNS = (
    "none:0",
    "ridge:0",
    "tokens:0",
    "anchored:0",
    "grid:0",
    "grid:1",
    "swiglu:0",
    "none:1",
    "ridge:1",
    "none-longer:0",
    "none-longer:1",
)
LONG = ("alone, long", "both, long")
LATE = ((16, 16), (9, 16))
"""Batches that only the longer streams have."""
_FIRST = 8  # batches that are measured of every stream
_RATE, _WARM_UP, _DECAY = 1.5e-3, 30, 0.4


@dataclass(kw_only=True)
class Train:
    """Train the forms of memory and measure them."""

    train: Path
    validation: Path
    out: Path
    only: tuple[str, ...] = RUNS
    base_steps: int = 160
    steps: int = 160
    longer_than: str = "ridge"
    """The form whose CPU time "none-longer" gets."""
    streams: int = 4
    """Sequences a step."""
    sequences: int = 400
    """Of the training cache, those that are learnt from: its first."""
    scenes: int = 96
    long_scenes: int = 48
    """Scenes of which all batches are measured, where there are more; of the others the first
    eight."""


@dataclass(kw_only=True)
class Report:
    """The table of what was trained."""

    out: Path
    json: Path | None = None


@dataclass
class Supply:
    """The first sequences of a cache."""

    folder: Path
    count: int

    def paths(self) -> list[Path]:
        paths = sorted(self.folder.glob("*.safetensors"))[: self.count]
        if len(paths) < self.count:
            raise SystemExit(f"{self.folder} holds {len(paths)} sequences: make {self.count}")
        return paths

    def draw(self, rng: np.random.Generator, count: int) -> list[TrainingSequence]:
        """So many of them by chance."""
        paths = self.paths()
        return [load_sequence(paths[i]) for i in rng.permutation(len(paths))[:count]]


def learn(
    network: CompactNetwork,
    supply: Supply,
    *,
    seed: int,
    steps: int,
    streams: int,
    decay: float,
    seconds: float | None = None,
) -> dict[str, float]:
    """Train for so many steps, or for so many CPU seconds; returns the cost and the last losses."""
    learner = Learner(
        network,
        OptimizerConfig(learning_rate=_RATE, weight_decay=0.02, ema_decay=0.98),
        seed=seed,
        device=torch.device("cpu"),
        ranks=Ranks(),
    )
    rng = np.random.default_rng(seed)
    config = LossConfig()
    began, losses, step = time.process_time(), [], 0
    while True:
        spent = time.process_time() - began
        done = step / steps if seconds is None else spent / seconds
        if done >= 1:
            break
        factor = min(1.0, (step + 1) / _WARM_UP)
        if decay:
            factor *= min(1.0, max(0.02, (1 - done) / decay))
        batch = collate(supply.draw(rng, streams), rng, TRAINING)

        def loss_of(model: Any, steps_: Any, generator: torch.Generator) -> Any:
            return sequence_loss(model, steps_, config, generator)

        report = learner.learn([batch], loss_of, factor)
        losses.append(report.figures["depth"])
        step += 1
        if step % 20 == 0:
            print(
                f"  {step} steps, {spent:.0f} CPU-s, depth {np.mean(losses[-20:]):.4f}", flush=True
            )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(learner.average.to_tensors()[name])
    return {
        "steps": step,
        "sequences": step * streams,
        "cpu_s": time.process_time() - began,
        "last_depth": float(np.mean(losses[-20:])),
    }


def measure(network: CompactNetwork, options: Train) -> dict[str, StreamErrors]:
    """Errors by condition; with a memory also with the memory reset before every batch."""
    paths = Supply(options.validation, options.scenes).paths()
    sequences = [load_sequence(path) for path in paths]
    network = network.eval()
    longer = len(sequences[0].batch.unique()) > _FIRST
    found = {}
    for name, draw in CONDITIONS.items():
        first = Draw(alone=draw.alone, drop_map=draw.drop_map, batches=_FIRST)
        found[name] = stream_errors(network, sequences, first)
        if network.config.memory != "none" and name in ("alone", "both"):
            found[f"{name}, reset"] = stream_errors(network, sequences, first, reset=True)
        if longer and name in ("alone", "both"):
            found[f"{name}, long"] = stream_errors(network, sequences[: options.long_scenes], draw)
    return found


def train(options: Train) -> None:
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    supply = Supply(options.train, options.sequences)
    for name in options.only:
        if (options.out / f"{name}.json").exists():
            continue
        kind, _, seed_text = name.partition(":")
        seed = int(seed_text)
        network = _based(options, supply, kind.removesuffix("-longer"), seed)
        print(name, flush=True)
        seconds = None
        if kind.endswith("-longer"):
            longer = options.out / f"{options.longer_than}:{seed}.json"
            seconds = json.loads(longer.read_text())["cost"]["cpu_s"]
        torch.manual_seed(seed)
        cost = learn(
            network,
            supply,
            seed=10 + seed,
            steps=options.steps,
            streams=options.streams,
            decay=_DECAY,
            seconds=seconds,
        )
        export_compact(
            options.out / f"{name}.safetensors",
            network.state_dict(),
            config={"network": asdict(network.config)},
            record={"benchmark": name, **cost},
            dtype="float32",
        )
        errors = measure(network, options)
        np.savez_compressed(
            options.out / f"{name}.npz",
            **{
                f"{condition}/{part}": getattr(found, part).astype(np.float16)
                for condition, found in errors.items()
                for part in PARTS
            },
        )
        (options.out / f"{name}.json").write_text(
            json.dumps(
                {
                    "cost": cost,
                    "parameters": sum(p.numel() for p in network.parameters()),
                    "state_bytes": network.initial_state().nbytes,
                    "options": {k: v for k, v in asdict(options).items() if isinstance(v, int)},
                    "train_sequences": len(supply.paths()),
                }
            )
        )


def _based(options: Train, supply: Supply, memory: str, seed: int) -> CompactNetwork:
    """A network of this form that starts from the common base of its seed."""
    path = options.out / f"base:{seed}.safetensors"
    if not path.exists():
        print(f"base:{seed}", flush=True)
        torch.manual_seed(seed)
        base = CompactNetwork(NetworkConfig(memory="none"))
        learn(base, supply, seed=seed, steps=options.base_steps, streams=options.streams, decay=0.0)
        save_file(dict(base.state_dict()), path)
    torch.manual_seed(100 + seed)
    network = CompactNetwork(NetworkConfig(memory=memory))
    start = load_file(path)
    if memory == "tokens":
        start = {_with_fast_weights(name): tensor for name, tensor in start.items()}
    missing, unknown = network.load_state_dict(start, strict=False)
    assert not unknown, unknown
    of_volume = ("memory.", "reader.", "writer.", "color_of_value.")
    fresh = {"tokens": ("blocks.",), "anchored": ("anchored.",), "grid": ("surfaces.",)}.get(
        memory, of_volume
    )
    assert all(name.startswith(fresh) for name in missing), missing
    return network


def _with_fast_weights(name: str) -> str:
    """Attention and MLP of a block stand at 0 and 2 where fast weights stand between them."""
    return name.replace(".parts.0.", ".module_list.0.").replace(".parts.1.", ".module_list.2.")


def _errors(out: Path, name: str) -> dict[str, StreamErrors]:
    with np.load(out / f"{name}.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    conditions = {key.rpartition("/")[0] for key in arrays}
    found = {c: StreamErrors(*(_read(arrays, c, p) for p in PARTS)) for c in conditions}
    short = {c for c in LONG if c in found and found[c].network.shape[1] <= _FIRST}
    return {c: errors for c, errors in found.items() if c not in short}


def _read(arrays: Mapping[str, Any], condition: str, part: str) -> Any:
    return arrays[f"{condition}/{part}"].astype(np.bool_ if part == "seen" else np.float32)


def report(options: Report) -> None:
    done = [name for name in RUNS if (options.out / f"{name}.npz").exists()]
    found = {name: _errors(options.out, name) for name in done}
    scenes = len(found[done[0]]["alone"].network)
    noisy = np.array([has_pose_noise(StreamSpec(), index) for index in range(scenes)])
    table: dict[str, Any] = {}
    for name, by_condition in found.items():
        facts = json.loads((options.out / f"{name}.json").read_text())
        rows = {c: summed_up(errors) for c, errors in by_condition.items()}
        for condition, errors in by_condition.items():
            here = noisy[: len(errors.network)]
            rows[condition]["median_exact_poses"] = float(np.nanmedian(errors.network[~here]))
            rows[condition]["median_noisy_poses"] = float(np.nanmedian(errors.network[here]))
        table[name] = {"facts": facts, "conditions": dict(sorted(rows.items()))}
    prior = {c: summed_up(e, prior=True) for c, e in found[done[0]].items() if "reset" not in c}
    comparisons = _comparisons(found, noisy)
    result = {
        "hardware": hardware(),
        "prior": prior,
        "runs": table,
        "paired": comparisons,
    }
    _print(result)
    if options.json is not None:
        options.json.write_text(json.dumps(rounded(result), indent=1) + "\n")


def _comparisons(
    found: Mapping[str, Mapping[str, StreamErrors]], noisy: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    pairs = [
        *(
            (f"{form}:{seed}", f"none:{seed}")
            for seed in (0, 1)
            for form in ("ridge", "swiglu", "grid")
        ),
        *((f"{form}:0", "none:0") for form in ("tokens", "anchored")),
        *((f"{f}:{seed}", f"none-longer:{seed}") for seed in (0, 1) for f in ("ridge", "grid")),
        *((f"grid:{seed}", f"ridge:{seed}") for seed in (0, 1)),
    ]
    rows = []
    for a, b in pairs:
        if a not in found or b not in found:
            continue
        for condition in CONDITIONS:
            one, other = found[a][condition], found[b][condition]
            rows += by_batch(f"{a} - {b}", condition, one, other)
            rows += in_unseen_places(f"{a} - {b}", condition, one, other)
            for poses, here in (("exact poses", ~noisy), ("noisy poses", noisy)):
                part = (of_scenes(errors, here) for errors in (one, other))
                rows += by_batch(f"{a} - {b}, {poses}", condition, *part)
        for condition in [c for c in LONG if c in found[a]]:
            rows += by_batch(
                f"{a} - {b}", condition, found[a][condition], found[b][condition], LATE
            )
    for name, by_condition in found.items():
        for condition in ("alone", "both"):
            if f"{condition}, reset" in by_condition:
                one, other = by_condition[condition], by_condition[f"{condition}, reset"]
                rows += by_batch(f"{name} carried - reset", condition, one, other)
    return rows


def _print(result: Mapping[str, Any]) -> None:
    print(result["hardware"])
    print(f"{'run':15s} {'condition':22s}  median  mean   at 1   2    4    8   16   unseen mean")
    rows = [("prior", result["prior"])]
    rows += [(name, entry["conditions"]) for name, entry in result["runs"].items()]
    for name, conditions in rows:
        for condition, row in conditions.items():
            shown = " ".join(f"{v:.4f}" for v in row["median_at"].values())
            print(
                f"{name:15s} {condition:22s} {row['median']:.4f} {row['mean']:.4f}  {shown}  "
                f"{row['unseen_mean']:.4f}"
            )
    for row in result["paired"]:
        if row["batch"] in (8, "9-16") or "never seen" in row["pair"]:
            print(in_words(row))


if __name__ == "__main__":
    chosen = tyro.extras.subcommand_cli_from_dict({"train": Train, "report": Report})
    train(chosen) if isinstance(chosen, Train) else report(chosen)
