"""What an ACK promises: after any death the session is told everything that was acknowledged, once
and in order, and nobody sends it again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
from ingest_harness import FakeSession, running_ingest
from raw_client import EYE

from streamer.journal import Begin, Corrected, Dropped, FrameEntry, read_journal
from streamer.protocol.internal import CountsUpdate, PosesForward, SessionRefused, SessionStarted
from streamer.protocol.links import SessionLost

SLAM = {"proto": [1, 0], "client": "slam", "role": "poses"}


def journal_of(folder: Path) -> list[object]:
    return [one.entry for one in read_journal(folder / "sessions" / "kitchen")]


def test_a_successor_is_told_what_its_predecessor_was_batch_by_batch(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest, ingest.client() as client, ingest.client() as slam:
        assert client.greet()["durable"] is True
        for seq in range(3):
            client.send_frame(seq)
        session = ingest.start_session()
        client.acked(2)
        first = session.batch(2)
        slam.send("HELLO", {**SLAM, "session": "kitchen"})
        assert slam.receive()[0] == "WELCOME"
        slam.send("POSES", {"revision": 5, "poses": [[0, EYE]]})
        told = session.answer_poses(1)
        assert slam.receive("POSES_ACK")[1] == {"revision": 5, "moved": 1, "unknown": []}
        pixels = session.parts[0]
        session.batch(1)
        session.close()
        ingest.say(SessionLost(session="kitchen"))
        client.send_frame(3, pose=None)
        client.send_frame(4)
        client.acked(4)

        successor = FakeSession(ingest.batches, life=2)
        again = successor.batch(1)
        assert [f.seq for f in again.frames] == [f.seq for f in first.frames] == [0, 1]
        assert successor.parts[0] == pixels
        assert again.frames[0].c2w == first.frames[0].c2w
        # Not before that batch is done, or it could overtake it.
        assert not successor.socket.poll(200)
        successor.want(1)
        # But for when it came in: it was answered long ago.
        again = successor.receive(PosesForward.KIND).read(PosesForward)
        assert again == msgspec.structs.replace(told, received_ns=0)
        assert successor.take_until(4) == [0, 1, 2, 4]
        counts = successor.batches[-1].counts
        assert (counts.frames_in, counts.waiting, counts.rejected) == (4, 0, 1)
        assert counts.durable
        # What a killed ingest and its successor both say counts once.
        slam.send("POSES", {"revision": 6, "poses": [[1, EYE]]})
        assert successor.answer_poses(1).revision == 6
        assert slam.receive("POSES_ACK")[1]["revision"] == 6
        successor.close()


def test_a_successor_is_told_first_what_overtook_a_batch(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest, ingest.client() as client, ingest.client() as slam:
        client.greet()
        for seq in range(4):
            client.send_frame(seq)
        session = ingest.start_session()
        client.acked(3)
        session.batch(2)
        session.batch(2)
        slam.send("HELLO", {**SLAM, "session": "kitchen"})
        assert slam.receive()[0] == "WELCOME"
        for revision in (5, 6):
            slam.send("POSES", {"revision": revision, "poses": [[2, EYE]]})
            # It had not begun with the second batch.
            told = session.answer_poses(1, before=2)
            assert slam.receive("POSES_ACK")[1]["revision"] == revision
        session.close()
        ingest.say(SessionLost(session="kitchen"))
        client.send_frame(4)
        client.acked(4)

        successor = FakeSession(ingest.batches, life=2)
        assert [f.seq for f in successor.batch(2).frames] == [0, 1]
        stamps = [(f.seq, f.stamp_ns) for f in session.batches[-1].frames]
        successor.want(2)
        for revision in (5, 6):
            again = successor.answer_poses(1)
            # What waits in the ingest, or comes from the journal, is the same to a session.
            assert (again.revision, again.waiting) == (revision, stamps)
        assert again == msgspec.structs.replace(told, received_ns=0, waiting=stamps)
        assert [f.seq for f in successor.batch(2).frames] == [2, 3]
        successor.close()


def test_a_daemon_that_was_killed_goes_on_where_it_stood(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest:
        with ingest.client() as client:
            client.greet()
            for seq in range(5):
                client.send_frame(seq)
            session = ingest.start_session()
            client.acked(4)
            assert [f.seq for f in session.batch(4).frames] == [0, 1, 2, 3]
            # Acknowledged, so what was said before is on the disk as well.
            client.send_frame(5)
            client.acked(5)
            session.close()
        ingest.kill()
        # Nothing of the run folder outlives the daemon.
        shutil.rmtree(tmp_path / "ingest")
        ingest.start()
        with ingest.client() as client:
            assert client.refused()["code"] == "bad_session"
            welcome = client.greet(resume=True)
            assert (welcome["next_seq"], welcome["epoch"], welcome["durable"]) == (6, 1, True)
            # The map is wanted back although no frame has come yet.
            successor = ingest.start_session()
            successor.life = 2
            client.send_frame(5)
            client.acked(5)
            client.send_frame(6)
            client.acked(6)
            assert successor.take_until(6) == list(range(7))
            assert len(successor.batches[0].frames) == 4
            assert successor.batches[-1].counts.frames_in == 7
            successor.close()


def test_the_frames_that_a_killed_ingest_had_are_batched_with_those_that_follow(
    tmp_path: Path,
) -> None:
    with running_ingest(tmp_path, batch_timeout_s=60.0) as ingest:
        with ingest.client() as client:
            client.greet()
            for seq in range(6):
                client.send_frame(seq)
            session = ingest.start_session()
            client.acked(5)
        ingest.kill()
        ingest.start()
        # Busy at this moment: that says nothing of how many it takes at a time.
        session.want(0)
        with ingest.client() as client:
            assert client.greet(resume=True)["next_seq"] == 6
            assert [f.seq for f in session.batch(4).frames] == [0, 1, 2, 3]
            session.want(4)
            for seq in (6, 7):
                client.send_frame(seq)
            client.acked(7)
            assert session.take_until(7) == list(range(8))
        assert [len(batch.frames) for batch in session.batches if batch.frames] == [4, 4]
        session.close()


def test_a_session_that_ran_when_the_daemon_was_killed_needs_no_sender(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest, ingest.client() as client:
        client.greet()
        client.send_frame(0)
        session = ingest.start_session()
        client.acked(0)
        session.close()
        ingest.kill()
        shutil.rmtree(tmp_path / "ingest")
        file = tmp_path / "sessions" / "kitchen" / "session.json"
        file.write_text(file.read_text().replace('"running": false', '"running": true'))
        ingest.start()
        successor = ingest.start_session()
        assert successor.take_until(0) == [0]
        successor.close()


def test_a_reset_empties_the_journal(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest, ingest.client() as client:
        client.greet()
        client.send_frame(0)
        session = ingest.start_session()
        client.acked(0)
        session.batch(1)
        session.reset()
        assert client.receive("ERROR")[1]["code"] == "bad_session"
        client.greet()
        client.send_frame(0, stamp_ns=77)
        client.acked(0)
        session.close()
    entries = journal_of(tmp_path)
    frames = [entry for entry in entries if isinstance(entry, FrameEntry)]
    assert [frame.header.stamp_ns for frame in frames] == [77]
    assert isinstance(entries[0], Begin) and entries[0].epoch == 2


def test_frames_of_a_session_that_cannot_start_are_kept(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest, ingest.client() as client:
        client.greet()
        client.send_frame(0)
        ingest.session_needed("kitchen")
        ingest.say(SessionStarted(session="kitchen"))
        client.acked(0)
        ingest.say(SessionRefused(session="kitchen", code="internal", reason="no disk"))
        header = client.receive("ERROR")[1]
        assert "no disk" in header["reason"] and "1 accepted frames" in header["reason"]
        assert "in its journal" in header["reason"]
        assert client.greet(resume=True)["next_seq"] == 1
        session = ingest.start_session()
        assert session.take_until(0) == [0]
        session.close()


def test_a_folder_that_cannot_be_used_is_named_to_the_sender(tmp_path: Path) -> None:
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / "kitchen").write_text("a file in the way")
    with running_ingest(tmp_path) as ingest, ingest.client() as client:
        client.greet()
        client.send_frame(0)
        header = client.receive("ERROR")[1]
        assert header["code"] == "internal"
        assert "sessions/kitchen" in header["reason"]
        with ingest.client() as other:
            assert other.greet(session="hall")["durable"] is True


def test_lossless_waits_while_the_journal_cannot_be_written(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest, ingest.client() as client:
        client.greet()
        client.send_frame(0)
        session = ingest.start_session()
        client.acked(0)
        session.batch(1)
        folder = tmp_path / "sessions" / "kitchen"
        folder.rename(tmp_path / "moved")
        client.send_frame(1)
        session.want(4)
        while session.receive(CountsUpdate.KIND).read(CountsUpdate).counts.durable:
            pass
        while not client.silent(0.2):
            assert client.receive("ACK")[1]["seq"] == 0
        (tmp_path / "moved").rename(folder)
        assert client.acked(1)["seq"] == 1
        assert session.take_until(1) == [0, 1]
        session.close()
    frames = [entry for entry in journal_of(tmp_path) if isinstance(entry, FrameEntry)]
    assert [frame.header.seq for frame in frames] == [0, 1]
    assert "is not durable" in ingest.log and "durable again" in ingest.log


def test_frames_that_live_never_decoded_are_settled_for_ever(tmp_path: Path) -> None:
    with running_ingest(tmp_path, live_waiting=3) as ingest, ingest.client() as client:
        client.greet(policy="live")
        client.send_frame(0)
        session = ingest.start_session()
        client.acked(0)
        for seq in (1, 2):
            client.send_frame(seq)
            client.acked(seq)
        for seq in range(3, 9):
            client.send_frame(seq)
        assert client.acked(5)["dropped"] == 3
        session.close()
        ingest.kill()
        # Nothing of the run folder outlives the daemon.
        shutil.rmtree(tmp_path / "ingest")
        entries = journal_of(tmp_path)
        frames = [entry.header.seq for entry in entries if isinstance(entry, FrameEntry)]
        dropped = [seq for entry in entries if isinstance(entry, Dropped) for seq in entry.seqs]
        assert (frames[:3], dropped[:3]) == ([0, 1, 2], [3, 4, 5])
        ingest.start()
        with ingest.client() as again:
            upto = again.greet(resume=True, policy="live")["next_seq"]
            assert upto >= 6
            for seq in range(upto, 10):
                again.send_frame(seq)
            successor = ingest.start_session()
            successor.life = 2
            seqs = successor.take_until(9)
            counts = successor.batches[-1].counts
            assert not {3, 4, 5} & set(seqs)
            assert (counts.frames_in, counts.dropped) == (10, 10 - len(seqs))
            successor.close()


def test_live_goes_on_without_and_says_so(tmp_path: Path) -> None:
    with running_ingest(tmp_path) as ingest, ingest.client() as client, ingest.client() as slam:
        client.greet(policy="live")
        client.send_frame(0)
        session = ingest.start_session()
        client.acked(0)
        session.batch(1)
        folder = tmp_path / "sessions" / "kitchen"
        folder.rename(tmp_path / "moved")
        for seq in range(1, 4):
            client.send_frame(seq)
            client.acked(seq)
        assert not session.batch(3).counts.durable
        (tmp_path / "moved").rename(folder)
        while not session.receive(CountsUpdate.KIND).read(CountsUpdate).counts.durable:
            pass
        client.send_frame(4)
        client.acked(4)
        slam.send("HELLO", {**SLAM, "session": "kitchen"})
        assert slam.receive()[0] == "WELCOME"
        slam.send("POSES", {"revision": 1, "poses": [[0, EYE]]})
        session.answer_poses(1)
        assert slam.receive()[0] == "POSES_ACK"
        assert session.take_until(4) == [0, 1, 2, 3, 4]
        session.close()
        ingest.kill()
        shutil.rmtree(tmp_path / "ingest")
        ingest.start()
        with ingest.client() as again:
            assert again.greet(resume=True, policy="live")["next_seq"] == 5
    entries = journal_of(tmp_path)
    seqs = [entry.header.seq for entry in entries if isinstance(entry, FrameEntry)]
    assert (seqs[0], seqs[-1]) == (0, 4)
    assert any(isinstance(entry, Corrected) for entry in entries)
