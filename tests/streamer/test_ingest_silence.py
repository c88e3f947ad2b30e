"""Who may take a session over, and when: by the clock, which a test cannot wait for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_client import RawClient

from streamer.config import ServeConfig
from streamer.ingest import takeover
from streamer.ingest.service import IngestService


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An ingest in this process, with little patience."""
    monkeypatch.setattr(takeover, "SILENCE_S", 2.0)
    service = IngestService(
        tmp_path, ServeConfig(ingest="tcp://127.0.0.1:*", session_dir=tmp_path / "sessions")
    )
    thread = threading.Thread(target=service.run)
    thread.start()
    yield service.address
    service.stop()
    thread.join()
    service.close()


def test_a_silent_sender_may_be_replaced_and_is_not_cut_off_before(address: str) -> None:
    with RawClient(address) as first, RawClient(address) as second:
        first.greet(client="first")
        assert second.refused(client="second")["code"] == "busy"
        assert first.silent(2.3)
        # Silence alone takes nothing from it ...
        first.send("PING", {"t": 1})
        assert first.receive() == ("PONG", {"t": 1})
        assert second.refused(client="second")["code"] == "busy"
        # ... but another one may come now.
        assert first.silent(2.3)
        second.greet(client="second")
        first.send("PING", {"t": 2})
        assert first.receive()[1]["code"] == "no_hello"
