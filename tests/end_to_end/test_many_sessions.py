"""Several sessions in one daemon: one dies beside others, one ends and comes back."""

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
    frames_done,
    in_step,
    requests,
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
NAMES = ("attic", "cellar", "hall")
FRAMES = OFFICE.frames[:12]


@contextmanager
def streaming(sender: Client) -> Iterator[list[int]]:
    """Frames go in one after the other, over and over, until the block ends; their count."""
    sent = [0]
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(0.1):
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


def test_one_dies_one_ends_and_the_others_do_not_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        daemon(tmp_path / "sessions", max_sessions=3) as served,
        requests(served) as asking,
        ExitStack() as stack,
    ):
        senders = {name: stack.enter_context(client(served, name)) for name in NAMES}
        readers = {name: stack.enter_context(subscriber(served, name)) for name in NAMES}
        for sender in senders.values():
            send(sender, FRAMES[:4])
        for name in NAMES:
            wait_until(lambda name=name: frames_done(asking, name) == 4, f"{name} to run")
            wait_until(lambda name=name: in_step(readers[name], asking, name), f"its map, {name}")
        snapshots = {name: reader.snapshots for name, reader in readers.items()}
        entries = {entry.session: entry for entry in asking.sessions()}
        assert {name: entry.frames_in for name, entry in entries.items()} == dict.fromkeys(NAMES, 4)

        with pytest.raises(SessionBusyError, match="splatstream sessions close NAME"):
            client(served, "loft")

        with ExitStack() as streams:
            sent = {n: streams.enter_context(streaming(s)) for n, s in senders.items()}
            victim, *others = one_dies(served, asking, readers)
            before = {name: frames_done(asking, name) for name in others}
            for name in others:
                wait_until(lambda n=name: frames_done(asking, n) > before[n] + 8, f"{name} goes on")
            wait_until(lambda: asking.status(victim).state != "lost", "the next process")
        for name, sender in senders.items():
            assert sender.wait(60)
            # Every frame once, also of the one that died.
            total = 4 + sent[name][0]
            wait_until(lambda n=name, t=total: frames_done(asking, n) == t, f"all of {name}")
            wait_until(lambda n=name: in_step(readers[n], asking, n), f"a mirror of {name}")
        for name in others:
            # The same process all along, and no gap in what it published.
            assert readers[name].seq < 1 << 32
            assert readers[name].snapshots == snapshots[name]
        assert readers[victim].seq > 1 << 32

        comes_back_after_close(served, readers, senders, capsys)


def one_dies(
    served: DaemonProcess, asking: object, readers: dict[str, Subscriber]
) -> tuple[str, str, str]:
    """SIGKILL to one session's process; whose it was, and the others."""
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
    first, second = (name for name in NAMES if name != victim)
    return victim, first, second


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
    wait_until(lambda: len(children(served.pid)["session"]) <= 3, "its process to be gone")
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
