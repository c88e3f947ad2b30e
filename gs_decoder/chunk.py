"""A chunk: the splats of one key frame, in that key frame's camera frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gs_decoder.rotations import are_similarities, split_similarity
from gs_decoder.splats import InvalidSplats, Splats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChunkMeta:
    """The key frame that a chunk belongs to."""

    frame_seq: int
    stamp_ns: int
    camera: str
    T_world_chunk: np.ndarray
    """(4, 4) float64, world from the key frame's OpenCV camera axes; a similarity."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "T_world_chunk", frozen_pose(self.T_world_chunk))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """One chunk at one revision. Immutable: a change is another Chunk with a higher revision."""

    id: int
    """Unique in its session's epoch, never given twice."""
    revision: int
    """Grows with every change of the chunk."""
    content: int
    """Grows when the splats change, and only then."""
    frame_seq: int
    stamp_ns: int
    camera: str
    T_world_chunk: np.ndarray
    """(4, 4) float64 similarity, read-only."""
    aabb: np.ndarray
    """(6,) float64, lowest then highest corner of the means, chunk frame; zeros when empty."""
    splats: Splats
    """float32 on the CPU, chunk frame, ordered by falling volume × opacity."""

    @property
    def count(self) -> int:
        """Number of splats."""
        return self.splats.count

    def equals(self, other: Chunk) -> bool:
        """Whether both chunks are the same to the bit."""
        return (
            self.header() == other.header()
            and np.array_equal(self.T_world_chunk, other.T_world_chunk)
            and np.array_equal(self.aabb, other.aabb)
            and self.splats.equals(other.splats)
        )

    def moved(self, revision: int, T_world_chunk: np.ndarray) -> Chunk:
        """The same splats elsewhere; the pose as `frozen_pose` gives it."""
        # A loop closure moves thousands: `dataclasses.replace` takes twice as long.
        return Chunk(
            id=self.id,
            revision=revision,
            content=self.content,
            frame_seq=self.frame_seq,
            stamp_ns=self.stamp_ns,
            camera=self.camera,
            T_world_chunk=T_world_chunk,
            aabb=self.aabb,
            splats=self.splats,
        )

    def header(self) -> tuple[int, int, int, int, int, str]:
        """Everything but the arrays."""
        return (
            self.id,
            self.revision,
            self.content,
            self.frame_seq,
            self.stamp_ns,
            self.camera,
        )


def frozen_pose(matrix: np.ndarray) -> np.ndarray:
    """A checked, read-only (4, 4) float64 copy of a similarity.

    Raises:
        InvalidSimilarity: not a similarity.
    """
    pose = np.array(matrix, dtype=np.float64)
    split_similarity(pose, "T_world_chunk")
    pose.setflags(write=False)
    return pose


def frozen_poses(matrices: Sequence[npt.ArrayLike]) -> np.ndarray:
    """The same for N of them, (N, 4, 4): a loop closure moves thousands.

    Raises:
        InvalidSimilarity: one of them is not a similarity.
    """
    if not len(matrices):
        return np.zeros((0, 4, 4))
    try:
        poses = np.array(matrices, dtype=np.float64)
    except ValueError:
        # Of several shapes.
        poses = np.zeros(0)
    sound = are_similarities(poses) if poses.shape[1:] == (4, 4) else np.zeros(len(matrices), bool)
    # Looked at again one by one for the sake of the message.
    for index in np.flatnonzero(~sound).tolist():
        split_similarity(np.asarray(matrices[index]), "T_world_chunk")
    poses.setflags(write=False)
    return poses


def make_chunk(identity: int, revision: int, meta: ChunkMeta, stored: Splats) -> Chunk:
    """A chunk whose splats are as new as its pose.

    Args:
        stored: as `chunk_splats` gives them.
    """
    return Chunk(
        id=identity,
        revision=revision,
        content=revision,
        frame_seq=meta.frame_seq,
        stamp_ns=meta.stamp_ns,
        camera=meta.camera,
        T_world_chunk=meta.T_world_chunk,
        aabb=bounding_box(stored),
        splats=stored,
    )


def importance(splats: Splats) -> Tensor:
    """(..., N) volume × opacity, in the frame of the splats."""
    return splats.scales.prod(-1) * splats.opacities


def importance_order(splats: Splats) -> Tensor:
    """(N,) indices by falling volume × opacity; equal ones keep their order."""
    return torch.argsort(importance(splats), descending=True, stable=True)


def chunk_splats(splats: Splats, budget: int) -> Splats:
    """What a chunk stores of `splats` (N,): ordered, at most `budget`, float32 on the CPU; the same
    memory where they are that already.

    Raises:
        InvalidSplats: batch dimensions, or values that no splat can have.
    """
    if splats.means.ndim != 2:
        raise InvalidSplats(
            f"means have shape {tuple(splats.means.shape)}: a chunk takes (N, 3), without batch"
        )
    stored = splats.detach().to("cpu", torch.float32)
    stored.check_values()
    order = importance_order(stored)
    if stored.count <= budget and torch.equal(order, torch.arange(stored.count)):
        return stored
    return stored.select(order[:budget])


def bounding_box(splats: Splats) -> np.ndarray:
    """(6,) float64 box of the means."""
    if splats.count == 0:
        return np.zeros(6)
    low, high = torch.aminmax(splats.means, dim=0)
    return torch.cat([low, high]).to(torch.float64).numpy()
