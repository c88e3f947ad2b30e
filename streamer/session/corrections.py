"""Late pose corrections: what a SLAM back end's revised poses do to every other frame.

A correction names some frames and their new poses. Frames between two of them follow both: each
carries along with its two corrected neighbours rigidly, and the two outcomes are blended by time.
Frames after the last one follow the last (up to `upto`); frames before the first stay.

Cameras that are triggered together share a stamp, and one pose cannot be all of theirs. A pose
named by a stamp is that of the first frame with it (the lowest seq); the others of the same stamp
follow this one rigidly, as the rig that holds them did, wherever in the order they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gs_decoder.copy_room import CopyRoom, copies
from streamer.growing import roomier

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_SAME_SCALE = 1e-6


class StaleRevision(ValueError):
    """A pose correction whose revision is not above the last one's."""


@dataclass(frozen=True, slots=True)
class PosesOutcome:
    """How many chunks a correction moved, and the seqs or stamps that were never seen."""

    moved: int
    unknown: list[int]


@dataclass(frozen=True, slots=True)
class Moved:
    """The N frames that a correction moved, in order of seq.

    Attributes:
        before, after: (N, 4, 4) float64 similarities.
    """

    seqs: list[int]
    before: Float64
    after: Float64

    def growth(self) -> dict[int, float]:
        """By seq, how much larger the world around the frame became; 1 but for rounding is 1."""
        factors = scales_of(self.after) / scales_of(self.before)
        factors[np.abs(factors - 1.0) < _SAME_SCALE] = 1.0
        return dict(zip(self.seqs, factors.tolist()))


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
    return float(scales_of(similarity))


def scales_of(similarities: Float64) -> Float64:
    """(...) uniform scales of (..., 4, 4) similarities."""
    return np.cbrt(np.linalg.det(similarities[..., :3, :3]))


def rigid(similarity: Float64) -> Float64:
    """The camera poses of (..., 4, 4) similarities: centres and axes, without their scale."""
    pose = similarity.copy()
    pose[..., :3, :3] /= scales_of(similarity)[..., None, None]
    return pose


def blend(first: Float64, second: Float64, weight: float | Float64) -> Float64:
    """Between two similarities: centre linearly, scale geometrically, rotation along the arc.

    Args:
        first, second: (..., 4, 4). weight: (...), 0 gives `first`, 1 `second`.
    """
    scale_a, scale_b = scales_of(first), scales_of(second)
    rotation_a = first[..., :3, :3] / scale_a[..., None, None]
    rotation_b = second[..., :3, :3] / scale_b[..., None, None]
    turn = _rotation_power(np.swapaxes(rotation_a, -1, -2) @ rotation_b, weight)
    scale = scale_a * (scale_b / scale_a) ** weight
    part = np.asarray(weight)[..., None]
    blended = np.zeros_like(first)
    blended[..., 3, 3] = 1.0
    blended[..., :3, :3] = rotation_a @ turn * scale[..., None, None]
    blended[..., :3, 3] = (1.0 - part) * first[..., :3, 3] + part * second[..., :3, 3]
    return blended


def _rotation_power(rotation: Float64, power: float | Float64) -> Float64:
    """`rotation` (..., 3, 3) turned by `power` (...) of its angle (Rodrigues)."""
    axis = 0.5 * np.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        axis=-1,
    )
    sine = np.linalg.norm(axis, axis=-1)
    angle = np.arctan2(sine, 0.5 * (np.trace(rotation, axis1=-2, axis2=-1) - 1.0))
    # Half a turn: the axis is the column space of R + I. No turn: any axis will do.
    columns = rotation + np.eye(3)
    longest = np.linalg.norm(columns, axis=-2).argmax(-1)[..., None, None]
    half_turn = np.take_along_axis(columns, longest, axis=-1)[..., 0]
    flat = sine < 1e-9
    axis = np.where(flat[..., None], half_turn, axis)
    x, y, z = np.moveaxis(axis / np.linalg.norm(axis, axis=-1, keepdims=True), -1, 0)
    nothing = np.zeros_like(x)
    cross = np.stack([nothing, -z, y, z, nothing, -x, -y, x, nothing], axis=-1)
    cross = cross.reshape(rotation.shape)
    turn = np.where(flat & (angle < 1.0), 0.0, power * angle)[..., None, None]
    return np.eye(3) + np.sin(turn) * cross + (1.0 - np.cos(turn)) * (cross @ cross)


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
    """Every frame's pose, the corrections so far, and what they mean for frames still to come.

    A pose is a similarity, scale 1 unless corrected. Seqs only grow.
    """

    def __init__(self) -> None:
        self.revision = -1
        self._count = 0
        # Arrays, of which the first `_count` are in use: a loop closure changes thousands at once.
        self._seqs: Int64 = np.zeros(0, np.int64)
        self._stamps: Int64 = np.zeros(0, np.int64)
        self._poses: Float64 = np.zeros((0, 4, 4))
        self._pending: list[_Pending] = []

    def __contains__(self, seq: int) -> bool:
        place = int(np.searchsorted(self._seqs[: self._count], seq))
        return place < self._count and int(self._seqs[place]) == seq

    def __len__(self) -> int:
        return self._count

    @property
    def newest(self) -> int:
        """The last seq; -1 before the first."""
        return int(self._seqs[self._count - 1]) if self._count else -1

    def pose(self, seq: int) -> Float64:
        """The frame's current similarity, (4, 4) float64.

        Raises:
            KeyError: there is no such frame.
        """
        if seq not in self:
            raise KeyError(seq)
        return self._poses[np.searchsorted(self._seqs[: self._count], seq)].copy()

    def add(self, seq: int, stamp_ns: int, c2w: Float64) -> Float64:
        """Take a new frame; returns its pose in the corrected world.

        A frame that was under way when a correction arrived is still in the old frame of
        reference: it follows the last corrected frame, as the ones before it did.
        """
        pose = c2w
        for correction in self._pending:
            pose = correction.follow(seq, stamp_ns, pose)
        self._pending = [correction for correction in self._pending if seq < correction.upto]
        self._append(seq, stamp_ns, pose)
        return pose

    def _append(self, seq: int, stamp_ns: int, pose: Float64) -> None:
        place = self._count
        assert not place or seq > self._seqs[place - 1], "frames come in order of seq"
        if place == len(self._seqs):
            self._seqs, self._stamps = roomier(self._seqs), roomier(self._stamps)
            self._poses = roomier(self._poses)
        self._seqs[place], self._stamps[place], self._poses[place] = seq, stamp_ns, pose
        self._count += 1

    def used(self) -> dict[str, NDArray[Any]]:
        """Of all frames, not copied: `seqs`, `stamps`, `poses`, as `TrajectoryState` has them."""
        used = slice(0, self._count)
        return {
            "seqs": self._seqs[used],
            "stamps": self._stamps[used],
            "poses": self._poses[used],
        }

    def state(self, room: CopyRoom | None = None) -> TrajectoryState:
        """A copy of all of it.

        Args:
            room: for arrays like `used()`, and for no other copy any more.
        """
        return TrajectoryState(
            revision=self.revision,
            **copies(self.used(), room),
            pending=[correction.figures() for correction in self._pending],
        )

    @classmethod
    def restored(cls, state: TrajectoryState) -> Trajectory:
        """The opposite of `state`."""
        trajectory = cls()
        for seq, stamp_ns, pose in zip(state.seqs.tolist(), state.stamps.tolist(), state.poses):
            trajectory._append(seq, stamp_ns, pose)
        trajectory.revision = state.revision
        trajectory._pending = [_pending(figures) for figures in state.pending]
        return trajectory

    def seqs_by_stamp(self, stamps: Iterable[int]) -> dict[int, int]:
        """stamp → the first seq with it, of those stamps that are known."""
        by_stamp = np.argsort(self._stamps[: self._count], kind="stable")
        known, wanted = self._stamps[by_stamp], np.fromiter(stamps, np.int64)
        places = np.searchsorted(known, wanted)
        found = places < self._count
        found[found] = known[places[found]] == wanted[found]
        seqs = self._seqs[by_stamp[places[found]]]
        return dict(zip(wanted[found].tolist(), seqs.tolist()))

    def last_seq_until(self, stamp_ns: int) -> int:
        """The highest seq whose stamp is not after this; -1 if there is none."""
        places = np.flatnonzero(self._stamps[: self._count] <= stamp_ns)
        return int(self._seqs[places[-1]]) if len(places) else -1

    def revise(
        self,
        revision: int,
        entries: Mapping[int, Float64],
        *,
        by: str,
        upto: int,
        coming: Mapping[int, int],
    ) -> tuple[Moved, list[int]]:
        """Apply a correction as it was sent.

        Args:
            revision: above that of every correction before.
            entries: seq or stamp → (4, 4) camera to world, a uniform scale allowed.
            by: "seq" or "stamp".
            upto: the last seq that came in the old frame of reference.
            coming: key → seq of named frames that are still to be added.

        Returns:
            what moved; the keys that nobody knows.

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
            seqs = {seq: seq for seq in self._known(entries)}
        later = {name: seq for name, seq in coming.items() if name not in seqs}
        unknown = [name for name in entries if name not in seqs and name not in later]
        moved = self.correct(
            {seq: np.asarray(entries[name], np.float64) for name, seq in seqs.items()},
            upto,
            {seq: np.asarray(entries[name], np.float64) for name, seq in later.items()},
        )
        # A confirmed pose is no motion; to compute one would only add rounding.
        changed = np.flatnonzero((moved.before != moved.after).any(axis=(1, 2)))
        seqs_moved = [moved.seqs[place] for place in changed]
        return Moved(seqs_moved, moved.before[changed], moved.after[changed]), unknown

    def _known(self, seqs: Iterable[int]) -> list[int]:
        wanted = np.fromiter(seqs, np.int64)
        return wanted[np.isin(wanted, self._seqs[: self._count])].tolist()

    def correct(
        self,
        poses: Mapping[int, Float64],
        upto: int,
        coming: Mapping[int, Float64] | None = None,
    ) -> Moved:
        """Apply corrected poses.

        Args:
            poses: of known frames: seq → new (4, 4) camera-to-world, a uniform scale allowed.
            upto: the last seq that came in the old frame of reference.
            coming: the same of frames that are still to be added; the ones between the last of
                `poses` and the first of these follow the former.

        Returns:
            every frame that follows, those among them that were confirmed where they were.
        """
        named = {seq: np.array(pose) for seq, pose in (coming or {}).items()}
        upto = max([upto, *named])
        if not poses:
            if named:
                self._pending.append(_Pending(upto, np.eye(4), {}, named))
            return Moved([], np.zeros((0, 4, 4)), np.zeros((0, 4, 4)))
        seqs = self._seqs[: self._count]
        anchors = np.array(sorted(poses), np.int64)
        places = np.searchsorted(seqs, anchors)
        corrected = np.array([poses[seq] for seq in anchors.tolist()])
        motions = corrected @ np.linalg.inv(self._poses[places])
        first, stop = places[0], np.searchsorted(seqs, max(upto, anchors[-1]), side="right")
        span = slice(first, stop)
        before = self._poses[span].copy()
        after = self._follow(span, anchors, self._stamps[places], motions)
        after[places - first] = corrected
        if stop == self._count and upto > seqs[-1]:
            of_stamp = dict(zip(self._stamps[places].tolist(), motions))
            self._pending.append(_Pending(upto, motions[-1], of_stamp, named))
        self._poses[span] = after
        return Moved(seqs[span].tolist(), before, after)

    def _follow(
        self, span: slice, anchors: Int64, anchor_stamps: Int64, motions: Float64
    ) -> Float64:
        """(N, 4, 4) of the frames in `span`, which begins with the first anchor, as they follow
        the anchors (A,), which moved by `motions` (A, 4, 4)."""
        seqs, stamps, poses = self._seqs[span], self._stamps[span], self._poses[span]
        before = np.searchsorted(anchors, seqs, side="right") - 1
        by_stamp = np.argsort(anchor_stamps, kind="stable")
        place = np.searchsorted(anchor_stamps[by_stamp], stamps, side="right") - 1
        twin = by_stamp[np.maximum(place, 0)]
        is_twin = (place >= 0) & (anchor_stamps[twin] == stamps)
        after = motions[np.where(is_twin, twin, before)] @ poses
        (between,) = np.nonzero(~is_twin & (before + 1 < len(anchors)))
        a, b = before[between], before[between] + 1
        t0, t, t1 = anchor_stamps[a], stamps[between], anchor_stamps[b]
        # By time, by number where time stands still.
        timed = (t0 < t1) & (t0 <= t) & (t <= t1)
        weight = np.where(
            timed,
            (t - t0) / np.where(timed, t1 - t0, 1),
            (seqs[between] - anchors[a]) / (anchors[b] - anchors[a]),
        )
        after[between] = blend(after[between], motions[b] @ poses[between], weight)
        return after
