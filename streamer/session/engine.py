"""The session's engine: frames in, map updates out. The only place that holds a model and a map.

It knows no sockets: the session process feeds it from the daemon's ipc sockets, `splatstream run`
from a file, both through the same four calls: `process`, `refine`, `apply_poses`, `publish`.

A batch takes its time, a correction cannot wait: whoever calls `process` may be asked back between
its steps (`Attend`), and announce corrections that came meanwhile. The outcome is that of applying
them right after the batch.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gs_decoder import MapConfig, SplatMap, Splats, estimate_background
from gs_decoder.refine import Refiner
from streamer.frames import Frame
from streamer.session.ahead import Ahead
from streamer.session.aside import Aside, Attend, attend_to_nothing
from streamer.session.batching import (
    checkerboard,
    in_map_units,
    on_cpu,
    refine_view,
    thumbnail,
    view_batch,
)
from streamer.session.choosing import Judged, by_size, judge_frames
from streamer.session.corrections import PosesOutcome, Trajectory, rigid, scale_of
from streamer.session.fusing import fuse_keyframe
from streamer.session.keyframe_table import KeyframeTable
from streamer.session.keyframes import KeyframeSelector
from streamer.session.moving import follow, show_moved, shown_cameras
from streamer.session.outbox import Keyframe, Latencies, Outbox, SessionStatus
from streamer.session.pace import Pace
from streamer.session.publication import Publication
from streamer.session.residence import Residence
from streamer.session.settings import EngineConfig, view_renderer
from streamer.session.spill_files import SpillFolder
from ttt_core import Prediction, default_model
from ttt_core.stream_model import StreamModel

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class Engine:
    """One stream's map. Not thread-safe: one thread calls it."""

    def __init__(
        self,
        config: EngineConfig | None = None,
        outbox: Outbox | None = None,
        *,
        model: StreamModel[Any] | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self.outbox = outbox or Outbox()
        self.model: StreamModel[Any] = model or default_model(device=self.config.device)
        self._renderer = view_renderer(self.config.device, self.config.refine.workers)
        self.map = SplatMap(
            MapConfig(chunk_budget=self.config.chunk_budget, map_budget=self.config.map_budget)
        )
        self.frames_done = 0
        self.paused = False
        self.pace = Pace()
        self._spill: SpillFolder | None = None
        self._resident_budget = min(self.config.resident_budget, self.config.map_budget)
        self._aside = Aside()
        self._clear()

    def spill_to(self, folder: SpillFolder) -> None:
        """From now on chunks out of sight rest there; to be said before the first frame."""
        assert self.frames_done == 0, "chunks would be looked for where they are not"
        self._spill = folder
        self._clear()

    def _clear(self) -> None:
        self.refiner = Refiner(self._renderer, self.config.refine)
        self.model_state = self.model.initial_state()
        self.trajectory = Trajectory()
        self.ahead = Ahead()
        self.selector = KeyframeSelector(self.config.keyframes)
        self.keyframes = KeyframeTable()
        self.chunk_of_seq: dict[int, int] = {}
        self.residence = Residence(self, self._spill, self._resident_budget)
        self.scene_depth: float | None = None
        self.publication = Publication(self)
        self._batch_ms = 0.0
        self._keyframe_side: int | None = None
        self._latencies = Latencies()

    def warm_up(self, height: int, width: int) -> None:
        """Compile and touch everything a batch of this size needs, on frames of a checkerboard, and
        find out what a batch costs here."""
        self.model.warm_up(height, width)
        probe = Engine(dataclasses.replace(self.config, refine_steps=0), model=self.model)
        probe.process(checkerboard(height, width))
        probe.refiner.step()
        probe.publish()
        probe.reset()
        probe.pace = Pace()
        probe.process(checkerboard(height, width))
        probe.close()
        self.pace.per_pixel = probe.pace.per_pixel

    def close(self) -> None:
        """Stop the threads."""
        self.refiner.close()
        self._aside.close()

    # Frames ----------------------------------------------------------------------------------

    def process(
        self,
        frames: Sequence[Frame],
        *,
        seconds: float = math.inf,
        last: bool = False,
        attend: Attend = attend_to_nothing,
    ) -> None:
        """One batch, in order of seq: predict, fuse, publish. Every frame needs a pose.

        Args:
            seconds: what its key frames may take: where that is little, they are predicted from
                smaller pictures, and then fewer of them (`Pace`). Not with `refine_steps`, which
                promises the same map whatever the time.
            last: no frames come after these, so that none is passed over for want of time.
            attend: called between the steps, and while a thread predicts. What it announces is
                followed when the batch is done.
        """
        if frames and not self.config.refine_steps:
            self.pace.earn(seconds, *frames[0].image.shape[:2])
            if last:
                self.pace.finish(len(frames), *frames[0].image.shape[:2])
        started = time.monotonic_ns()
        if frames and len(self.trajectory) == 0:
            self._begin(frames)
        poses: dict[int, Float64] = {}
        for frame in frames:
            assert frame.c2w is not None, "frames without a pose are refused at the door"
            pose = self.trajectory.add(frame.seq, frame.stamp_ns, frame.c2w)
            poses[frame.seq] = rigid(pose)
        with self.outbox.timed("spill"):
            self.residence.see(frames, poses, attend)
            self.residence.make_room(0, len(frames), protected=self._newest(), attend=attend)
        scales = [scale_of(self.residence.worked_pose(frame.seq)) for frame in frames]
        frames = [in_map_units(frame, scale) for frame, scale in zip(frames, scales)]
        with self.outbox.timed("keyframes"):
            judged = []
            for judgement in judge_frames(self, frames, poses):
                judged.append(judgement)
                attend(None)
        self._predict_and_fuse([j for j in judged if j.is_keyframe], poses, attend)
        for judgement in judged:
            frame = judgement.frame
            if frame.seq not in self.refiner.views:
                self.refiner.add_view(refine_view(frame, poses[frame.seq]))
            self.refiner.views[frame.seq].far = judgement.sight
        self.frames_done += len(frames)
        with self.outbox.timed("publish"):
            self.publication.due(attend)
        now = time.monotonic_ns()
        self._batch_ms = (now - started) / 1e6
        self.outbox.took("batch", self._batch_ms / 1e3)
        for frame in frames:
            self._latencies.add((now - frame.received_ns) / 1e6)
            self.outbox.latency((now - frame.received_ns) / 1e9)
        if self.config.refine_enabled:
            for _ in range(self.config.refine_steps):
                self.refine(attend)
                attend(None)
        if self.config.refine_steps or not self.config.refine_enabled:
            # Nobody refines between batches, and publishes what became of old chunks.
            self.publication.everything(attend)
        self.follow_poses(attend)

    def _begin(self, frames: Sequence[Frame]) -> None:
        """What the first frames of a stream decide: the map's origin and its background."""
        assert frames[0].c2w is not None
        self.refiner.origin = np.round(frames[0].c2w[:3, 3])
        self.refiner.background = np.asarray(
            estimate_background([frame.image for frame in frames], self.config.background),
            np.float32,
        )

    def _predict_and_fuse(
        self, chosen: Sequence[Judged], poses: Mapping[int, Float64], attend: Attend
    ) -> None:
        left = len(chosen)
        for group in by_size(chosen):
            began = time.monotonic()
            factor = self.pace.reduction(left, *group[0].frame.image.shape[:2])
            small = [judged.reduced(factor) for judged in group]
            self._keyframe_side = max(small[0].frame.image.shape[:2])
            batch = view_batch([j.frame for j in small], poses, [j.map_depth for j in small])
            with self.outbox.timed("predict"):
                self.model_state, prediction = self._aside.call(
                    attend, self.model.stream, self.model_state, batch
                )
                prediction = on_cpu(prediction)
            with self.outbox.timed("fuse"):
                for place, judged in enumerate(group):
                    frame = judged.frame
                    self._fuse(frame, small[place].frame, poses[frame.seq], prediction, place)
                    attend(None)
            self.pace.spent(time.monotonic() - began, prediction.depth.numel())
            left -= len(group)

    def _fuse(
        self, frame: Frame, small: Frame, pose: Float64, prediction: Prediction, place: int
    ) -> None:
        """Take in a key frame that was predicted from `small`, the same in fewer pixels."""
        depth = prediction.depth[place].numpy()
        confident = prediction.confidence[place].numpy() > self.config.fusion.confidence
        self.scene_depth = float(np.median(depth[confident] if confident.any() else depth))
        chunk = fuse_keyframe(self, small, pose, prediction, place, trained=self.model.trained)
        self.refiner.add_view(refine_view(frame, pose))
        keyframe = Keyframe(
            seq=frame.seq,
            stamp_ns=frame.stamp_ns,
            camera=frame.camera,
            chunk=chunk,
            c2w=rigid(self.trajectory.pose(frame.seq)),
            thumbnail=thumbnail(frame.image),
        )
        self.keyframes.add(keyframe)
        self.outbox.keyframes([keyframe])

    def make_room(self, count: int) -> None:
        """Before `count` splats come: chunks out of sight go to the disk; where that is not enough
        the least of the old splats leave for ever."""
        newest, budget = self._newest(), self._resident_budget
        self.residence.make_room(count, 0, protected=newest)
        if self.refiner.make_room(count, budget, self.map.config.reserve, protected=newest):
            # The map must have the room too, or it would make its own, from other splats.
            self.publication.collect()
        if self.map.count + count > self.map.config.map_budget:
            # Splats that refinement removed are still there. The map is not to choose by itself:
            # it would by where its chunks are shown.
            self.publication.collect()
        self.residence.publishable(count)

    def _newest(self) -> list[int]:
        """The chunks that making room spares."""
        return list(self.chunk_of_seq.values())[-self.map.config.protect_newest :]

    # Refinement and publication --------------------------------------------------------------

    @property
    def wants_refinement(self) -> bool:
        """Whether `refine` is of use: not on an empty map, nor once it has settled and is told."""
        never = self.paused or not self.config.refine_enabled or self.config.refine_steps
        if never or self.refiner.parameters.count == 0 or not self.refiner.views:
            return False
        return not self._settled or self.refiner.has_changes

    @property
    def _settled(self) -> bool:
        exactly, progress = self.config.idle_steps, self.refiner.convergence
        return progress.reached if exactly is None else progress.steps >= exactly

    def refine(self, attend: Attend = attend_to_nothing, *, share: float = 0.0) -> None:
        """One refinement step; publishes some refined chunks now and then, and when it is done.

        Args:
            attend: called while threads do the step, and between what is published. What it
                announces is to be followed (`follow_poses`) before the next step.
            share: of the time after the last frame, what is gone; 0 where nobody knows of a last
                one. With `idle_steps` it is known.
        """
        settled = self._settled and not self.config.refine_steps
        if not settled:
            if exactly := self.config.idle_steps:
                share = self.refiner.convergence.steps / exactly
            with self.outbox.timed("refine"):
                self.refiner.step(share, attend)
        self.publication.some(attend, at_once=settled)

    def publish(self) -> None:
        """Bring all chunks to what refinement made of them; send it, if not paused."""
        self.publication.everything()

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
        """Late pose corrections, between two batches: as `announce_poses`, and all of it."""
        outcome = self.announce_poses(revision, entries, by=by, upto=upto, coming=coming)
        self.follow_poses()
        return outcome

    def announce_poses(
        self,
        revision: int,
        entries: Mapping[int, Float64],
        *,
        by: str,
        upto: int | None,
        coming: Mapping[int, int] | None = None,
    ) -> PosesOutcome:
        """Late pose corrections: chunks move as wholes, nothing is decoded anew.

        Trajectory, published chunks and key frames move now; `follow_poses` takes the rest along,
        before the next batch or step of refinement.

        Args:
            revision: above that of every correction before.
            entries: seq or stamp → (4, 4) camera to world, OpenCV axes; uniform scale allowed.
            by: "seq" or "stamp".
            upto: the last seq that came in the old frame of reference (already resolved); None:
                all that came so far.
            coming: key → seq of named frames that were received and are not processed yet: they
                take their corrected poses when they are.

        Raises:
            StaleRevision: nothing was changed.
        """
        with self.outbox.timed("correct"):
            upto = self.trajectory.newest if upto is None else upto
            moved, unknown = self.trajectory.revise(
                revision, entries, by=by, upto=upto, coming=coming or {}
            )
            announced = show_moved(self, moved)
            self.publication.send()
        self.keyframes.move(shown_cameras(self, announced.cameras))
        self.publication.send_keyframes()
        return PosesOutcome(len(announced.chunks), unknown)

    def follow_poses(self, attend: Attend = attend_to_nothing) -> None:
        """Bring what is worked on to where readers were told that it is."""
        while (announced := self.ahead.take()) is not None:
            with self.outbox.timed("follow"):
                follow(self, announced, self._aside, attend)
            self.publication.due(attend)

    def reset(self) -> None:
        """Forget map, poses and fast weights: a new epoch. Settings and compiled code stay."""
        self.refiner.close()
        self._clear()
        self.map.clear()
        self.pace = Pace(self.pace.per_pixel)
        self.frames_done = 0

    def splats_world(self, origin: Float64 | None = None) -> Splats:
        """All splats, those on the disk too, world axes, relative to `origin` (default zeros)."""
        self.publication.collect()
        return self.residence.splats_world(origin)

    def status(self) -> SessionStatus:
        """Figures of the map and of the last batches; counts of frames are the caller's."""
        return SessionStatus(
            keyframes=len(self.keyframes),
            splats=self.refiner.parameters.count + self.residence.shown,
            splats_ready=self.refiner.parameters.count,
            splats_on_disk=sum(chunk.count for chunk in self.residence.resting),
            keyframe_side=self._keyframe_side,
            batch_ms=self._batch_ms,
            latency_ms=self._latencies.percentiles(),
            psnr=self.refiner.psnr(),
            steps=self.refiner.steps,
            model=self.model.describe(),
        )
