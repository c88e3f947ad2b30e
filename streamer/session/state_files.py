"""The files of one saved state: what is in them, and whether they are as they were written.

`cursor.json` tells where in the journal the state stands, holds what is no array, and the CRC-32 of
the other files: safetensors alone would not notice a flipped bit.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor

from gs_decoder import Chunk, Splats
from gs_decoder.refine import RefinerState
from streamer.journal.journal import program_version
from streamer.session.corrections import TrajectoryState
from streamer.session.engine_state import EngineState
from streamer.session.folder import SessionFolderError, write_aside
from streamer.session.keyframe_table import KeyframeTable
from streamer.session.outbox import Keyframe
from streamer.session.spill_files import SPILLED
from streamer.session.spilled_state import (
    check_files,
    residence_arrays,
    residence_figures,
    residence_state,
    unseen_chunks,
)
from ttt_core.errors import StateMismatchError
from ttt_core.state import write_tensors
from ttt_core.stream_model import StreamModel, load_carried_state

FORMAT = 6
CURSOR = "cursor.json"
WEIGHTS = "fast_weights.safetensors"
CHUNKS = "chunks.safetensors"
REFINER = "refiner.safetensors"
FRAMES = "frames.safetensors"
RESIDENCE = "residence.safetensors"
_FIELDS = ("means", "quats_wxyz", "scales", "opacities", "sh")
_AT_ONCE = 1 << 20


class StateDamaged(SessionFolderError):
    """A state whose files are not as they were written."""


class StateVersion(SessionFolderError):
    """A state of another version of the format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a session stands.

    Attributes:
        next_seq: all frames below it are in the state, none from it on.
        settings: those under which alone the state can be gone on from.
    """

    epoch: int
    next_seq: int
    settings: Mapping[str, str | int]


def write_state(state: EngineState, cursor: Cursor, folder: Path) -> None:
    """Write a state's files into an empty folder, the cursor last and all of it to the disk but
    the folder's names.

    Raises:
        OSError, SafetensorError: they cannot be written.
    """
    write_tensors(state.model.to_tensors(), folder / WEIGHTS)
    save_chunks(state.chunks, folder / CHUNKS)
    save_file(dict(state.refiner.arrays), folder / REFINER)
    save_file(_frames(state), folder / FRAMES)
    save_file(residence_arrays(state.residence), folder / RESIDENCE)
    names = (WEIGHTS, CHUNKS, REFINER, FRAMES, RESIDENCE)
    header = {
        "format": FORMAT,
        "version": program_version(),
        "epoch": cursor.epoch,
        "next_seq": cursor.next_seq,
        "frames_done": state.frames_done,
        "pose_revision": state.trajectory.revision,
        "settings": dict(cursor.settings),
        "crc32": {name: _crc32(folder / name) for name in names},
        "scene_depth": state.scene_depth,
        "next_chunk": state.next_chunk,
        "cameras": state.keyframes.columns.cameras(),
        "pending": state.trajectory.pending,
        "refiner": dict(state.refiner.figures),
        "residence": residence_figures(state.residence),
    }
    write_aside(folder / CURSOR, header)


def read_cursor(path: Path) -> Cursor:
    """Where a state stands, without the rest of it.

    Raises:
        StateDamaged, StateVersion: as `read_state`.
    """
    return _cursor(path, _header(path))


def needed_files(path: Path) -> set[int]:
    """Numbers of the files in `spilled/` that a state refers to.

    Raises:
        StateDamaged, StateVersion: as `read_state`.
    """
    try:
        return {int(number) for number in _header(path)["residence"]["files"]}
    except _WRONG as error:
        raise _damaged(path, error) from None


def read_state(path: Path, model: StreamModel[Any]) -> EngineState:
    """What `write_state` wrote, bit for bit.

    Args:
        model: the one it was saved with.

    Raises:
        StateDamaged: files are missing, or not as they were written.
        StateVersion: written in another format.
    """
    header = _header(path)
    try:
        _check(path, header, header["crc32"])
        arrays = load_file(path / FRAMES)
        residence = residence_state(load_file(path / RESIDENCE), header["residence"])
        check_files(path.parents[1] / SPILLED, residence.resting)
        return EngineState(
            frames_done=header["frames_done"],
            scene_depth=header["scene_depth"],
            next_chunk=header["next_chunk"],
            model=load_carried_state(model, path / WEIGHTS),
            chunks=tuple(load_chunks(path / CHUNKS)),
            keyframes=_keyframes(arrays, header["cameras"]),
            places=(
                arrays["selector.seqs"],
                arrays["selector.centres"],
                arrays["selector.axes"],
            ),
            trajectory=TrajectoryState(
                revision=header["pose_revision"],
                seqs=arrays["seqs"],
                stamps=arrays["stamps"],
                poses=arrays["poses"],
                pending=header["pending"],
            ),
            refiner=RefinerState(load_file(path / REFINER), header["refiner"]),
            residence=residence,
        )
    except _WRONG as error:
        raise _damaged(path, error) from None


def read_chunks(path: Path) -> tuple[Cursor, list[Chunk]]:
    """The map of a state alone, with the chunks that only files have, and where it stands.

    Raises:
        StateDamaged, StateVersion: as `read_state`.
    """
    header = _header(path)
    try:
        _check(path, header, [CHUNKS, RESIDENCE])
        chunks = load_chunks(path / CHUNKS)
        residence = residence_state(load_file(path / RESIDENCE), header["residence"])
        chunks += unseen_chunks(path.parents[1] / SPILLED, residence.resting, chunks)
    except _WRONG as error:
        raise _damaged(path, error) from None
    return _cursor(path, header), chunks


def save_chunks(chunks: Iterable[Chunk], path: Path) -> None:
    """Chunks as one safetensors file: arrays `<id>/<field>`, the rest as JSON metadata."""
    arrays: dict[str, NDArray[Any]] = {}
    headers = []
    for chunk in chunks:
        for name in _FIELDS:
            tensor: Tensor = getattr(chunk.splats, name)
            arrays[f"{chunk.id}/{name}"] = np.ascontiguousarray(tensor.numpy())
        arrays[f"{chunk.id}/T_world_chunk"] = chunk.T_world_chunk
        arrays[f"{chunk.id}/aabb"] = chunk.aabb
        headers.append(chunk.header())
    save_file(arrays, path, metadata={"chunks": json.dumps(headers)})


def load_chunks(path: Path) -> list[Chunk]:
    """What `save_chunks` wrote, bit for bit."""
    chunks = []
    with safe_open(path, framework="pt") as file:
        for header in json.loads(file.metadata()["chunks"]):
            identity, revision, content, frame_seq, stamp_ns, camera = header
            arrays = {name: file.get_tensor(f"{identity}/{name}") for name in _FIELDS}
            pose = file.get_tensor(f"{identity}/T_world_chunk").numpy()
            pose.setflags(write=False)
            chunks.append(
                Chunk(
                    id=identity,
                    revision=revision,
                    content=content,
                    frame_seq=frame_seq,
                    stamp_ns=stamp_ns,
                    camera=camera,
                    T_world_chunk=pose,
                    aabb=file.get_tensor(f"{identity}/aabb").numpy(),
                    splats=Splats(**arrays),
                )
            )
    return chunks


def _frames(state: EngineState) -> dict[str, NDArray[Any]]:
    """Every frame's pose, and the key frames with their pictures one after the other."""
    seqs, centres, axes = state.places
    keys = state.keyframes.columns
    pictures = [state.keyframes.picture(seq) for seq in state.keyframes]
    return {
        "seqs": state.trajectory.seqs,
        "stamps": state.trajectory.stamps,
        "poses": state.trajectory.poses,
        "selector.seqs": seqs,
        "selector.centres": centres,
        "selector.axes": axes,
        "keyframes.seqs": keys.seqs.copy(),
        "keyframes.stamps": keys.stamps.copy(),
        "keyframes.chunks": keys.chunks.copy(),
        "keyframes.c2w": keys.poses.copy(),
        "keyframes.sizes": np.array([len(picture) for picture in pictures], np.int64),
        "keyframes.pictures": np.frombuffer(b"".join(pictures), np.uint8),
    }


def _keyframes(arrays: Mapping[str, NDArray[Any]], cameras: list[str]) -> KeyframeTable:
    table = KeyframeTable()
    pictures = arrays["keyframes.pictures"].tobytes()
    ends = np.cumsum(arrays["keyframes.sizes"]).tolist()
    for place, (camera, chunk, end) in enumerate(
        zip(cameras, arrays["keyframes.chunks"].tolist(), ends, strict=True)
    ):
        table.add(
            Keyframe(
                seq=int(arrays["keyframes.seqs"][place]),
                stamp_ns=int(arrays["keyframes.stamps"][place]),
                camera=camera,
                chunk=None if chunk < 0 else chunk,
                c2w=arrays["keyframes.c2w"][place],
                thumbnail=pictures[end - int(arrays["keyframes.sizes"][place]) : end],
            )
        )
    return table


_WRONG = (OSError, SafetensorError, StateMismatchError, KeyError, TypeError, ValueError)
"""What reading other bytes than those that were written can end in."""


def _header(path: Path) -> dict[str, Any]:
    try:
        header = dict(json.loads((path / CURSOR).read_text(encoding="utf-8")))
        form = int(header["format"])
    except _WRONG as error:
        raise _damaged(path, error) from None
    if form != FORMAT:
        raise StateVersion(
            f"{path}: a state of format {form}, this version reads {FORMAT}: the map is made again "
            "from the journal"
        )
    return header


def _check(path: Path, header: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if _crc32(path / name) != header["crc32"][name]:
            raise ValueError(f"{name} is not as it was written")


def _cursor(path: Path, header: Mapping[str, Any]) -> Cursor:
    try:
        return Cursor(
            epoch=int(header["epoch"]),
            next_seq=int(header["next_seq"]),
            settings=dict(header["settings"]),
        )
    except _WRONG as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> StateDamaged:
    reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
    return StateDamaged(
        f"{path}: damaged ({reason}): an earlier state, or the journal from its beginning, takes "
        "its place"
    )


def _crc32(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while piece := file.read(_AT_ONCE):
            crc = zlib.crc32(piece, crc)
    return crc
