"""Late pose corrections: what a SLAM back end's revised poses do to every other frame.

A correction names some frames and their new poses. Frames between two of them follow both: each
carries along with its two corrected neighbours rigidly, and the two outcomes are blended by time.
Frames after the last one follow the last (up to `upto`); frames before the first stay.

Cameras that are triggered together share a stamp, and one pose cannot be all of theirs. A pose
named by a stamp is that of the first frame with it (the lowest seq); the others of the same stamp
follow this one rigidly, as the rig that holds them did, wherever in the order they came.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


class StaleRevision(ValueError):
    """A pose correction whose revision is not above the last one's."""


@dataclass(frozen=True, slots=True)
class PosesOutcome:
    """How many chunks a correction moved, and the seqs or stamps that were never seen."""

    moved: int
    unknown: list[int]


@dataclass(slots=True)
class TrackedPose:
    """A frame's pose in the map: a similarity, (4, 4) float64, scale 1 unless corrected."""

    seq: int
    stamp_ns: int
    pose: Float64


@dataclass(slots=True)
class _Pending:
    """A correction as frames still to come must follow it: those up to `upto` go with the last
    corrected frame before them, or the one of their stamp; the ones in `named` have corrected
    poses. `motion` is that of the last corrected frame, new @ old^-1, `of_stamp` all of them."""

    upto: int
    motion: Float64
    of_stamp: dict[int, Float64]
    named: dict[int, Float64]

    def figures(self) -> dict[str, Any]:
        """Fit for JSON; `_pending` is the opposite."""
        return {
            "upto": self.upto,
            "motion": self.motion.tolist(),
            "of_stamp": [[key, motion.tolist()] for key, motion in self.of_stamp.items()],
            "named": [[key, pose.tolist()] for key, pose in self.named.items()],
        }

    def follow(self, seq: int, stamp_ns: int, pose: Float64) -> Float64:
        if seq > self.upto:
            return pose
        if seq in self.named:
            self.motion = self.of_stamp[stamp_ns] = self.named[seq] @ np.linalg.inv(pose)
            return self.named[seq]
        return self.of_stamp.get(stamp_ns, self.motion) @ pose


@dataclass(frozen=True, slots=True)
class TrajectoryState:
    """A copy of a trajectory of N frames, in the order they came.

    Attributes:
        seqs, stamps: (N,) int64. poses: (N, 4, 4) float64.
        pending: corrections that frames still to come follow, fit for JSON.
    """

    revision: int
    seqs: NDArray[np.int64]
    stamps: NDArray[np.int64]
    poses: Float64
    pending: list[dict[str, Any]]


def scale_of(similarity: Float64) -> float:
    """The uniform scale of a (4, 4) similarity."""
    return float(np.cbrt(np.linalg.det(similarity[:3, :3])))


def rigid(similarity: Float64) -> Float64:
    """The camera pose of a similarity: the same centre and axes, without its scale."""
    pose = similarity.copy()
    pose[:3, :3] /= scale_of(similarity)
    return pose


def blend(first: Float64, second: Float64, weight: float) -> Float64:
    """Between two similarities: centre linearly, scale geometrically, rotation along the arc."""
    scale_a = np.cbrt(np.linalg.det(first[:3, :3]))
    scale_b = np.cbrt(np.linalg.det(second[:3, :3]))
    rotation_a, rotation_b = first[:3, :3] / scale_a, second[:3, :3] / scale_b
    blended = np.eye(4)
    blended[:3, :3] = (
        rotation_a
        @ _rotation_power(rotation_a.T @ rotation_b, weight)
        * (scale_a ** (1.0 - weight) * scale_b**weight)
    )
    blended[:3, 3] = (1.0 - weight) * first[:3, 3] + weight * second[:3, 3]
    return blended


def _rotation_power(rotation: Float64, power: float) -> Float64:
    """`rotation` turned by `power` of its angle (Rodrigues)."""
    skew = 0.5 * (rotation - rotation.T)
    axis = np.array([skew[2, 1], skew[0, 2], skew[1, 0]])
    sine = float(np.linalg.norm(axis))
    angle = float(np.arctan2(sine, 0.5 * (np.trace(rotation) - 1.0)))
    if sine < 1e-9:
        if angle < 1.0:
            return np.eye(3)
        # Half a turn: the axis is the column space of R + I.
        columns = rotation + np.eye(3)
        axis = columns[:, int(np.argmax(np.linalg.norm(columns, axis=0)))]
        sine = float(np.linalg.norm(axis))
    x, y, z = axis / sine
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turn = power * angle
    return np.eye(3) + np.sin(turn) * cross + (1.0 - np.cos(turn)) * cross @ cross


def _pending(figures: Mapping[str, Any]) -> _Pending:
    def matrices(entries: list[Any]) -> dict[int, Float64]:
        return {int(key): np.array(matrix, np.float64) for key, matrix in entries}

    return _Pending(
        upto=int(figures["upto"]),
        motion=np.array(figures["motion"], np.float64),
        of_stamp=matrices(figures["of_stamp"]),
        named=matrices(figures["named"]),
    )


class Trajectory:
    """Every frame's pose, the corrections so far, and what they mean for frames still to come."""

    def __init__(self) -> None:
        self.revision = -1
        self._frames: dict[int, TrackedPose] = {}
        self._seqs: list[int] = []
        self._seq_of_stamp: dict[int, int] = {}
        self._pending: list[_Pending] = []

    def __contains__(self, seq: int) -> bool:
        return seq in self._frames

    def __len__(self) -> int:
        return len(self._frames)

    def pose(self, seq: int) -> Float64:
        """The frame's current similarity, (4, 4) float64."""
        return self._frames[seq].pose

    def poses(self) -> dict[int, Float64]:
        """Every frame's current similarity by seq."""
        return {seq: frame.pose for seq, frame in self._frames.items()}

    def add(self, seq: int, stamp_ns: int, c2w: Float64) -> Float64:
        """Take a new frame; returns its pose in the corrected world.

        A frame that was under way when a correction arrived is still in the old frame of
        reference: it follows the last corrected frame, as the ones before it did.
        """
        pose = c2w
        for correction in self._pending:
            pose = correction.follow(seq, stamp_ns, pose)
        self._pending = [correction for correction in self._pending if seq < correction.upto]
        self._frames[seq] = TrackedPose(seq, stamp_ns, pose)
        self._seqs.append(seq)
        self._seq_of_stamp.setdefault(stamp_ns, seq)
        return pose

    def state(self) -> TrajectoryState:
        """A copy of all of it."""
        frames = [self._frames[seq] for seq in self._seqs]
        return TrajectoryState(
            revision=self.revision,
            seqs=np.array(self._seqs, np.int64),
            stamps=np.array([frame.stamp_ns for frame in frames], np.int64),
            poses=np.array([frame.pose for frame in frames], np.float64).reshape(-1, 4, 4),
            pending=[correction.figures() for correction in self._pending],
        )

    @classmethod
    def restored(cls, state: TrajectoryState) -> Trajectory:
        """The opposite of `state`."""
        trajectory = cls()
        for seq, stamp_ns, pose in zip(state.seqs.tolist(), state.stamps.tolist(), state.poses):
            trajectory.add(seq, stamp_ns, np.array(pose))
        trajectory.revision = state.revision
        trajectory._pending = [_pending(figures) for figures in state.pending]
        return trajectory

    def seqs_by_stamp(self, stamps: Iterable[int]) -> dict[int, int]:
        """stamp → the first seq with it, of those stamps that are known."""
        return {stamp: self._seq_of_stamp[stamp] for stamp in stamps if stamp in self._seq_of_stamp}

    def last_seq_until(self, stamp_ns: int) -> int:
        """The highest seq whose stamp is not after this; -1 if there is none."""
        return max((f.seq for f in self._frames.values() if f.stamp_ns <= stamp_ns), default=-1)

    def revise(
        self,
        revision: int,
        entries: Mapping[int, Float64],
        *,
        by: str,
        upto: int,
        coming: Mapping[int, int],
    ) -> tuple[dict[int, Float64], list[int]]:
        """Apply a correction as it was sent.

        Args:
            revision: above that of every correction before.
            entries: seq or stamp → (4, 4) camera to world, a uniform scale allowed.
            by: "seq" or "stamp".
            upto: the last seq that came in the old frame of reference.
            coming: key → seq of named frames that are still to be added.

        Returns:
            seq → new similarity of every frame that moved; the keys that nobody knows.

        Raises:
            StaleRevision: nothing was changed.
        """
        if revision <= self.revision:
            raise StaleRevision(
                f"revision {revision} is not above {self.revision}, the last one applied: send "
                "corrections with growing revisions"
            )
        self.revision = revision
        if by == "stamp":
            seqs = self.seqs_by_stamp(entries)
        else:
            seqs = {seq: seq for seq in entries if seq in self}
        later = {name: seq for name, seq in coming.items() if name not in seqs}
        unknown = [name for name in entries if name not in seqs and name not in later]
        before = self.poses()
        corrected = self.correct(
            {seq: np.asarray(entries[name], np.float64) for name, seq in seqs.items()},
            upto,
            {seq: np.asarray(entries[name], np.float64) for name, seq in later.items()},
        )
        # A confirmed pose is no motion; to compute one would only add rounding.
        moved = {s: pose for s, pose in corrected.items() if not np.array_equal(pose, before[s])}
        return moved, unknown

    def correct(
        self,
        poses: Mapping[int, Float64],
        upto: int,
        coming: Mapping[int, Float64] | None = None,
    ) -> dict[int, Float64]:
        """Apply corrected poses.

        Args:
            poses: of known frames: seq → new (4, 4) camera-to-world, a uniform scale allowed.
            upto: the last seq that came in the old frame of reference.
            coming: the same of frames that are still to be added; the ones between the last of
                `poses` and the first of these follow the former.

        Returns:
            seq → new similarity of every frame that moved.
        """
        anchors = sorted(poses)
        named = {seq: np.array(pose) for seq, pose in (coming or {}).items()}
        upto = max([upto, *named])
        if not anchors:
            if named:
                self._pending.append(_Pending(upto, np.eye(4), {}, named))
            return {}
        first, last = anchors[0], anchors[-1]
        motions = {s: poses[s] @ np.linalg.inv(self._frames[s].pose) for s in anchors}
        of_stamp = {self._frames[seq].stamp_ns: motions[seq] for seq in anchors}
        moved: dict[int, Float64] = {}
        start = bisect_left(self._seqs, first)
        stop = bisect_right(self._seqs, max(upto, last))
        for seq in self._seqs[start:stop]:
            frame = self._frames[seq]
            place = bisect_right(anchors, seq) - 1
            before = anchors[place]
            follow = motions[before] @ frame.pose
            if seq in poses:
                follow = poses[seq]
            elif frame.stamp_ns in of_stamp:
                follow = of_stamp[frame.stamp_ns] @ frame.pose
            elif place + 1 < len(anchors):
                after = anchors[place + 1]
                other = motions[after] @ frame.pose
                follow = blend(follow, other, self._share(before, seq, after))
            moved[seq] = np.array(follow)
        if not self._seqs or upto > self._seqs[-1]:
            self._pending.append(_Pending(upto, motions[last], of_stamp, named))
        for seq, pose in moved.items():
            self._frames[seq].pose = pose
        return moved

    def _share(self, before: int, seq: int, after: int) -> float:
        """Where between two frames a third lies: by time, by number where time stands still."""
        t0, t, t1 = (self._frames[s].stamp_ns for s in (before, seq, after))
        if t0 < t1 and t0 <= t <= t1:
            return (t - t0) / (t1 - t0)
        return (seq - before) / (after - before)
