"""Where the camera was: its path as a line, its key frames as frusta."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import viser
import viser.transforms

from gs_decoder import Similarity
from streamer.requests import KeyFrame
from viewer.geometry import PoseCache, View

_MAX_FRUSTA = 300
_PATH, _FRUSTUM, _NEWEST, _CHOSEN = (77, 171, 247), (134, 142, 150), (250, 176, 5), (77, 171, 247)
_SIZE = 0.02


class CameraLayer:
    """Keeps path and frusta at the key frames of a session. One thread at a time.

    Args:
        server: the page.
        on_click: called in viser's threads with the seq of a clicked key frame.
    """

    def __init__(self, server: viser.ViserServer, on_click: Callable[[int], None]) -> None:
        self._server = server
        self._on_click = on_click
        self._frusta: dict[int, viser.CameraFrustumHandle] = {}
        self._poses: dict[int, bytes] = {}
        self._split = PoseCache()
        self._path_points = np.zeros((0, 2, 3), np.float32)
        self._path = server.scene.add_line_segments(
            "/cameras/path",
            np.zeros((1, 2, 3), np.float32),
            _PATH,
            thickness=2.0,
            thickness_units="screen",
            visible=False,
        )
        self._visible = True
        self._newest: int | None = None
        self._chosen: int | None = None

    def show(self, keyframes: Sequence[KeyFrame], view: View, origin: np.ndarray) -> None:
        """Bring the page to `keyframes`, by seq; those with an unusable pose are left out.

        Args:
            view: what the cameras see, for the shape of the frusta.
            origin: (3,) float64, the world point at the page's origin.
        """
        poses = self._split.split({keyframe.seq: keyframe.c2w for keyframe in keyframes})
        cameras: dict[str, list[np.ndarray]] = {}
        for keyframe in keyframes:
            if keyframe.seq in poses:
                position = poses[keyframe.seq].translation - origin
                cameras.setdefault(keyframe.camera, []).append(position)
        with self._server.atomic():
            self._draw_path([np.array(points, np.float32) for points in cameras.values()])
            self._draw_frusta(_thinned(list(poses)), poses, view, origin)

    def set_visible(self, visible: bool) -> None:
        """Show or hide path and frusta."""
        self._visible = visible
        self._path.visible = visible and len(self._path_points) > 0
        for frustum in self._frusta.values():
            frustum.visible = visible

    def choose(self, seq: int | None, image: np.ndarray | None) -> None:
        """Mark one key frame and put its picture, (H, W, 3) uint8, into it; None: none."""
        if self._chosen is not None and self._chosen in self._frusta:
            self._frusta[self._chosen].image = None
        self._chosen = seq
        if seq is not None and seq in self._frusta:
            self._frusta[seq].image = image
        self._color()

    def clear(self) -> None:
        """Remove everything."""
        self.choose(None, None)
        for frustum in self._frusta.values():
            frustum.remove()
        self._frusta.clear()
        self._poses.clear()
        self._newest = None
        self._draw_path([])

    def _draw_path(self, lines: Sequence[np.ndarray]) -> None:
        segments = [np.stack([line[:-1], line[1:]], axis=1) for line in lines if len(line) > 1]
        points = np.concatenate(segments) if segments else np.zeros((0, 2, 3), np.float32)
        if np.array_equal(points, self._path_points):
            return
        self._path_points = points
        if len(points):
            self._path.points = points
            self._path.colors = np.broadcast_to(np.array(_PATH, np.uint8), points.shape)
        self._path.visible = self._visible and len(points) > 0

    def _draw_frusta(
        self,
        wanted: Sequence[int],
        poses: dict[int, Similarity],
        view: View,
        origin: np.ndarray,
    ) -> None:
        for seq in self._frusta.keys() - set(wanted):
            self._frusta.pop(seq).remove()
            del self._poses[seq]
        for seq in wanted:
            pose = poses[seq]
            key = pose.matrix().tobytes()
            if self._poses.get(seq) == key:
                continue
            self._poses[seq] = key
            wxyz = viser.transforms.SO3.from_matrix(pose.rotation).wxyz
            position = pose.translation - origin
            if seq in self._frusta:
                self._frusta[seq].wxyz, self._frusta[seq].position = wxyz, position
            else:
                self._frusta[seq] = self._add(seq, wxyz, position, view, pose.scale)
        self._newest = max(wanted, default=None)
        self._color()

    def _add(
        self, seq: int, wxyz: np.ndarray, position: np.ndarray, view: View, unit: float
    ) -> viser.CameraFrustumHandle:
        frustum = self._server.scene.add_camera_frustum(
            f"/cameras/frame_{seq}",
            fov=view.fov_y,
            aspect=view.aspect,
            scale=_SIZE * view.depth * unit,
            thickness=1.0,
            thickness_units="screen",
            color=_FRUSTUM,
            wxyz=wxyz,
            position=position,
            visible=self._visible,
            cast_shadow=False,
            receive_shadow=False,
        )
        frustum.on_click(lambda _: self._on_click(seq))
        return frustum

    def _color(self) -> None:
        for seq, frustum in self._frusta.items():
            color = _FRUSTUM
            if seq == self._newest:
                color = _NEWEST
            if seq == self._chosen:
                color = _CHOSEN
            frustum.color = color


def _thinned(seqs: Sequence[int]) -> list[int]:
    """At most `_MAX_FRUSTA` of them, evenly spread, the newest among them."""
    if len(seqs) <= _MAX_FRUSTA:
        return list(seqs)
    # By powers of two, so that a growing path drops half of its frusta now and then
    # and does not exchange them all at every new one.
    step = 2
    while len(seqs) > _MAX_FRUSTA * step:
        step *= 2
    return sorted({*seqs[::step], seqs[-1]})
