"""Ways of a camera through a map, for videos: through given poses, around it, or as recorded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.conventions import interpolate_pose, matrix_from_wxyz, wxyz_from_matrix

Float64 = NDArray[np.float64]

_POINTS = 24
"""Poses that a spline goes through at most: more would follow the tremble of the hand."""
_TURN = 0.5
"""A radian of turning counts as so much of the way as this share of its typical step's length."""
_DENSE = 64


def spline(c2w: Float64, count: int, *, points: int = _POINTS) -> Float64:
    """A smooth way through poses, at an even pace.

    A centripetal Catmull-Rom curve through at most `points` of the poses, evenly chosen along
    their way; rotations by the same curve in unit quaternions.

    Args:
        c2w: (N, 4, 4) camera-to-world, in order, N >= 1.
        count: number of poses wanted, >= 1.

    Returns:
        (count, 4, 4); the first and the last are those of `c2w`.
    """
    chosen = c2w[_evenly(c2w, points)]
    if len(chosen) == 1:
        return np.repeat(chosen, count, axis=0)
    position = chosen[:, :3, 3]
    quat_wxyz = wxyz_from_matrix(chosen[:, :3, :3])
    for i in range(1, len(quat_wxyz)):
        if quat_wxyz[i] @ quat_wxyz[i - 1] < 0.0:
            quat_wxyz[i] = -quat_wxyz[i]
    steps = _steps(chosen)
    knots = np.concatenate([[0.0], np.cumsum(np.sqrt(np.maximum(steps, 1e-9)))])
    at = np.linspace(0.0, knots[-1], _DENSE * len(chosen))
    dense = _poses(_catmull_rom(knots, position, at), _catmull_rom(knots, quat_wxyz, at))
    # Even pace: parameters at equal shares of the way travelled and turned.
    way = np.concatenate([[0.0], np.cumsum(_steps(dense))])
    even = np.interp(np.linspace(0.0, way[-1], count), way, at)
    return _poses(_catmull_rom(knots, position, even), _catmull_rom(knots, quat_wxyz, even))


def as_recorded(c2w: Float64, stamps_ns: NDArray[np.int64], fps: float) -> Float64:
    """The poses of a trajectory at its own speed, `fps` a second, interpolated; (M, 4, 4)."""
    since = (stamps_ns - stamps_ns[0]) / 1e9
    times = np.arange(0.0, since[-1] + 1e-9, 1.0 / fps)
    after = np.clip(np.searchsorted(since, times), 1, max(1, len(since) - 1))
    if len(since) == 1:
        return c2w[:1].copy()
    poses = []
    for time, place in zip(times, after, strict=True):
        gap = since[place] - since[place - 1]
        weight = float((time - since[place - 1]) / gap) if gap > 0 else 1.0
        poses.append(interpolate_pose(c2w[place - 1], c2w[place], weight))
    return np.stack(poses)


def orbit(
    centre: Float64, radius: float, up: Float64, count: int, *, elevation_deg: float = 20.0
) -> Float64:
    """A full circle around a point, looking at it; (count, 4, 4), the last not the first again.

    Args:
        centre: (3,). radius: distance to it. up: (3,) direction, any length.
        elevation_deg: how far above the horizon of `centre` the camera stands.
    """
    up = up / np.linalg.norm(up)
    helper = np.eye(3)[int(np.abs(up).argmin())]
    east = np.cross(helper, up)
    east /= np.linalg.norm(east)
    north = np.cross(up, east)
    turn = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)
    rise = np.radians(elevation_deg)
    outward = np.cos(rise) * (np.outer(np.cos(turn), east) + np.outer(np.sin(turn), north))
    return np.stack(
        [_look_at(centre + radius * d, centre, up) for d in outward + np.sin(rise) * up]
    )


def mean_up(c2w: Float64) -> Float64:
    """(3,) unit vector: the world's up as the cameras (N, 4, 4) were held.

    Snapped to the world's nearest axis where that is within 20 degrees, as it is in a world with
    gravity in it; else the mean of the cameras' own.
    """
    total = -c2w[:, :3, 1].sum(0)
    length = float(np.linalg.norm(total))
    if length < 1e-6:
        return np.array([0.0, 0.0, 1.0])
    up = total / length
    axis = np.zeros(3)
    largest = int(np.abs(up).argmax())
    axis[largest] = np.sign(up[largest])
    return axis if float(axis @ up) > np.cos(np.radians(20.0)) else up


def common_target(c2w: Float64) -> Float64 | None:
    """(3,) the point that all cameras look at, or None where they look at no one thing.

    The point nearest to all optical axes in least squares; it counts where at least nine tenths of
    the cameras have it in front of them within 30 degrees of their axis.
    """
    axes, centres = c2w[:, :3, 2], c2w[:, :3, 3]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    normal = across.sum(0)
    if len(c2w) < 3 or np.linalg.eigvalsh(normal)[0] < 1e-3 * len(c2w):
        return None
    target = np.linalg.solve(normal, (across @ centres[:, :, None]).sum(0)[:, 0])
    ways = target - centres
    distance = np.linalg.norm(ways, axis=1)
    cosine = (ways * axes).sum(1) / np.maximum(distance, 1e-12)
    return target if float((cosine > np.cos(np.radians(30.0))).mean()) >= 0.9 else None


def _look_at(eye: Float64, target: Float64, up: Float64) -> Float64:
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def _steps(c2w: Float64) -> Float64:
    """(N - 1,) lengths of the way from pose to pose, turns included."""
    moved = np.linalg.norm(np.diff(c2w[:, :3, 3], axis=0), axis=1)
    cosine = np.clip((c2w[1:, :3, 2] * c2w[:-1, :3, 2]).sum(1), -1.0, 1.0)
    typical = float(moved.sum()) or 1.0
    total_turn = max(float(np.arccos(cosine).sum()), 1.0)
    return moved + _TURN * typical * np.arccos(cosine) / total_turn


def _evenly(c2w: Float64, points: int) -> NDArray[np.int64]:
    """Indices of at most `points` poses, the ends among them; of more, evenly along the way."""
    if len(c2w) <= points:
        return np.arange(len(c2w))
    way = np.concatenate([[0.0], np.cumsum(_steps(c2w))])
    wanted = np.linspace(0.0, way[-1], points)
    return np.unique(np.abs(way[None] - wanted[:, None]).argmin(1))


def _catmull_rom(knots: Float64, values: Float64, at: Float64) -> Float64:
    """(M, D) of a cubic Hermite curve through `values` (N, D) at `knots` (N,), evaluated at (M,).

    Tangents are those of Catmull-Rom with uneven knots: of the parabola through three points.
    """
    gaps = np.diff(knots)[:, None]
    slopes = np.diff(values, axis=0) / gaps
    tangents = np.concatenate([slopes[:1], slopes[-1:]])
    if len(values) > 2:
        inner = (slopes[:-1] * gaps[1:] + slopes[1:] * gaps[:-1]) / (gaps[1:] + gaps[:-1])
        tangents = np.concatenate([slopes[:1], inner, slopes[-1:]])
    place = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
    gap = gaps[place]
    t = (at[:, None] - knots[place][:, None]) / gap
    a, b = values[place], values[place + 1]
    u, v = tangents[place] * gap, tangents[place + 1] * gap
    return (
        (2 * t**3 - 3 * t**2 + 1) * a
        + (t**3 - 2 * t**2 + t) * u
        + (3 * t**2 - 2 * t**3) * b
        + (t**3 - t**2) * v
    )


def _poses(position: Float64, quat_wxyz: Float64) -> Float64:
    poses = np.tile(np.eye(4), (len(position), 1, 1))
    poses[:, :3, :3] = matrix_from_wxyz(quat_wxyz)
    poses[:, :3, 3] = position
    return poses
