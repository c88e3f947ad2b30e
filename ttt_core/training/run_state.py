"""A training run on disk: tensors as one safetensors stream in small pieces, facts as JSON.

A folder holds `manifest.json` and the pieces that it names, each with its SHA-256. Pieces are
written first, the manifest replaces the old one last, and only then are old pieces removed:
whenever the program dies, a whole state remains. Joined in order (`cat`), the pieces are a plain
safetensors file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ttt_core.checkpoint_files import RUN_STATE_FORMAT
from ttt_core.errors import RunStateError

PIECE_BYTES = 16 << 20
_VERSION = 1
_MANIFEST = "manifest.json"


def save_run_state(
    folder: str | Path,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    piece_bytes: int = PIECE_BYTES,
) -> None:
    """Replace the state in `folder`, whole or not at all.

    Args:
        folder: made where it is missing.
        tensors: by name; copied to the CPU.
        facts: anything that JSON holds; floats come back bit for bit.
        piece_bytes: size of the pieces, the last one may be smaller.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generation = _last_generation(folder) + 1
    # safetensors refuses tensors that share storage
    whole = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    content = memoryview(save(whole, metadata={"format": RUN_STATE_FORMAT}))
    pieces = []
    for index, start in enumerate(range(0, len(content), piece_bytes)):
        piece = content[start : start + piece_bytes]
        name = f"state-{generation:06d}-{index:03d}.part"
        _write(folder / name, piece)
        digest = hashlib.sha256(piece).hexdigest()
        pieces.append({"name": name, "bytes": len(piece), "sha256": digest})
    manifest = {
        "format": RUN_STATE_FORMAT,
        "version": _VERSION,
        "generation": generation,
        "pieces": pieces,
        "facts": dict(facts),
    }
    aside = folder / (_MANIFEST + ".new")
    _write(aside, json.dumps(manifest, indent=1, allow_nan=False).encode())
    os.replace(aside, folder / _MANIFEST)
    _sync_folder(folder)
    kept = {piece["name"] for piece in pieces}
    for old in folder.glob("state-*.part"):
        if old.name not in kept:
            old.unlink(missing_ok=True)


def has_run_state(folder: str | Path) -> bool:
    """Whether `folder` holds a state."""
    return (Path(folder) / _MANIFEST).is_file()


def read_facts(folder: str | Path) -> dict[str, Any]:
    """The facts alone, without reading the tensors.

    Raises:
        RunStateError: as `load_run_state`.
    """
    facts: dict[str, Any] = _read_manifest(Path(folder))["facts"]
    return facts


def load_run_state(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_run_state` wrote, bit for bit: tensors and facts.

    Raises:
        RunStateError: there is no state, a piece is missing or damaged, or the format is unknown.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    content = bytearray()
    for piece in manifest["pieces"]:
        path = folder / piece["name"]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RunStateError(
                f"{path} cannot be read ({error.strerror}): copy the whole folder again"
            ) from error
        if hashlib.sha256(data).hexdigest() != piece["sha256"]:
            raise RunStateError(
                f"{path} is damaged (its SHA-256 is not the one in {_MANIFEST}): copy it again"
            )
        content += data
    try:
        tensors = load(bytes(content))
    except SafetensorError as error:
        raise RunStateError(f"the state in {folder} is no safetensors stream: {error}") from error
    return {name: tensor.to(device) for name, tensor in tensors.items()}, manifest["facts"]


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunStateError(
            f"{folder} holds no training state ({_MANIFEST}: {error.strerror}): start without "
            "--resume, or name the folder of an earlier run"
        ) from error
    except ValueError as error:
        raise RunStateError(f"{path} is damaged ({error}): restore it from a copy") from error
    if not isinstance(manifest, dict) or manifest.get("format") != RUN_STATE_FORMAT:
        raise RunStateError(f"{path} is not the manifest of a training state")
    if manifest.get("version") != _VERSION:
        raise RunStateError(
            f"{path} has version {manifest.get('version')!r}, this program reads {_VERSION}: use "
            "the program that wrote it"
        )
    return manifest


def _last_generation(folder: Path) -> int:
    generations = [int(path.name.split("-")[1]) for path in folder.glob("state-*-*.part")]
    return max(generations, default=0)


def _write(path: Path, data: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
