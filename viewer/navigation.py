"""What every browser window looks at: where it starts, and whether it follows the camera."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import viser

from gs_decoder import Similarity
from viewer.geometry import View

_BEHIND = 0.3
"""Median depths of the first key frame."""


class Navigation:
    """Cameras of the windows. `place` and `follow` belong to one thread; toggling to any."""

    def __init__(self, server: viser.ViserServer) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._following: dict[int, bytes | None] = {}
        self._up = np.array([0.0, 0.0, 1.0])
        server.on_client_disconnect(lambda client: self.set_follow(client.client_id, False))

    def place(self, pose: Similarity, view: View, up: np.ndarray) -> None:
        """Begin a little behind a key frame: all windows, open now or later.

        Args:
            pose: camera to page, OpenCV axes.
            view: what it sees.
            up: (3,) unit vector, the world's up.
        """
        self._up = up
        self._server.scene.set_up_direction(up)
        pose = _behind(pose, view)
        initial = self._server.initial_camera
        initial.position = pose.translation
        initial.look_at = _target(pose, view)
        initial.up = up
        initial.fov = view.fov_y
        for client in self._server.get_clients().values():
            self._look(client, pose, view)

    def set_follow(self, client_id: int, follows: bool) -> None:
        """Whether a window follows the camera."""
        with self._lock:
            if follows:
                self._following[client_id] = None
            else:
                self._following.pop(client_id, None)

    def follow(self, pose: Similarity, view: View) -> None:
        """Bring the windows that follow to the newest key frame, where they are not yet."""
        key = pose.matrix().tobytes()
        with self._lock:
            behind = [i for i, at in self._following.items() if at != key]
            self._following.update(dict.fromkeys(behind, key))
        clients = self._server.get_clients()
        for client_id in behind:
            if client_id in clients:
                self._look(clients[client_id], pose, view)

    def _look(self, client: viser.ClientHandle, pose: Similarity, view: View) -> None:
        with client.atomic():
            client.camera.up_direction = self._up
            client.camera.position = pose.translation
            client.camera.look_at = _target(pose, view)
            client.camera.fov = view.fov_y


def _behind(pose: Similarity, view: View) -> Similarity:
    """So far back that the camera itself is in the picture."""
    back = _BEHIND * view.depth * pose.scale * pose.rotation[:, 2]
    return replace(pose, translation=pose.translation - back)


def _target(pose: Similarity, view: View) -> np.ndarray:
    return pose.translation + pose.rotation[:, 2] * view.depth * pose.scale
