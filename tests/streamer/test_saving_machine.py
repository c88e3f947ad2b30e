"""Whatever happens around a save: the disk gets the state of one moment, and all that was asked."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engine_helpers import make_engine
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from map_strategies import random_splats
from strip_walk import pose, wall_frame

from gs_decoder import ChunkMeta
from streamer.keep import Keep
from streamer.session import saving
from streamer.session.batching import refine_view
from streamer.session.corrections import rigid
from streamer.session.engine import Engine
from streamer.session.engine_state import StateRoom, engine_state, room_maker
from streamer.session.folder import states
from streamer.session.saving import Saving
from streamer.session.spill_files import SPILLED, SpillFolder
from streamer.session.state_files import CURSOR, Cursor, read_cursor, read_state, write_state
from streamer.session.storage import holding_states
from ttt_core.streaming import StreamingConfig, StreamingModel

LIMIT_S = 60
MOST_CALLS = 20
"""What is there at most is published, has room made for it twice, and is copied."""
MODEL = StreamingModel(StreamingConfig(network=None)).eval()


class Session(RuleBasedStateMachine):
    """`next_seq` of a cursor is here the number of the copy, whose files are written at once into a
    folder of their own as well."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.folder = Path(self.home.name) / "session"
        self.folder.mkdir()
        self.engine, _ = make_engine(model=MODEL, batch=1, chunk_budget=8)
        self.engine.spill_to(SpillFolder(self.folder / SPILLED, kept=True))
        self.may = threading.Semaphore(0)
        self.disk, self.slow = contextlib.ExitStack(), False
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(saving, "room_maker", self.room_maker)
        self.patch.setattr("streamer.session.engine_state._FRAMES_TO_COME", 1)
        self.copies = self.orders = self.revision = self.seq = 0
        self.asked: dict[int, int] = {}
        """Orders that were not answered: what copies there were before them."""

    @initialize(every=st.integers(0, 3))
    def begin(self, every: int) -> None:
        self.every = every
        self.saving = Saving(self.engine, self.folder, Keep(), self.cursor, every)

    def room_maker(self, engine: Engine) -> Callable[[], StateRoom]:
        make = room_maker(engine)

        def held() -> StateRoom:
            assert self.may.acquire(timeout=LIMIT_S)
            return make()

        return held

    def cursor(self) -> Cursor:
        self.copies += 1
        cursor = Cursor(epoch=1, next_seq=self.copies, settings={})
        here = self.folder.parent / str(self.copies)
        here.mkdir()
        write_state(engine_state(self.engine), cursor, here)
        return cursor

    def teardown(self) -> None:
        self.may.release(9)
        self.disk.close()
        self.saving.finish(last=self.every > 0)
        self.check_answers()
        assert not self.asked
        assert self.check_states() == self.copies
        self.engine.close()
        self.patch.undo()
        self.home.cleanup()

    # What comes -------------------------------------------------------------------------------

    @rule(seed=st.integers(0, 99), splats=st.sampled_from([1, 30, 400]))
    def batch(self, seed: int, splats: int) -> None:
        engine, seq = self.engine, self.seq
        self.seq += 1
        frame = wall_frame(seq, 0.0)
        T = engine.trajectory.add(seq, frame.stamp_ns, pose(frame))
        some = random_splats(seed, splats)
        meta = ChunkMeta(frame_seq=seq, stamp_ns=seq, camera="front", T_world_chunk=T)
        chunk = engine.map.add(meta, some)
        engine.chunk_of_seq[seq] = chunk
        engine.residence.add(chunk, some)
        engine.refiner.add_splats(chunk, some)
        engine.refiner.add_view(refine_view(frame, rigid(T)))
        self.saving.batch_done()

    @rule()
    def correct(self) -> None:
        if self.seq:
            self.revision += 1
            moved = np.eye(4)
            moved[:3, 3] = self.revision, 0.5, 0.0
            self.engine.apply_poses(self.revision, {0: moved}, by="seq", upto=None)
            self.saving.corrected()

    @rule()
    def refine(self) -> None:
        if not self.saving.ordered:
            self.engine.refiner.step()

    @rule(share=st.floats(0.0, 0.5))
    def thin(self, share: float) -> None:
        count = self.engine.refiner.parameters.count
        self.engine.refiner.remove(np.arange(int(share * count)))

    # What is saved ----------------------------------------------------------------------------

    @rule()
    def order(self) -> None:
        self.orders += 1
        self.asked[self.orders] = self.copies
        self.saving.order(self.orders)

    @rule()
    def settled(self) -> None:
        self.saving.settled()

    @rule()
    def go_on(self) -> None:
        self.saving.go_on()

    @rule()
    def copy(self) -> None:
        """Whoever asked for room has it now; what was too little is made anew."""
        for _ in range(MOST_CALLS):
            if (room := self.saving._room) is not None and not room.done():
                self.may.release()
                room.result(LIMIT_S)
            self.saving.go_on()
        assert not self.saving.ordered

    @rule()
    def save(self) -> None:
        """All of it, as far as the disk lets it."""
        self.order()
        self.copy()

    @rule()
    def the_disk_is_slow(self) -> None:
        """What is to be written waits, and of several the newest alone is."""
        if not self.slow:
            self.disk.enter_context(holding_states(self.folder))
            self.slow = True

    @rule()
    def everything_is_written(self) -> None:
        self.disk.close()
        self.slow = False
        waiting = threading.Event()
        while self.saving._writer.busy:
            waiting.wait(0.001)
        self.check_answers()
        self.check_states()

    def check_answers(self) -> None:
        for saved in self.saving.collect():
            assert saved.error is None
            before = self.asked.pop(saved.order)
            assert read_cursor(states(self.folder)[0]).next_seq > before

    def check_states(self) -> int:
        """Each is what was copied in one moment; the number of the newest."""
        kept = states(self.folder)
        assert len(kept) <= 2
        for path in kept:
            copied = self.folder.parent / str(read_cursor(path).next_seq)
            # With the checksums of all other files.
            assert (path / CURSOR).read_bytes() == (copied / CURSOR).read_bytes()
            read_state(path, MODEL)
        return read_cursor(kept[0]).next_seq if kept else 0


TestSession = Session.TestCase
TestSession.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_a_copy_that_waits_for_the_disk_is_not_written_over() -> None:
    session = Session()
    session.begin(every=0)
    session.batch(seed=1, splats=30)
    session.the_disk_is_slow()
    for _ in range(3):
        session.save()
        session.correct()
    session.everything_is_written()
    session.teardown()


def test_room_for_too_few_frames_is_made_anew() -> None:
    session = Session()
    session.begin(every=0)
    session.order()
    for seed in range(3):
        session.batch(seed=seed, splats=1)
    session.copy()
    session.everything_is_written()
    session.teardown()
