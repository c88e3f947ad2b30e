"""Any order of adding, looking, refining, correcting, saving and crashing loses no chunk."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from engine_helpers import make_engine
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from strip_walk import pose, wall_frame

from gs_decoder import ChunkMeta, Splats
from gs_decoder.refine.adam import COLOR
from streamer.session.batching import refine_view
from streamer.session.corrections import rigid
from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state, restore_engine
from streamer.session.folder import states
from streamer.session.outbox import Keyframe
from streamer.session.spill_files import SPILLED, SpillFolder, numbers
from streamer.session.state_files import Cursor, read_state
from streamer.session.storage import save_state
from ttt_core.streaming import StreamingConfig, StreamingModel

SPLATS, READY, SHOWN = 20, 200, 300
PLACES, AT_ONE = 8, 4
"""Places on the wall of which none sees another, and how many chunks there may be at one of them:
with the newest four and one more, all that must be ready fits."""

MODEL = StreamingModel(StreamingConfig(network=None)).eval()


@dataclass
class Expected:
    """What there is: place and brightness of each chunk, by id; frames and corrections so far."""

    place: dict[int, int] = field(default_factory=dict)
    color: dict[int, float] = field(default_factory=dict)
    frames: int = 0
    world: np.ndarray = field(default_factory=lambda: np.eye(4))


class Walk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.folder = Path(self.home.name)
        self.engine = self.fresh()
        self.expected = Expected()
        self.saved: dict[str, Expected] = {}
        self.looking_at: int | None = None

    def fresh(self) -> Engine:
        engine, _ = make_engine(
            model=MODEL, chunk_budget=SPLATS, resident_budget=READY, map_budget=SHOWN
        )
        engine.spill_to(SpillFolder(self.folder / SPILLED, kept=True))
        return engine

    def teardown(self) -> None:
        for place in range(PLACES):
            self.look(place)
            for chunk in self.at(place):
                self.check_ready(chunk)
        self.engine.close()
        self.home.cleanup()

    # Helpers ---------------------------------------------------------------------------------

    def at(self, place: int) -> list[int]:
        return [chunk for chunk, there in self.expected.place.items() if there == place]

    def ready(self) -> set[int]:
        return set(self.engine.refiner.parameters.chunks())

    def resting(self) -> set[int]:
        return {held.id for held in self.engine.residence.resting}

    def check_ready(self, chunk: int) -> None:
        """A chunk is in the refiner, where and as it should be."""
        parameters = self.engine.refiner.parameters
        members = parameters.chunk[: parameters.count] == chunk
        assert members.sum() == SPLATS
        colors = parameters.colors[: parameters.count][members]
        assert np.allclose(colors, self.expected.color[chunk], atol=1e-4)
        middle = parameters.means[: parameters.count][members].mean(axis=0)
        T = self.engine.refiner.local(self.engine.residence.poses([chunk])[0])
        assert np.allclose(middle, (T @ [0.0, 0.0, 2.0, 1.0])[:3], atol=1e-2)

    # Rules -----------------------------------------------------------------------------------

    @rule(place=st.integers(0, PLACES - 1))
    def add(self, place: int) -> None:
        self.look(place)
        if len(self.at(place)) == AT_ONE:
            return
        engine, seq = self.engine, self.expected.frames
        frame = wall_frame(seq, 20.0 * place)
        T = engine.trajectory.add(seq, frame.stamp_ns, self.expected.world @ pose(frame))
        self.expected.frames += 1
        rng = np.random.default_rng(seq)
        means = rng.normal(size=(SPLATS, 3)).astype(np.float32) * 0.2
        means += np.array([0.0, 0.0, 2.0]) - means.mean(axis=0)
        splats = Splats.from_numpy(
            {
                "means": means,
                "quats_wxyz": np.tile(np.float32([1, 0, 0, 0]), (SPLATS, 1)),
                "scales": np.full((SPLATS, 3), 0.05, np.float32),
                "opacities": np.full(SPLATS, 0.5, np.float32),
                "sh": np.zeros((SPLATS, 1, 3), np.float32),
            }
        )
        engine.make_room(SPLATS)
        meta = ChunkMeta(frame_seq=seq, stamp_ns=seq, camera="front", T_world_chunk=T)
        chunk = engine.map.add(meta, splats)
        engine.chunk_of_seq[seq] = chunk
        engine.residence.add(chunk, splats)
        engine.refiner.add_splats(chunk, splats.transform(engine.refiner.local(T)))
        engine.refiner.add_view(refine_view(frame, rigid(T)))
        engine.keyframes.add(
            Keyframe(
                seq=seq, stamp_ns=seq, camera="front", chunk=chunk, c2w=rigid(T), thumbnail=b""
            )
        )
        self.expected.place[chunk] = place
        self.expected.color[chunk] = 0.5

    @rule(place=st.integers(0, PLACES - 1))
    def look(self, place: int) -> None:
        frame = wall_frame(0, 20.0 * place)
        camera = rigid(self.expected.world @ pose(frame))
        self.engine.residence.see([frame], {0: camera})
        self.looking_at = place

    @precondition(lambda self: self.expected.place)
    @rule(pick=st.randoms(use_true_random=False), by=st.sampled_from([-0.01, 0.02]))
    def refine(self, pick: object, by: float) -> None:
        """What refinement does to a ready chunk, without its time."""
        if not (ready := sorted(self.ready())):
            return
        chunk = pick.choice(ready)  # type: ignore[attr-defined]
        refiner = self.engine.refiner
        members = np.flatnonzero(refiner.parameters.chunk[: refiner.parameters.count] == chunk)
        refiner._fit_buffers()
        for rows in (refiner.parameters.rows, refiner.parameters.average):
            rows[members, COLOR:] += np.float32(by)
        refiner.parameters.activate()
        refiner._touched[members] = True
        self.expected.color[chunk] += by

    @precondition(lambda self: self.expected.frames > 0)
    @rule(scale=st.sampled_from([1.0, 1.0, 1.25, 0.8]), shift=st.floats(-3.0, 3.0))
    def correct(self, scale: float, shift: float) -> None:
        motion = np.diag([scale, scale, scale, 1.0])
        motion[0, 3] = shift
        trajectory = self.engine.trajectory
        entries = {s: motion @ trajectory.pose(s) for s in range(self.expected.frames)}
        self.engine.apply_poses(trajectory.revision + 1, entries, by="seq", upto=None)
        self.expected.world = motion @ self.expected.world
        self.looking_at = None

    @rule()
    def publish(self) -> None:
        self.engine.publish()

    @rule()
    def save(self) -> None:
        self.engine.publish()
        cursor = Cursor(epoch=1, next_seq=self.expected.frames, settings={})
        path = save_state(engine_state(self.engine), self.folder, cursor)
        self.saved[path.name] = copy.deepcopy(self.expected)

    @precondition(lambda self: self.saved)
    @rule(newest=st.booleans())
    def crash(self, newest: bool) -> None:
        """Another process goes on from one of the two states that are there."""
        found = states(self.folder)
        path = found[0 if newest else -1]
        self.engine.close()
        self.expected = copy.deepcopy(self.saved[path.name])
        self.engine = self.fresh()
        state = read_state(path, MODEL)
        views = {
            seq: wall_frame(seq, 20.0 * self.expected.place[self.engine_chunk(state, seq)])
            for seq in state.refiner.view_keys
        }
        restore_engine(self.engine, state, views)
        self.looking_at = None

    @staticmethod
    def engine_chunk(state: object, seq: int) -> int:
        by_seq = {held.frame_seq: held.id for held in state.residence.resting}  # type: ignore[attr-defined]
        by_seq |= {chunk.frame_seq: chunk.id for chunk in state.chunks}  # type: ignore[attr-defined]
        return by_seq[seq]

    # What always holds -----------------------------------------------------------------------

    @invariant()
    def every_chunk_is_in_one_place(self) -> None:
        assert not self.ready() & self.resting()
        assert self.ready() | self.resting() == set(self.expected.place)
        parameters = self.engine.refiner.parameters
        assert parameters.count == SPLATS * len(self.ready())
        assert parameters.count <= READY
        assert self.engine.map.count <= SHOWN
        assert self.ready() <= set(self.engine.map.chunks)

    @invariant()
    def what_is_looked_at_is_ready(self) -> None:
        if self.looking_at is not None:
            for chunk in self.at(self.looking_at):
                self.check_ready(chunk)

    @invariant()
    def a_view_is_in_one_place(self) -> None:
        files = [file.number for held in self.engine.residence.resting for file in held.files]
        assert len(files) == len(set(files))
        assert set(files) <= set(numbers(self.folder / SPILLED))
        for key in self.engine.refiner.views:
            assert self.engine.chunk_of_seq[key] in self.ready()

    @invariant()
    def key_frames_name_what_readers_see(self) -> None:
        named = {k.chunk for k in self.engine.keyframes.values() if k.chunk is not None}
        assert named == set(self.engine.map.chunks)


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=15,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
