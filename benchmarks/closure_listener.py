"""Notes when messages come to a subscriber's socket: `closure_listener.py ADDRESS TOPIC`.

A process of its own, so that nothing but the way there is measured: prints a line once it listens,
then `time.perf_counter()` of each message, which all processes of a Linux machine share. Ends when
its input does.
"""

from __future__ import annotations

import sys
import time

import zmq


def main(address: str, topic: str) -> None:
    """Listen."""
    socket = zmq.Context.instance().socket(zmq.SUB)
    socket.setsockopt_string(zmq.SUBSCRIBE, topic)
    socket.connect(address)
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(sys.stdin, zmq.POLLIN)
    print("listening", flush=True)
    while sys.stdin.fileno() not in (ready := dict(poller.poll())):
        assert socket in ready
        socket.recv_multipart(copy=False)
        print(time.perf_counter(), flush=True)
    socket.close(linger=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
