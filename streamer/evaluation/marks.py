"""Maps written at their times while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gs_decoder import world_origin, write_ply
from streamer.evaluation.job import MapRecord, write_offsets
from streamer.hardware import peak_memory_bytes
from streamer.run import RunPlan
from streamer.session.engine import Engine


class Marks:
    """Writes a run's map at the marks, and in a stream after every batch.

    It is called after every batch and step (`progress` of `run_capture`) and writes as late as the
    map will still be on disk at the mark, by what such work has taken so far: a mark is never
    served with a map that was finished after it, but for a guess that was wrong, which `written`
    shows. Writing is not taken off the clock.

    Attributes:
        records: of the maps written so far.
    """

    def __init__(
        self,
        out: Path,
        plan: RunPlan,
        at: Sequence[float],
        batch: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.records: list[MapRecord] = []
        self._out = out
        self._plan = plan
        self._pending = sorted(at)
        self._batch = batch
        self._clock = clock
        self._frames_in = 0
        self._batches = 0
        self._slot_ends: float | None = None
        self._taken: dict[str, float] = {"batch": 0.0, "step": 0.0, "write": 0.0}
        self.start()

    @property
    def elapsed(self) -> float:
        """Seconds on the clock."""
        return self._clock() - self._started

    def start(self) -> None:
        """The clock starts: right before the first frame is read."""
        self._started = self._told_at = self._clock()
        self._cpu_started = time.process_time()

    def tell(self, engine: Engine, frames_in: int) -> None:
        """A batch or a step is done."""
        now = self._clock()
        was_batch = frames_in > self._frames_in
        self._taken["batch" if was_batch else "step"] = now - self._told_at
        if was_batch:
            self._frames_in = frames_in
            self._batches += 1
            if self._plan.rate > 0.0:
                whole = frames_in + self._batch
                given = len(self._plan.given)
                arrived = min(whole, given) if frames_in < given else whole
                self._slot_ends = arrived / self._plan.rate
        # In a batch's run the next batch may begin at any step, in a stream only when it is due.
        reading = self._plan.rate == 0.0 and frames_in < len(self._plan.given)
        ahead = self._taken["batch" if reading else "step"] + self._taken["write"]
        if self._slot_ends is not None and self.elapsed + ahead >= self._slot_ends:
            self._write(engine, None, self._batches)
            self._slot_ends = None
        while self._pending and self.elapsed + ahead >= self._pending[0]:
            self._write(engine, self._pending.pop(0), None)
        self._told_at = self._clock()

    def finish(self, engine: Engine) -> None:
        """The run is over: the map as it is now stands for all marks that were not reached."""
        if self._slot_ends is not None:
            self._write(engine, None, self._batches)
            self._slot_ends = None
        while self._pending:
            self._write(engine, self._pending.pop(0), None)

    def write_last(self, engine: Engine) -> None:
        """The map of a run without marks."""
        self._write(engine, None, None)

    def _write(self, engine: Engine, at: float | None, batch: int | None) -> None:
        began = self._clock()
        name = "map" if at is None else f"at_{at:g}s"
        file = f"{name if batch is None else f'batch_{batch:04d}'}.ply"
        origin = world_origin(engine.map.chunks.values())
        splats = engine.splats_world(origin)
        write_ply(self._out / file, splats, offset=origin)
        offsets = engine.refiner.offsets
        if offsets:
            given = self._plan.given
            write_offsets(
                self._out / file, {given[seq].index: offset for seq, offset in offsets.items()}
            )
        views = engine.refiner.views
        self.records.append(
            MapRecord(
                file=file,
                at=at,
                batch=batch,
                written=self.elapsed,
                cpu_seconds=time.process_time() - self._cpu_started,
                peak_memory_mb=peak_memory_bytes() / 2**20,
                frames_in=self._frames_in,
                # Frames are numbered as they are given, and the newest is always among the views.
                newest=self._plan.given[max(views)].index if views else -1,
                keyframes=engine.status().keyframes,
                refinement_steps=engine.refiner.steps,
                splats=splats.count,
            )
        )
        self._taken["write"] = self._clock() - began
