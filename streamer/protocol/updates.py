"""Changes of a map to multipart messages and back (wire protocol, section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gs_decoder import (
    Chunk,
    ChunkUpdate,
    DropUpdate,
    MoveUpdate,
    ResetUpdate,
    Splats,
)
from streamer.protocol.arrays import decode_splats, encode_splats, part_specs
from streamer.protocol.errors import ProtocolError
from streamer.protocol.update_headers import (
    UPDATE_HEADERS,
    ChunkHeader,
    DropHeader,
    MoveHeader,
    ResetHeader,
    UpdateHeader,
    check_version,
)
from streamer.protocol.wire import Buffer, Message, decode, encode

Update = ChunkUpdate | MoveUpdate | DropUpdate | ResetUpdate


@dataclass(frozen=True, slots=True)
class UpdateMessage:
    """One received message: its checked header, and the change where its kind carries one."""

    header: UpdateHeader
    update: Update | None


def encode_update(
    update: Update, *, session: str, epoch: int, seq: int, codec: str = "f32"
) -> list[Buffer]:
    """``[kind][header][part]*`` of one change; its parts share memory with the splats.

    Raises ProtocolError ``too_large`` for more moves or drops than one header holds.
    """
    if isinstance(update, ChunkUpdate):
        return _encode_chunk(update.chunk, session, epoch, seq, codec)
    header: UpdateHeader
    if isinstance(update, MoveUpdate):
        poses = np.array([pose for _, _, pose in update.moves], np.float64).reshape(-1, 16)
        moves = [(i, r, pose) for (i, r, _), pose in zip(update.moves, poses.tolist())]
        header = MoveHeader(session=session, epoch=epoch, seq=seq, moves=moves)
    elif isinstance(update, DropUpdate):
        header = DropHeader(session=session, epoch=epoch, seq=seq, chunks=list(update.chunks))
    else:
        header = ResetHeader(session=session, epoch=epoch, seq=seq)
    return encode(header)


def decode_update(frames: Sequence[Buffer]) -> UpdateMessage:
    """A message ``[kind][header][part]*`` as it came.

    Raises ProtocolError where kind, header and parts are not what the protocol says.
    """
    return read_update(decode(frames))


def read_update(message: Message) -> UpdateMessage:
    """The same for a message whose sizes are checked already."""
    if message.kind not in UPDATE_HEADERS:
        raise ProtocolError("bad_header", f"kind: {message.kind!r} is not a kind of update")
    header = message.read(UPDATE_HEADERS[message.kind])
    check_version(header.proto)
    update: Update | None = None
    if isinstance(header, ChunkHeader):
        update = ChunkUpdate(decode_chunk(header, message.parts))
    elif isinstance(header, MoveHeader):
        poses = _matrices([pose for _, _, pose in header.moves])
        update = MoveUpdate([(i, r, pose) for (i, r, _), pose in zip(header.moves, poses)])
    elif isinstance(header, DropHeader):
        update = DropUpdate(list(header.chunks))
    elif isinstance(header, ResetHeader):
        update = ResetUpdate()
    return UpdateMessage(header, update)


def decode_chunk(header: ChunkHeader, parts: Sequence[Buffer]) -> Chunk:
    """The chunk of a checked header and its raw parts; raises ProtocolError ``bad_part``."""
    arrays = decode_splats(
        parts,
        header.parts,
        count=header.count,
        sh_degree=header.sh_degree,
        codec=header.codec,
        aabb=header.aabb,
    )
    return Chunk(
        id=header.chunk,
        revision=header.revision,
        content=header.content,
        frame_seq=header.frame_seq,
        stamp_ns=header.stamp_ns,
        camera=header.camera,
        T_world_chunk=_matrices([header.T_world_chunk])[0],
        aabb=np.array(header.aabb, np.float64),
        splats=Splats.from_numpy(arrays),
    )


def _encode_chunk(chunk: Chunk, session: str, epoch: int, seq: int, codec: str) -> list[Buffer]:
    arrays = chunk.splats.to_numpy()
    degree = math.isqrt(arrays["sh"].shape[-2]) - 1
    count = len(arrays["means"])
    header = ChunkHeader(
        session=session,
        epoch=epoch,
        seq=seq,
        chunk=chunk.id,
        revision=chunk.revision,
        content=chunk.content,
        count=count,
        frame_seq=chunk.frame_seq,
        stamp_ns=chunk.stamp_ns,
        camera=chunk.camera,
        T_world_chunk=_flat(chunk.T_world_chunk),
        aabb=_flat(chunk.aabb),
        sh_degree=degree,
        codec=codec,
        parts=part_specs(count, degree, codec),
    )
    return encode(header, *encode_splats(arrays, header.aabb, codec))


def _flat(values: NDArray[Any]) -> list[float]:
    return np.asarray(values, np.float64).reshape(-1).tolist()


def _matrices(values: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    matrices = np.array(values, np.float64).reshape(-1, 4, 4)
    if not np.isfinite(matrices).all():
        raise ProtocolError("bad_pose", "T_world_chunk: not finite")
    matrices.setflags(write=False)
    return matrices
