"""The session's engine: frames in, map updates out. The only place that holds a model and a map.

It knows no sockets: the session process feeds it from the daemon's ipc sockets, `splatstream run`
from a file, both through the same four calls: `process`, `refine`, `apply_poses`, `publish`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gs_decoder import ChunkMeta, MapConfig, SplatMap, Splats, estimate_background
from gs_decoder.fusion import FusionConfig, fuse_view
from gs_decoder.refine import RefineConfig, Refiner, RefineView
from gs_decoder.refine.renderers import NumbaViewRenderer, TorchViewRenderer, ViewRenderer
from streamer.frames import Frame
from streamer.session.corrections import Trajectory, rigid, scale_of
from streamer.session.keyframes import KeyframeConfig, KeyframeSelector
from streamer.session.outbox import Keyframe, Outbox, SessionStatus
from ttt_core import Prediction, StreamingModel, ViewBatch, default_model

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_THUMBNAIL = 160
_SAME_SCALE = 1e-6
_FARTHEST = 1e6
"""Metres; no depth sensor sees so far."""
_FAR = 4096.0
"""Metres from the origin beyond which float32 coordinates are coarser than half a millimetre."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Attributes:
    batch: frames that one pass of the model takes.
    chunk_budget, map_budget: splats of a key frame, of the whole map.
    idle_steps: refinement steps after the last change of the map; then the session sleeps.
    publish_every: seconds between publications of refined chunks.
    chunk_interval: least seconds between two, however fast batches and corrections come.
    background: what lies behind the map; auto reads it off the first batch.
    refine_enabled: whether to optimise between batches at all.
    """

    batch: int = 4
    chunk_budget: int = 6000
    map_budget: int = 120_000
    idle_steps: int = 6000
    publish_every: float = 2.0
    chunk_interval: float = 1.5
    refine_enabled: bool = True
    device: str = "cpu"
    background: Literal["auto", "black", "white"] = "auto"
    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)


@dataclass(frozen=True, slots=True)
class PosesOutcome:
    """How many chunks a correction moved, and the seqs or stamps that were never seen."""

    moved: int
    unknown: list[int]


class StaleRevision(ValueError):
    """A pose correction whose revision is not above the last one's."""


def view_renderer(device: str, workers: int) -> ViewRenderer:
    """gsplat on CUDA, the numba kernels elsewhere."""
    if device.startswith("cuda"):
        return TorchViewRenderer("gsplat", device)
    return NumbaViewRenderer(workers)


class Engine:
    """One stream's map. Not thread-safe: one thread calls it."""

    def __init__(
        self,
        config: EngineConfig | None = None,
        outbox: Outbox | None = None,
        *,
        model: StreamingModel | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self.outbox = outbox or Outbox()
        self.model = model or default_model(device=self.config.device)
        self._renderer = view_renderer(self.config.device, self.config.refine.workers)
        self.map = SplatMap(
            MapConfig(chunk_budget=self.config.chunk_budget, map_budget=self.config.map_budget)
        )
        self.frames_done = 0
        self.paused = False
        self._clear()

    def _clear(self) -> None:
        self.refiner = Refiner(self._renderer, self.config.refine)
        self.model_state = self.model.initial_state()
        self.trajectory = Trajectory()
        self.selector = KeyframeSelector(self.config.keyframes)
        self.keyframes: dict[int, Keyframe] = {}
        self._chunk_of_seq: dict[int, int] = {}
        self._scene_depth: float | None = None
        self._quiet_since_step = 0
        self._published_at = self._collected_at = -math.inf
        self._moved_cameras: dict[int, Float64] = {}
        self._batch_ms = 0.0
        self._latencies: deque[float] = deque(maxlen=256)

    def warm_up(self, height: int, width: int) -> None:
        """Compile and touch everything a batch of this size needs, on frames of a checkerboard."""
        self.model.warm_up(height, width)
        probe = Engine(self.config, model=self.model)
        board = (np.indices((height, width)).sum(0) // 8 % 2 * 255).astype(np.uint8)
        image = np.repeat(board[..., None], 3, axis=2)
        K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
        frames = []
        for number in range(2):
            c2w = np.eye(4)
            c2w[0, 3] = 0.1 * number
            frames.append(Frame(seq=number, stamp_ns=number, camera="", image=image, K=K, c2w=c2w))
        probe.process(frames)
        probe.refiner.step()
        probe.publish()
        probe.close()

    def close(self) -> None:
        """Stop the refinement threads."""
        self.refiner.close()

    # Frames ----------------------------------------------------------------------------------

    def process(self, frames: Sequence[Frame]) -> None:
        """One batch, in order of seq: predict, fuse, publish. Every frame needs a pose."""
        started = time.monotonic_ns()
        if frames and len(self.trajectory) == 0:
            self._begin(frames)
        poses: dict[int, Float64] = {}
        for frame in frames:
            assert frame.c2w is not None, "frames without a pose are refused at the door"
            pose = self.trajectory.add(frame.seq, frame.stamp_ns, frame.c2w)
            poses[frame.seq] = rigid(pose)
        frames = [self._in_map_units(frame) for frame in frames]
        chosen = self._choose_keyframes(frames, poses)
        if chosen:
            self._predict_and_fuse(chosen, poses)
        for frame in frames:
            if frame.seq not in self.refiner.views:
                self._add_view(frame, poses[frame.seq])
        self._quiet_since_step = self.refiner.steps
        self.frames_done += len(frames)
        self._publish_what_is_due()
        now = time.monotonic_ns()
        self._batch_ms = (now - started) / 1e6
        self._latencies.extend((now - frame.received_ns) / 1e6 for frame in frames)

    def _in_map_units(self, frame: Frame) -> Frame:
        """The frame with its sensor depth scaled as a correction scaled the world around it."""
        if frame.depth is None:
            return frame
        # NaN fails every comparison; farther readings are none, and their squares would overflow.
        known = (frame.depth > 0.0) & (frame.depth < _FARTHEST)
        scale = np.float32(scale_of(self.trajectory.pose(frame.seq)))
        return replace(frame, depth=np.where(known, frame.depth, 0.0).astype(np.float32) * scale)

    def _begin(self, frames: Sequence[Frame]) -> None:
        """What the first frames of a stream decide: the map's origin and its background."""
        assert frames[0].c2w is not None
        self.refiner.origin = np.round(frames[0].c2w[:3, 3])
        self.refiner.background = np.asarray(
            estimate_background([frame.image for frame in frames], self.config.background),
            np.float32,
        )

    def _choose_keyframes(
        self, frames: Sequence[Frame], poses: Mapping[int, Float64]
    ) -> list[Frame]:
        chosen = []
        for frame in frames:
            pose = poses[frame.seq]
            depth, unseen = self._look(frame, pose)
            # Until something is known of the scene every frame is worth a look.
            if self._scene_depth is None or self.selector.is_keyframe(pose, depth, unseen):
                chosen.append(frame)
                self.selector.add(frame.seq, pose)
        return chosen

    def _look(self, frame: Frame, pose: Float64) -> tuple[float, float]:
        """Median depth of the map as this frame sees it, and the share it leaves empty."""
        height, width = frame.image.shape[:2]
        rendered = self.refiner.render(pose, frame.K, width, height)
        if rendered is None:
            return self._scene_depth or 1.0, 1.0
        _, depth, alpha = rendered
        filled = alpha > 0.5
        if not filled.any():
            return self._scene_depth or 1.0, 1.0
        return float(np.median(depth[filled])), 1.0 - float(filled.mean())

    def _predict_and_fuse(self, frames: list[Frame], poses: Mapping[int, Float64]) -> None:
        # One camera's images have one size; a batch of several cameras goes through by size.
        by_size: dict[tuple[int, ...], list[Frame]] = {}
        for frame in frames:
            by_size.setdefault(frame.image.shape, []).append(frame)
        for group in by_size.values():
            batch = self._view_batch(group, poses)
            self.model_state, prediction = self.model.stream(self.model_state, batch)
            for place, frame in enumerate(group):
                self._fuse(frame, poses[frame.seq], prediction, place)

    def _view_batch(self, frames: list[Frame], poses: Mapping[int, Float64]) -> ViewBatch:
        height, width = frames[0].image.shape[:2]
        images = np.stack([frame.image for frame in frames]).transpose(0, 3, 1, 2)
        intrinsics = [[f.K[0, 0], f.K[1, 1], f.K[0, 2], f.K[1, 2]] for f in frames]
        map_depth = np.zeros((len(frames), height, width), np.float32)
        for place, frame in enumerate(frames):
            rendered = self.refiner.render(poses[frame.seq], frame.K, width, height)
            if rendered is not None:
                _, depth, alpha = rendered
                map_depth[place] = np.where(alpha > 0.5, depth, 0.0)
        return ViewBatch(
            keys=tuple(frame.seq for frame in frames),
            image=torch.from_numpy(np.ascontiguousarray(images)).float() / 255.0,
            fxfycxcy=torch.tensor(intrinsics, dtype=torch.float32),
            c2w=torch.from_numpy(np.stack([poses[frame.seq] for frame in frames])),
            sensor_depth=_stack([frame.depth for frame in frames], (height, width), 0.0),
            map_depth=torch.from_numpy(map_depth) if map_depth.any() else None,
            valid=_stack([frame.valid for frame in frames], (height, width), True),
        )

    def _fuse(self, frame: Frame, pose: Float64, prediction: Prediction, place: int) -> None:
        height, width = frame.image.shape[:2]
        depth = prediction.depth[place].numpy()
        confidence = prediction.confidence[place].numpy()
        color = prediction.color[place].permute(1, 2, 0).contiguous().numpy()
        confident = confidence > self.config.fusion.confidence
        self._scene_depth = float(np.median(depth[confident] if confident.any() else depth))
        rendered = self.refiner.render(pose, frame.K, width, height)
        splats = fuse_view(
            color,
            depth,
            confidence,
            (frame.K[0, 0], frame.K[1, 1], frame.K[0, 2], frame.K[1, 2]),
            rendered=rendered,
            valid=frame.valid,
            residuals=_residuals(prediction, place) if self.model.trained else None,
            budget=self.config.chunk_budget,
            config=self.config.fusion,
        )
        self._make_room(splats.count)
        T_world_chunk = self.trajectory.pose(frame.seq)
        meta = ChunkMeta(
            frame_seq=frame.seq,
            stamp_ns=frame.stamp_ns,
            camera=frame.camera,
            # Depths were predicted in world units, so the chunk has scale 1 in this world.
            T_world_chunk=rigid(T_world_chunk),
        )
        chunk = None
        if splats.count:
            chunk = self.map.add(meta, splats)
            self._chunk_of_seq[frame.seq] = chunk
            self.refiner.add_splats(chunk, splats.transform(self._local(pose)))
        self._add_view(frame, pose)
        keyframe = Keyframe(
            seq=frame.seq,
            stamp_ns=frame.stamp_ns,
            camera=frame.camera,
            chunk=chunk,
            c2w=pose,
            thumbnail=_thumbnail(frame.image),
        )
        self.keyframes[frame.seq] = keyframe
        self.outbox.keyframes([keyframe])

    def _local(self, pose: Float64) -> Float64:
        """A pose relative to the refiner's origin."""
        local = pose.copy()
        local[:3, 3] -= self.refiner.origin
        return local

    def _add_view(self, frame: Frame, pose: Float64) -> None:
        self.refiner.add_view(
            RefineView(
                key=frame.seq,
                image=frame.image,
                K=frame.K,
                c2w=pose,
                valid=frame.valid,
                depth=frame.depth,
            )
        )

    def _make_room(self, count: int) -> None:
        """Before `count` splats come, the least of the old ones leave if the map would overflow."""
        parameters = self.refiner.parameters
        surplus = parameters.count + count - self.config.map_budget
        if surplus <= 0:
            return
        newest = list(self._chunk_of_seq.values())[-self.map.config.protect_newest :]
        old = ~np.isin(parameters.chunk[: parameters.count], newest)
        worth = parameters.opacities[: parameters.count] * np.square(
            parameters.scales[: parameters.count].max(axis=1)
        )
        # A margin, so that this does not happen again for every key frame; the newest views give
        # only what nobody else can.
        wanted = surplus + int(self.map.config.reserve * self.config.map_budget)
        order = np.lexsort((worth, ~old))
        self.refiner.remove(order[: max(surplus, min(wanted, int(old.sum())))])
        # The map must have the room too, or it would make its own, from other splats.
        self._collect()

    # Refinement and publication --------------------------------------------------------------

    @property
    def wants_refinement(self) -> bool:
        """Whether another step is of use: false on an empty map, and once it has settled."""
        settled = self.refiner.steps - self._quiet_since_step >= self.config.idle_steps
        if self.paused or not self.config.refine_enabled:
            return False
        return self.refiner.parameters.count > 0 and not settled

    def refine(self) -> None:
        """One refinement step; publishes refined chunks now and then."""
        self.refiner.step()
        if time.monotonic() - self._published_at >= self.config.publish_every:
            self.publish()

    def publish(self) -> None:
        """Bring the map to what refinement made of it, and send what changed; not while paused."""
        if not self.paused:
            self._collect()
            self._send()

    def _publish_what_is_due(self) -> None:
        """New chunks and moves at once, refined chunks not too often."""
        if self.paused:
            return
        if time.monotonic() - self._collected_at >= self.config.chunk_interval:
            self._collect()
        self._send()

    def _send(self) -> None:
        if self._moved_cameras:
            self.outbox.keyframes_moved(self._moved_cameras)
            self._moved_cameras = {}
        updates = self.map.drain_updates()
        if updates:
            self.outbox.updates(updates)
        self._published_at = time.monotonic()

    def _collect(self) -> None:
        self._collected_at = time.monotonic()
        parameters = self.refiner.parameters
        for chunk, splats in self.refiner.take_changed(self.map.chunks):
            pose = self.map.chunks[chunk].T_world_chunk
            self.map.replace(chunk, splats.transform(np.linalg.inv(self._local(pose))))
        present = set(np.unique(parameters.chunk[: parameters.count]).tolist())
        gone = set(self.map.chunks) - present
        if gone:
            self.map.drop(gone)
            self._chunk_of_seq = {s: c for s, c in self._chunk_of_seq.items() if c not in gone}

    # Corrections -----------------------------------------------------------------------------

    def apply_poses(
        self,
        revision: int,
        entries: Mapping[int, Float64],
        *,
        by: str,
        upto: int | None,
        coming: Mapping[int, int] | None = None,
    ) -> PosesOutcome:
        """Late pose corrections: chunks move as wholes, nothing is decoded anew.

        Args:
            revision: above that of every correction before.
            entries: seq or stamp → (4, 4) camera to world, OpenCV axes; uniform scale allowed.
            by: "seq" or "stamp".
            upto: the last seq that came in the old frame of reference (already resolved).
            coming: key → seq of named frames that were received and are not processed yet: they
                take their corrected poses when they are.

        Raises:
            StaleRevision: nothing was changed.
        """
        if revision <= self.trajectory.revision:
            raise StaleRevision(
                f"revision {revision} is not above {self.trajectory.revision}, the last one "
                "applied: send corrections with growing revisions"
            )
        seqs = (
            self.trajectory.seqs_by_stamp(entries)
            if by == "stamp"
            else {seq: seq for seq in entries if seq in self.trajectory}
        )
        later = {name: seq for name, seq in (coming or {}).items() if name not in seqs}
        unknown = [name for name in entries if name not in seqs and name not in later]
        poses = {seq: np.asarray(entries[name], np.float64) for name, seq in seqs.items()}
        self.trajectory.revision = revision
        newest = len(self.trajectory) and max(self.refiner.views, default=0)
        before = self.trajectory.poses()
        corrected = self.trajectory.correct(
            poses,
            newest if upto is None else upto,
            {seq: np.asarray(entries[name], np.float64) for name, seq in later.items()},
        )
        # A confirmed pose is no motion; to compute one would only add rounding.
        moved = {
            seq: pose for seq, pose in corrected.items() if not np.array_equal(pose, before[seq])
        }
        self._move(moved, before)
        chunks = [seq for seq in moved if seq in self._chunk_of_seq]
        if chunks:
            self._quiet_since_step = self.refiner.steps
        self._publish_what_is_due()
        return PosesOutcome(len(chunks), unknown)

    def _move(self, moved: Mapping[int, Float64], before: Mapping[int, Float64]) -> None:
        motions = {
            self._chunk_of_seq[seq]: pose @ np.linalg.inv(before[seq])
            for seq, pose in moved.items()
            if seq in self._chunk_of_seq
        }
        chunks = self.map.chunks
        self.map.move({c: motion @ chunks[c].T_world_chunk for c, motion in motions.items()})
        cameras = {seq: rigid(pose) for seq, pose in moved.items()}
        self._move_splats(motions, cameras)
        growth = {seq: scale_of(pose) / scale_of(before[seq]) for seq, pose in moved.items()}
        growth = {seq: g if abs(g - 1.0) >= _SAME_SCALE else 1.0 for seq, g in growth.items()}
        for seq, camera in cameras.items():
            view = self.refiner.views.get(seq)
            if view is None:
                continue
            view.c2w = camera
            if view.depth is not None and growth[seq] != 1.0:
                view.depth = view.depth * np.float32(growth[seq])
        self.selector.move(cameras)
        key_cameras = {seq: camera for seq, camera in cameras.items() if seq in self.keyframes}
        self.model_state = self.model_state.rebase(key_cameras, growth)
        for seq, camera in key_cameras.items():
            self.keyframes[seq] = self.keyframes[seq].moved(camera)
        self._moved_cameras |= key_cameras

    def _move_splats(self, motions: Mapping[int, Float64], cameras: Mapping[int, Float64]) -> None:
        """Move the splats under refinement, their origin too where the map went far from it."""
        origin = self.refiner.origin
        if cameras:
            newest = cameras[max(cameras)][:3, 3]
            if np.abs(newest - origin).max() > _FAR:
                origin = np.round(newest)
        enter, leave = np.eye(4), np.eye(4)
        enter[:3, 3], leave[:3, 3] = -origin, self.refiner.origin
        # One motion from origin to origin: between them float32 would lose the splats' digits.
        stays = np.eye(4)
        chunks = self.map.chunks if origin is not self.refiner.origin else motions
        self.refiner.parameters.transform(
            {chunk: enter @ motions.get(chunk, stays) @ leave for chunk in chunks}
        )
        self.refiner.origin = origin

    # The rest --------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget map, poses and fast weights: a new epoch. Settings and compiled code stay."""
        self.refiner.close()
        self._clear()
        self.map.clear()
        self.frames_done = 0

    def splats_world(self, origin: Float64 | None = None) -> Splats:
        """All splats of the map as it is now, world axes, relative to `origin` (default zeros)."""
        self._collect()
        return self.map.splats_world(origin=origin)

    def status(self) -> SessionStatus:
        """Figures of the map and of the last batches; counts of frames are the caller's."""
        latencies = np.array(self._latencies) if self._latencies else None
        return SessionStatus(
            keyframes=len(self.keyframes),
            splats=self.refiner.parameters.count,
            batch_ms=self._batch_ms,
            latency_ms=None
            if latencies is None
            else (float(np.percentile(latencies, 50)), float(np.percentile(latencies, 95))),
            psnr=self.refiner.psnr(),
            steps=self.refiner.steps,
            model=self.model.describe(),
        )


def _residuals(prediction: Prediction, place: int) -> Float32:
    """(H, W, 7) of one view: log scales, axis-angle, opacity logit."""
    planes = torch.cat(
        [
            prediction.log_scale_residual[place],
            prediction.rotation_residual[place],
            prediction.opacity_logit_residual[place][None],
        ]
    )
    return planes.permute(1, 2, 0).contiguous().numpy()


def _stack(
    arrays: Sequence[NDArray[np.generic] | None], shape: tuple[int, int], missing: float
) -> torch.Tensor | None:
    """Optional (H, W) arrays of a batch as one tensor; None where none of them is there."""
    present = [array for array in arrays if array is not None]
    if not present:
        return None
    filler = np.full(shape, missing, present[0].dtype)
    return torch.from_numpy(np.stack([filler if array is None else array for array in arrays]))


def _thumbnail(image: NDArray[np.uint8]) -> bytes:
    """A JPEG of at most 160 px."""
    factor = _THUMBNAIL / max(image.shape[:2])
    if factor < 1.0:
        size = (round(image.shape[1] * factor) or 1, round(image.shape[0] * factor) or 1)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    good, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert good, "an RGB image of at least one pixel always encodes"
    return encoded.tobytes()
