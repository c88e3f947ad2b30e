"""A publisher, a session that feeds it, and a reader that asks, for whoever has none of his own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from publisher_helpers import Feed, running_publisher

from streamer.requests import Requests


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Feed]:
    feed = Feed(tmp_path, "kitchen", epoch=4)
    yield feed
    feed.close()


@pytest.fixture
def addresses(tmp_path: Path) -> Iterator[dict[str, str]]:
    with running_publisher(tmp_path) as addresses:
        yield addresses


@pytest.fixture
def requests(addresses: dict[str, str]) -> Iterator[Requests]:
    with Requests(addresses["requests"]) as requests:
        yield requests
