"""A SLAM back end: a process that never sent a frame closes a loop and moves the map.

Start a daemon and send it something first:

    ./run serve
    ./run push examples/office --to tcp://127.0.0.1:5555

then:

    python examples/03_correct_poses.py --drift 0.25

It follows the map, asks which frames it was built from, finds (here: pretends to find) that the
trajectory has drifted, and sends corrected poses of a few frames by their stamps. Chunks move,
those between the corrected frames by interpolation, and no splat is sent again for it: a new pose
per chunk is all that comes. (While the daemon refines, it goes on sending the chunks it improves;
what it prints as sent anew are those.)
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from streamer import PoseClient, Subscriber


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--to", default="tcp://127.0.0.1:5555", help="the daemon's ingest")
    parser.add_argument("--updates", default="tcp://127.0.0.1:5556")
    parser.add_argument("--requests", default=None, help="by default one port above --updates")
    parser.add_argument("--session", default=None, help="by default the first one heard of")
    parser.add_argument("--drift", type=float, default=0.25, help="metres, at the last key frame")
    arguments = parser.parse_args()

    with Subscriber(arguments.updates, arguments.requests, arguments.session) as subscriber:
        follow(subscriber, lambda: len(subscriber.mirror.chunks) >= 2)
        assert subscriber.session is not None
        keyframes = sorted(subscriber.keyframes(), key=lambda frame: frame.stamp_ns)
        before = places(subscriber)
        # The drift grows along the way; the first frame is where it was.
        corrected = {}
        for index in (0, len(keyframes) // 2, len(keyframes) - 1):
            pose = keyframes[index].c2w.copy()
            pose[0, 3] -= arguments.drift * index / (len(keyframes) - 1)
            corrected[keyframes[index].stamp_ns] = pose

        # The daemon publishes poses with OpenCV axes, whatever the sender's convention was.
        with PoseClient(arguments.to, subscriber.session, convention="opencv") as corrections:
            revision = time.time_ns() // 1_000_000
            ack = corrections.send_poses(revision, corrected, by="stamp")
        print(f"{ack.moved} chunks move, {len(ack.unknown)} stamps were unknown")

        if ack.moved == 0:
            raise SystemExit("nothing to move")
        came = follow(subscriber, lambda: not np.allclose(shift(before, subscriber).max(), 0))
        distances = shift(before, subscriber)
    print(
        f"moved by {distances.min():.3f} to {distances.max():.3f} m; {len(came['move'])} chunks by "
        f"their poses alone, {len(came['chunk'])} came anew from refinement meanwhile"
    )


def follow(subscriber: Subscriber, condition, seconds: float = 60.0) -> dict[str, set[int]]:
    """Apply updates until the condition holds; the chunks that came, by kind of update."""
    came: dict[str, set[int]] = {"move": set(), "chunk": set()}
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise SystemExit("nothing comes: is the daemon there, and was it sent frames?")
        for change in subscriber.poll(timeout=0.5):
            came.setdefault(change.kind, set()).update(change.chunks)
    return came


def places(subscriber: Subscriber) -> dict[int, np.ndarray]:
    """Where each chunk stands in the world."""
    return {i: chunk.T_world_chunk[:3, 3].copy() for i, chunk in subscriber.mirror.chunks.items()}


def shift(before: dict[int, np.ndarray], subscriber: Subscriber) -> np.ndarray:
    """How far each chunk has moved, metres."""
    now = places(subscriber)
    return np.array([np.linalg.norm(now[i] - place) for i, place in before.items() if i in now])


if __name__ == "__main__":
    main()
