"""What of a session is to be journalled, and what its journal has to give back."""

from __future__ import annotations

from streamer.ingest.catchup import Section
from streamer.ingest.sessions import Session
from streamer.journal import Report
from streamer.protocol import ProtocolError


def begin_journal(session: Session) -> bool:
    """See that the session has a journal; False where that cannot be."""
    assert session.recorder is not None
    hello = session.sender.hello if session.sender is not None else None
    return session.recorder.begin(hello, session.stream)


def record(session: Session, *, accepting: bool) -> None:
    """Hand the journal what was decided; acceptances need the session's process."""
    recorder, stream = session.recorder, session.stream
    if recorder is None or not stream.recording:
        return
    due = []
    for entry in stream.unrecorded():
        accepted = not isinstance(entry.verdict, ProtocolError)
        if accepted and not accepting:
            break
        if recorder.queue is None and not accepted:
            # A session that nothing was accepted into leaves no trace.
            entry.number, entry.durable = 0, True
            continue
        if not begin_journal(session):
            suffer(session)
            return
        due.append(entry)
    if due:
        recorder.put_verdicts(due)


def suffer(session: Session) -> None:
    """The journal cannot be written: live goes on without, lossless waits."""
    assert session.recorder is not None
    if session.stream.policy == "live":
        session.recorder.bypass(session.stream)
    else:
        session.stream.stalled = True


def take_up(session: Session) -> None:
    """A sender begins: what cannot be written is another matter under another policy."""
    recorder = session.recorder
    if recorder is None or recorder.trouble is None:
        return
    if recorder.bypassed and session.stream.policy == "lossless":
        recorder.insist(session.stream)
    suffer(session)


def note_report(session: Session, report: Report) -> bool:
    """The journal's thread wrote something for this session; False where it could not."""
    assert session.recorder is not None
    if report.error is None:
        session.recorder.written(report, session.stream)
        return True
    session.recorder.fail(str(report.error))
    suffer(session)
    return False


def lacking_section(session: Session, most: int) -> Section | None:
    """What a new process of the session has to be told from the journal, if there is one.

    Args:
        most: frames in one message.
    """
    link, stream, recorder = session.link, session.stream, session.recorder
    upto = stream.waiting[0].seq if stream.waiting else stream.settled + 1
    if recorder is None or recorder.queue is None or link.lacks is None or upto == 0:
        return None
    return Section(
        folder=recorder.folder,
        epoch=recorder.epoch,
        next_seq=link.lacks.next_seq,
        upto=upto,
        pose_revision=link.lacks.pose_revision,
        dropped=recorder.dropped_lately,
        durable_end=recorder.queue.journal.durable_end,
        batch=max(1, min(link.lacks.batch, most)),
    )
