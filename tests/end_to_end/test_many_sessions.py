"""Two sessions in one daemon: one dies beside the other, one ends and comes back."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from daemon_children import children
from live_daemon import (
    OFFICE,
    client,
    daemon,
    end,
    frames_done,
    in_step,
    requests,
    run_folders,
    send,
    subscriber,
    wait_until,
)

from streamer import Client, SessionBusyError, Subscriber
from streamer.cli import dispatch
from streamer.daemon_process import DaemonProcess

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc"),
    pytest.mark.timeout(300),
]
NAMES = ("attic", "hall")
FRAMES = OFFICE.frames[:12]


@contextmanager
def streaming(sender: Client) -> Iterator[list[int]]:
    """Frames go in one after the other, over and over, until the block ends; their count."""
    sent = [0]
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(0.25):
            send(sender, [FRAMES[sent[0] % len(FRAMES)]])
            sent[0] += 1

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def test_one_dies_one_ends_and_the_other_does_not_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with daemon(tmp_path / "sessions", max_sessions=2) as served:
        with requests(served) as asking, ExitStack() as stack:
            senders = {name: stack.enter_context(client(served, name)) for name in NAMES}
            readers = {name: stack.enter_context(subscriber(served, name)) for name in NAMES}
            for sender in senders.values():
                send(sender, FRAMES[:4])
            for name in NAMES:
                wait_until(lambda name=name: frames_done(asking, name) == 4, f"{name} to run")
                wait_until(lambda name=name: in_step(readers[name], asking, name), f"{name}'s map")
            snapshots = {name: reader.snapshots for name, reader in readers.items()}
            entries = {entry.session: entry for entry in asking.sessions()}
            frames_in = {name: entry.frames_in for name, entry in entries.items()}
            assert frames_in == dict.fromkeys(NAMES, 4)

            with pytest.raises(SessionBusyError, match="splatstream sessions close NAME"):
                client(served, "loft")

            with ExitStack() as streams:
                sent = {n: streams.enter_context(streaming(s)) for n, s in senders.items()}
                victim, other = one_dies(served, readers)
                before = frames_done(asking, other)
                wait_until(lambda: frames_done(asking, other) > before + 4, f"{other} goes on")
                wait_until(lambda: asking.status(victim).state != "lost", "the next process")
            for name, sender in senders.items():
                assert sender.wait(60)
                # Every frame once, also of the one that died.
                total = 4 + sent[name][0]
                wait_until(lambda n=name, t=total: frames_done(asking, n) == t, f"all of {name}")
                wait_until(lambda n=name: in_step(readers[n], asking, n), f"a mirror of {name}")
            # The same process all along, and no gap in what it published.
            assert readers[other].seq < 1 << 32
            assert readers[other].snapshots == snapshots[other]
            assert readers[victim].seq > 1 << 32

            comes_back_after_close(served, readers, senders, capsys)
        end(served, signal.SIGINT)
        assert served.wait() in (0, 130)
        assert run_folders(served.pid) == []


def one_dies(served: DaemonProcess, readers: dict[str, Subscriber]) -> tuple[str, str]:
    """SIGKILL to one session's process; whose it was, and the other."""
    pid = children(served.pid)["session"][0]
    os.kill(pid, signal.SIGKILL)
    lost: list[str] = []

    def told() -> bool:
        for name, reader in readers.items():
            reader.poll(0.02)
            if reader.status is not None and reader.status.state == "lost":
                lost.append(name)
        return bool(lost)

    wait_until(told, "a session to be lost")
    (victim,) = set(lost)
    (other,) = (name for name in NAMES if name != victim)
    return victim, other


def comes_back_after_close(
    served: DaemonProcess,
    readers: dict[str, Subscriber],
    senders: dict[str, Client],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An operator closes a session, a reader brings it back, its sender goes on."""
    server = served.addresses["requests"]
    reader, sender = readers["hall"], senders["hall"]
    close = ["sessions", "close", "hall", "--server", server]
    assert dispatch(close) == 2
    assert "sends into 'hall'" in capsys.readouterr().err
    sender.close()
    wait_until(lambda: dispatch(close) == 0, "the session to end")
    wait_until(lambda: (reader.poll(0.05), reader.status.state == "ended")[1], "its subscriber")
    wait_until(lambda: len(children(served.pid)["session"]) <= 2, "its process to be gone")
    capsys.readouterr()
    assert dispatch(["sessions", "list", "--server", server]) == 0
    listing = capsys.readouterr().out
    assert "attic" in listing and "hall" not in listing

    known, counters = reader.mirror.manifest(), reader.status
    with requests(served) as asking:
        asking.wake("hall")
        wait_until(lambda: in_step(reader, asking, "hall"), "the map of the session that is back")
        status = asking.status("hall")
        assert (status.epoch, status.frames_in) == (counters.epoch, counters.frames_in)
        revisions = {chunk: revision for chunk, _, revision, _ in reader.mirror.manifest()}
        assert all(revisions.get(chunk, revision) >= revision for chunk, _, revision, _ in known)
        with client(served, "hall", resume=True) as again:
            send(again, FRAMES[:4])
            assert again.wait(60)
        done = counters.frames_in + 4
        wait_until(lambda: frames_done(asking, "hall") == done, "new frames")
        assert asking.status("hall").epoch == counters.epoch
