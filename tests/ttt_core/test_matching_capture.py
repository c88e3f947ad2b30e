"""The matching prior on a real capture whose sensor depth is the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streamer.sources import load_frame, open_capture
from ttt_core.matching import MatchingPrior, PosedImage, PriorConfig


def test_office_depth_agrees_with_its_sensor(capture_dir):
    capture = open_capture(capture_dir("hololens_office"))
    frames = [
        load_frame(capture, capture.frames[k], seq=k, long_side=240, with_depth=True)
        for k in range(1, 48, 4)
    ]
    prior = MatchingPrior(PriorConfig(threads=1))
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    earlier: list[PosedImage] = []
    errors, confidences = [], []
    for first in range(0, len(frames), 4):
        batch = frames[first : first + 4]
        views = [
            PosedImage(f.seq, f.image.astype(np.float32) @ luma / np.float32(255), f.K, f.c2w)
            for f in batch
        ]
        results = prior.predict(views, earlier)
        for frame, view, result in zip(batch, views, results, strict=True):
            there = frame.depth > 0
            errors.append(np.abs(result.depth[there] / frame.depth[there] - 1))
            confidences.append(result.confidence[there])
            earlier.append(replace(view, depth=result.depth, confidence=result.confidence))
            assert len(result.sources) >= 2
    error, confidence = np.concatenate(errors), np.concatenate(confidences)
    assert np.median(error) < 0.06
    sure = confidence > 0.7
    assert sure.mean() > 0.3
    assert np.median(error[sure]) < 0.03
    assert (error[sure] > 0.2).mean() < 0.03
    # Confidence is about the share of depths within 5 %.
    for low in (0.2, 0.4, 0.6, 0.8):
        part = (confidence > low) & (confidence <= low + 0.1)
        assert abs((error[part] < 0.05).mean() - confidence[part].mean()) < 0.2
