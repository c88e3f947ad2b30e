"""Processes die: a killed ingest's successor, a session that starts anew, a reset map."""

from __future__ import annotations

from pathlib import Path

from ingest_harness import FakeSession, running_ingest
from raw_client import CAMERA, EYE, jpeg

from streamer.protocol.internal import CountsUpdate, PosesForward, SessionRefused, SessionStarted
from streamer.protocol.links import SessionLost

SLAM = {"proto": [1, 0], "client": "slam", "role": "poses"}


def test_a_killed_ingest_comes_back_where_it_stood(tmp_path: Path) -> None:
    with running_ingest(tmp_path, max_waiting=10) as ingest:
        with ingest.client() as client, ingest.client() as slam:
            client.greet(convention="opengl", cameras={"front": CAMERA, "rear": CAMERA})
            client.send_frame(0)
            session = ingest.start_session()
            client.acked(0)
            assert session.take_until(0) == [0]
            client.send_frame(1)
            client.send_frame(2, pose=None)
            client.send_frame(3)
            client.acked(3)
            address = ingest.address

            ingest.kill()
            ingest.start()

            assert ingest.address == address
            session.want(0)
            # The old connection is not known to the new process, and learns it at once.
            client.send_frame(4)
            assert client.receive("ERROR")[1]["code"] == "no_hello"
            with ingest.client() as other:
                assert other.refused(client="other", resume=True)["code"] == "busy"
            # The convention outlived the process: corrections need no sender to be there. Until
            # the session has spoken to the new process, they are to be sent again.
            slam.send("HELLO", {**SLAM, "session": "kitchen"})
            assert slam.receive()[0] == "WELCOME"
            while True:
                session.want(0)
                slam.send("POSES", {"revision": 1, "poses": [[0, EYE]]})
                if slam.silent(0.5):
                    break
                assert slam.receive()[1]["code"] == "busy"
            assert session.answer_poses(1).entries[0][1][5] == -1.0

        with ingest.client() as client:
            assert client.greet(resume=True)["next_seq"] == 4
            client.send_frame(4)
            assert client.acked(4)["dropped"] == 0
            assert session.take_until(4) == [0, 1, 3, 4]
            counts = session.batches[-1].counts
            assert (counts.frames_in, counts.dropped, counts.rejected) == (4, 0, 1)
        session.close()


def test_without_a_journal_a_killed_ingest_counts_what_waited_as_dropped(tmp_path: Path) -> None:
    with running_ingest(tmp_path, journal=False) as ingest:
        with ingest.client() as client:
            assert client.greet()["durable"] is False
            client.send_frame(0)
            session = ingest.start_session()
            client.acked(0)
            assert session.take_until(0) == [0]
            client.send_frame(1)
            client.acked(1)
            ingest.kill()
            ingest.start()
            session.want(0)
        with ingest.client() as client:
            assert client.greet(resume=True)["next_seq"] == 2
            client.send_frame(2)
            assert client.acked(2)["dropped"] == 1
            assert session.take_until(2) == [0, 2]
        session.close()


def test_a_session_that_starts_anew_goes_on_with_what_waits(tmp_path: Path) -> None:
    with running_ingest(tmp_path, journal=False) as ingest, ingest.client() as client:
        client.greet()
        for seq in range(4):
            client.send_frame(seq)
        session = ingest.start_session()
        client.acked(3)
        assert [f.seq for f in session.batch(2).frames] == [0, 1]
        session.close()
        ingest.say(SessionLost(session="kitchen"))
        client.send_frame(4)
        assert client.acked(4)["seq"] == 4
        ingest.say(SessionStarted(session="kitchen"))
        successor = FakeSession(ingest.batches, epoch=2)
        assert successor.take_until(4) == [2, 3, 4]
        successor.close()


def test_a_session_that_vanishes_without_a_word_loses_no_waiting_frame(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest, ingest.client() as client:
        client.greet()
        client.send_frame(0)
        session = ingest.start_session()
        client.acked(0)
        session.want(0)
        session.receive(CountsUpdate.KIND)
        session.close()
        client.send_frame(1)
        client.acked(1)
        successor = FakeSession(ingest.batches, epoch=2)
        assert successor.take_until(1) == [0, 1]
        successor.close()


def test_a_reset_forgets_frames_and_tells_the_sender(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest, ingest.client() as client:
        client.greet()
        for seq in range(3):
            client.send_frame(seq)
        session = ingest.start_session()
        client.acked(2)
        assert [f.seq for f in session.batch(1).frames] == [0]
        session.reset()
        # What a session waits for before it says that it is done.
        while session.receive(CountsUpdate.KIND).read(CountsUpdate).epoch != 2:
            pass
        kind, header = client.receive("ERROR")
        assert (kind, header["code"]) == ("ERROR", "bad_session")
        with ingest.client() as again:
            # Nothing is held any more: even a HELLO without resume is fine.
            assert again.greet()["next_seq"] == 0
            again.send_frame(0)
            again.acked(0)
            session.frames.clear()
            assert session.take_until(0) == [0]
            assert session.batches[-1].counts.frames_in == 1
        session.close()


def test_a_session_that_gives_up_tells_its_sender_and_can_begin_again(tmp_path: Path) -> None:
    with running_ingest(tmp_path, max_sessions=1, journal=False) as ingest:
        with ingest.client() as client:
            client.greet(client="robot")
            for seq in range(3):
                client.send_frame(seq)
            ingest.session_needed("kitchen")
            # The process gives up only after it was said to have started.
            ingest.say(SessionStarted(session="kitchen"))
            client.acked(2)
            reason = "kitchen/session.json: not a session file: move the folder away"
            ingest.say(SessionRefused(session="kitchen", code="bad_session", reason=reason))
            _, header = client.receive("ERROR")
            # Not bad_session: that would call for another HELLO, which would change nothing.
            assert header["code"] == "internal"
            assert reason in header["reason"]
            assert "3 accepted frames" in header["reason"]
            client.send_frame(3)
            assert client.receive("ERROR")[1]["code"] == "no_hello"
        assert "3 accepted frames" in ingest.log
        with ingest.client() as other:
            assert other.greet(session="hall", client="other")["next_seq"] == 0
        with ingest.client() as again:
            # Nothing is held and nobody sends; a killed ingest's successor knows that as well.
            assert again.greet(client="another")["next_seq"] == 0
            ingest.kill()
            ingest.start()
            again.send("PING", {"t": 1})
            assert again.receive("ERROR")[1]["code"] == "no_hello"
            assert again.greet(client="another")["next_seq"] == 0
            again.send_frame(0)
            session = ingest.start_session()
            again.acked(0)
            assert session.take_until(0) == [0]
            counts = session.batches[-1].counts
            assert (counts.frames_in, counts.dropped) == (1, 0)
            session.close()


def test_a_correction_for_a_session_that_gives_up_is_answered(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest, ingest.client() as client, ingest.client() as slam:
        client.greet()
        client.send_frame(0)
        session = ingest.start_session()
        client.acked(0)
        slam.send("HELLO", {**SLAM, "session": "kitchen"})
        assert slam.receive()[0] == "WELCOME"
        session.take_until(0)
        slam.send("POSES", {"revision": 7, "poses": [[0, EYE]]})
        session.receive(PosesForward.KIND)
        ingest.say(SessionRefused(session="kitchen", code="internal", reason="no disk"))
        kind, header = slam.receive()
        assert (kind, header["code"], header["revision"]) == ("ERROR", "internal", 7)
        assert "no disk" in header["reason"]
        session.close()


def test_the_door_stays_open_while_pictures_are_decoded(tmp_path: Path) -> None:
    side = 4000
    camera = {**CAMERA, "width": side, "height": side}
    with (
        running_ingest(tmp_path, decode_threads=1, max_waiting_bytes=1 << 40) as ingest,
        ingest.client() as busy,
        ingest.client() as other,
    ):
        busy.greet(cameras={"front": camera})
        other.greet(session="other")
        part = jpeg(0, side, side)
        for seq in range(16):
            busy.send_frame(seq, part, width=side, height=side)
        session = ingest.start_session()
        other.send("PING", {"t": 1})
        assert other.receive() == ("PONG", {"t": 1})
        # One thread decodes 48 MB sixteen times: the answer overtook it.
        settled = -1
        while not busy.silent(0.0):
            settled = busy.receive("ACK")[1]["seq"]
        assert settled < 15
        busy.acked(15)
        session.close()
