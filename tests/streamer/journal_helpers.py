"""Entries to be journalled, and a file layer whose power can be cut."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from streamer.camera import CameraModel
from streamer.journal import (
    AnyEntry,
    BatchSent,
    Begin,
    Dropped,
    Files,
    FrameEntry,
    History,
    Item,
    Rejected,
)
from streamer.journal.entries import Entry
from streamer.journal.segment import SegmentWriter
from streamer.protocol import Buffer
from streamer.protocol.messages import CameraHeader, DepthHeader, FrameHeader, MaskHeader

CAMERA = CameraModel("OPENCV", 64, 48, (60.0, 61.0, 32.0, 24.0, 0.1, -0.02, 0.0, 0.001))
HEADER = CameraHeader(model="OPENCV", width=64, height=48, params=list(CAMERA.params))
POSE = np.eye(4)


def frame(
    seq: int,
    picture: bytes = b"\xff\xd8picture",
    *,
    encoding: str = "jpeg",
    camera: str = "front",
    depth: bytes | None = None,
    mask: bytes | None = None,
) -> Item:
    """An accepted frame."""
    header = FrameHeader(
        seq=seq,
        stamp_ns=10**18 + seq,
        camera=camera,
        encoding=encoding,
        width=64,
        height=48,
        pose=POSE.reshape(-1).tolist(),
        depth=None
        if depth is None
        else DepthHeader(encoding="z16", width=64, height=48, unit_m=0.001),
        mask=None if mask is None else MaskHeader(encoding="png"),
    )
    parts = tuple(part for part in (picture, depth, mask) if part is not None)
    entry = FrameEntry(header=header, camera=HEADER, convention="opencv")
    return Item(entry, parts, CAMERA, POSE)


def seqs(entries: Sequence[AnyEntry]) -> list[int]:
    """Of all frames and rejections, in order."""
    return [
        entry.header.seq if isinstance(entry, FrameEntry) else entry.seq
        for entry in entries
        if isinstance(entry, FrameEntry | Rejected)
    ]


def mixed(count: int) -> list[Item]:
    """A history of every kind of entry that frames bring about."""
    items: list[Item] = []
    for seq in range(count):
        if seq % 7 == 3:
            items.append(Item(Rejected(seq=seq, code="bad_image")))
        else:
            items.append(frame(seq, bytes([seq % 256]) * (50 + seq % 90)))
        if seq % 5 == 4:
            items.append(Item(Dropped(seqs=[seq])))
            items.append(Item(BatchSent(seqs=[seq - 4, seq - 3])))
    return items


class Foreseen(Entry, frozen=True, kw_only=True, tag="foreseen"):
    """What only a later version knows."""


def of_format(folder: Path, number: int, *entries: Entry, closed: bool = True) -> Path:
    """The file of a journal that says it is of this format."""
    (folder / "journal").mkdir(parents=True, exist_ok=True)
    path = folder / "journal" / "000001-000000.mcap"
    writer = SegmentWriter(Files(), path, "kitchen", "splatstream 9")
    begin = History("kitchen", 1).begin("9.0")
    fields = {name: getattr(begin, name) for name in begin.__struct_fields__}
    writer.append(Begin(**fields | {"format": number}))
    for entry in entries:
        writer.append(entry)  # type: ignore[arg-type]
    writer.sync()
    if closed:
        writer.finish()
    return path


class PowerCut(BaseException):
    """Nothing of this process runs on, not even its error handling."""


class CuttableFiles(Files):
    """The real files, with the power cut at the n-th step that durability rests on; what had not
    been synced is then there in part, as zeros, or not at all."""

    def __init__(self, cut_at: int, seed: int = 0) -> None:
        self.steps = 0
        self._cut_at = cut_at
        self._random = random.Random(seed)
        self._paths: dict[int, Path] = {}
        self._synced: dict[Path, int] = {}
        self._unnamed: set[Path] = set()
        self._dead = False

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        self._paths[descriptor] = path
        self._synced[path] = 0
        self._unnamed.add(path)
        return descriptor

    def write(self, descriptor: int, pieces: Sequence[Buffer]) -> None:
        self._step()
        super().write(descriptor, pieces)

    def sync(self, descriptor: int) -> None:
        self._step()
        super().sync(descriptor)
        path = self._paths.get(descriptor)
        if path is not None:
            self._synced[path] = path.stat().st_size
        self._step()

    def sync_folder(self, path: Path) -> None:
        self._step()
        super().sync_folder(path)
        self._unnamed = {file for file in self._unnamed if file.parent != path}

    def _step(self) -> None:
        if self._dead or self.steps == self._cut_at:
            if not self._dead:
                self._dead = True
                self._lose()
            raise PowerCut
        self.steps += 1

    def _lose(self) -> None:
        for path, synced in self._synced.items():
            size = path.stat().st_size
            kept = self._random.randint(synced, size)
            os.truncate(path, kept)
            if self._random.random() < 0.5:
                os.truncate(path, size)
            if path in self._unnamed and self._random.random() < 0.5:
                path.unlink()


class FullFiles(Files):
    """A disk with room for so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, descriptor: int, pieces: Sequence[Buffer]) -> None:
        for piece in pieces:
            fits = min(len(piece), self.room)
            self.room -= fits
            super().write(descriptor, [bytes(piece)[:fits]])
            if fits < len(piece):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class RefusingFiles(Files):
    """A disk that refuses one kind of call: `create`, `write` or `sync`."""

    refused = ""
    error = 0

    def _refuse(self, call: str) -> None:
        if self.refused == call:
            raise OSError(self.error, os.strerror(self.error))

    def create(self, path: Path) -> int:
        self._refuse("create")
        return super().create(path)

    def write(self, descriptor: int, pieces: Sequence[Buffer]) -> None:
        self._refuse("write")
        super().write(descriptor, pieces)

    def sync(self, descriptor: int) -> None:
        self._refuse("sync")
        super().sync(descriptor)
