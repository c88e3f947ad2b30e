"""Runs of an evaluation: held-out frames stay out, marks are served, methods do what they say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from engine_helpers import make_engine, office
from hypothesis import given
from hypothesis import strategies as st

from gs_decoder import read_ply
from streamer.demo import CAPTURE
from streamer.evaluation.charts import Curve, chart, ticks
from streamer.evaluation.errors import EvaluationError
from streamer.evaluation.evaluate import Settings
from streamer.evaluation.job import Job, Outcome, poses_path, read_offsets
from streamer.evaluation.marks import Marks
from streamer.evaluation.methods import METHODS, build_model
from streamer.evaluation.results import CaptureResult, RunResult
from streamer.evaluation.table import COLUMNS, rows, text_table, without_empty
from streamer.evaluation.worker import build_map
from streamer.held_out import HeldOut
from streamer.run import RunPlan
from streamer.session.batching import view_batch
from streamer.sources import open_capture
from streamer.trajectory import CAMERAS_FILE, read_trajectory
from ttt_core import StreamingModel, ViewBatch

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(600)

FRAMES = 9


def small_capture(root: Path, replaced: Mapping[int, int] | None = None) -> Path:
    """The first frames of the demo capture; `replaced[i] = j` puts picture and pose of j there."""
    document = json.loads((CAPTURE / "transforms.json").read_text())
    names = [frame["file_path"] for frame in document["frames"]]
    poses = [frame["transform_matrix"] for frame in document["frames"]]
    document["frames"] = document["frames"][:FRAMES]
    for number, other in (replaced or {}).items():
        document["frames"][number]["transform_matrix"] = poses[other]
    (root / "images").mkdir(parents=True)
    for number, name in enumerate(names[:FRAMES]):
        shutil.copy(CAPTURE / names[(replaced or {}).get(number, number)], root / name)
    (root / "transforms.json").write_text(json.dumps(document))
    return root


def run(capture: Path, out: Path, **changes: Any) -> Outcome:
    """A run in this process."""
    out.mkdir(parents=True, exist_ok=True)
    job: dict[str, Any] = {
        "capture": str(capture),
        "frames": None,
        "hold_out": 4,
        "long_side": 64,
        "method": "sweep-only",
        "with_depth": False,
        "mode": "batch",
        "at": (),
        "rate": 0.0,
        "steps": None,
        "seed": 0,
        "refine_poses": False,
        "sh_degree": 2,
        "device": "cpu",
        "background": "auto",
        "weights": None,
        "out": str(out),
    }
    return build_map(Job(**{**job, **changes}))


def test_held_out_pictures_and_poses_never_reach_the_map(tmp_path: Path) -> None:
    # Held out: 0, 4 and 8; they decide neither depth nor key frames nor exposure nor background.
    changed = {
        "as it is": {},
        "held out changed": {0: 60, 4: 90, 8: 110},
        "given changed": {5: 90},
    }
    maps = {}
    for name, replaced in changed.items():
        capture = small_capture(tmp_path / name / "capture", replaced)
        outcome = run(capture, tmp_path / name / "out", steps=12, refine_poses=True)
        (record,) = outcome.maps
        assert (record.at, record.batch, record.refinement_steps) == (None, None, 12)
        assert outcome.frames_in == outcome.frames_done == 6
        cameras = read_trajectory(tmp_path / name / "out" / CAMERAS_FILE)
        assert len(cameras.c2w) == record.keyframes > 0
        file = tmp_path / name / "out" / record.file
        maps[name] = file.read_bytes() + poses_path(file).read_bytes()
        # Cameras were found of frames that were given, by their place in the capture.
        assert {1, 7} < set(read_offsets(file)) <= {1, 2, 3, 5, 6, 7}
    assert maps["held out changed"] == maps["as it is"]
    assert maps["given changed"] != maps["as it is"]


@pytest.mark.parametrize("degree", [0, 2])
def test_the_map_on_disk_has_the_harmonics_that_were_asked_for(tmp_path: Path, degree: int) -> None:
    outcome = run(small_capture(tmp_path / "capture"), tmp_path / "out", steps=4, sh_degree=degree)
    splats = read_ply(tmp_path / "out" / outcome.maps[0].file).splats
    assert splats.sh_degree == degree
    assert splats.sh[:, 1:].any() == (degree > 0)


def test_a_frame_without_its_file_is_not_missed_where_it_is_held_out(tmp_path: Path) -> None:
    capture = small_capture(tmp_path / "capture")
    names = [frame.image_path for frame in open_capture(capture).frames]
    for number in (0, 4, 8):
        names[number].write_bytes(b"")
    outcome = run(capture, tmp_path / "out", steps=1)
    assert outcome.frames_done == 6
    assert outcome.unreadable == []


def test_marks_are_served_in_order_with_the_map_of_their_time(tmp_path: Path) -> None:
    capture = small_capture(tmp_path / "capture")
    outcome = run(capture, tmp_path / "out", at=(0.3, 1.5))
    assert [record.at for record in outcome.maps] == [0.3, 1.5]
    first, second = outcome.maps
    assert first.written < second.written
    assert first.cpu_seconds <= second.cpu_seconds
    assert first.refinement_steps <= second.refinement_steps
    assert 0 < first.peak_memory_mb <= second.peak_memory_mb
    for record in outcome.maps:
        if record.splats:
            assert read_ply(tmp_path / "out" / record.file).splats.count == record.splats


def test_a_mark_before_the_first_batch_has_an_empty_map(tmp_path: Path) -> None:
    outcome = run(small_capture(tmp_path / "capture"), tmp_path / "out", at=(1e-6,))
    assert [(record.at, record.splats, record.newest) for record in outcome.maps] == [(1e-6, 0, -1)]


class Clock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def marks_of(out: Path, clock: Clock, at: tuple[float, ...], rate: float = 0.0) -> Marks:
    """Over twelve given frames in batches of four."""
    capture = open_capture(CAPTURE).select(0, 12)
    plan = RunPlan(
        capture=capture,
        given=capture.frames,
        kept=(),
        long_side=64,
        with_depth=False,
        time_limit=60.0,
        rate=rate,
    )
    return Marks(out, plan, at, 4, clock)


def test_a_map_is_written_as_late_as_it_is_ready_at_its_mark(tmp_path: Path) -> None:
    engine, _ = make_engine()
    engine.process(office(0, 4))
    clock = Clock()
    marks = marks_of(tmp_path, clock, (10.0, 30.0, 50.0))
    clock.now += 2.0
    marks.tell(engine, 4)  # a batch takes two seconds
    while clock.now < 111.0:
        clock.now += 0.5
        marks.tell(engine, 4)
    # The next batch might have begun at 8.5 and ended behind the mark.
    assert [(record.at, record.written) for record in marks.records] == [(10.0, 8.0)]
    clock.now += 2.0
    marks.tell(engine, 12)  # all frames are in: from here on there are steps alone
    while clock.now < 131.0:
        clock.now += 0.5
        marks.tell(engine, 12)
    assert [(record.at, record.written) for record in marks.records[1:]] == [(30.0, 29.5)]
    marks.finish(engine)  # it settled: what there is stands for the last mark
    assert [record.at for record in marks.records] == [10.0, 30.0, 50.0]
    assert marks.records[-1].frames_in == 12
    engine.close()


def test_in_a_stream_a_batch_has_the_time_until_the_next_one_is_there(tmp_path: Path) -> None:
    engine, _ = make_engine()
    clock = Clock()
    marks = marks_of(tmp_path, clock, (), rate=2.0)
    for frames_in, until in ((4, 4.0), (8, 6.0), (12, 8.0)):
        engine.process(office(frames_in - 4, frames_in))
        clock.now = 100.0 + until - 2.0 + 0.5
        marks.tell(engine, frames_in)
        while clock.now < 100.0 + until:
            clock.now += 0.25
            marks.tell(engine, frames_in)
    assert [(r.batch, r.written, r.newest) for r in marks.records] == [
        (1, 3.75, 3), (2, 5.75, 7), (3, 7.75, 11),
    ]  # fmt: skip
    marks.finish(engine)
    assert len(marks.records) == 3
    engine.close()


def test_a_stream_leaves_a_map_after_every_batch_and_is_asked_for_what_it_passed(
    tmp_path: Path,
) -> None:
    capture = small_capture(tmp_path / "capture")
    outcome = run(capture, tmp_path / "out", mode="stream", rate=8.0)
    # Six frames given, four a batch: 1 2 3 5, then 6 7.
    assert [(r.batch, r.frames_in, r.newest) for r in outcome.maps] == [(1, 4, 5), (2, 6, 7)]
    opened = open_capture(capture)
    held_out = HeldOut.load(opened, *opened.hold_out(4), long_side=64)
    assert [view.seq for view in held_out.seen_before(5)] == [0, 4]
    assert [view.seq for view in held_out.seen_before(8)] == [0, 4]
    assert [frame.seq for frame in held_out.neighbours] == [1, 3, 5, 7]


def test_a_capture_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    capture = small_capture(tmp_path / "capture")
    for frame in open_capture(capture).frames:
        frame.image_path.write_bytes(b"no picture")
    with pytest.raises(EvaluationError, match="no frame could be read"):
        run(capture, tmp_path / "out", steps=1)


def batches() -> tuple[ViewBatch, ViewBatch]:
    """Two batches of three frames of the demo capture."""
    frames = office(0, 24, long_side=160)[::4]
    poses = {frame.seq: frame.c2w for frame in frames if frame.c2w is not None}
    empty = [np.zeros(frame.image.shape[:2], np.float32) for frame in frames]
    first, second = (view_batch(frames[i : i + 3], poses, empty[i : i + 3]) for i in (0, 3))
    return first, second


def test_random_points_are_random_repeatable_and_within_what_features_span() -> None:
    first, second = batches()
    model = build_model("random-points", None, "cpu", seed=1)
    state, prediction = model.stream(model.initial_state(), first)
    _, later = model.stream(state, second)
    _, again = model.stream(model.initial_state(), first)
    _, other = build_model("random-points", None, "cpu", 2).stream(model.initial_state(), first)
    assert torch.equal(prediction.depth, again.depth)
    assert not torch.equal(prediction.depth, other.depth)
    # Cells of 4x4 pixels share a depth, their neighbours do not.
    depth = prediction.depth[0].numpy()
    cells = depth[:40, :60].reshape(10, 4, 15, 4)
    assert (cells == cells[:, :1, :, :1]).all()
    assert len(np.unique(cells[:, 0, :, 0])) > 140
    # The office is some metres deep.
    for made in (prediction, later):
        assert 0.2 < float(made.depth.min()) < float(made.depth.max()) < 60.0
        assert torch.equal(made.color, first.image if made is prediction else second.image)
    # Two batches see the same room: what was found is carried on.
    after, _ = model.stream(state, second)
    assert len(state.points) > 20
    assert len(after.points) > len(state.points)
    assert [view.key for view in after.views] == [*first.keys, *second.keys]


def test_the_reset_method_forgets_what_the_other_carries() -> None:
    first, second = batches()
    learned = build_model("learned", None, "cpu", 0)
    reset = build_model("learned-reset", None, "cpu", 0)
    assert isinstance(learned, StreamingModel)
    assert reset.trained
    carried, _ = learned.stream(learned.initial_state(), first)
    forgotten, prediction = reset.stream(reset.initial_state(), first)
    # Before the first batch there is nothing to forget.
    assert torch.equal(prediction.depth, learned.stream(learned.initial_state(), first)[1].depth)
    _, with_memory = learned.stream(carried, second)
    _, without = reset.stream(forgotten, second)
    assert not torch.equal(with_memory.depth, without.depth)
    # And what it kept of the pictures is the same, so that only the memory differs.
    assert [view.key for view in carried.views] == [view.key for view in forgotten.views]


def test_only_methods_that_say_so_need_depth_or_weights(tmp_path: Path) -> None:
    assert [slug for slug, method in METHODS.items() if method.uses_depth] == ["sensor-depth"]
    for slug in ("random-points", "sensor-depth", "sweep-only"):
        assert not build_model(slug, str(tmp_path / "nowhere"), "cpu", 0).trained
    for slug in ("learned", "learned-reset"):
        with pytest.raises(EvaluationError, match="holds no trained network"):
            build_model(slug, "none", "cpu", 0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hold_out": 1}, "--hold-out"),
        ({"long_side": 8}, "--long-side"),
        ({"at": (0.0,)}, "--at"),
        ({"at": ()}, "--at"),
        ({"mode": "stream", "rate": 0.0}, "--rate"),
        ({"mode": "stream", "steps": 5}, "--steps"),
        ({"weights": "/nowhere/w.safetensors"}, "--weights"),
        ({"sh_degree": 4}, "--sh-degree"),
        ({"maps": (Path("/nowhere/map.ply"),)}, "--map"),
        ({"methods": ()}, "--only"),
    ],
)
def test_settings_that_do_not_go_together_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(EvaluationError, match=named):
        Settings(**changes)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_even_and_reach_around_the_values(low: float, span: float) -> None:
    high = low + span
    marks = ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), span)
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    assert 2 <= len(marks) <= 9
    assert np.ptp(np.diff(marks)) <= slack + 1e-9


def test_a_chart_is_well_formed_and_has_every_curve_with_points() -> None:
    curves = [
        Curve("a < b", 0, [(10.0, 20.0), (60.0, 25.0)]),
        Curve("one point", 1, [(10.0, 20.0)]),
        Curve("none", 2, []),
    ]
    svg = ElementTree.fromstring(chart("PSNR & more", "seconds", curves))
    assert len(svg.findall("polyline")) == 2
    assert len(svg.findall("circle")) == 3
    labels = {text.text for text in svg.findall("text")}
    assert {"a < b", "one point", "PSNR & more"} <= labels
    assert "none" not in labels
    assert chart("empty", "s", curves[2:]) == ""


def test_a_failed_run_has_its_row() -> None:
    failed = RunResult(method="learned", label="learned", about="", depth_given=True, failed="why")
    result = CaptureResult(
        capture="c", frames_given=1, views_held_out=1, views_unreadable=0, has_depth=True
    )
    result.runs.append(failed)
    lines = list(rows(result))
    assert [len(line) for line in lines] == [len(COLUMNS)]
    assert text_table(lines).splitlines()[1].split() == ["learned,", "with", "depth", "failed"]
    assert without_empty(lines) == (("start", "map"), [("learned, with depth", "failed")])
