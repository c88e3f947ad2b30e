"""An ingest whose disk is full, or holds what it cannot go on from."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ingest_harness import FakeSession, IngestHarness, running_ingest
from journal_helpers import Foreseen, frame, of_format

from streamer.journal import FrameEntry, Journal, read_journal, segments
from streamer.protocol.internal import CountsUpdate
from streamer.session.folder import begin_epoch


@contextmanager
def full_disk(ingest: IngestHarness) -> Iterator[None]:
    """Nothing that the process writes finds room; its log neither."""
    assert ingest.process is not None
    pid = ingest.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def wait_for_durable(session: FakeSession, durable: bool) -> None:
    """Until the session is told so."""
    while session.receive(CountsUpdate.KIND).read(CountsUpdate).counts.durable is not durable:
        pass


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit")
@pytest.mark.parametrize("policy", ["lossless", "live"])
def test_on_a_full_disk_live_goes_on_lossless_waits_and_both_may_come_back(
    tmp_path: Path, policy: str
) -> None:
    """The disk of the sessions is that of the run folder, as it mostly is."""
    live = policy == "live"
    with running_ingest(tmp_path) as ingest, ingest.client() as client, ingest.client() as again:
        client.greet(policy=policy)
        client.send_frame(0)
        session = ingest.start_session()
        client.acked(0)
        session.batch(1)
        with full_disk(ingest):
            client.send_frame(1)
            if live:
                client.acked(1)
            session.want(4)
            wait_for_durable(session, False)
            welcome = again.greet(policy=policy, resume=True)
            assert (welcome["next_seq"], welcome["durable"]) == (2 if live else 1, False)
            again.send_frame(2 if live else 1)
            if live:
                again.acked(2)
            else:
                # Nothing is settled, and the window ends with what was sent.
                while not again.silent(0.5):
                    ack = again.receive("ACK")[1]
                    assert (ack["seq"], ack["credit"]) in ((0, 0), (0, 1))
            with ingest.client() as other:
                # Who is new is told what is the matter, or goes on without.
                other.greet(session="hall", policy=policy)
                other.send_frame(0)
                assert ingest.process is not None and ingest.process.poll() is None
        if not live:
            assert again.acked(1)["credit"] > 0
        wait_for_durable(session, True)
        again.send_frame(3 if live else 2)
        again.acked(3 if live else 2)
        last = 3 if live else 2
        assert session.take_until(last) == list(range(last + 1))
        session.close()
    recorded = [one.entry for one in read_journal(tmp_path / "sessions" / "kitchen")]
    frames = [entry.header.seq for entry in recorded if isinstance(entry, FrameEntry)]
    # What live took meanwhile was never durable, and the WELCOME said so.
    assert frames == ([0, 3] if live else [0, 1, 2])


def written(folder: Path, how: str) -> dict[Path, bytes]:
    """The files of a journal that is damaged where no crash tore it, or of another version."""
    if how == "damaged":
        journal = Journal.open(folder, "kitchen", 1)
        for seq in range(3):
            journal.write([frame(seq, bytes(200))])
        journal.close()
        (path,) = [segment.path for segment in segments(folder)]
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    else:
        of_format(folder, 9, Foreseen(), closed=False)
    begin_epoch(folder)
    return {segment.path: segment.path.read_bytes() for segment in segments(folder)}


@pytest.mark.parametrize(("how", "said"), [("damaged", "damaged at byte"), ("newer", "format 9")])
def test_a_journal_that_cannot_be_gone_on_from_is_named_and_left_as_it_is(
    tmp_path: Path, how: str, said: str
) -> None:
    folder = tmp_path / "sessions" / "kitchen"
    before = written(folder, how)
    with running_ingest(tmp_path) as ingest, ingest.client() as client:
        for policy in ("lossless", "live"):
            refusal = client.refused(policy=policy, resume=True)
            assert refusal["code"] == "internal"
            assert str(next(iter(before))) in refusal["reason"] and said in refusal["reason"]
        # Nobody else is concerned.
        client.greet(session="hall")
        client.send_frame(0)
        session = ingest.start_session("hall")
        assert client.acked(0)["seq"] == 0
        session.close()
    assert {segment.path: segment.path.read_bytes() for segment in segments(folder)} == before
    assert "Traceback" not in ingest.log
