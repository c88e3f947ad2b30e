"""Mirror a map that a daemon is building, and look at it from where the camera was.

Start a daemon and send it something first:

    ./run serve
    ./run push examples/office --to tcp://127.0.0.1:5555

then, in any other process, here or on another machine:

    python examples/04_mirror_and_render.py --out view.png

Shows: a Subscriber keeps an exact copy of the map (it joins late by a snapshot and repairs what
it missed), key frames can be asked for, and a copy is rendered locally, without the daemon.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from streamer import Subscriber


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--updates", default="tcp://127.0.0.1:5556")
    parser.add_argument("--requests", default=None, help="by default one port above --updates")
    parser.add_argument("--session", default=None, help="by default the first one heard of")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to follow the map")
    parser.add_argument("--out", type=Path, default=Path("view.png"))
    arguments = parser.parse_args()

    with Subscriber(arguments.updates, arguments.requests, arguments.session) as subscriber:
        for _ in range(max(1, int(arguments.seconds))):
            changes = subscriber.poll(timeout=1.0)
            touched = set().union(*(change.chunks for change in changes))
            print(
                f"{subscriber.session}: {len(touched)} chunks changed, "
                f"{subscriber.mirror.count:,} splats at seq {subscriber.seq}"
            )
        keyframes = subscriber.keyframes()
        if not keyframes:
            raise SystemExit("the daemon has no map yet: send it frames first")

        # A view from the newest key frame, 70 degrees wide.
        width, height = 480, 360
        focal = width / 2 / np.tan(np.radians(35))
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        render = subscriber.render(keyframes[-1].c2w, K, width, height)

    picture = (render.rgb.clamp(0, 1) * 255).byte().numpy()
    cv2.imwrite(str(arguments.out), picture[..., ::-1])
    print(f"{arguments.out}: {float(render.alpha.mean()):.0%} of it covered by the map")


if __name__ == "__main__":
    main()
