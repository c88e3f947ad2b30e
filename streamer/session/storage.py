"""A session's folder: its epoch, and its state written aside and renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gs_decoder import Chunk, Splats
from streamer.protocol.fields import SESSION_PATTERN
from streamer.session.engine import Engine

_SESSION_FILE = "session.json"
_FORMAT = 1
_KEPT_STATES = 2
_FIELDS = ("means", "quats_wxyz", "scales", "opacities", "sh")


class SessionFolderError(ValueError):
    """A session folder that cannot be used; the message names the path and the remedy."""


def session_folder(session_dir: Path, session: str) -> Path:
    """Where a session lives: a folder right inside ``session_dir``.

    Raises:
        SessionFolderError: the name could lead elsewhere.
    """
    # The door has checked it before; whoever else hands a name here must not get past either.
    if not re.match(SESSION_PATTERN, session):
        raise SessionFolderError(
            f"session: {session[:80]!r} is no name: 1 to 64 characters A-Za-z0-9_.-, the first a "
            "letter or digit"
        )
    return session_dir / session


def last_epoch(folder: Path) -> int:
    """The epoch of the session's last start, 0 before the first.

    Raises:
        SessionFolderError: session.json is there but not readable as one.
    """
    path = folder / _SESSION_FILE
    if not path.exists():
        return 0
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["epoch"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SessionFolderError(
            f"{path}: not a session file ({error}): move the folder away, or use another name"
        ) from None


def begin_epoch(folder: Path) -> int:
    """Start anew: the next epoch, written down before anybody hears of it.

    Raises:
        SessionFolderError: the folder cannot be written, or its session.json not be read.
    """
    try:
        # `parents=True` would make those with the modes of the umask.
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        epoch = last_epoch(folder) + 1
        _write_aside(folder / _SESSION_FILE, {"format": _FORMAT, "epoch": epoch})
    except OSError as error:
        raise SessionFolderError(
            f"{folder}: cannot be written ({error.strerror}): choose another --session-dir"
        ) from None
    return epoch


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
        _write_aside(aside / "cursor.json", cursor)
        for path in aside.iterdir():
            _sync(path)
        _sync(aside)
        final = aside.rename(states / str(number))
        _sync(states)
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


def _write_aside(path: Path, content: dict[str, int]) -> None:
    aside = path.with_name(path.name + ".writing")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "w", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")
    _sync(aside)
    aside.replace(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
