"""A subscriber ends up with the session's map, splat for splat, whatever was lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from map_strategies import operations
from publisher_helpers import Feed, LossyLine, running_publisher, serving, wait_for

from streamer.config import PublisherConfig
from streamer.subscriber import Subscriber

Step = tuple[str, int, int]


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    run_dir = tmp_path_factory.mktemp("run")
    with running_publisher(run_dir) as addresses:
        yield run_dir, addresses


_names = iter(range(1_000_000))


def fresh_feed(run_dir: Path) -> Feed:
    return Feed(run_dir, f"room-{next(_names)}")


def catch_up(subscriber: Subscriber, feed: Feed) -> None:
    def equal() -> bool:
        subscriber.poll(0.02)
        return (
            subscriber.synced
            and (subscriber.epoch, subscriber.seq) == (feed.epoch, feed.seq)
            and subscriber.mirror.equals(feed.map)
        )

    wait_for(equal, f"the mirror to equal the map at seq {feed.seq}")


BOUNDED = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@BOUNDED
@given(steps=operations, joins=st.integers(0, 12))
def test_joining_late_equals_being_there_from_the_start(
    publisher: tuple[Path, dict[str, str]], steps: list[Step], joins: int
) -> None:
    run_dir, addresses = publisher
    feed = fresh_feed(run_dir)
    with Subscriber(**addresses, session=feed.name) as early:
        catch_up(early, feed)
        for step in steps[:joins]:
            feed.perform(step)
        with Subscriber(**addresses, session=feed.name) as late:
            for step in steps[joins:]:
                feed.perform(step)
            catch_up(late, feed)
            catch_up(early, feed)
    feed.close()


@BOUNDED
@given(
    steps=st.lists(operations, min_size=1, max_size=3),
    losses=st.sets(st.integers(1, 40)),
)
def test_losses_are_repaired(
    publisher: tuple[Path, dict[str, str]], steps: list[list[Step]], losses: set[int]
) -> None:
    run_dir, addresses = publisher
    feed = fresh_feed(run_dir)
    line = LossyLine(addresses["updates"], losses.__contains__)
    with Subscriber(line.address, addresses["requests"], feed.name) as subscriber:
        catch_up(subscriber, feed)
        for some in steps:
            for step in some:
                feed.perform(step)
                subscriber.poll(0)
            if feed.seq % 3 == 2:
                feed.begin_epoch()
        catch_up(subscriber, feed)
    line.close()
    feed.close()


def test_what_is_held_for_a_snapshot_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit is a gap like any other."""
    monkeypatch.setattr("streamer.subscriber.MAX_HELD_BYTES", 1)
    with running_publisher(tmp_path) as addresses:
        feed = Feed(tmp_path)
        line = LossyLine(addresses["updates"], lambda number: number % 3 == 0)
        with Subscriber(line.address, addresses["requests"], feed.name) as subscriber:
            for seed in range(20):
                feed.perform(("add", seed, 50))
                subscriber.poll(0.02)
            catch_up(subscriber, feed)
            assert subscriber.snapshots > 1
        assert line.lost
        line.close()
        feed.close()


def test_a_reader_that_did_not_look_for_long_catches_up(tmp_path: Path) -> None:
    config = PublisherConfig(updates_hwm=2)
    with running_publisher(tmp_path, config=config) as addresses:
        feed = Feed(tmp_path)
        with Subscriber(**addresses, session=feed.name, hwm=2) as subscriber:
            catch_up(subscriber, feed)
            # 18 x 2.5 MB do not fit into four messages and the socket buffers.
            for number in range(18):
                feed.perform(("add", number, 20_000))
            before = subscriber.snapshots
            catch_up(subscriber, feed)
            assert subscriber.snapshots > before, "nothing was lost: the test shows nothing"
        feed.close()


def test_a_higher_epoch_resets_and_a_lower_one_is_ignored(tmp_path: Path) -> None:
    with running_publisher(tmp_path) as addresses:
        feed = Feed(tmp_path, epoch=5)
        with Subscriber(**addresses, session=feed.name) as subscriber:
            feed.perform(("add", 1, 10))
            catch_up(subscriber, feed)
            feed.begin_epoch()
            feed.perform(("add", 2, 7))
            catch_up(subscriber, feed)
            assert subscriber.epoch == 6
            held = subscriber.mirror.have()
            stale = Feed(tmp_path, epoch=2)
            stale.perform(("add", 3, 5))
            stale.close()
            for _ in range(20):
                subscriber.poll(0.01)
            assert (subscriber.epoch, subscriber.mirror.have()) == (6, held)
        feed.close()


def test_a_publisher_that_started_again_is_filled_by_the_session(tmp_path: Path) -> None:
    with running_publisher(tmp_path) as addresses:
        feed = Feed(tmp_path)
        subscriber = Subscriber(**addresses, session=feed.name)
        for number in range(5):
            feed.perform(("add", number, 12))
        catch_up(subscriber, feed)
    feed.perform(("move", 9, 0))
    feed.perform(("drop", 3, 0))
    with running_publisher(tmp_path, **addresses), serving(feed):
        catch_up_with_hello(subscriber, feed)
        with Subscriber(**addresses, session=feed.name) as late:
            catch_up(late, feed)
    assert feed.resyncs >= 1
    subscriber.close()
    feed.close()


def catch_up_with_hello(subscriber: Subscriber, feed: Feed) -> None:
    feed.hello()
    catch_up(subscriber, feed)


def test_without_a_name_the_first_session_is_followed(tmp_path: Path) -> None:
    with running_publisher(tmp_path) as addresses, Subscriber(**addresses) as subscriber:
        assert subscriber.poll(0.05) == []
        assert subscriber.session is None
        wait_for(lambda: (subscriber.poll(0.05), subscriber.connected)[1], "a heartbeat")
        feed = Feed(tmp_path, "attic")
        feed.perform(("add", 1, 10))
        catch_up(subscriber, feed)
        assert subscriber.session == "attic"
        feed.close()


def test_f16_and_max_splats_only_when_asked(tmp_path: Path) -> None:
    with running_publisher(tmp_path) as addresses:
        feed = Feed(tmp_path)
        for number in range(3):
            feed.perform(("add", number, 20))
        with Subscriber(**addresses, session=feed.name) as everything:
            # From now on there is nothing more to hear: what comes, comes by snapshot.
            catch_up(everything, feed)
        with Subscriber(**addresses, session=feed.name, max_splats=30) as some:
            wait_for(lambda: some.poll(0.02) is not None and some.synced, "a cut snapshot")
            assert some.mirror.count == 30
            assert some.splats_world().count == 30
            for identity, chunk in some.mirror.chunks.items():
                whole = feed.map.chunks[identity].splats
                assert chunk.splats.equals(whole.select(slice(0, 10)))
        with Subscriber(**addresses, session=feed.name, codec="f16") as half:
            wait_for(lambda: half.poll(0.02) is not None and half.synced, "a half snapshot")
            assert half.mirror.count == 60
            assert not half.mirror.equals(feed.map)
        feed.close()


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(ValueError, match="codec: 'spz'"):
        Subscriber(codec="spz")
