"""A finished or growing map to work on: a PLY file, or the present state of a daemon's session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gs_decoder import Splats, read_ply, to_world, world_origin
from gs_decoder.mirror import MapMirror
from streamer.access import ClientKeys
from streamer.addresses import find_daemon
from streamer.requests import Requests
from streamer.trajectory import Trajectory, cameras_beside, read_trajectory


class MapError(ValueError):
    """A map that cannot be used as was asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class OpenMap:
    """The splats of a map and what is known of the cameras it was made from."""

    splats: Splats
    """World axes, means relative to `origin`."""
    origin: np.ndarray
    """(3,) float64."""
    cameras: Trajectory | None
    """Key frames, in order."""

    def known_cameras(self) -> Trajectory:
        """The cameras; raises MapError where there are none."""
        if self.cameras is None:
            raise MapError(
                "--cameras: the map comes without camera poses (no cameras.json beside it): name a "
                "capture, its transforms.json, a cameras.json or a TUM trajectory"
            )
        return self.cameras


def open_map(
    target: str,
    *,
    session: str | None = None,
    cameras: Path | None = None,
    keys: ClientKeys | None = None,
) -> OpenMap:
    """Read a map.

    Args:
        target: a 3DGS PLY file, or the updates or requests address of a daemon (with `://`).
        session: the daemon's session; may be left out where there is one alone.
        cameras: poses in the place of those that come with the map (`read_trajectory`).
        keys: for a daemon that has keys.

    Raises:
        MapError: no splats, or a session that has to be named.
        InvalidPly, OSError, TrajectoryError, DaemonNotFound, RequestRefused: as they say.
    """
    given = None if cameras is None else read_trajectory(cameras)
    if "://" in target:
        found = _of_daemon(target, session, keys)
    else:
        if session is not None:
            raise MapError(f"--session: {target} is a file, which has none; leave it out")
        path = Path(target).expanduser()
        if path.is_dir() and (path / "map.ply").is_file():
            path = path / "map.ply"
        content = read_ply(path)
        beside = cameras_beside(path) if given is None else None
        found = OpenMap(
            content.splats,
            content.offset,
            None if beside is None else read_trajectory(beside),
        )
    if found.splats.count == 0:
        raise MapError(f"{target}: the map is empty: there is nothing to look at yet")
    return OpenMap(found.splats, found.origin, given or found.cameras)


def _of_daemon(address: str, session: str | None, keys: ClientKeys | None) -> OpenMap:
    with Requests(find_daemon(address, keys=keys).requests, keys=keys) as requests:
        if session is None:
            names = [entry.session for entry in requests.sessions()]
            if len(names) != 1:
                held = ", ".join(names) or "none yet"
                raise MapError(f"--session: name one of the daemon's sessions: {held}")
            session = names[0]
        snapshot = requests.snapshot(session)
        keyframes = requests.keyframes(session)
    mirror = MapMirror()
    for update in snapshot.updates:
        mirror.apply(update)
    chunks = list(mirror.chunks.values())
    origin = world_origin(chunks)
    cameras = None
    if keyframes:
        cameras = Trajectory(
            np.stack([keyframe.c2w for keyframe in keyframes]),
            np.array([keyframe.stamp_ns for keyframe in keyframes], np.int64),
        )
    return OpenMap(to_world(chunks, origin=origin), origin, cameras)
