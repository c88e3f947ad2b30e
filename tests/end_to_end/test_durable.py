"""A whole daemon is killed: its successor tells everybody what was acknowledged."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from live_daemon import (
    OFFICE,
    client,
    daemon,
    frames_done,
    in_step,
    requests,
    send,
    subscriber,
    wait_until,
    whole_map,
)

from streamer.journal import FrameEntry, read_journal

SESSION = "office"


def test_nothing_acknowledged_is_lost_with_the_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path, max_sessions=1) as first, requests(first) as asking:
        sender = client(first, SESSION)
        send(sender, OFFICE.frames[:7])
        assert sender.wait(60)
        acked = sender.acked
        wait_until(lambda: asking.status(SESSION).keyframes >= 1, "a key frame")
        before = asking.status(SESSION)
        os.kill(first.pid, signal.SIGKILL)
        first.wait(10)
    # It is ready with that one session, where no further one is allowed.
    with daemon(tmp_path, max_sessions=1) as second, requests(second) as asking:
        # Nobody sends: the session that ran comes back by itself, in its epoch.
        wait_until(lambda: frames_done(asking, SESSION) == acked + 1 == 7, "the journal")
        after = asking.status(SESSION)
        assert after.epoch == before.epoch
        assert after.seq > before.seq
        assert (after.frames_in, after.frames_waiting, after.durable) == (7, 0, True)
        with client(second, SESSION, resume=True) as sender:
            send(sender, OFFICE.frames[7:9])
            assert sender.wait(60)
            assert sender.acked == 8
        with subscriber(second, SESSION) as reader:
            wait_until(lambda: frames_done(asking, SESSION) == 9, "what came later")
            wait_until(lambda: in_step(reader, asking, SESSION), "the same seq")
            assert reader.mirror.equals(whole_map(asking, SESSION))
    seqs = [
        one.entry.header.seq
        for one in read_journal(tmp_path / SESSION)
        if isinstance(one.entry, FrameEntry)
    ]
    assert seqs == list(range(9))
