"""When a session's state is saved; batches and corrections wait for none of it for long.

What belongs together in a state is so between two batches alone. There the session's thread copies
what is changed in place, and goes on; a thread of its own writes the copy (`StateWriter`). The copy
is quick because another thread has touched the memory that it goes into beforehand. While that is
made, and while a SAVE has what refinement changed published portion by portion, the session goes on
taking what comes, and the state is of the moment of the copy.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from streamer.keep import Keep
from streamer.session.engine import Engine
from streamer.session.engine_state import StateRoom, engine_state, room_maker
from streamer.session.state_files import Cursor
from streamer.session.state_writer import Saved, StateWriter


class Saving:
    """Saves when it is asked to, when there was enough, and when nothing more comes.

    Args:
        engine: whose state is saved; only in calls of these methods, by whoever calls the engine.
        folder: the session's.
        keep: of its journal.
        cursor: where the session stands at the time of the call.
        every: batches and corrections between two states; 0: only what is ordered is saved.
    """

    def __init__(
        self, engine: Engine, folder: Path, keep: Keep, cursor: Callable[[], Cursor], every: int
    ) -> None:
        self._engine = engine
        self._cursor = cursor
        self._every = every
        self._writer = StateWriter(folder, keep)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="copy-room")
        self._room: Future[StateRoom] | None = None
        self._orders: list[int] = []
        self._to_publish: set[int] = set()
        """Chunks that changed before an order came, as far as readers do not have them."""
        self._publishing = False
        self._due = False
        self._changes = 0
        self._saved_steps = engine.refiner.steps

    # What is to be saved ----------------------------------------------------------------------

    def batch_done(self) -> None:
        """One more batch: a state is due after `every` of them."""
        self._changes += 1
        if self._changes >= self._every:
            self._become_due()

    def corrected(self) -> None:
        """Poses were; they count as a batch does, but right behind them nothing is saved."""
        self._changes += 1

    def settled(self) -> None:
        """Nothing is expected soon: a state is due if there is anything new."""
        if self._changes or self._engine.refiner.steps != self._saved_steps:
            self._become_due()

    def order(self, number: int) -> None:
        """Save what there is now, or later; `collect` tells when the disk has it. Readers have it
        by then, too."""
        self._to_publish |= self._engine.publication.changed()
        self._orders.append(number)
        self._publishing = True
        self._make_room()

    def forget(self) -> None:
        """The engine was reset: what was new is no more."""
        assert not self._orders, "a reset comes after the orders before it"
        self._room, self._due = None, False
        self._changes, self._saved_steps = 0, self._engine.refiner.steps

    @property
    def ordered(self) -> bool:
        """Whether an order waits for its copy: refinement waits meanwhile."""
        return bool(self._orders)

    @property
    def publishing(self) -> bool:
        """Whether `go_on` has something to do at once."""
        return self._publishing

    # Doing it ---------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Do a part of what is to be done, between two batches and without delay for the next."""
        if self._publishing:
            self._to_publish = self._engine.publication.portion(self._to_publish)
            self._publishing = bool(self._to_publish)
        elif (self._orders or self._due) and (room := self._room_ready()):
            self._save(room)

    def collect(self) -> list[Saved]:
        """The orders that were carried out since the last call."""
        return self._writer.collect()

    def finish(self, *, last: bool) -> None:
        """Save what was ordered, however long it takes; it is on the disk when this returns.

        Args:
            last: even if nothing was.
        """
        if self._orders or last:
            self._save(None)
        self._pool.shutdown()
        self._writer.close()

    def _become_due(self) -> None:
        if self._every and not self._writer.busy:
            self._due = True
            self._make_room()

    def _make_room(self) -> None:
        if self._room is None:
            self._room = self._pool.submit(room_maker(self._engine))

    def _room_ready(self) -> StateRoom | None:
        """Room for what there is; None: not yet."""
        assert self._room is not None, "whatever is to be saved has had room made"
        if not self._room.done():
            return None
        room = self._room.result()
        if room.holds(self._engine):
            return room
        self._room = None
        self._make_room()
        return None

    def _save(self, room: StateRoom | None) -> None:
        self._writer.put(engine_state(self._engine, room), self._cursor(), self._orders)
        # Used once: it belongs to the copy.
        self._room, self._due = None, False
        self._orders = []
        self._changes, self._saved_steps = 0, self._engine.refiner.steps
