"""A guarded publisher and its readers: each right opens what it names and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from access_helpers import KeyFolder
from publisher_helpers import Feed, running_publisher, serving, wait_for

from streamer.access.daemon import own_keys
from streamer.addresses import DaemonNotFound, find_daemon
from streamer.requests import DaemonSilent, RequestRefused, Requests
from streamer.subscriber import Subscriber


@dataclass
class Served:
    """A publisher with keys and a session with a map."""

    run_dir: Path
    keys: KeyFolder
    updates: str
    requests: str
    feed: Feed


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("p")
    keys = KeyFolder(folder / "keys")
    run_dir = folder / "run"
    run_dir.mkdir()
    with running_publisher(run_dir, keys=keys.folder) as addresses:
        feed = Feed(run_dir)
        for seed in range(3):
            feed.perform(("add", seed, 20))
        with serving(feed):
            yield Served(run_dir, keys, addresses["updates"], addresses["requests"], feed)
        feed.close()


def let_in(requests: Requests) -> None:
    """A key that was just put on the list is known within a second."""

    def answered() -> bool:
        with suppress(DaemonSilent):
            requests.sessions()
            return True
        return False

    wait_for(answered, "the list to be read again")


def in_step(subscriber: Subscriber, served: Served) -> bool:
    subscriber.poll(0.02)
    if subscriber.trouble is not None:
        # In step by a snapshot, while its updates are still refused.
        return False
    return subscriber.synced and subscriber.mirror.equals(served.feed.map)


def refused(subscriber: Subscriber) -> bool:
    subscriber.poll(0.02)
    return "does not allow this key" in str(subscriber.trouble)


def test_who_may_watch_has_the_map_and_gives_no_orders(served: Served) -> None:
    keys = served.keys.client("watcher", "watch")
    with Requests(served.requests, timeout=10.0, keys=keys) as requests:
        let_in(requests)
        assert len(requests.manifest("room").chunks) == 3
        assert requests.status("room").session == "room"
        orders = (requests.pause, requests.resume, requests.save, requests.reset)
        for order in (*orders, requests.close_session):
            with pytest.raises(RequestRefused, match=r"no right to control.*allowed/control/"):
                order("room")
    with Subscriber(served.updates, served.requests, "room", keys=keys) as subscriber:
        wait_for(lambda: in_step(subscriber, served), "the map")
    assert served.feed.orders == []


def test_who_may_control_gives_orders_and_does_not_see_the_map(served: Served) -> None:
    keys = served.keys.client("operator", "control")
    with Requests(served.requests, timeout=10.0, keys=keys) as requests:
        let_in(requests)
        requests.pause("room")
        requests.resume("room")
        assert served.feed.orders[-2:] == ["pause", "resume"]
        assert requests.status("room").session == "room"
        for question in (requests.manifest, requests.snapshot, requests.export):
            with pytest.raises(RequestRefused, match=r"denied.*no right to watch"):
                question("room")
    with Subscriber(served.updates, served.requests, "room", keys=keys) as subscriber:
        wait_for(lambda: refused(subscriber), "a refusal")
        assert not subscriber.mirror.chunks


def test_who_may_control_some_sessions_orders_no_others_about(served: Served) -> None:
    keys = served.keys.client("cook", "control/kitchen", "control/lab-*")
    with Requests(served.requests, timeout=10.0, keys=keys) as requests:
        let_in(requests)
        before = list(served.feed.orders)
        orders = (requests.pause, requests.resume, requests.save, requests.reset)
        for order in (*orders, requests.close_session):
            with pytest.raises(RequestRefused, match=r"may control in kitchen, lab-\* alone"):
                order("room")
        assert served.feed.orders == before
        assert requests.status("room").session == "room"
        served.keys.allow("cook", keys.own, "control/ro*m")

        def paused() -> bool:
            with suppress(RequestRefused):
                requests.pause("room")
                return True
            return False

        wait_for(paused, "the list to be read again")
        requests.resume("room")
        assert served.feed.orders[-2:] == ["pause", "resume"]


def test_the_daemons_own_readers_are_always_let_in(served: Served) -> None:
    keys = own_keys(served.keys.folder, served.run_dir)
    assert keys is not None
    with Requests(served.requests, keys=keys) as requests:
        assert requests.sessions()[0].session == "room"


def test_a_wrong_key_is_an_error_that_says_what_to_check(served: Served) -> None:
    with (
        Requests(served.requests, keys=served.keys.stranger()) as requests,
        pytest.raises(DaemonSilent, match="does not allow this key"),
    ):
        requests.sessions()
    with (
        Requests(served.requests, timeout=0.5, keys=served.keys.deceived()) as requests,
        pytest.raises(DaemonSilent, match="is --server-key the present"),
    ):
        requests.sessions()
    plain = Requests(served.requests, timeout=1.0)
    with plain as requests, pytest.raises(DaemonSilent, match="--key"):
        requests.sessions()
    with pytest.raises(DaemonNotFound, match="does not allow this key"):
        find_daemon(served.requests, timeout=1.0, keys=served.keys.stranger())


def test_a_subscriber_gets_in_once_its_key_is_put_on_the_list(served: Served) -> None:
    keys = served.keys.stranger()
    with Subscriber(served.updates, served.requests, "room", keys=keys) as subscriber:
        wait_for(lambda: refused(subscriber), "a refusal")
        served.keys.allow("late", keys.own, "watch")
        wait_for(lambda: in_step(subscriber, served), "the map")
        served.feed.perform(("add", 77, 5))
        wait_for(lambda: in_step(subscriber, served), "the next change")


def test_a_revoked_subscriber_is_cut_off_and_the_others_miss_nothing(served: Served) -> None:
    stays, goes = served.keys.client("stays", "watch"), served.keys.client("goes", "watch")
    with Requests(served.requests, timeout=10.0, keys=goes) as requests:
        let_in(requests)
    with (
        Subscriber(served.updates, served.requests, "room", keys=stays) as one,
        Subscriber(served.updates, served.requests, "room", keys=goes) as other,
    ):
        for subscriber in (one, other):
            wait_for(lambda who=subscriber: in_step(who, served), "the map")
        served.keys.revoke("goes", "watch")
        wait_for(lambda: refused(other), "the revoked one to be refused")
        for seed in range(100, 104):
            served.feed.perform(("add", seed, 10))
        wait_for(lambda: in_step(one, served), "the other one to have everything")
        for _ in range(20):
            other.poll(0.02)
        assert not other.mirror.equals(served.feed.map)
    with (
        Requests(served.requests, timeout=10.0, keys=goes) as requests,
        pytest.raises(DaemonSilent, match="does not allow this key"),
    ):
        requests.manifest("room")
