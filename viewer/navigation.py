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
_VISER_DISTANCE = 27.0**0.5
"""From the origin, of the windows that nobody has told where to look from."""


class Navigation:
    """Cameras of the windows. `place` and `follow` belong to one thread; toggling to any."""

    def __init__(self, server: viser.ViserServer) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._following: dict[int, bytes | None] = {}
        self._up = np.array([0.0, 0.0, 1.0])
        self._home: np.ndarray | None = None
        server.on_client_disconnect(lambda client: self.set_follow(client.client_id, False))

    def place(self, pose: Similarity, view: View, up: np.ndarray, *, everybody: bool) -> None:
        """Begin a little behind a key frame: every window that is opened from now on.

        Args:
            pose: camera to page, OpenCV axes.
            view: what it sees.
            up: (3,) unit vector, the world's up.
            everybody: also windows that somebody has moved, or opened with a view of their own.
        """
        scene_was, self._up = self._home, up
        self._server.scene.set_up_direction(up)
        pose = _behind(pose, view)
        self._home = pose.translation
        initial = self._server.initial_camera
        initial.position = pose.translation
        initial.look_at = _target(pose, view)
        initial.up = up
        initial.fov = view.fov_y
        for client in self._server.get_clients().values():
            if everybody or _untouched(client, scene_was):
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


def _untouched(client: viser.ClientHandle, home: np.ndarray | None) -> bool:
    """Whether a window still looks from where it was put, by us or by viser itself."""
    position = client.camera.position
    if home is not None and np.allclose(position, home, atol=1e-6):
        return True
    return bool(abs(np.linalg.norm(position) - _VISER_DISTANCE) < 1e-3)


def _behind(pose: Similarity, view: View) -> Similarity:
    """So far back that the camera itself is in the picture."""
    back = _BEHIND * view.depth * pose.scale * pose.rotation[:, 2]
    return replace(pose, translation=pose.translation - back)


def _target(pose: Similarity, view: View) -> np.ndarray:
    return pose.translation + pose.rotation[:, 2] * view.depth * pose.scale
