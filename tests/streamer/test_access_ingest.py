"""A guarded ingest: the right to send, what a revoked key hears, and a flood of wrong keys."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import zmq
from access_helpers import KeyFolder, descriptors, resident_bytes, wait_for
from ingest_harness import IngestHarness, running_ingest
from raw_client import CAMERA, EYE, RawClient, jpeg

from streamer.access.keys import ClientKeys
from streamer.camera import CameraModel
from streamer.client import Client, ConnectionLostError, PoseClient, RefusedError
from streamer.health import ingest_problem

STRANGERS, DECEIVED, SILENT = 700, 300, 100
GROWTH_BYTES = (STRANGERS + DECEIVED + SILENT) << 16
"""A connection that was refused may not leave 64 kB behind. A first flood grows the heap by some
20 MB, a second one hardly, so this is far from both noise and a leak of what was received."""


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys")


@pytest.fixture
def robot(keys: KeyFolder) -> ClientKeys:
    return keys.client("robot", "ingest")


@pytest.fixture
def ingest(tmp_path: Path, keys: KeyFolder, robot: ClientKeys) -> Iterator[IngestHarness]:
    run_dir = tmp_path / "r"
    run_dir.mkdir()
    with running_ingest(run_dir, keys=keys.folder) as harness:
        yield harness


def sender(ingest: IngestHarness, keys: ClientKeys | None, **options: object) -> Client:
    camera = CameraModel.pinhole(CAMERA["width"], CAMERA["height"], *CAMERA["params"])
    return Client(
        ingest.address,
        session="kitchen",
        cameras={"front": camera},
        convention="opencv",
        keys=keys,
        **options,  # type: ignore[arg-type]
    )


def raw(ingest: IngestHarness, keys: ClientKeys) -> RawClient:
    return RawClient(ingest.address, (keys.own.public, keys.own.secret, keys.daemon))


def test_only_a_key_with_the_right_to_send_gets_in(
    ingest: IngestHarness, keys: KeyFolder, robot: ClientKeys
) -> None:
    with sender(ingest, robot) as client:
        assert client.connected
    watcher = keys.client("watcher", "watch", "control")
    for wrong, complaint in (
        (watcher, "does not allow this key"),
        (keys.stranger(), "does not allow this key"),
        (keys.deceived(), "is --server-key the present"),
        (None, "--key"),
    ):
        with pytest.raises(ConnectionLostError, match=complaint):
            sender(ingest, wrong, connect_timeout_s=1.0)
        with pytest.raises(ConnectionLostError, match=complaint):
            PoseClient(ingest.address, "kitchen", keys=wrong, timeout_s=1.0)
    with PoseClient(ingest.address, "kitchen", keys=robot) as corrector:
        assert corrector.send_poses(1, {0: EYE}).unknown == [0]


def test_a_client_of_pyzmq_alone_gets_in_by_its_three_keys(
    ingest: IngestHarness, robot: ClientKeys
) -> None:
    with raw(ingest, robot) as client:
        assert client.greet()["session"] == "kitchen"


def test_a_revoked_sender_is_refused_although_it_is_connected(
    ingest: IngestHarness, keys: KeyFolder, robot: ClientKeys
) -> None:
    with raw(ingest, robot) as client:
        client.greet()
        keys.revoke("robot", "ingest")

        def denied() -> bool:
            client.send("PING", {"t": 1.0})
            kind, header = client.receive("PONG", "ERROR")
            if kind == "ERROR":
                assert header["code"] == "denied" and "allowed/ingest/" in header["reason"]
            return kind == "ERROR"

        wait_for(denied, "the revoked key to be refused")


def test_a_key_for_some_sessions_sends_into_no_others(
    ingest: IngestHarness, keys: KeyFolder
) -> None:
    """Nor does it correct them or take them over, whether they are there or not."""
    owner_key = keys.client("owner", "ingest")
    robot = keys.client("limited", "ingest/kitchen", "ingest/lab-*")
    wait_for(lambda: "the allow-list changed: 4 keys" in ingest.log, "the keys to be read")
    with raw(ingest, owner_key) as owner, raw(ingest, robot) as client:
        assert owner.greet(session="garage", client="owner")["session"] == "garage"
        for session in ("kitchen", "lab-7"):
            assert client.greet(session=session)["session"] == session
        for session in ("garage", "cellar", "kitchen2"):
            for changes in ({}, {"role": "poses"}, {"client": "owner", "resume": True}):
                refusal = client.refused(session=session, **changes)
                assert refusal["code"] == "denied"
                assert "may ingest in kitchen, lab-* alone" in refusal["reason"]
                assert f"allowed/ingest/{session}/" in refusal["reason"]
        assert ingest_problem(ingest.address, 5.0, robot) is None, "a health check is let in"
        client.send_frame(0)
        assert client.receive("ERROR")[1]["code"] == "no_hello", "a refused HELLO opens nothing"
        owner.send("PING", {"t": 1.0})
        assert owner.receive("PONG", "ERROR")[0] == "PONG", "its session is still its own"
    with pytest.raises(RefusedError, match=r"may ingest in kitchen, lab-\* alone"):
        PoseClient(ingest.address, "garage", keys=robot)


def test_a_sender_whose_session_is_taken_off_the_list_is_refused_although_it_is_connected(
    ingest: IngestHarness, keys: KeyFolder
) -> None:
    robot = keys.client("limited", "ingest/kitchen", "ingest/lab")
    wait_for(lambda: "the allow-list changed" in ingest.log, "the key to be read")
    with raw(ingest, robot) as client:
        client.greet()
        keys.revoke("limited", "ingest/kitchen")

        def denied() -> bool:
            client.send("PING", {"t": 1.0})
            kind, header = client.receive("PONG", "ERROR")
            if kind == "ERROR":
                assert header["code"] == "denied" and "may ingest in lab alone" in header["reason"]
            return kind == "ERROR"

        wait_for(denied, "the session to be refused")


def test_the_system_asks_silent_senders_whether_they_are_still_there(
    ingest: IngestHarness, robot: ClientKeys
) -> None:
    port = int(ingest.address.rpartition(":")[2])

    def timers() -> list[str]:
        # Columns of proc_net_tcp: local address, state (01: established), timer (02: keepalive).
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        ours = [row for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"]
        return [row[5].partition(":")[0] for row in ours]

    with sender(ingest, robot):
        wait_for(lambda: timers() == ["02"], "the connection to have nothing else to wait for")


def raise_descriptor_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(f"this machine allows {hard} file descriptors, the flood needs {wanted}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def flood(ingest: IngestHarness, keys: KeyFolder) -> Iterator[None]:
    """Connections with unknown keys, with another daemon's key, and ones that say nothing."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 2 * (STRANGERS + DECEIVED))
    where = urlsplit(ingest.address)
    wrong = [keys.stranger() for _ in range(STRANGERS)]
    wrong += [keys.deceived() for _ in range(DECEIVED)]
    with contextlib.ExitStack() as stack:
        for keys_of_one in wrong:
            # libzmq makes one connection of several by one socket to one address.
            dealer = stack.enter_context(context.socket(zmq.DEALER))
            dealer.setsockopt(zmq.LINGER, 0)
            keys_of_one.apply(dealer)
            dealer.connect(ingest.address)
        for _ in range(SILENT):
            address = (where.hostname, where.port)
            stack.enter_context(socket.create_connection(address, timeout=10))
        yield
    context.term()


def test_a_thousand_wrong_keys_leave_the_stream_alone(
    ingest: IngestHarness, keys: KeyFolder, robot: ClientKeys
) -> None:
    raise_descriptor_limit(4096)
    assert ingest.process is not None
    pid = ingest.process.pid
    with sender(ingest, robot, strict=True) as client:

        def send(first: int, count: int) -> None:
            for seq in range(first, first + count):
                assert client.send(jpeg(seq), EYE, stamp_ns=seq) == seq
            assert client.wait(20.0), "frames are settled beside the flood"
            session.take_until(first + count - 1)

        client.send(jpeg(0), EYE, stamp_ns=0)
        session = ingest.start_session()
        session.take_until(0)
        send(1, 20)
        before = descriptors(pid), resident_bytes(pid)
        with flood(ingest, keys):
            wait_for(lambda: "512 so far" in ingest.log, "the flood to be refused")
            wait_for(lambda: descriptors(pid) >= before[0] + SILENT, "the silent ones to be let in")
            send(21, 40)
        wait_for(lambda: descriptors(pid) <= before[0], "every descriptor to be given back")
        assert resident_bytes(pid) - before[1] < GROWTH_BYTES
        send(61, 10)
        assert session.seqs == list(range(71)), "every frame once, in order"
        assert client.connects == 1, "the sender was never cut off"
        assert ingest.log.count("refused on ingest") <= 12
    session.close()
