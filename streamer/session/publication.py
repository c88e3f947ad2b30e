"""What readers are told of an engine's map, and when.

New chunks and moves go at once. What refinement changed is brought into the map chunk by chunk,
which takes its time, so this is done in portions, and who publishes may be asked back (`Attend`)
between them: nobody waits for more than one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np

from gs_decoder import SplatMap
from gs_decoder.refine import Refiner
from streamer.session import moving
from streamer.session.aside import Attend, attend_to_nothing
from streamer.session.outbox import Outbox
from streamer.session.settings import EngineConfig

PORTION = 16
PORTION_SPLATS = 12_000
"""Most chunks, and most splats of more than one, that are brought at once."""


class Work(moving.Work, Protocol):
    """What an engine works on."""

    config: EngineConfig
    map: SplatMap
    refiner: Refiner
    outbox: Outbox
    paused: bool


class Publication:
    """Brings a map to what refinement made of it, and sends it while nobody paused it."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._sent_at = self._collected_at = -math.inf

    def everything(self, attend: Attend = attend_to_nothing) -> None:
        """All that changed."""
        self._publish(None, attend)

    def some(self, attend: Attend, *, at_once: bool = False) -> None:
        """Some refined chunks, `publish_every` seconds after the last ones, or at once."""
        config = self._work.config
        if at_once or time.monotonic() - self._sent_at >= config.publish_every:
            self._publish(config.chunks_at_once, attend)

    def due(self, attend: Attend = attend_to_nothing) -> None:
        """New chunks and moves at once, refined chunks not too often."""
        config = self._work.config
        if time.monotonic() - self._collected_at >= config.chunk_interval:
            self._publish(config.chunks_at_once, attend)
        else:
            self.send()

    def changed(self) -> set[int]:
        """The chunks that refinement changed since readers were told of them; none if paused."""
        work = self._work
        return set() if work.paused else set(work.refiner.changed_chunks(work.map.chunks))

    def portion(self, chunks: Collection[int]) -> set[int]:
        """Publish some of these, if they are changed still; returns the others. Nothing waits while
        the session is paused: readers have what it was paused with."""
        if self._work.paused:
            return set()
        left = sorted(self.changed().intersection(chunks))
        some = self._portion(left)
        left = left[len(some) :]
        self._bring(some)
        if not left:
            self._finish()
        self.send()
        return set(left)

    def send(self) -> None:
        """What is in the map and was not sent."""
        work = self._work
        if work.paused:
            return
        self._sent_at = time.monotonic()
        self.send_keyframes()
        if work.outbox.ready and (updates := work.map.drain_updates()):
            work.outbox.updates(updates)

    def send_keyframes(self) -> None:
        """The same of key frames."""
        work = self._work
        if work.paused or not work.outbox.ready:
            return
        if moved := work.keyframes.take_moved():
            work.outbox.keyframes_moved(moved)
        if changed := work.keyframes.take_changed():
            work.outbox.keyframes(changed)

    def collect(self, most: int | None = None, between: Callable[[], None] = lambda: None) -> None:
        """Bring `most` chunks or all to what refinement made of them; nothing is sent.

        Args:
            between: called between two portions.
        """
        self._collected_at = time.monotonic()
        due = self._work.refiner.changed_chunks(self._work.map.chunks, most)
        while some := self._portion(due):
            due = due[len(some) :]
            self._bring(some)
            if due:
                between()
        self._finish()

    def _portion(self, due: Sequence[int]) -> Sequence[int]:
        """The first of these chunks, no more than one portion."""
        held, count = self._work.map.chunks, 0
        for place, chunk in enumerate(due[:PORTION]):
            count += held[chunk].count if chunk in held else 0
            if place and count > PORTION_SPLATS:
                return due[:place]
        return due[:PORTION]

    def _publish(self, most: int | None, attend: Attend) -> None:
        def between() -> None:
            self.send()
            attend(None)

        if not self._work.paused:
            self.collect(most, between)
            self.send()

    def _bring(self, chunks: Sequence[int]) -> None:
        work = self._work
        held = work.map.chunks
        poses = {c: work.ahead.chunk(c, held[c].T_world_chunk) for c in chunks if c in held}
        for chunk, splats in work.refiner.take(poses):
            work.map.replace(chunk, splats)

    def _finish(self) -> None:
        """Cameras go where refinement found them, chunks that lost all their splats go."""
        work = self._work
        moving.show_found(work)
        parameters = work.refiner.parameters
        present = set(np.unique(parameters.chunk[: parameters.count]).tolist())
        gone = {c for c in set(work.map.chunks) - present if c not in work.residence}
        if gone:
            work.map.drop(gone)
            work.residence.forget(gone)
            work.keyframes.forget_chunks(gone)
            work.chunk_of_seq = {s: c for s, c in work.chunk_of_seq.items() if c not in gone}
