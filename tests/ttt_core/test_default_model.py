"""Which model is meant by no weights, "none", "packaged" and a file; and what is packaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from streaming_cases import batches

from ttt_core import CheckpointError, StateMismatchError, StreamingModel, default_model
from ttt_core.compact_checkpoint import load_compact
from ttt_core.default_model import PACKAGED, weights_digest
from ttt_core.streaming_state import StreamingState


def test_the_packaged_checkpoint_loads_and_corrects() -> None:
    """It is small, says its licence, and its output is not the prior's."""
    bare, packaged = default_model(), default_model("packaged")
    assert not bare.trained and packaged.trained
    assert PACKAGED.stat().st_size < 20e6
    assert load_compact(PACKAGED)[2]["licence"] == "Apache-2.0"
    batch = batches(1)[0]
    (_, ours), (_, theirs) = (m.stream(m.initial_state(), batch) for m in (bare, packaged))
    assert theirs.depth.isfinite().all()
    assert (ours.depth - theirs.depth).abs().max() > 1e-3


def test_the_packaged_checkpoint_says_what_was_measured_with_it() -> None:
    """The figures in its metadata are those of the committed results."""
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    scenes = json.loads((results / "learned_scenes.json").read_text())
    office = json.loads((results / "learned_depth_office.json").read_text())
    measured = {
        "kept_out/": scenes["learned"],
        "kept_out/prior/": scenes["prior"],
        "kept_out/reset/": scenes["learned, memory reset"],
        "hololens_office/": office["packaged"],
        "hololens_office/prior/": office["none"],
        "hololens_office/reset/": office["packaged, memory reset"],
    }
    assert load_compact(PACKAGED)[2]["figures"] == {
        f"{place}{statistic}": row[statistic]
        for place, row in measured.items()
        for statistic in ("median", "mean")
    }


def test_without_a_network_it_is_the_prior_of_an_untrained_one() -> None:
    """Same depth and confidence bit for bit, a state that can be saved, moved and asked."""
    bare, untrained = default_model("none"), StreamingModel().eval()
    ours, theirs = bare.initial_state(), untrained.initial_state()
    for batch in batches(2):
        bare.warm_up(*batch.image.shape[-2:])
        ours, said = bare.stream(ours, batch)
        theirs, expected = untrained.stream(theirs, batch)
        assert torch.equal(said.depth, expected.depth)
        assert torch.equal(said.confidence, expected.confidence)
        assert torch.equal(said.color, batch.image)
        assert not said.opacity_logit_residual.any()
    assert ours.memory.nbytes == 0 and not ours.records
    again = StreamingState.from_tensors(ours.to_tensors())
    assert torch.equal(bare.query(again, batch).depth, bare.query(ours, batch).depth)
    moved = bare.move(ours, {ours.views[0].key: np.eye(4)})
    assert np.array_equal(moved.views[0].c2w, np.eye(4))
    with pytest.raises(StateMismatchError):
        bare.stream(theirs, batch)


def test_weights_are_told_apart_by_what_they_are(tmp_path: Path) -> None:
    """The packaged ones under any name are the same; one other byte is another checkpoint."""
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(PACKAGED.read_bytes())
    assert weights_digest() == weights_digest("none") != weights_digest("packaged")
    assert weights_digest("packaged") == weights_digest(copy)
    copy.write_bytes(PACKAGED.read_bytes()[:-1] + b"\0")
    assert weights_digest(copy) not in (weights_digest(), weights_digest("packaged"))
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors"):
        weights_digest(tmp_path / "nowhere.safetensors")
