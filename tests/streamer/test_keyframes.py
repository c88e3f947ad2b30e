"""Key frames by coverage, and the exposure of a view against the map."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.exposure import estimate_log_gain
from streamer.session.keyframes import KeyframeSelector


def pose_at(x, yaw_deg=0.0):
    yaw = np.radians(yaw_deg)
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    pose[0, 3] = x
    return pose


def test_the_first_frame_is_a_key_frame_and_its_repetition_is_not():
    selector = KeyframeSelector()
    assert selector.is_keyframe(np.eye(4), 2.0, 1.0)
    selector.add(0, np.eye(4))
    assert not selector.is_keyframe(np.eye(4), 2.0, 1.0)


def test_turning_walking_and_seeing_something_new_make_key_frames():
    selector = KeyframeSelector()
    selector.add(0, np.eye(4))
    assert selector.is_keyframe(pose_at(0.0, yaw_deg=10.0), 2.0, 0.0)
    assert selector.is_keyframe(pose_at(0.3), 2.0, 0.0)
    assert not selector.is_keyframe(pose_at(0.08), 2.0, 0.0)
    assert selector.is_keyframe(pose_at(0.08), 2.0, 0.5)


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-3, 1e4), st.floats(0.0, 1.0), st.floats(-30.0, 30.0))
def test_novelty_does_not_know_the_unit_of_the_world(unit, step, yaw):
    one, other = KeyframeSelector(), KeyframeSelector()
    one.add(0, np.eye(4))
    other.add(0, np.eye(4))
    expected = one.novelty(pose_at(step, yaw), 2.0)
    assert np.isclose(other.novelty(pose_at(step * unit, yaw), 2.0 * unit), expected)


def test_corrected_key_frames_are_compared_where_they_are_now():
    selector = KeyframeSelector()
    selector.add(0, np.eye(4))
    selector.move({0: pose_at(5.0)})
    assert selector.novelty(pose_at(5.0), 1.0) == 0.0
    assert selector.novelty(np.eye(4), 1.0) > 1.0


def test_exposure_is_read_where_the_map_fills_the_view():
    rng = np.random.default_rng(0)
    rgb = rng.uniform(0.2, 0.6, (40, 60, 3)).astype(np.float32)
    gain = np.array([1.1, 0.9, 1.2], np.float32)
    filled = np.ones((40, 60), np.float32)
    # A third of the view changed since: the median does not care.
    color = rgb * gain
    color[:, :15] = 0.9
    log_gain = estimate_log_gain(color, (rgb, filled, filled))
    assert np.allclose(np.exp(log_gain), gain, atol=0.02)
    assert estimate_log_gain(color, (rgb, filled, 0.0 * filled)) is None
    assert estimate_log_gain(color, None) is None
