"""Send frames from a robot's loop.

Start a daemon first (`./run serve`), then:

    python examples/01_send_frames.py

The robot is a replay of the office capture here; what a robot of yours needs is the block that
begins with `with Client`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from streamer import Camera, Client

OFFICE = Path(__file__).parent / "office"


class Robot:
    """Something with a calibrated camera and a pose for every picture."""

    def __init__(self, rate: float) -> None:
        self._record = json.loads((OFFICE / "transforms.json").read_text())
        self._rate = rate
        names = ("fl_x", "fl_y", "cx", "cy")
        fx, fy, cx, cy = (self._record[name] for name in names)
        self.camera = Camera.pinhole(self._record["w"], self._record["h"], fx, fy, cx, cy)

    def frames(self) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """(H, W, 3) RGB, (4, 4) camera-to-world with OpenGL axes, time in nanoseconds."""
        for frame in self._record["frames"]:
            bgr = cv2.imread(str(OFFICE / frame["file_path"]))
            assert bgr is not None
            yield bgr[..., ::-1], np.array(frame["transform_matrix"]), time.time_ns()
            time.sleep(1 / self._rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--to", default="tcp://127.0.0.1:5555")
    parser.add_argument("--session", default="robot")
    parser.add_argument("--rate", type=float, default=5.0, help="frames a second")
    arguments = parser.parse_args()
    robot = Robot(arguments.rate)

    with Client(
        arguments.to,
        session=arguments.session,
        cameras={"front": robot.camera},
        convention="opengl",
    ) as client:
        for image, pose, stamp_ns in robot.frames():
            client.send(image, pose, stamp_ns=stamp_ns)
        client.flush()

    print(f"{client.acked + 1} frames settled, {len(client.rejected)} rejected")
    for rejection in client.rejected:
        print(f"frame {rejection.seq}: {rejection.reason}")


if __name__ == "__main__":
    main()
