"""What CURVE costs: messages from a sender to a guarded ROUTER and to a plain one, on one machine.

    python -m benchmarks.curve [--seconds 3] [--json FILE]

Sender and receiver are processes of their own over loopback TCP, with the daemon's own gate and
allow-list on the receiving side. Sizes: a correction, a JPEG of a small frame, an uncompressed one.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import zmq

from streamer.access.daemon import ALLOWED, DAEMON, hand_out_own_keys, make_keys_folder, open_gate
from streamer.access.keys import ClientKeys, new_keypair, read_public, write_public
from streamer.hardware import hardware

SIZES = {"1 kB": 1 << 10, "64 kB": 1 << 16, "1 MB": 1 << 20}
WINDOW = 64
"""Messages under way at most, as a sender's credit has it."""


def send(address: str, keys: ClientKeys | None, size: int, seconds: float) -> None:
    """Messages for so long, never more than WINDOW unanswered; then one that ends it."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        if keys is not None:
            keys.apply(socket)
        socket.connect(address)
        body, waiting = bytes(size), 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            socket.send(body)
            waiting += 1
            if waiting == WINDOW:
                socket.recv()
                waiting -= 1
        while waiting:
            socket.recv()
            waiting -= 1
        socket.send(b"end")
        socket.recv()


def measure(folder: Path | None, size: int, seconds: float) -> dict[str, float]:
    """Messages and megabytes a second of one sender; with keys where there is a folder."""
    keys = None
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    gate = open_gate(context, folder, folder) if folder is not None else None
    router = context.socket(zmq.ROUTER)
    if gate is not None and folder is not None:
        pair = new_keypair()
        write_public(folder / ALLOWED / "ingest" / "bench.key", pair.public)
        keys = ClientKeys(pair, read_public(folder / f"{DAEMON}.key"))
        gate.guard(router, "ingest")
        # The list is read every second.
        time.sleep(1.5)
    router.bind("tcp://127.0.0.1:*")
    address = router.getsockopt_string(zmq.LAST_ENDPOINT)
    sender = multiprocessing.get_context("spawn").Process(
        target=send, args=(address, keys, size, seconds)
    )
    sender.start()
    count, begun = 0, 0.0
    while True:
        identity, body = router.recv_multipart(copy=False)
        router.send_multipart([identity.bytes, b""])
        if len(body) != size:
            break
        if gate is not None and "ingest" not in gate.rights(body):
            raise RuntimeError("the benchmark's own key was refused")
        begun = begun or time.monotonic()
        count += 1
    took = time.monotonic() - begun
    sender.join()
    router.close()
    if gate is not None:
        gate.close()
    context.term()
    return {"messages_per_s": count / took, "MB_per_s": count * size / took / 1e6}


def main() -> None:
    """Measures and prints; writes JSON where it is told to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {
        "hardware": hardware(),
        "zmq": zmq.zmq_version(),
        "load_average": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "keys"
        make_keys_folder(folder)
        hand_out_own_keys(folder, folder)
        load = results["load_average"]
        print(f"{results['hardware']}, libzmq {zmq.zmq_version()}, load {load:.1f} before")
        for label, size in SIZES.items():
            plain = measure(None, size, options.seconds)
            curve = measure(folder, size, options.seconds)
            results[label] = {"plain": plain, "curve": curve}
            print(
                f"{label:>6}: plain {plain['messages_per_s']:8.0f}/s {plain['MB_per_s']:7.1f} MB/s"
                f", CURVE {curve['messages_per_s']:8.0f}/s {curve['MB_per_s']:7.1f} MB/s"
            )
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
