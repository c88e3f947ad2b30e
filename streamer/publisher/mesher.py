"""Meshes for EXPORT: minutes of work, done by `splatstream mesh` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from streamer.child import PARENT_VARIABLE
from streamer.niceness import make_way
from streamer.protocol import ProtocolError
from streamer.protocol.limits import MAX_PART_BYTES
from streamer.publisher.table import ChunkRecord

ENDINGS = {"mesh": ".ply", "glb": ".glb"}
"""Formats of EXPORT that are meshes, and the files that they are."""
TIMEOUT_S = 600.0
_NICENESS = 5


class Mesher:
    """Makes one mesh at a time; ``close`` from another thread ends the work at once."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def mesh(self, records: Sequence[ChunkRecord], c2w: Sequence[np.ndarray], kind: str) -> bytes:
        """The map's surfaces as its key frames' poses (4, 4) see them, as a file's bytes.

        Raises ProtocolError ``busy``, ``too_large``, or ``internal`` with the command's own words.
        """
        if not records or not c2w:
            raise ProtocolError("busy", "the map has no key frame with splats yet: ask again later")
        from streamer.publisher.jobs import export_ply
        from streamer.trajectory import CAMERAS_FILE, UNKNOWN_LENS, write_cameras

        with tempfile.TemporaryDirectory(prefix="splatstream-mesh-") as name:
            folder = Path(name)
            (folder / "map.ply").write_bytes(export_ply(records))
            names = [str(number) for number in range(len(c2w))]
            write_cameras(folder / CAMERAS_FILE, c2w, [UNKNOWN_LENS] * len(c2w), names)
            out = folder / f"mesh{ENDINGS[kind]}"
            self._run(["mesh", str(folder / "map.ply"), "--out", str(out)])
            data = out.read_bytes()
        if len(data) > MAX_PART_BYTES:
            raise ProtocolError(
                "too_large",
                f"the mesh has {len(data) / 1e6:.0f} MB, a message {MAX_PART_BYTES / 1e6:.0f}: "
                "make it on your side, splatstream mesh ADDRESS --session NAME --out mesh.ply",
            )
        return data

    def close(self) -> None:
        """End what runs; nothing is begun any more."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def _run(self, arguments: list[str]) -> None:
        with self._lock:
            if self._closed:
                raise ProtocolError("busy", "the daemon is going down")
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "streamer.child", "streamer.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid()), "OMP_WAIT_POLICY": "passive"},
            )
        # Frames come first.
        make_way(process.pid, _NICENESS)
        try:
            _, errors = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise ProtocolError(
                "busy", f"the mesh was not made within {TIMEOUT_S:.0f} s on the daemon's machine"
            ) from None
        finally:
            with self._lock:
                process.kill()
                self._process = None
            process.wait()
        if process.returncode:
            said = errors.strip().splitlines()
            raise ProtocolError("internal", said[-1] if said else "the mesh was not finished")
