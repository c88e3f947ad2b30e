"""Which chunks rest in which files, as part of a saved state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gs_decoder import Chunk, ChunkMeta
from gs_decoder.chunk import chunk_splats, frozen_poses, make_chunk
from gs_decoder.refine import resting_splats
from streamer.session.sight import Reach
from streamer.session.spill_files import SpillFile, read_spilled

Float64 = NDArray[np.float64]

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class RestingChunk:
    """A chunk on the disk: `count` splats in `file`, views in `packs`.

    `T_world_chunk` (4, 4) is where it is now, as `frozen_poses` gives it.
    """

    id: int
    frame_seq: int
    stamp_ns: int
    camera: str
    T_world_chunk: Float64
    count: int
    file: SpillFile
    packs: tuple[SpillFile, ...]

    @classmethod
    def of(
        cls, chunk: Chunk, count: int, file: SpillFile, packs: tuple[SpillFile, ...]
    ) -> RestingChunk:
        """A chunk that leaves."""
        key_frame = chunk.frame_seq, chunk.stamp_ns, chunk.camera, chunk.T_world_chunk
        return cls(chunk.id, *key_frame, count, file, packs)

    @property
    def meta(self) -> ChunkMeta:
        """Its key frame."""
        return ChunkMeta(
            frame_seq=self.frame_seq,
            stamp_ns=self.stamp_ns,
            camera=self.camera,
            T_world_chunk=self.T_world_chunk,
        )

    def moved(self, T_world_chunk: Float64) -> RestingChunk:
        """The same elsewhere; the pose as `frozen_poses` gives it."""
        key_frame = self.frame_seq, self.stamp_ns, self.camera, T_world_chunk
        return RestingChunk(self.id, *key_frame, self.count, self.file, self.packs)

    @property
    def files(self) -> tuple[SpillFile, ...]:
        return (self.file, *self.packs)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ResidenceState:
    """A copy of a `Residence`.

    Attributes:
        batch: how many there were.
        next_file: all files so far have lower numbers.
        seen: chunk → the batch that saw it last, of all chunks; `reaches` likewise.
    """

    batch: int
    next_file: int
    resting: tuple[RestingChunk, ...]
    seen: Mapping[int, int]
    reaches: Mapping[int, Reach]


def residence_arrays(state: ResidenceState) -> dict[str, NDArray[Any]]:
    """All of it but what is no array, which `residence_figures` has."""
    resting = state.resting
    packs = [(held.id, *_place(file)) for held in resting for file in held.packs]
    known = list(state.reaches)
    reaches = [(*state.reaches[chunk].centre, state.reaches[chunk].radius) for chunk in known]
    return {
        "packs": np.array(packs, np.int64).reshape(-1, 4),
        "chunks": np.array([_numbers(held) for held in resting], np.int64).reshape(-1, 7),
        "poses": np.array([held.T_world_chunk for held in resting], np.float64).reshape(-1, 4, 4),
        "known": np.array(known, np.int64),
        "reaches": np.array(reaches, np.float64).reshape(-1, 4),
        "seen": np.array([state.seen[chunk] for chunk in known], np.int64),
    }


def residence_figures(state: ResidenceState) -> dict[str, Any]:
    """The rest, fit for JSON; `files` are the numbers of those that are needed."""
    return {
        "batch": state.batch,
        "next_file": state.next_file,
        "files": [file.number for held in state.resting for file in held.files],
        "cameras": [held.camera for held in state.resting],
    }


def residence_state(arrays: Arrays, figures: Mapping[str, Any]) -> ResidenceState:
    """The opposite of both."""
    packs: dict[int, list[SpillFile]] = {}
    for identity, *place in arrays["packs"].tolist():
        packs.setdefault(identity, []).append(SpillFile(*place))
    resting = []
    for numbers, pose, camera in zip(
        arrays["chunks"].tolist(),
        frozen_poses(list(arrays["poses"])),
        figures["cameras"],
        strict=True,
    ):
        identity, seq, stamp, count, *place = numbers
        views = tuple(packs.get(identity, ()))
        resting.append(
            RestingChunk(identity, seq, stamp, camera, pose, count, SpillFile(*place), views)
        )
    known = arrays["known"].tolist()
    return ResidenceState(
        batch=int(figures["batch"]),
        next_file=int(figures["next_file"]),
        resting=tuple(resting),
        seen=dict(zip(known, arrays["seen"].tolist(), strict=True)),
        reaches={
            chunk: Reach((x, y, z), radius)
            for chunk, (x, y, z, radius) in zip(known, arrays["reaches"].tolist(), strict=True)
        },
    )


def check_files(folder: Path, resting: Iterable[RestingChunk]) -> None:
    """Whether what rests is there in its size; to read all of it would take too long.

    Raises:
        ValueError: a file is not.
        OSError: it cannot be looked at.
    """
    for held in resting:
        for file in held.files:
            if (folder / file.name).stat().st_size != file.size:
                raise ValueError(f"{file.name} is not as it was written")


def unseen_chunks(
    folder: Path, resting: Iterable[RestingChunk], seen: Iterable[Chunk]
) -> list[Chunk]:
    """Chunks from their files, but for the ones that the map itself holds.

    Raises:
        SpillError: a file is not there, or not as it was written.
    """
    held = {chunk.id for chunk in seen}
    return [
        resting_chunk(rest, read_spilled(folder, rest.file))
        for rest in resting
        if rest.id not in held
    ]


def resting_chunk(held: RestingChunk, arrays: Arrays) -> Chunk:
    """A chunk as it would be in the map, at revision 0."""
    return make_chunk(held.id, 0, held.meta, chunk_splats(resting_splats(arrays), held.count))


def _numbers(held: RestingChunk) -> tuple[int, ...]:
    return (held.id, held.frame_seq, held.stamp_ns, held.count, *_place(held.file))


def _place(file: SpillFile) -> tuple[int, int, int]:
    return file.number, file.size, file.crc32
