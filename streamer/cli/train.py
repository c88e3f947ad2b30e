"""Trains the network behind the map, on procedural scenes or on captures of one's own.

The output folder gets checkpoint.safetensors (for serve and run: --weights), log.jsonl, plot.png
and state/, from which --resume goes on. Ctrl-C and SIGTERM end it early with all of that written
(exit code 130). Several processes: `torchrun --nproc-per-node N -m streamer.cli train …`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(kw_only=True, slots=True)
class Options:
    """What to train on is in the file; how long and where is said here."""

    config: Path
    """YAML file with the sections model, data, loss, optimizer, evaluation, loop and stages; what
    it leaves out keeps its default."""
    out: Path
    """Folder of the run."""
    seconds: float
    """Wall seconds of training, evaluations and saving included, from when the first streams are
    made."""
    resume: bool = False
    """Go on with the run in the folder."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What to compute on."""
    start: Path | None = None
    """A checkpoint whose weights a new run begins with; of another form of memory all but that."""


def run(options: Options) -> int:
    """Trains; 130 where it was interrupted."""
    from rich.markup import escape

    from streamer.cli.console import console
    from streamer.training import CHECKPOINT, train
    from streamer.training_config import load_train_config

    screen = console()
    config = load_train_config(options.config)
    outcome = train(
        config,
        options.out,
        options.seconds,
        resume=options.resume,
        device=options.device,
        start=options.start,
        tell=lambda text: screen.print(escape(text)),
    )
    screen.print(
        f"{outcome.step} steps after {outcome.elapsed:.0f} s of training; "
        f"{escape(str(options.out / CHECKPOINT))} has the averaged weights"
    )
    return 130 if outcome.interrupted else 0
