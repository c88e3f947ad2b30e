"""How the parts of the ingest answer a connection."""

from __future__ import annotations

from collections.abc import Callable

from streamer.protocol import Header

Reply = Callable[[bytes, Header], None]
"""Sends a header to a connection, by its identity."""
