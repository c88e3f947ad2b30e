"""The engine with a released model: the whole way from frames to a map, and its state on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import NEVER, Reader, feed, mean_psnr, office

from streamer.session.engine import Engine
from streamer.session.engine_state import engine_state
from streamer.session.settings import EngineConfig
from streamer.session.state_files import Cursor, read_state
from streamer.session.storage import save_state
from ttt_core import Reconstructor, ReconstructorConfig
from ttt_core.official import OfficialModel, OfficialState, load_official

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OfficialModel:
    """A small random one, through a file."""
    torch.manual_seed(0)
    config = ReconstructorConfig(
        width=32, layers=2, patch_size=8, attention_head_dim=16, fast_weight_head_dim=32
    )
    source = Reconstructor(config).requires_grad_(False)
    path = tmp_path_factory.mktemp("weights") / "official.pt"
    torch.save({"model": dict(source.state_dict())}, path)
    return load_official(path)


def test_frames_become_a_map(model: OfficialModel, tmp_path: Path) -> None:
    reader = Reader()
    settings = EngineConfig(publish_every=NEVER, chunk_interval=0.0)
    engine = Engine(settings, reader, model=model)
    engine.warm_up(43, 64)
    frames = office(0, 12)
    feed(engine, frames)
    engine.publish()
    assert engine.map.count > 0
    for chunk in engine.map.chunks.values():
        chunk.splats.check_values()
    assert reader.mirror.equals(engine.map)
    assert "tttLRM" in engine.status().model
    keyframes = [frame for frame in frames if frame.seq in reader.cameras]
    assert np.isfinite(mean_psnr(reader.mirror, keyframes, reader.cameras))
    moved = {frame.seq: frame.c2w for frame in frames if frame.c2w is not None}
    moved[3] = moved[3].copy()
    moved[3][0, 3] += 0.1
    engine.apply_poses(1, moved, by="seq", upto=None)
    cursor = Cursor(epoch=1, next_seq=12, settings={})
    state = read_state(save_state(engine_state(engine), tmp_path, cursor), model).model
    assert isinstance(state, OfficialState)
    was, now = engine.model_state.to_tensors(), state.to_tensors()
    assert was.keys() == now.keys()
    assert all(torch.equal(was[name], now[name]) for name in was)
    engine.reset()
    assert engine.model_state.frame is None
    engine.close()
