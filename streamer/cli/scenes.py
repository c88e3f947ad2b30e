"""The procedural scenes that networks are trained on: a contact sheet, or captures of them.

On the sheet each scene has a row of pictures and a row of depth below it: red is near, blue is far,
black sky. A capture has exact poses and depth, and is read by `run`, `push` and `eval` like any
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(kw_only=True, slots=True)
class Options:
    """The same seed and split always give the same scene."""

    sheet: Path | None = None
    """The picture to write (.png or .jpg)."""
    captures: Path | None = None
    """Folder for captures, one folder a scene."""
    count: int = 8
    """Scenes; one a pair of rows on the sheet."""
    split: Literal["train", "validation", "kept_out"] = "train"
    """Seeds to draw from; kept_out has a texture family and a camera mode of its own."""
    seed: int = 0
    """Seed of the first scene; the others follow."""
    kind: Literal["room", "objects", "outdoor", "aerial"] | None = None
    """Only scenes of this kind."""
    views: int = 32
    """Length of the streams; the sheet shows eight views of each."""
    step: float = 1.0
    """Factor on the length of the steps and the turns between views."""
    height: int = 96
    """Pixels down each view."""
    width: int = 144
    """Pixels across each view."""
    device: str = "cpu"
    """Where rays are cast: cpu or cuda."""


class SheetError(ValueError):
    """Scenes that cannot be written; the message says why."""


def run(options: Options) -> int:
    """Renders and writes what was asked for."""
    import cv2

    from streamer.cli.console import console
    from streamer.scene_capture import write_capture
    from ttt_core.scenes import SceneConfig, contact_sheet, make_sequence

    if options.sheet is None and options.captures is None:
        raise SheetError("nothing to write: say --sheet sheet.png, --captures FOLDER, or both")
    if options.count < 1:
        raise SheetError(f"--count: {options.count} scenes are none: say 1 or more")
    if options.sheet and options.sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise SheetError(f"--sheet: {options.sheet} is no picture: say sheet.png")
    config = SceneConfig(
        height=options.height,
        width=options.width,
        views=options.views,
        kind=options.kind,
        step=options.step,
    )
    out, sequences = console(), []
    for seed in range(options.seed, options.seed + options.count):
        sequence = make_sequence(seed, options.split, config, options.device)
        if options.sheet:
            sequences.append(sequence)
        if options.captures:
            write_capture(sequence, options.captures / f"{options.split}-{seed:05}")
        out.print(
            f"{seed:>6}  {sequence.kind:<8}  {sequence.trajectory:<13}  "
            f"median depth {float(sequence.depth[sequence.depth > 0].median()):5.2f} m  "
            f"sky {float((sequence.depth == 0).float().mean()):4.0%}"
        )
    if options.sheet:
        _, code = cv2.imencode(options.sheet.suffix, contact_sheet(sequences)[..., ::-1])
        options.sheet.parent.mkdir(parents=True, exist_ok=True)
        options.sheet.write_bytes(code.tobytes())
        out.print(f"{options.sheet}: {options.count} scenes of {options.views} views")
    if options.captures:
        out.print(f"{options.captures}: {options.count} captures of {options.views} views")
    return 0
