"""Makes the map of a recorded session once more, in one process without a daemon.

With the same --steps and settings as when it was recorded (`session.refine_steps`), the same map.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import tyro

from streamer.cli.console import console, frame_progress
from streamer.config import SH_DEGREE


@dataclass(kw_only=True, slots=True)
class Options:
    """What to replay, and how."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SESSION|FILE.mcap")]
    """Name of a session, or a file of a journal."""
    out: Path
    """The .ply file of the map."""
    rate: float = 0.0
    """Frames a second; 0: as fast as it goes."""
    steps: int = 20
    """Refinement steps after each batch; 0: as many as --rate leaves time for."""
    refine_poses: bool = False
    """Let refinement find the frames' cameras as well (`session.refine_poses`)."""
    sh_degree: int = SH_DEGREE
    """As of `splatstream serve` (`session.sh_degree`)."""
    submaps: int = 48
    """As `session.submaps` of the daemon."""
    long_side: int = 240
    """Working size: the long side of the pictures in pixels."""
    weights: Path | None = None
    """As of `splatstream serve`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What to compute on."""
    session_dir: Path | None = None
    """Folder of the sessions' own folders (as `serve --session-dir`)."""


def run(options: Options) -> int:
    """Writes the map."""
    from streamer.config import default_session_dir
    from streamer.stored_sessions import stored_session

    if options.out.suffix.lower() != ".ply":
        raise ReplayOptionError(f"--out: {options.out} does not end in .ply")
    if options.rate < 0:
        raise ReplayOptionError(f"--rate is {options.rate}: give 0 or more")
    source = Path(options.source)
    if source.suffix != ".mcap":
        source = stored_session(options.session_dir or default_session_dir(), options.source).folder

    from gs_decoder import world_origin, write_ply
    from streamer.config import ServeConfig, SessionConfig
    from streamer.replay import Recording, replay
    from streamer.session.engine import Engine
    from streamer.session.settings import engine_config
    from streamer.session.spill_files import SpillFolder
    from streamer.session.threads import use_all_cores
    from ttt_core import default_model

    use_all_cores()
    session = SessionConfig(
        long_side=options.long_side,
        weights=options.weights,
        refine_steps=options.steps,
        refine_poses=options.refine_poses,
        sh_degree=options.sh_degree,
        submaps=options.submaps,
    )
    settings = engine_config(ServeConfig(device=options.device, session=session))
    recording = Recording(source, settings.batch)
    model = default_model(session.weights, settings.device, session.submaps)
    engine = Engine(settings, model=model)
    screen = console()
    if recording.begins:
        screen.print(
            f"frames 0 to {recording.begins - 1} are not there (see journal.keep): the map is made "
            "of the rest",
            markup=False,
        )
    with TemporaryDirectory(prefix="splatstream-") as out_of_sight:
        engine.spill_to(SpillFolder(Path(out_of_sight), kept=False))
        with frame_progress(screen, recording.frames, "frames replayed") as bar:
            done = replay(
                engine,
                recording,
                long_side=options.long_side,
                rate=options.rate,
                progress=bar.update,
            )
        origin = world_origin(engine.map.chunks.values())
        options.out.parent.mkdir(parents=True, exist_ok=True)
        splats = engine.splats_world(origin)
        write_ply(options.out, splats, offset=origin)
        engine.close()
    screen.print(
        f"{options.out}: {splats.count:,} splats of {done.frames} frames, "
        f"{done.corrections - done.refused} corrections",
        markup=False,
    )
    return 0


class ReplayOptionError(ValueError):
    """An option that cannot be; the message says what can."""
