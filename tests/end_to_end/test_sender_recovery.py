"""A sender that just goes on while parts of a real daemon die around it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from conftest import Served
from raw_client import HEIGHT, WIDTH, picture

from streamer import Camera, Client, Requests

CAMERA = Camera.pinhole(WIDTH, HEIGHT, 50.0, 50.0, 32.0, 24.0)
WAIT_S = 90.0


def send(client: Client, start: int, stop: int) -> None:
    for index in range(start, stop):
        pose = np.eye(4)
        pose[0, 3] = 0.05 * index
        client.send(picture(index), pose, stamp_ns=index)
    assert client.wait(WAIT_S)


def test_the_sender_does_nothing_and_its_frames_arrive(
    served: Served, wait_for: Callable[[Callable[[], object], str], None]
) -> None:
    with (
        Requests(served.requests) as requests,
        Client(
            served.ingest, session="hall", cameras={"front": CAMERA}, convention="opencv"
        ) as client,
    ):

        def all_done(frames: int) -> bool:
            status = requests.status("hall")
            return status.frames_in == frames and status.frames_waiting == 0

        send(client, 0, 6)
        wait_for(lambda: _known(requests) and all_done(6), "6 frames to be done")
        epoch = requests.status("hall").epoch

        served.kill("ingest")
        send(client, 6, 10)
        assert client.connects == 2
        wait_for(lambda: all_done(10), "10 frames to be done")
        assert requests.status("hall").frames_dropped == 0
        assert requests.status("hall").epoch == epoch

        requests.reset("hall")
        wait_for(lambda: client.connects == 3 and client.connected, "a new HELLO after the reset")
        send(client, 10, 13)
        wait_for(lambda: all_done(3), "3 frames of the new epoch to be done")
        assert requests.status("hall").epoch > epoch
        assert requests.keyframes("hall")[0].stamp_ns == 10
    assert client.rejected == []


def _known(requests: Requests) -> bool:
    return any(entry.session == "hall" for entry in requests.sessions())
