"""A video of a flight through a map.

MAP is a 3DGS PLY file, a folder of `splatstream run`, or the address of a running daemon. Its
cameras are those of the cameras.json beside it, the daemon's key frames, or what --cameras names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from streamer.cli.keys import KeyOptions


@dataclass(kw_only=True, slots=True)
class Options(KeyOptions):
    """The video is an MP4 that browsers play."""

    map: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MAP")]
    """PLY file, or updates or requests address of a daemon (tcp://…)."""
    out: Path
    """The video, an .mp4."""
    path: str = "spline"
    """spline: through the map's cameras; orbit: around what they look at, or around the map; or a
    file of poses (TUM trajectory, transforms.json, cameras.json), flown at its own pace."""
    cameras: Path | None = None
    """Cameras of the map, in the place of those that come with it: a capture, its
    transforms.json, a cameras.json or a TUM trajectory."""
    session: str | None = None
    """Session of the daemon."""
    size: str = "960x540"
    """Width and height in pixels, even."""
    fps: float = 30.0
    """Pictures a second."""
    seconds: float = 10.0
    """How long a spline or orbit takes."""
    fov: float | None = None
    """Horizontal field of view in degrees; else that of the map's cameras, or 60."""
    background: Literal["black", "white"] = "black"
    """What lies behind the map."""
    depth: bool = False
    """Show depth in place of colour: near red, far blue."""


class RenderOptionError(ValueError):
    """An option that cannot be used; the message says what would do."""


def run(options: Options) -> int:
    """Writes the video whole or not at all."""
    width, height = _size(options.size)
    count = _count(options.seconds, options.fps)
    from rich.markup import escape

    from streamer.cli.console import console, frame_progress
    from streamer.flight import Lens, depth_pictures, field_of_view, pictures, plan_flight
    from streamer.map_source import open_map
    from streamer.session.threads import use_all_cores
    from streamer.video import VideoFile

    use_all_cores()
    screen = console()
    world = open_map(
        options.map, session=options.session, cameras=options.cameras, keys=options.keys()
    )
    fov = field_of_view(world.cameras) if options.fov is None else options.fov
    lens = Lens(width=width, height=height, fov_deg=fov)
    flight = plan_flight(options.path, world, lens, count=count, fps=options.fps)
    behind = (1.0, 1.0, 1.0) if options.background == "white" else (0.0, 0.0, 0.0)
    seen = (
        depth_pictures(world, flight, lens)
        if options.depth
        else pictures(world, flight, lens, background=behind)
    )
    with (
        VideoFile(options.out, width, height, options.fps) as video,
        frame_progress(screen, len(flight), "pictures") as progress,
    ):
        for done, picture in enumerate(seen, start=1):
            video.write(picture)
            progress.update(done)
    seconds, megabytes = len(flight) / options.fps, options.out.stat().st_size / 1e6
    screen.print(
        f"{escape(str(options.out))}: {len(flight)} pictures of {width}x{height}, "
        f"{seconds:.1f} s, {megabytes:.1f} MB, of {world.splats.count:,} splats"
    )
    return 0


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    width, height = (int(side) for side in match.groups()) if match else (0, 0)
    if not (16 <= width <= 4096 and 16 <= height <= 4096) or width % 2 or height % 2:
        raise RenderOptionError(f"--size is {text!r}; WIDTHxHEIGHT, even, 16 to 4096, as 960x540")
    return width, height


def _count(seconds: float, fps: float) -> int:
    if not 0.0 < fps <= 240.0:
        raise RenderOptionError(f"--fps is {fps:g}; above 0, at most 240 pictures a second")
    if not 0.0 < seconds <= 3600.0:
        raise RenderOptionError(f"--seconds is {seconds:g}; above 0, at most 3600")
    return max(1, round(seconds * fps))
