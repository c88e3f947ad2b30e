"""The publisher's requests: exact snapshots, orders, and readers that hold nobody up."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgpack
import numpy as np
import pytest
import zmq
from map_strategies import random_similarity
from publisher_helpers import LIMIT_S, Feed, heard, running_publisher, serving, wait_for

from gs_decoder import MapMirror
from streamer.addresses import DaemonNotFound, find_daemon
from streamer.config import PublisherConfig
from streamer.protocol.links import SyncBegin, SyncEnd
from streamer.protocol.requests import KeyframeEntry
from streamer.protocol.update_headers import MoveHeader
from streamer.publisher.table import Change, ChunkTable
from streamer.requests import DaemonSilent, RequestRefused, Requests
from streamer.subscriber import Subscriber


def test_sessions_manifest_and_status(feed: Feed, requests: Requests) -> None:
    assert requests.sessions() == [] or requests.sessions()[0].session == "kitchen"
    for seed in (1, 2, 3):
        feed.perform(("add", seed, 10 * seed))
    feed.say_status(frames_in=9, frames_done=7, frames_waiting=2, splats=60, state="running")
    heard(requests, feed)
    wait_for(lambda: requests.sessions()[0].state == "running", "the status to arrive")
    (entry,) = requests.sessions()
    assert (entry.session, entry.epoch, entry.splats) == ("kitchen", 4, 60)
    manifest = requests.manifest("kitchen")
    assert (manifest.epoch, manifest.seq) == (4, 3)
    assert sorted(manifest.chunks) == sorted(feed.map.manifest())
    status = requests.status("kitchen")
    assert (status.frames_in, status.frames_done, status.frames_waiting) == (9, 7, 2)
    assert status.state == "running"


def test_a_snapshot_brings_only_what_differs(feed: Feed, requests: Requests) -> None:
    for seed in range(6):
        feed.perform(("add", seed, 10))
    heard(requests, feed)
    mirror = MapMirror()
    first = requests.snapshot("kitchen")
    assert (first.epoch, first.seq, len(first.updates)) == (4, 6, 6)
    for update in first.updates:
        mirror.apply(update)
    assert mirror.equals(feed.map)

    ids = sorted(feed.map.chunks)
    feed.map.drop([ids[0]])
    feed.map.move({ids[1]: random_similarity(77), ids[2]: random_similarity(78)})
    feed.publish()
    feed.perform(("replace", 3 + 5 * 7, 4))
    heard(requests, feed)
    second = requests.snapshot("kitchen", mirror.have(), 4)
    assert 2 <= len(second.updates) <= 3
    for update in second.updates:
        mirror.apply(update)
    assert mirror.equals(feed.map)
    assert requests.snapshot("kitchen", mirror.have(), 4).updates == []
    # What one has of another epoch says nothing about this one.
    assert len(requests.snapshot("kitchen", mirror.have(), 3).updates) == 5


def answer_to_manifest(requests: Requests, feed: Feed) -> list[int] | str:
    """The chunks that the publisher holds as exact, or the code of its refusal."""
    try:
        return sorted(chunk for chunk, *_ in requests.manifest(feed.name).chunks)
    except RequestRefused as error:
        return error.code


def begin_sync_and_stop(feed: Feed) -> None:
    """As a session whose SYNC_END was lost: one chunk of several, no end."""
    feed.say(SyncBegin(seq=feed.seq))
    feed.say_chunk(min(feed.map.chunks))


def test_half_of_a_second_sync_is_served_to_nobody(feed: Feed, requests: Requests) -> None:
    for seed in range(4):
        feed.perform(("add", seed, 10))
    heard(requests, feed)
    whole = answer_to_manifest(requests, feed)
    assert whole == sorted(feed.map.chunks)
    begin_sync_and_stop(feed)
    wait_for(lambda: answer_to_manifest(requests, feed) == "busy", "the half map to be withheld")
    feed.say(SyncEnd(seq=feed.seq, chunks=1))
    wait_for(lambda: answer_to_manifest(requests, feed) == [min(feed.map.chunks)], "the end")


@pytest.mark.parametrize("sign_of_life", ["hello", "status", "change"])
def test_a_sync_whose_end_is_lost_is_asked_for_again(
    feed: Feed, requests: Requests, sign_of_life: str
) -> None:
    for seed in range(4):
        feed.perform(("add", seed, 10))
    heard(requests, feed)
    asked = feed.resyncs
    begin_sync_and_stop(feed)
    if sign_of_life == "hello":
        feed.hello()
    elif sign_of_life == "status":
        feed.say_status()
    else:
        feed.perform(("add", 9, 10))

    def whole_again() -> bool:
        feed.serve()
        feed.hello()
        return answer_to_manifest(requests, feed) == sorted(feed.map.chunks)

    wait_for(whole_again, "the whole map")
    assert feed.resyncs > asked
    mirror = MapMirror()
    for update in requests.snapshot(feed.name).updates:
        mirror.apply(update)
    assert mirror.equals(feed.map)


def test_a_change_after_a_lost_end_still_reaches_who_listens(
    addresses: dict[str, str], feed: Feed, requests: Requests
) -> None:
    feed.perform(("add", 1, 10))
    heard(requests, feed)
    with Subscriber(**addresses, session=feed.name) as subscriber, serving(feed):
        wait_for(lambda: subscriber.poll(0.02) is not None and subscriber.synced, "the map")
        with feed.lock:
            begin_sync_and_stop(feed)
            feed.perform(("add", 2, 10))
        wait_for(
            lambda: subscriber.poll(0.02) is not None and subscriber.mirror.equals(feed.map),
            "the change",
        )


def in_step(subscriber: Subscriber, feed: Feed) -> bool:
    subscriber.poll(0.02)
    return subscriber.seq == feed.seq and subscriber.mirror.equals(feed.map)


def test_a_change_goes_out_first_and_whoever_joins_meanwhile_has_it_once(
    addresses: dict[str, str], feed: Feed, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        feed.perform(("add", seed, 10))
    heard(requests, feed)
    joins, may = threading.Event(), threading.Event()
    join = ChunkTable.join

    def held(table: ChunkTable, change: Change) -> None:
        joins.set()
        assert may.wait(LIMIT_S)
        join(table, change)

    with Subscriber(**addresses, session=feed.name) as early:
        wait_for(lambda: in_step(early, feed), "the map")
        monkeypatch.setattr(ChunkTable, "join", held)
        feed.map.move({chunk: random_similarity(77 + chunk) for chunk in feed.map.chunks})
        feed.publish()
        assert joins.wait(LIMIT_S)
        # The publisher's own table is without it as long as this test wants.
        wait_for(lambda: in_step(early, feed), "the move")
        with Subscriber(**addresses, session=feed.name) as late:
            # It subscribes and asks; nobody answers from half a change.
            assert late.poll(0.3) == []
            may.set()
            wait_for(lambda: in_step(late, feed), "the snapshot")
            assert late.snapshots == 1
            feed.perform(("add", 9, 10))
            for subscriber in (early, late):
                wait_for(lambda reader=subscriber: in_step(reader, feed), "what comes next")
            assert (early.snapshots, late.snapshots) == (1, 1)


def test_what_is_no_move_reaches_nobody(
    addresses: dict[str, str], feed: Feed, requests: Requests
) -> None:
    feed.perform(("add", 1, 10))
    heard(requests, feed)
    with Subscriber(**addresses, session=feed.name) as subscriber:
        wait_for(lambda: in_step(subscriber, feed), "the map")
        place = {"session": feed.name, "epoch": feed.epoch, "seq": feed.seq + 1}
        feed.say(MoveHeader(**place, moves=[(0, 99, [0.0] * 15)]))
        # The number is not used up: the next change has it, and nobody misses anything.
        feed.perform(("add", 2, 10))
        wait_for(lambda: in_step(subscriber, feed), "the next change")
        assert (feed.resyncs, subscriber.snapshots) == (0, 1)


def test_key_frames_with_and_without_thumbnails(feed: Feed, requests: Requests) -> None:
    entries = [
        KeyframeEntry(
            seq=seq,
            stamp_ns=1_700_000_000_000_000_000 + seq,
            camera="front",
            chunk=seq,
            c2w=random_similarity(seq).reshape(-1).tolist(),
        )
        for seq in (8, 3, 5)
    ]
    for entry in entries:
        feed.add_keyframe(entry)
    feed.perform(("add", 1, 3))
    heard(requests, feed)
    plain = requests.keyframes("kitchen")
    assert [k.seq for k in plain] == [3, 5, 8]
    assert all(k.thumbnail is None for k in plain)
    assert np.array_equal(plain[0].c2w, random_similarity(3))
    pictured = requests.keyframes("kitchen", thumbnails=True)
    assert [k.thumbnail for k in pictured] == [b"jpeg 3", b"jpeg 5", b"jpeg 8"]


def test_orders_go_to_the_session_and_its_answer_comes_back(feed: Feed, requests: Requests) -> None:
    heard(requests, feed)
    with serving(feed):
        requests.save("kitchen")
        requests.pause("kitchen")
        requests.resume("kitchen")
        with pytest.raises(RequestRefused, match="not now") as refused:
            requests.reset("kitchen")
    assert refused.value.code == "busy"
    assert feed.orders == ["save", "pause", "resume", "reset"]


def test_a_slow_reader_gets_its_snapshot_whole_and_holds_nobody_up(tmp_path: Path) -> None:
    config = PublisherConfig(answers_hwm=1)
    with running_publisher(tmp_path, config=config) as addresses:
        feed = Feed(tmp_path)
        with Subscriber(**addresses, session=feed.name) as subscriber:
            for seed in range(18):
                feed.perform(("add", seed, 20_000))
            with Requests(addresses["requests"]) as quick:
                heard(quick, feed)
                slow = zmq.Context.instance().socket(zmq.DEALER)
                slow.setsockopt(zmq.RCVHWM, 1)
                slow.setsockopt(zmq.RCVBUF, 65536)
                slow.setsockopt(zmq.LINGER, 0)
                slow.connect(addresses["requests"])
                ask = {"session": feed.name, "have": [], "epoch": 0, "id": 1}
                slow.send_multipart([b"SNAPSHOT", msgpack.packb(ask)])
                assert slow.poll(20_000), "no answer"
                # While the slow one reads nothing, others are served and updates go out.
                for number in range(5):
                    feed.perform(("move", number, 0))
                    heard(quick, feed)
                    quick.status(feed.name)
                wait_for(
                    lambda: (subscriber.poll(0.02), subscriber.mirror.equals(feed.map))[1],
                    "the updates to go on",
                )
                mirror = MapMirror()
                for update in quick.snapshot(feed.name).updates:
                    mirror.apply(update)
                assert mirror.equals(feed.map)
                kinds, megabytes = [], 0.0
                while not kinds or kinds[-1] != b"SNAPSHOT":
                    assert slow.poll(20_000), f"the snapshot stopped after {kinds}"
                    kind, header, *parts = slow.recv_multipart()
                    kinds.append(kind)
                    megabytes += sum(map(len, parts)) / 1e6
                    time.sleep(0.002)
                done = msgpack.unpackb(header)
                assert done["done"]
                assert done["messages"] == len(kinds) - 1 == 18
                assert done["seq"] == 18, "not exact at the moment it was asked for"
                assert megabytes > 20
                slow.close()
        feed.close()


def test_answers_that_nobody_takes_are_bounded_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.publisher.outbox.MAX_BYTES", 50_000_000)
    config = PublisherConfig(answers_hwm=1)
    with running_publisher(tmp_path, config=config) as addresses:
        feed = Feed(tmp_path)
        for seed in range(18):
            feed.perform(("add", seed, 20_000))
        with Requests(addresses["requests"]) as quick:
            heard(quick, feed)
            slow = zmq.Context.instance().socket(zmq.DEALER)
            slow.setsockopt(zmq.RCVHWM, 1)
            slow.setsockopt(zmq.RCVBUF, 65536)
            slow.setsockopt(zmq.LINGER, 0)
            slow.connect(addresses["requests"])
            for number in range(5):
                ask = {"session": feed.name, "have": [], "epoch": 0, "id": number}
                slow.send_multipart([b"SNAPSHOT", msgpack.packb(ask)])
            slow.send_multipart([b"STATUS", msgpack.packb({"session": feed.name, "id": 9})])
            assert slow.poll(20_000), "no answer"
            # Others are not asked to wait for it.
            assert quick.status(feed.name).session == feed.name
            done: list[int] = []
            while slow.poll(2000):
                kind, header, *_ = slow.recv_multipart()
                if kind == b"SNAPSHOT":
                    done.append(msgpack.unpackb(header)["id"])
                assert kind != b"STATUS"
            # 36 MB each: the second one goes beyond 50 MB, and is still made.
            assert done == [0, 1]
            slow.send_multipart([b"STATUS", msgpack.packb({"session": feed.name, "id": 10})])
            assert slow.poll(20_000)
            assert msgpack.unpackb(slow.recv_multipart()[1])["id"] == 10
            slow.close()
        feed.close()


def test_a_silent_address_is_named() -> None:
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    address = f"tcp://127.0.0.1:{port}"
    with Requests(address, timeout=0.1) as asker, pytest.raises(DaemonSilent, match=str(port)):
        asker.sessions()
    with pytest.raises(DaemonNotFound, match=str(port)):
        find_daemon(address, timeout=0.1)
    socket.close()


def test_either_address_finds_the_daemon(tmp_path: Path) -> None:
    for _ in range(20):
        with running_publisher(tmp_path) as free:
            updates = free["updates"]
        requests = f"tcp://127.0.0.1:{int(updates.rpartition(':')[2]) + 1}"
        try:
            with running_publisher(tmp_path, updates, requests) as addresses:
                for given in addresses.values():
                    found = find_daemon(given)
                    assert (found.updates, found.requests) == (updates, requests)
                short = find_daemon(updates.removeprefix("tcp://"))
                assert short.requests == requests
                return
        except ValueError:
            continue
    pytest.fail("no two neighbouring ports were free in 20 attempts")
