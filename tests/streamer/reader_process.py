"""A subscriber as a process of its own: it says on stdout what it has, until stdin ends.

    python reader_process.py UPDATES REQUESTS SESSION

One JSON object a line: `seq`, `snapshots`, and the `chunks` that changed since the line before. The
last one has `digest` as well, of all that the map holds.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator

from gs_decoder import MapMirror
from streamer import Subscriber


def digest(mirror: MapMirror) -> str:
    """Of every chunk, to the bit."""
    sums = hashlib.sha256()
    for identity in sorted(mirror.chunks):
        chunk = mirror.chunks[identity]
        arrays = chunk.splats.to_numpy()
        sums.update(repr(chunk.header()).encode())
        for array in (chunk.T_world_chunk, chunk.aabb, *(arrays[name] for name in sorted(arrays))):
            sums.update(array.tobytes())
    return sums.hexdigest()


def news(reader: Subscriber, ended: threading.Event) -> Iterator[dict[str, object]]:
    """Follow the session until `ended`: `seq`, `snapshots` and the `chunks` that changed, whenever
    the reader has more."""
    said = (-1, -1)
    while not ended.is_set():
        chunks = sorted({chunk for change in reader.poll(0.05) for chunk in change.chunks})
        if reader.synced and (reader.seq, reader.snapshots) != said:
            said = (reader.seq, reader.snapshots)
            yield {"seq": reader.seq, "snapshots": reader.snapshots, "chunks": chunks}


def main(updates: str, requests: str, session: str) -> None:
    """Follow the session."""
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    with Subscriber(updates, requests, session) as reader:
        for line in news(reader, ended):
            print(json.dumps(line), flush=True)
        print(json.dumps({"digest": digest(reader.mirror)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
