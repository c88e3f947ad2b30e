"""Where the camera was: its path as a line, its key frames as frusta."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import viser
import viser.transforms

from gs_decoder import Similarity
from streamer.requests import KeyFrame
from viewer.geometry import PoseCache, View

_MAX_FRUSTA = 300
_MAX_POINTS = 2_000
"""Of a camera's path."""
_PATH, _FRUSTUM, _NEWEST, _CHOSEN = (77, 171, 247), (134, 142, 150), (250, 176, 5), (77, 171, 247)
_SIZE = 0.02


@dataclass(slots=True)
class _Frustum:
    """A node of the page, and the key frame that it stands for now."""

    handle: viser.CameraFrustumHandle
    seq: int | None = None
    pose: bytes = b""


class CameraLayer:
    """Keeps path and frusta at the key frames of a session. One thread at a time.

    A node that is no longer needed is hidden and stands for the next key frame: viser keeps a word
    of every node that it ever removed.

    Args:
        server: the page.
        on_click: called in viser's threads with the seq of a clicked key frame.
    """

    def __init__(self, server: viser.ViserServer, on_click: Callable[[int], None]) -> None:
        self._server = server
        self._on_click = on_click
        self._made = 0
        self._free: list[_Frustum] = []
        self._frusta: dict[int, _Frustum] = {}
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

    @property
    def shown(self) -> dict[int, viser.CameraFrustumHandle]:
        """The key frames that have a frustum, by seq."""
        return {seq: frustum.handle for seq, frustum in self._frusta.items()}

    def show(self, keyframes: Sequence[KeyFrame], view: View, origin: np.ndarray) -> None:
        """Bring the page to `keyframes`, by seq; those with an unusable pose are left out.

        Args:
            view: what the cameras see, for the shape of the frusta.
            origin: (3,) float64, the world point at the page's origin.
        """
        poses = self._split.split({keyframe.seq: keyframe.c2w for keyframe in keyframes})
        cameras: dict[str, list[int]] = {}
        for keyframe in keyframes:
            if keyframe.seq in poses:
                cameras.setdefault(keyframe.camera, []).append(keyframe.seq)
        lines = [
            np.array([poses[seq].translation - origin for seq in _thinned(seqs, _MAX_POINTS)])
            for seqs in cameras.values()
        ]
        with self._server.atomic():
            self._draw_path(lines)
            self._draw_frusta(_thinned(list(poses), _MAX_FRUSTA), poses, view, origin)

    def set_visible(self, visible: bool) -> None:
        """Show or hide path and frusta."""
        self._visible = visible
        self._path.visible = visible and len(self._path_points) > 0
        for frustum in self._frusta.values():
            frustum.handle.visible = visible

    def choose(self, seq: int | None, image: np.ndarray | None) -> None:
        """Mark one key frame and put its picture, (H, W, 3) uint8, into it; None: none."""
        if self._chosen is not None and self._chosen in self._frusta:
            self._frusta[self._chosen].handle.image = None
        self._chosen = seq
        if seq is not None and seq in self._frusta:
            self._frusta[seq].handle.image = image
        self._color()

    def clear(self) -> None:
        """Show nothing any more."""
        self.choose(None, None)
        self._release(list(self._frusta))
        self._newest = None
        self._draw_path([])

    def _draw_path(self, lines: Sequence[np.ndarray]) -> None:
        segments = [np.stack([line[:-1], line[1:]], axis=1) for line in lines if len(line) > 1]
        points = np.concatenate([np.zeros((0, 2, 3)), *segments]).astype(np.float32)
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
        self._release(self._frusta.keys() - set(wanted))
        for seq in wanted:
            pose = poses[seq]
            frustum = self._frusta.get(seq) or self._take(seq, view, pose.scale)
            key = pose.matrix().tobytes()
            if frustum.pose != key:
                frustum.pose = key
                frustum.handle.wxyz = viser.transforms.SO3.from_matrix(pose.rotation).wxyz
                frustum.handle.position = pose.translation - origin
                frustum.handle.visible = self._visible
        self._newest = max(wanted, default=None)
        self._color()

    def _take(self, seq: int, view: View, unit: float) -> _Frustum:
        """A frustum for a key frame; it is shown when it has a pose."""
        frustum = self._free.pop() if self._free else self._make()
        handle = frustum.handle
        handle.fov, handle.aspect = view.fov_y, view.aspect
        handle.scale = _SIZE * view.depth * unit
        frustum.seq, frustum.pose = seq, b""
        self._frusta[seq] = frustum
        return frustum

    def _make(self) -> _Frustum:
        handle = self._server.scene.add_camera_frustum(
            f"/cameras/frame_{self._made:03d}",
            fov=1.0,
            aspect=1.0,
            thickness=1.0,
            thickness_units="screen",
            color=_FRUSTUM,
            visible=False,
            cast_shadow=False,
            receive_shadow=False,
        )
        frustum = _Frustum(handle)
        self._made += 1

        def clicked(_: object) -> None:
            if frustum.seq is not None:
                self._on_click(frustum.seq)

        handle.on_click(clicked)
        return frustum

    def _release(self, seqs: Iterable[int]) -> None:
        for seq in seqs:
            frustum = self._frusta.pop(seq)
            if seq == self._chosen:
                frustum.handle.image = None
            frustum.handle.visible = False
            frustum.seq = None
            self._free.append(frustum)

    def _color(self) -> None:
        for seq, frustum in self._frusta.items():
            color = _FRUSTUM
            if seq == self._newest:
                color = _NEWEST
            if seq == self._chosen:
                color = _CHOSEN
            frustum.handle.color = color


def _thinned(seqs: Sequence[int], most: int) -> list[int]:
    """At most `most` of them and one, evenly spread, the newest among them."""
    if len(seqs) <= most:
        return list(seqs)
    # By powers of two, so that a growing path drops half of its frusta now and then
    # and does not exchange them all at every new one.
    step = 2
    while len(seqs) > most * step:
        step *= 2
    return sorted({*seqs[::step], seqs[-1]})
