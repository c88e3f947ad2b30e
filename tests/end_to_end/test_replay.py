"""A session that a daemon recorded gives the same map once more, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from live_daemon import OFFICE, client, daemon, frames_done, requests, send, wait_until

from gs_decoder import read_ply
from streamer import PoseClient
from streamer.cli import dispatch
from streamer.config import ServeConfig, SessionConfig
from streamer.journal import Overtook, read_journal
from streamer.replay import Recording, replay
from streamer.session.engine import Engine
from streamer.session.folder import states
from streamer.session.settings import engine_config
from streamer.session.state_files import read_chunks
from streamer.session.threads import use_all_cores
from ttt_core import default_model

# The first daemon on a machine compiles its kernels.
pytestmark = pytest.mark.timeout(600)

SESSION = "office"


def replayed(*arguments: str) -> int:
    """The command's exit code."""
    return dispatch(["replay", *arguments, "--long-side", "96", "--steps", "3"])


@pytest.fixture
def as_a_daemon_computes() -> Iterator[None]:
    """On as many threads: sums in another order differ in their last bits."""
    before = torch.get_num_threads()
    use_all_cores()
    yield
    torch.set_num_threads(before)


def overtaken(folder: Path) -> bool:
    """Whether a correction came before a batch that the session had been handed earlier."""
    return any(isinstance(one.entry, Overtook) for one in read_journal(folder / SESSION))


@pytest.mark.usefixtures("as_a_daemon_computes")
def test_a_recorded_session_replays_to_the_same_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sessions"
    with (
        daemon(folder, refine=True, refine_steps=3, max_sessions=1) as serving,
        requests(serving) as asking,
        client(serving, SESSION) as sender,
        PoseClient(serving.addresses["ingest"], session=SESSION) as back_end,
    ):
        send(sender, OFFICE.frames[:9])
        wait_until(lambda: frames_done(asking, SESSION) == 9, "the first frames")
        turned = np.array(OFFICE.frames[4].c2w)
        turned[:3, 3] += 0.05
        assert back_end.send_poses(1, {4: turned}).moved > 0
        send(sender, OFFICE.frames[9:14])
        wait_until(lambda: frames_done(asking, SESSION) == 14, "the rest")
        frames, corrections = 14, 1
        while frames < 62 and not overtaken(folder):
            # PAUSE comes while the first of these is worked on, and the next is on its way then.
            send(sender, OFFICE.frames[frames : frames + 12])
            assert sender.wait(60)
            asking.pause(SESSION)
            frames, corrections = frames + 12, corrections + 1
            turned = np.array(OFFICE.frames[frames - 2].c2w)
            turned[:3, 3] += 0.03
            named = {OFFICE.frames[4].stamp_ns: OFFICE.frames[4].c2w}
            named[OFFICE.frames[frames - 2].stamp_ns] = turned
            assert back_end.send_poses(corrections, named, by="stamp").unknown == []
            asking.resume(SESSION)
            wait_until(lambda done=frames: frames_done(asking, SESSION) == done, "what waited")
        assert overtaken(folder)
    cursor, chunks = read_chunks(states(folder / SESSION)[0])
    assert cursor.next_seq == frames
    assert sum(chunk.count for chunk in chunks) > 500

    settings = engine_config(ServeConfig(session=SessionConfig(long_side=96, refine_steps=3)))
    engine = Engine(settings, model=default_model(device=settings.device))
    again = replay(engine, Recording(folder / SESSION, settings.batch), long_side=96)
    engine.close()
    assert (again.frames, again.corrections, again.refused) == (frames, corrections, 0)
    assert [chunk.id for chunk in chunks] == list(engine.map.chunks)
    for chunk in chunks:
        other = engine.map.chunks[chunk.id]
        assert chunk.splats.equals(other.splats)
        assert np.array_equal(chunk.T_world_chunk, other.T_world_chunk)
        assert chunk.header()[3:] == other.header()[3:]

    out = tmp_path / "again.ply"
    (file,) = (folder / SESSION / "journal").iterdir()
    for source in ([SESSION, "--session-dir", str(folder)], [str(file)]):
        assert replayed(*source, "--out", str(out)) == 0
        assert f"{frames} frames, {corrections} corrections" in capsys.readouterr().out
        written = read_ply(out).splats
        means = engine.map.splats_world(origin=engine.map.origin()).means
        assert torch.allclose(written.means, means, rtol=0, atol=1e-5)
        out.unlink()

    assert replayed("offce", "--session-dir", str(folder), "--out", str(out)) == 2
    assert "did you mean 'office'?" in capsys.readouterr().err
