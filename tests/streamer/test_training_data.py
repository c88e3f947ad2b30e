"""Captures as sequences to train on."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from capture_writers import transforms, write_nerfstudio, write_tum

from streamer.sources import CaptureError
from streamer.training_data import CaptureSource
from ttt_core.training.build import StreamSpec, build_sequence
from ttt_core.training.cache import SequenceCache


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 frames, 1 m along x each; depth of 1 m."""
    root = write_tum(tmp_path_factory.mktemp("walk"), seconds=1.0)
    (root / "calibration.txt").write_text("30 31 16.5 11.5\n")
    return root


def test_same_number_same_sequence(walk: Path) -> None:
    source = CaptureSource(folders=(str(walk),), views=4, strides=(1, 2))
    again = pickle.loads(pickle.dumps(source))
    for index in range(4):
        a, b = source(index), again(index)
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.c2w, b.c2w)
    steps = {
        round(float(s), 3)
        for index in range(8)
        for s in source(index).c2w[:, :3, 3].diff(dim=0).norm(dim=-1)
    }
    assert steps == {0.1, 0.2}


def test_depth_size_and_range(walk: Path) -> None:
    source = CaptureSource(folders=(str(walk),), views=3, strides=(1,), frames="0:3", long_side=16)
    posed = source(0)
    assert posed.image.shape == (3, 3, 12, 16)
    assert torch.allclose(posed.depth[0], torch.tensor(1.0), atol=0.01)
    cut = CaptureSource(
        folders=(str(walk),), views=3, strides=(1,), frames="0:3", long_side=16, crop=(8, 10),
        sensor_depth=False,
    )  # fmt: skip
    smaller = cut(0)
    assert torch.equal(smaller.image, posed.image[:, :, 2:10, 3:13])
    assert torch.equal(smaller.fxfycxcy[:, 2:], posed.fxfycxcy[:, 2:] - torch.tensor([3.0, 2.0]))
    assert not smaller.depth.any()


def test_goes_through_the_prior_and_names_its_cache(walk: Path, tmp_path: Path) -> None:
    source = CaptureSource(folders=(str(walk),), views=4)
    spec = StreamSpec(batches=2, views_per_batch=2)
    built = build_sequence(source(0), spec)
    assert built.true_depth.any()
    SequenceCache(tmp_path / "cache", spec, source).close()
    SequenceCache(tmp_path / "cache", spec, source).close()


def test_unreadable_frames_are_passed_over(tmp_path: Path) -> None:
    root = write_nerfstudio(tmp_path / "walk", transforms(6))
    (root / "images/002.png").write_bytes(b"no picture")
    posed = CaptureSource(folders=(str(root),), views=5, strides=(1,))(0)
    assert np.allclose(posed.c2w[:, 0, 3], [0, 1, 3, 4, 5])
    with pytest.raises(CaptureError, match="only 5 of the 6"):
        CaptureSource(folders=(str(root),), views=6)(0)


def test_captures_that_give_no_sequence(walk: Path) -> None:
    with pytest.raises(CaptureError, match="11 frames of one camera"):
        CaptureSource(folders=(str(walk),), views=11)(0)
    with pytest.raises(CaptureError, match="crop"):
        CaptureSource(folders=(str(walk),), views=3, crop=(400, 400))(0)
    with pytest.raises(CaptureError, match="strides"):
        CaptureSource(folders=(str(walk),), strides=())
    with pytest.raises(CaptureError, match="no capture"):
        CaptureSource(folders=())
