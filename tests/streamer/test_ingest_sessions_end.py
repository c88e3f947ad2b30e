"""Sessions end while the ingest runs, and come back; nothing of them stays behind."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
from ingest_harness import FakeSession, IngestHarness, running_ingest
from raw_client import EYE, RawClient, hello

from streamer.journal import Journal, JournalBusy
from streamer.process_stats import process_stats
from streamer.protocol.internal import NeedSession
from streamer.protocol.links import SessionClosing, SessionEnded, SessionKept, SessionWanted

SLAM = {"proto": [1, 0], "client": "slam", "role": "poses", "session": "kitchen"}


def run_once(ingest: IngestHarness, client: RawClient, name: str = "kitchen") -> FakeSession:
    """A session with two frames, all of them taken by its process."""
    client.greet(session=name)
    for seq in range(2):
        client.send_frame(seq)
    session = ingest.start_session(name)
    client.acked(1)
    client.send("FLUSH")
    assert session.take_until(1) == [0, 1]
    session.want(0)
    return session


def close(ingest: IngestHarness, session: FakeSession) -> None:
    """CLOSE, and the end that it comes to."""
    ask_to_close(ingest, session)
    end(ingest, session)


def ask_to_close(ingest: IngestHarness, session: FakeSession) -> None:
    """As CLOSE: asked again until its BYE, or its process's first word, has been heard."""
    until = time.monotonic() + 20
    while True:
        ingest.say(SessionClosing(session=session.name))
        with suppress(TimeoutError):
            ingest.session_ends(session.name, timeout_s=0.3)
            return
        assert time.monotonic() < until, f"{session.name} does not end"


def end(ingest: IngestHarness, session: FakeSession) -> None:
    """The supervisor's part of an end."""
    session.close()
    ingest.say(SessionEnded(session=session.name))


def wait_until_gone(run_dir: Path, name: str) -> None:
    """Until the ingest holds neither the session's journal nor notes of it."""
    until = time.monotonic() + 20
    while True:
        with suppress(JournalBusy):
            Journal.open(run_dir / "sessions" / name, name, 1).close()
            if not list((run_dir / "ingest").glob(f"{name}.*")):
                return
        assert time.monotonic() < until, f"something of {name} is still held"
        time.sleep(0.05)


def test_an_idle_session_ends_and_its_sender_brings_it_back(tmp_path: Path) -> None:
    with running_ingest(tmp_path, session_idle_s=0.3) as ingest, ingest.client() as client:
        session = run_once(ingest, client)
        with pytest.raises(TimeoutError):
            # Its sender has not said BYE.
            ingest.session_ends(timeout_s=0.7)
        session.want(0, busy=True)
        client.send("BYE")
        with pytest.raises(TimeoutError):
            # It still refines.
            ingest.session_ends(timeout_s=0.7)
        session.want(0)
        ingest.session_ends()
        end(ingest, session)
        wait_until_gone(tmp_path, "kitchen")

        with ingest.client() as again:
            assert again.refused()["code"] == "bad_session"
            assert again.greet(resume=True)["next_seq"] == 2
            again.send_frame(2)
            successor = ingest.start_session()
            successor.life = 2
            successor.want(0)
            again.acked(2)
            # What it has not saved it is told from the journal.
            assert successor.take_until(2) == [0, 1, 2]
            assert successor.batches[-1].counts.frames_in == 3
        successor.close()


def test_a_sender_that_comes_while_its_session_ends_loses_nothing(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest:
        with ingest.client() as client:
            session = run_once(ingest, client)
            client.send("BYE")
            ask_to_close(ingest, session)
        with ingest.client() as again:
            assert again.greet(resume=True)["next_seq"] == 2
            again.send_frame(2)
            again.send_frame(3)
            # Its last words must not pass for those of a process that takes frames.
            session.want(8)
            assert again.silent()
            session.close()
            ingest.say(SessionEnded(session="kitchen"))
            successor = ingest.start_session()
            successor.life, successor.next_seq = 2, 2
            successor.want(0)
            again.acked(3)
            assert successor.take_until(3) == [2, 3]
        successor.close()


def test_a_reader_and_a_correction_bring_a_session_back(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest, ingest.client() as client, ingest.client() as slam:
        session = run_once(ingest, client)
        client.send("BYE")
        close(ingest, session)
        wait_until_gone(tmp_path, "kitchen")
        ingest.say(SessionWanted(session="nowhere"))
        ingest.say(SessionWanted(session="kitchen"))
        assert ingest.order(NeedSession.KIND).read(NeedSession).session == "kitchen"
        successor = FakeSession(ingest.batches, life=2, next_seq=2)
        successor.want(0)
        close(ingest, successor)
        wait_until_gone(tmp_path, "kitchen")

        slam.send("HELLO", SLAM)
        assert slam.receive()[0] == "WELCOME"
        slam.send("POSES", {"revision": 1, "poses": [[0, EYE]]})
        assert slam.receive()[1]["code"] == "busy"
        third = ingest.start_session()
        third.life, third.next_seq = 3, 2
        until = time.monotonic() + 20
        while True:
            third.want(0)
            slam.send("POSES", {"revision": 1, "poses": [[0, EYE]]})
            if slam.silent(0.5):
                break
            assert slam.receive()[1]["code"] == "busy"
            assert time.monotonic() < until
        third.answer_poses(1)
        assert slam.receive("POSES_ACK")[1]["moved"] == 1
        third.close()


def test_who_sends_is_not_ended_and_the_reason_is_said(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest, ingest.client() as client:
        session = run_once(ingest, client)
        ingest.say(SessionClosing(session="kitchen"))
        kept = ingest.order(SessionKept.KIND).read(SessionKept)
        assert (kept.session, kept.code) == ("kitchen", "busy")
        assert "'robot' sends into" in kept.reason
        session.close()


def test_without_a_journal_nothing_ends(tmp_path: Path) -> None:
    with running_ingest(tmp_path, journal=False, session_idle_s=0.1) as ingest:
        with ingest.client() as client:
            session = run_once(ingest, client)
            client.send("BYE")
            with pytest.raises(TimeoutError):
                ingest.session_ends(timeout_s=0.7)
            ingest.say(SessionClosing(session="kitchen"))
            assert "journal" in ingest.order(SessionKept.KIND).read(SessionKept).reason
        session.close()


def test_who_is_idle_makes_room_for_a_sender_but_not_for_a_reader(tmp_path: Path) -> None:
    idle_s = 3600.0
    with running_ingest(tmp_path, max_sessions=1, session_idle_s=idle_s) as ingest:
        with ingest.client() as client:
            session = run_once(ingest, client, "attic")
            client.send("BYE")
            close(ingest, session)
            wait_until_gone(tmp_path, "attic")
            session = run_once(ingest, client)

        with ingest.client() as other:
            refusal = other.refused(session="cellar")
            assert refusal["code"] == "busy"
            assert "splatstream sessions close" in refusal["reason"]
            assert "running: kitchen" in refusal["reason"]
            # It still acknowledges the one that runs.
            with ingest.client() as robot:
                assert robot.greet(resume=True)["next_seq"] == 2
                robot.send_frame(2)
                robot.acked(2)
                assert session.take_until(2) == [0, 1, 2]
                session.want(0)
                robot.send("BYE")
            ingest.say(SessionWanted(session="attic"))
            kept = ingest.order(SessionKept.KIND).read(SessionKept)
            assert (kept.session, kept.code) == ("attic", "busy")

            until = time.monotonic() + 20
            while True:
                # Until the word that nobody sends into the other one any more has arrived.
                other.send("HELLO", hello(session="cellar"))
                kind, answer = other.receive()
                if kind == "WELCOME":
                    break
                assert answer["code"] == "busy" and time.monotonic() < until
                time.sleep(0.05)
            ingest.session_ends()
            other.send_frame(0)
            end(ingest, session)
            successor = ingest.start_session("cellar")
            other.acked(0)
            successor.close()


def test_a_reset_counts_processes_anew(tmp_path: Path) -> None:
    """A session that other processes ran before takes frames after a RESET, too."""
    with running_ingest(tmp_path) as ingest, ingest.client() as client:
        client.greet()
        client.send_frame(0)
        session = ingest.start_session()
        session.life = 3
        client.acked(0)
        assert session.take_until(0) == [0]
        session.reset()
        session.life = 1
        session.frames.clear()
        session.want(0)
        assert client.receive("ERROR")[1]["code"] == "bad_session"
        with ingest.client() as again:
            again.greet()
            again.send_frame(0)
            again.acked(0)
            assert session.take_until(0) == [0]
        session.close()


def test_thirty_sessions_in_turn_leave_nothing_behind(tmp_path: Path) -> None:
    resident = []
    with running_ingest(tmp_path, max_sessions=2) as ingest:
        for number in range(30):
            name = f"room{number}"
            with ingest.client() as client:
                session = run_once(ingest, client, name)
                client.send("BYE")
                close(ingest, session)
            wait_until_gone(tmp_path, name)
            assert list((tmp_path / "ingest").iterdir()) == []
            assert ingest.process is not None
            stats = process_stats(ingest.process.pid)
            assert stats is not None
            resident.append(stats.resident_bytes)
    # What libraries take once is taken by then; a session's notes and frames would be seen.
    assert resident[-1] - resident[9] < 4_000_000, resident
