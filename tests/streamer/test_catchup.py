"""A journal repeats what a session did, in that order, whatever overtook what."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from journal_helpers import frame

from streamer.ingest.catchup import Section, plan
from streamer.journal import AnyEntry, BatchSent, Corrected, Overtook, Recorded

BATCH = 2


class Session:
    """A session as far as order goes, and the journal of the ingest that feeds it."""

    def __init__(self) -> None:
        self.journal: list[AnyEntry] = []
        self.did: list[list[int] | tuple[int, list[int]]] = []
        """Batches; corrections, each with the frames that waited in the session."""
        self._paused = False
        self._waiting: list[list[int]] = []
        self._answers: list[Overtook] = []
        """On their way to the ingest."""
        self._seq = self._revision = 0

    def batch(self) -> None:
        seqs = list(range(self._seq, self._seq + BATCH))
        self._seq += BATCH
        self.journal += [frame(seq).entry for seq in seqs]
        self.journal.append(BatchSent(seqs=seqs))
        self._waiting.append(seqs)
        self._work()

    def correct(self) -> None:
        self._revision += 1
        entry = Corrected(revision=self._revision, client="slam", entries=[])
        self.journal.append(entry)
        waiting = [seq for seqs in self._waiting for seq in seqs]
        self.did.append((self._revision, waiting))
        if waiting:
            self._answers.append(
                Overtook(revision=self._revision, client="slam", before=waiting[0])
            )

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._work()

    def answer(self) -> None:
        """What the session said comes to the ingest."""
        self.journal += self._answers
        self._answers = []

    def _work(self) -> None:
        if not self._paused:
            self.did += self._waiting
            self._waiting = []


EVENTS = ("batch", "correct", "pause", "resume", "answer")


@given(events=st.lists(st.sampled_from(EVENTS), max_size=40), known=st.integers(-1, 3))
def test_a_plan_is_what_the_session_did(events: list[str], known: int) -> None:
    session = Session()
    for event in (*events, "answer", "resume"):
        getattr(session, event)()
    section = Section(
        folder=Path("nowhere"),
        epoch=1,
        next_seq=0,
        upto=2**53,
        pose_revision=known,
        dropped=frozenset(),
        durable_end=None,
        batch=BATCH,
    )
    made = plan((Recorded(entry, (), 0) for entry in session.journal), section)
    steps = [
        (step.revision, [seq for seq, _ in step.waiting]) if isinstance(step, Corrected) else step
        for step in made.steps
    ]
    # A state that has the first corrections has them where they came.
    assert steps == [done for done in session.did if isinstance(done, list) or done[0] > known]
    for step in made.steps:
        if isinstance(step, Corrected):
            assert all(made.stamps[seq] == stamp for seq, stamp in step.waiting)
