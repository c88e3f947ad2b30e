"""A session's state: written aside and renamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gs_decoder import Chunk, Splats
from streamer.session.engine import Engine
from streamer.session.folder import SessionFolderError, sync, write_aside

_FORMAT = 1
_KEPT_STATES = 2
_FIELDS = ("means", "quats_wxyz", "scales", "opacities", "sh")


def save_state(engine: Engine, folder: Path, *, epoch: int, next_seq: int) -> Path:
    """Write `state/<n>/`: fast weights, chunks and the cursor; the last two are kept.

    Raises:
        SessionFolderError: the folder cannot be written.
    """
    states = folder / "state"
    aside = states / ".writing"
    try:
        states.mkdir(parents=True, exist_ok=True, mode=0o700)
        numbers = sorted(int(path.name) for path in states.iterdir() if path.name.isdigit())
        number = numbers[-1] + 1 if numbers else 0
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        save_file(_contiguous(engine.model_state.to_tensors()), aside / "fast_weights.safetensors")
        save_chunks(engine.map.chunks.values(), aside / "chunks.safetensors")
        cursor = {
            "format": _FORMAT,
            "epoch": epoch,
            "next_seq": next_seq,
            "frames_done": engine.frames_done,
            "pose_revision": engine.trajectory.revision,
        }
        write_aside(aside / "cursor.json", cursor)
        for path in aside.iterdir():
            sync(path)
        sync(aside)
        final = aside.rename(states / str(number))
        sync(states)
        for old in numbers[: len(numbers) - _KEPT_STATES + 1]:
            shutil.rmtree(states / str(old), ignore_errors=True)
    except (OSError, SafetensorError) as error:
        # A disk that is full gets its room back; the states before this one stay.
        shutil.rmtree(aside, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise SessionFolderError(
            f"{states}: the state could not be written ({reason}): free the disk or "
            "choose another --session-dir"
        ) from None
    return final


def save_chunks(chunks: Iterable[Chunk], path: Path) -> None:
    """Chunks as one safetensors file: arrays `<id>/<field>`, the rest as JSON metadata."""
    tensors: dict[str, Tensor] = {}
    headers = []
    for chunk in chunks:
        for name in _FIELDS:
            tensors[f"{chunk.id}/{name}"] = getattr(chunk.splats, name)
        tensors[f"{chunk.id}/T_world_chunk"] = torch.from_numpy(chunk.T_world_chunk.copy())
        tensors[f"{chunk.id}/aabb"] = torch.from_numpy(np.array(chunk.aabb))
        headers.append(chunk.header())
    save_file(_contiguous(tensors), path, metadata={"chunks": json.dumps(headers)})


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


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses tensors that share memory.
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
