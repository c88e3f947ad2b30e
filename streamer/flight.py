"""A camera's flight through a map: where it goes, and what it sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gs_decoder import SurfaceRenderer, render_view
from streamer import camera_paths
from streamer.map_source import MapError, OpenMap
from streamer.render import COVERED, to_bytes
from streamer.trajectory import Trajectory, read_trajectory

Float64 = NDArray[np.float64]

_FOV_DEG = 60.0
_LOOKED_AT = 24
"""Pictures of a flight by which its range of depths is found."""


class FlightError(ValueError):
    """A flight that cannot be made as was asked; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lens:
    """A pinhole camera that looks straight ahead: pixels, and the horizontal field of view."""

    width: int
    height: int
    fov_deg: float

    def __post_init__(self) -> None:
        if not 1.0 <= self.fov_deg <= 170.0:
            raise FlightError(f"--fov is {self.fov_deg:g}; 1 to 170 degrees")

    @property
    def K(self) -> Float64:
        """(3, 3)."""
        f = 0.5 * self.width / np.tan(np.radians(self.fov_deg) / 2.0)
        return np.array([[f, 0.0, self.width / 2], [0.0, f, self.height / 2], [0.0, 0.0, 1.0]])


def field_of_view(cameras: Trajectory | None) -> float:
    """Horizontal, degrees: the median of the cameras', or 60 where it is not known."""
    if cameras is None or cameras.cameras is None:
        return _FOV_DEG
    angles = [2.0 * np.arctan(0.5 * c.width / c.fxfycxcy[0]) for c in cameras.cameras]
    return float(np.clip(np.degrees(np.median(angles)), 20.0, 120.0))


def plan_flight(what: str, world: OpenMap, lens: Lens, *, count: int, fps: float) -> Float64:
    """(M, 4, 4) camera-to-world of every picture.

    Args:
        what: `spline` (through the map's cameras), `orbit` (around what they look at, or around
            the map), or a file of poses (`read_trajectory`), flown at its own pace.
        count: pictures of a spline or orbit.

    Raises:
        MapError: a spline of a map without cameras.
        TrajectoryError, CaptureError: a file without poses.
    """
    if what == "spline":
        return camera_paths.spline(world.known_cameras().c2w, count)
    if what == "orbit":
        return _orbit(world, lens, count)
    trajectory = read_trajectory(Path(what))
    return camera_paths.as_recorded(trajectory.c2w, trajectory.stamps_ns, fps)


def pictures(
    world: OpenMap, flight: Float64, lens: Lens, *, background: tuple[float, float, float]
) -> Iterator[NDArray[np.uint8]]:
    """(H, W, 3) rgb of every pose."""
    for pose in flight:
        render = render_view(
            world.splats,
            pose,
            lens.K,
            lens.width,
            lens.height,
            origin=world.origin,
            background=background,
        )
        yield to_bytes(render.rgb.cpu().numpy())


def depth_pictures(world: OpenMap, flight: Float64, lens: Lens) -> Iterator[NDArray[np.uint8]]:
    """(H, W, 3) rgb of every pose's depth: near is red, far blue, nothing black.

    The scale is of inverse depth, and the same for the whole flight.

    Raises:
        FlightError: the flight never sees the map.
    """
    picked = flight[np.linspace(0, len(flight) - 1, min(_LOOKED_AT, len(flight))).astype(int)]
    small = Lens(
        width=max(2, lens.width // 4), height=max(2, lens.height // 4), fov_deg=lens.fov_deg
    )
    surfaces = SurfaceRenderer(world.splats, world.origin)
    seen = [_inverse_depth(surfaces, pose, small) for pose in picked]
    values = np.concatenate([inverse[inverse > 0] for inverse in seen])
    if not len(values):
        raise FlightError("--path: the map is nowhere in sight along it: is it in the map's world?")
    far, near = np.percentile(values, (1.0, 99.0))
    for pose in flight:
        inverse = _inverse_depth(surfaces, pose, lens)
        scaled = to_bytes((inverse - far) / max(float(near - far), 1e-12))
        colours = cv2.applyColorMap(scaled, cv2.COLORMAP_TURBO)[..., ::-1]
        yield np.where(inverse[..., None] > 0, colours, np.uint8(0))


def _inverse_depth(surfaces: SurfaceRenderer, pose: Float64, lens: Lens) -> NDArray[np.float32]:
    seen = surfaces.render(pose, lens.K, lens.width, lens.height)
    covered = (seen.alpha >= COVERED) & (seen.depth > 0)
    return np.where(covered, 1.0 / np.where(covered, seen.depth, np.float32(1.0)), np.float32(0.0))


def _orbit(world: OpenMap, lens: Lens, count: int) -> Float64:
    poses = None if world.cameras is None else world.cameras.c2w
    up = np.array([0.0, 0.0, 1.0]) if poses is None else camera_paths.mean_up(poses)
    target = None if poses is None else camera_paths.common_target(poses)
    if poses is not None and target is not None:
        ways = poses[:, :3, 3] - target
        distance = np.linalg.norm(ways, axis=1)
        rise = float(np.degrees(np.arcsin(np.median(np.clip(ways @ up / distance, -0.9, 0.9)))))
        return camera_paths.orbit(target, float(np.median(distance)), up, count, elevation_deg=rise)
    # From outside, so that nine tenths of what there is fit into the narrower side.
    visible = world.splats.select(world.splats.opacities > 0.1)
    if visible.count == 0:
        raise MapError("--path: nothing of the map is opaque enough to fly around")
    points = visible.means.double().cpu().numpy()
    centre = np.median(points, axis=0)
    size = float(np.percentile(np.linalg.norm(points - centre, axis=1), 90.0))
    narrow = np.arctan(np.tan(np.radians(lens.fov_deg) / 2) * min(1.0, lens.height / lens.width))
    return camera_paths.orbit(centre + world.origin, size / np.sin(narrow), up, count)
