"""Late pose corrections: what moves, how far, and what stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.session.corrections import Trajectory, blend, rigid


def rotation(axis_angle):
    angle = np.linalg.norm(axis_angle)
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = np.asarray(axis_angle) / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def random_pose(rng, scale=1.0):
    pose = np.eye(4)
    pose[:3, :3] = scale * rotation(rng.normal(size=3))
    pose[:3, 3] = rng.normal(size=3) * 3
    return pose


def walk(rng, count):
    trajectory = Trajectory()
    poses = [random_pose(rng) for _ in range(count)]
    for seq, pose in enumerate(poses):
        trajectory.add(seq, 1000 * seq, pose)
    return trajectory, poses


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.5, 2.0))
def test_one_world_motion_moves_every_frame_alike(seed, scale):
    """Where the back end moves its whole world, frames it did not name end where they belong."""
    rng = np.random.default_rng(seed)
    trajectory, poses = walk(rng, 12)
    motion = random_pose(rng, scale)
    named = sorted(rng.choice(np.arange(1, 12), size=4, replace=False))
    moved = trajectory.correct({int(s): motion @ poses[s] for s in named}, upto=11)
    assert moved.seqs == list(range(named[0], 12))
    for seq in moved.seqs:
        assert np.allclose(trajectory.pose(seq), motion @ poses[seq], atol=1e-8)
    for seq in range(named[0]):
        assert np.array_equal(trajectory.pose(seq), poses[seq])


def test_frames_between_follow_by_interpolation_and_later_ones_the_last():
    rng = np.random.default_rng(1)
    trajectory, poses = walk(rng, 7)
    shift = np.eye(4)
    shift[:3, 3] = [4.0, 0.0, 0.0]
    trajectory.correct({0: poses[0], 4: shift @ poses[4]}, upto=6)
    offsets = [trajectory.pose(seq)[0, 3] - poses[seq][0, 3] for seq in range(7)]
    assert np.allclose(offsets, [0, 1, 2, 3, 4, 4, 4], atol=1e-9)


def test_upto_bounds_what_follows_and_reaches_frames_still_to_come():
    rng = np.random.default_rng(2)
    trajectory, poses = walk(rng, 4)
    motion = random_pose(rng)
    trajectory.correct({1: motion @ poses[1]}, upto=2)
    assert np.array_equal(trajectory.pose(3), poses[3])
    trajectory.correct({3: motion @ poses[3]}, upto=5)
    late = random_pose(rng)
    assert np.allclose(trajectory.add(4, 4000, late), motion @ late)
    assert np.allclose(trajectory.add(5, 5000, late), motion @ late)
    assert np.array_equal(trajectory.add(6, 6000, late), late)


def test_a_frame_still_to_come_takes_the_pose_that_was_named_for_it():
    rng = np.random.default_rng(5)
    trajectory, poses = walk(rng, 3)
    motion, named, second = random_pose(rng), random_pose(rng, 1.3), random_pose(rng)
    trajectory.correct({1: motion @ poses[1]}, upto=4, coming={4: named, 6: second @ named})
    late = [random_pose(rng) for _ in range(5)]
    assert np.allclose(trajectory.add(3, 3000, late[0]), motion @ late[0])
    assert np.array_equal(trajectory.add(4, 4000, late[1]), named)
    follows = named @ np.linalg.inv(late[1])
    assert np.allclose(trajectory.add(5, 5000, late[2]), follows @ late[2])
    # What is corrected once more meanwhile is corrected on top.
    trajectory.correct({5: second @ trajectory.pose(5)}, upto=7)
    assert np.allclose(trajectory.add(6, 6000, late[3]), second @ second @ named)
    assert np.allclose(trajectory.add(7, 7000, late[4]), second @ late[4])


def test_frames_to_come_are_corrected_although_none_is_known():
    rng = np.random.default_rng(6)
    trajectory, named = Trajectory(), random_pose(rng)
    assert not trajectory.correct({}, upto=-1, coming={1: named}).seqs
    first, second = random_pose(rng), random_pose(rng)
    assert np.allclose(trajectory.add(0, 0, first), first)
    assert np.array_equal(trajectory.add(1, 1, second), named)
    assert np.array_equal(trajectory.add(2, 2, first), first)


def test_a_second_correction_starts_from_the_first_ones_outcome():
    rng = np.random.default_rng(3)
    trajectory, poses = walk(rng, 5)
    first, second = random_pose(rng, 1.5), random_pose(rng)
    trajectory.correct({0: first @ poses[0]}, upto=4)
    trajectory.correct({0: second @ poses[0]}, upto=4)
    for seq in range(5):
        assert np.allclose(trajectory.pose(seq), second @ poses[seq], atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), weight=st.floats(0, 1))
def test_a_blend_is_a_similarity_between_its_ends(seed, weight):
    rng = np.random.default_rng(seed)
    first, second = random_pose(rng, 0.7), random_pose(rng, 1.9)
    assert np.allclose(blend(first, second, 0.0), first, atol=1e-7)
    assert np.allclose(blend(first, second, 1.0), second, atol=1e-7)
    middle = blend(first, second, weight)
    linear = middle[:3, :3]
    scale = np.cbrt(np.linalg.det(linear))
    assert np.allclose(linear @ linear.T, scale**2 * np.eye(3), atol=1e-8)
    assert 0.7 - 1e-9 <= scale <= 1.9 + 1e-9
    assert np.linalg.det(rigid(middle)[:3, :3]) == pytest.approx(1.0)


def test_half_a_turn_still_blends():
    second = np.eye(4)
    second[:3, :3] = rotation([0.0, np.pi, 0.0])
    middle = blend(np.eye(4), second, 0.5)[:3, :3]
    assert np.allclose(middle @ middle, second[:3, :3], atol=1e-7)


def test_stamps_find_their_frames():
    trajectory, _ = walk(np.random.default_rng(4), 3)
    assert trajectory.seqs_by_stamp([1000, 1500]) == {1000: 1}
    assert trajectory.last_seq_until(1999) == 1
    assert trajectory.last_seq_until(-1) == -1


@pytest.mark.parametrize(
    "order",
    [[(t, c) for t in range(4) for c in range(2)], [(t, c) for c in range(2) for t in range(4)]],
    ids=["in turn", "one camera after the other"],
)
@pytest.mark.parametrize("known", [0, 3, 5, 8])
def test_a_stamp_names_its_first_frame_and_the_rest_of_the_rig_follows(order, known):
    """Two cameras with the same stamps; of the correction's frames some are still to come."""
    rng = np.random.default_rng(7)
    rig = random_pose(rng)
    path = [random_pose(rng) for _ in range(4)]
    first, last = random_pose(rng), random_pose(rng, 1.4)
    trajectory = Trajectory()

    def pose(place):
        stamp, camera = order[place]
        return path[stamp] @ (rig if camera else np.eye(4))

    def add(place):
        return trajectory.add(place, order[place][0] * 1000, pose(place))

    for place in range(known):
        add(place)
    named = {0: first @ path[0], 3000: last @ path[3]}
    seq_of = {stamp: order.index((stamp // 1000, 0)) for stamp in named}
    assert trajectory.seqs_by_stamp(named) == {s: q for s, q in seq_of.items() if q < known}
    trajectory.correct(
        {seq: named[stamp] for stamp, seq in seq_of.items() if seq < known},
        upto=7,
        coming={seq: named[stamp] for stamp, seq in seq_of.items() if seq >= known},
    )
    for place in range(known, 8):
        add(place)
    for place, (stamp, _) in enumerate(order):
        if stamp in (0, 3):
            expected = (last if stamp else first) @ pose(place)
            assert np.allclose(trajectory.pose(place), expected, atol=1e-8)


def test_a_camera_that_came_late_is_not_taken_for_the_one_that_was_named():
    rng = np.random.default_rng(8)
    trajectory, poses = Trajectory(), [random_pose(rng) for _ in range(3)]
    for seq, (stamp, pose) in enumerate(zip([0, 0, 1000], poses)):
        trajectory.add(seq, stamp, pose)
    motion = random_pose(rng)
    moved = trajectory.correct(
        {trajectory.seqs_by_stamp([0])[0]: motion @ poses[0], 2: poses[2]}, upto=2
    )
    assert moved.seqs == [0, 1, 2]
    assert np.array_equal(trajectory.pose(0), motion @ poses[0])
    assert np.allclose(trajectory.pose(1), motion @ poses[1])
    assert np.array_equal(trajectory.pose(2), poses[2])


def plain(walked, corrected, upto):
    """What the module's docstring says, frame by frame; `walked` holds (seq, stamp, pose)."""
    stamps = {seq: stamp for seq, stamp, _ in walked}
    motions = {s: corrected[s] @ np.linalg.inv(pose) for s, _, pose in walked if s in corrected}
    twins = {stamps[seq]: motion for seq, motion in sorted(motions.items())}
    after = {}
    for seq, stamp, pose in walked:
        earlier = [s for s in motions if s <= seq]
        later = [s for s in motions if s > seq]
        if not earlier or seq > max(upto, *corrected):
            continue
        a = max(earlier)
        if seq in corrected:
            after[seq] = corrected[seq]
        elif stamp in twins:
            after[seq] = twins[stamp] @ pose
        elif later:
            b = min(later)
            share = (seq - a) / (b - a)
            if stamps[a] < stamps[b] and stamps[a] <= stamp <= stamps[b]:
                share = (stamp - stamps[a]) / (stamps[b] - stamps[a])
            after[seq] = blend(motions[a] @ pose, motions[b] @ pose, share)
        else:
            after[seq] = motions[a] @ pose
    return after


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    stamps=st.lists(st.integers(0, 6), min_size=1, max_size=14),
    named=st.sets(st.integers(0, 13), min_size=1, max_size=5),
    upto=st.integers(-1, 15),
)
def test_all_at_once_is_one_after_the_other(seed, stamps, named, upto):
    """Of clocks that stand still or run backwards, too; numbers have gaps."""
    rng = np.random.default_rng(seed)
    walked = [(2 * n, 10 * stamp, random_pose(rng)) for n, stamp in enumerate(stamps)]
    trajectory = Trajectory()
    for frame in walked:
        trajectory.add(*frame)
    anchors = sorted({2 * (n % len(stamps)) for n in named})
    corrected = {seq: random_pose(rng, 1.2) for seq in anchors}
    moved = trajectory.correct(corrected, upto=2 * upto)
    expected = plain(walked, corrected, 2 * upto)
    assert moved.seqs == list(expected)
    before = {seq: pose for seq, _, pose in walked}
    for place, seq in enumerate(moved.seqs):
        assert np.array_equal(moved.before[place], before[seq])
        assert np.allclose(moved.after[place], expected[seq], atol=1e-9)
    for seq, _, pose in walked:
        assert np.allclose(trajectory.pose(seq), expected.get(seq, pose), atol=1e-9)
