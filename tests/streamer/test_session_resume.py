"""Which state a session goes on from, and what it fetches from the journal for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from engine_helpers import feed, make_engine

from gs_decoder.refine import RefineConfig
from streamer.demo import CAPTURE
from streamer.frames import Frame
from streamer.ingest.recorded import decode_recorded
from streamer.journal import FrameEntry, Item, Journal, Rejected, read_journal
from streamer.protocol.messages import CameraHeader, FrameHeader
from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state
from streamer.session.folder import states
from streamer.session.resume import resume
from streamer.session.state_files import Cursor
from streamer.session.storage import save_state
from streamer.sources import open_capture

# Kernels compile once on a machine.
pytestmark = pytest.mark.timeout(300)

LONG_SIDE = 64
SETTINGS: Mapping[str, str | int] = {"long_side": LONG_SIDE}


def journalled(folder: Path, count: int) -> list[Frame]:
    """A journal of the demo capture's first frames, and what an ingest makes of them."""
    capture = open_capture(CAPTURE)
    (camera,) = capture.cameras.values()
    described = msgspec.convert(camera.to_header(), CameraHeader)
    journal = Journal.open(folder, "office", 1)
    items = []
    for seq, frame in enumerate(capture.frames[:count]):
        header = FrameHeader(
            seq=seq,
            stamp_ns=frame.stamp_ns,
            camera=frame.camera,
            encoding="jpeg",
            width=camera.width,
            height=camera.height,
            pose=np.asarray(frame.c2w).reshape(-1).tolist(),
        )
        entry = FrameEntry(header=header, camera=described, convention=capture.convention)
        items.append(Item(entry, (frame.image_path.read_bytes(),), camera, frame.c2w))
    journal.write([*items, Item(Rejected(seq=count, code="bad_image"))])
    journal.close()
    return [
        decode_recorded(one, LONG_SIDE)
        for one in read_journal(folder, 1)
        if isinstance(one.entry, FrameEntry)
    ]


def saved(engine: Engine, folder: Path, next_seq: int, **other: object) -> Path:
    cursor = {"epoch": 1, "next_seq": next_seq, "settings": SETTINGS, **other}
    return save_state(engine_state(engine), folder, Cursor(**cursor))


def resumed(folder: Path) -> tuple[Engine, int]:
    engine, _ = make_engine()
    next_seq = resume(engine, folder, 1, SETTINGS, LONG_SIDE)
    engine.close()
    return engine, next_seq


def test_the_newest_state_that_can_be_used_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    frames = journalled(tmp_path, 8)
    engine, _ = make_engine()
    assert resumed(tmp_path)[1] == 0
    feed(engine, frames[:4])
    earlier = saved(engine, tmp_path, 4)
    feed(engine, frames[4:])
    for _ in range(3):
        engine.refine()
    newer = saved(engine, tmp_path, 9)

    again, next_seq = resumed(tmp_path)
    assert next_seq == 9
    assert f"goes on from {newer} at frame 9" in caplog.text
    assert list(again.refiner.views) == list(engine.refiner.views)
    for seq, view in engine.refiner.views.items():
        other = again.refiner.views[seq]
        assert np.array_equal(view.image, other.image)
        assert np.array_equal(view.c2w, other.c2w)
        assert np.array_equal(view.K, other.K)
        assert np.array_equal(view.log_gain, other.log_gain)
        assert view.psnr == other.psnr
    assert again.trajectory.revision == engine.trajectory.revision
    assert again.frames_done == 8

    (newer / "chunks.safetensors").write_bytes(b"")
    again, next_seq = resumed(tmp_path)
    assert (next_seq, again.frames_done) == (4, 4)
    assert f"{newer}: damaged" in caplog.text
    assert states(tmp_path) == [earlier]
    (earlier / "cursor.json").unlink()
    assert resumed(tmp_path)[1] == 0
    engine.close()


def test_states_of_another_epoch_other_settings_or_beyond_the_journal_are_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = journalled(tmp_path, 4)
    engine, _ = make_engine()
    feed(engine, frames)
    engine.close()
    saved(engine, tmp_path, 5, epoch=2)
    assert resumed(tmp_path)[1] == 0
    saved(engine, tmp_path, 5, settings={"long_side": 96})
    assert resumed(tmp_path)[1] == 0
    assert "other settings" in caplog.text
    saved(engine, tmp_path, 6)
    again, next_seq = resumed(tmp_path)
    assert (next_seq, again.frames_done) == (0, 0)
    assert "the journal ends at 4" in caplog.text
    # None of them is damaged, so none is put aside.
    assert len(states(tmp_path)) == 2
    saved(engine, tmp_path, 5)
    assert resumed(tmp_path)[1] == 5


def test_a_session_goes_on_under_another_sh_degree(tmp_path: Path) -> None:
    frames = journalled(tmp_path, 8)
    engine, _ = make_engine(refine=RefineConfig(workers=2, sh_degree=2))
    feed(engine, frames[:4])
    engine.refine()
    engine.publish()
    saved(engine, tmp_path, 5)
    for degree in (0, 3):
        again, _ = make_engine(refine=RefineConfig(workers=2, sh_degree=degree))
        assert resume(again, tmp_path, 1, SETTINGS, LONG_SIDE) == 5
        assert {chunk.splats.sh_degree for chunk in again.map.chunks.values()} == {2}
        feed(again, frames[4:])
        again.refine()
        again.publish()
        assert {chunk.splats.sh_degree for chunk in again.map.chunks.values()} == {degree}
        assert again.map.count == again.refiner.parameters.count
        again.close()
    engine.close()


def test_views_that_the_journal_does_not_have_are_done_without(tmp_path: Path) -> None:
    frames = journalled(tmp_path, 4)
    engine, _ = make_engine()
    feed(engine, frames)
    state = engine_state(engine)
    state.refiner.arrays["view_keys"][1] = 4
    save_state(state, tmp_path, Cursor(epoch=1, next_seq=5, settings=SETTINGS))
    engine.close()
    again, _ = make_engine()
    assert resume(again, tmp_path, 1, SETTINGS, LONG_SIDE) == 5
    assert list(again.refiner.views) == [0, 2, 3]
    again.refine()
    again.close()
