"""Procedural scenes: exact geometry, fixed seeds, splits that share nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from ttt_core.errors import ConfigError
from ttt_core.scenes import (
    KEPT_OUT_CAMERA,
    KEPT_OUT_TEXTURE,
    KINDS,
    SPLITS,
    Kind,
    SceneConfig,
    SceneSequence,
    contact_sheet,
    make_sequence,
)
from ttt_core.scenes.cast import FAR, ListFan, PictureFan, _box, _leave_box, nearest
from ttt_core.scenes.layouts import LAYOUTS
from ttt_core.scenes.solids import BOX, ELLIPSOID, FRUSTUM, Look, Solid, SurfaceTable, World
from ttt_core.scenes.trajectories import MODES, draw_mode, make_trajectory

SMALL = SceneConfig(height=48, width=64, views=10, texture_size=64, textures=6)
TINY = SceneConfig(
    height=6, width=8, views=6, texture_size=16, textures=2, smooth_edges=False, jpeg=False
)
"""For tests of where cameras go, which look at no picture."""


def world(*solids: Solid) -> SurfaceTable:
    """Solids in empty space."""
    return SurfaceTable(
        World(
            solids=list(solids),
            room=None,
            room_looks=[Look()] * 6,
            terrain=None,
            ground_look=Look(),
            sky_look=Look(),
            lamp=np.array([0.0, 0.0, 5.0]),
            lamp_colour=np.ones(3),
            lamp_reach=2.0,
            ambient=np.ones(3),
            sky_colour=np.ones(3),
            haze=0.0,
        )
    )


def solid(shape: int, **more: object) -> Solid:
    return Solid(shape=shape, centre=np.zeros(3), half=np.ones(3), **more)  # type: ignore[arg-type]


def shoot(table: SurfaceTable, origin: list[float], direction: list[float]) -> tuple[float, int]:
    """t and row of one ray."""
    t, row = nearest(ListFan(table, np.array(origin), torch.tensor(direction)[:, None]), table)
    return float(t[0]), int(row[0])


def agreement(sequence: SceneSequence, first: int, second: int) -> tuple[float, float, int]:
    """Points of one view seen in another: median relative error of the depth there, share of
    points within 1 % of it, number of points."""
    depth = sequence.depth.double()
    height, width = depth.shape[1:]
    fx, fy, cx, cy = sequence.fxfycxcy[first].double()
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    z = depth[first]
    points = torch.stack([(u - cx) / fx * z, (v - cy) / fy * z, z, torch.ones_like(z)], -1)[z > 0]
    points = points @ (torch.linalg.inv(sequence.c2w[second]) @ sequence.c2w[first]).T
    x, y, z = (
        points[:, 0] / points[:, 2] * fx + cx,
        points[:, 1] / points[:, 2] * fy + cy,
        points[:, 2],
    )
    inside = (z > 0.1) & (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    grid = torch.stack([x / width * 2 - 1, y / height * 2 - 1], -1)[inside][None, None]
    # The inverse of depth is linear in the picture of a plane.
    inverse = torch.where(depth[second] > 0, 1 / depth[second], 0.0)
    seen = grid_sample(inverse[None, None], grid, align_corners=False)[0, 0, 0]
    error = (seen * z[inside] - 1).abs()
    return float(error.median()), float((error < 0.01).double().mean()), len(error)


@pytest.fixture(scope="module")
def sequences() -> list[SceneSequence]:
    """Two of every kind."""
    return [
        make_sequence(seed, "train", replace(SMALL, kind=kind, smooth_edges=False))
        for kind in KINDS
        for seed in (1, 2)
    ]


def test_shapes_and_types_are_those_that_are_promised(sequences: list[SceneSequence]) -> None:
    for sequence in sequences:
        assert sequence.image.shape == (10, 3, 48, 64) and sequence.image.dtype == torch.uint8
        assert sequence.depth.shape == (10, 48, 64) and sequence.depth.dtype == torch.float32
        assert sequence.fxfycxcy.shape == (10, 4) and sequence.fxfycxcy.dtype == torch.float32
        assert sequence.c2w.shape == (10, 4, 4) and sequence.c2w.dtype == torch.float64
        assert torch.isfinite(sequence.depth).all() and (sequence.depth >= 0).all()
        assert 5 < sequence.image.float().std() < 120  # a picture, not one grey
        fov = 2 * torch.rad2deg(torch.atan(32 / sequence.fxfycxcy[:, 0]))
        assert ((fov > 49) & (fov < 91)).all()


def test_the_same_seed_gives_the_same_bits_and_others_something_else() -> None:
    config = replace(SMALL, height=24, width=32, views=3)
    for seed in (6, 7):  # a room, a street
        one, again = (make_sequence(seed, "train", config) for _ in range(2))
        for name in ("image", "depth", "fxfycxcy", "c2w"):
            assert torch.equal(getattr(one, name), getattr(again, name)), name
    config = replace(TINY, views=2, kind="room")
    others = [make_sequence(6, "train", config)]
    others += [make_sequence(5, split, config) for split in SPLITS]
    poses = [other.c2w for other in others]
    assert all(not torch.equal(a, b) for i, a in enumerate(poses) for b in poses[:i])


def test_the_kept_out_family_and_camera_are_kept_out() -> None:
    config = replace(TINY, views=1, textures=12)
    for seed in range(3):
        for split in ("train", "validation"):
            sequence = make_sequence(seed, split, config)
            assert KEPT_OUT_TEXTURE not in sequence.textures
            assert sequence.trajectory != KEPT_OUT_CAMERA
        sequence = make_sequence(seed, "kept_out", config)
        assert sequence.textures.count(KEPT_OUT_TEXTURE) >= config.textures // 2
        assert sequence.trajectory == KEPT_OUT_CAMERA
    rng = np.random.default_rng(0)
    assert all(KEPT_OUT_CAMERA not in MODES[kind] for kind in KINDS)
    assert draw_mode(rng, "room", kept_out=True) == KEPT_OUT_CAMERA


def test_depth_agrees_across_views(sequences: list[SceneSequence]) -> None:
    for sequence in sequences:
        for first, second in ((0, 1), (4, 5), (8, 7)):
            median, close, count = agreement(sequence, first, second)
            where = f"{sequence.kind} {sequence.trajectory} {first}->{second}"
            assert count > 300, where
            assert median < 2e-3, where
            # The rest is what stands before or behind an edge in the other view.
            assert close > 0.6, where


def test_poses_are_rigid_and_steps_are_those_of_a_stream(sequences: list[SceneSequence]) -> None:
    for sequence in sequences:
        turn = sequence.c2w[:, :3, :3]
        assert torch.allclose(turn @ turn.mT, torch.eye(3, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(torch.linalg.det(turn), torch.ones(10, dtype=torch.float64))
        assert torch.equal(sequence.c2w[:, 3], torch.eye(4, dtype=torch.float64)[3].expand(10, 4))
        trace = torch.einsum("vij,vij->v", turn[1:], turn[:-1])
        angle = torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1)))
        assert angle.median() < 8.5 and angle.max() < 14
        step = (sequence.c2w[1:, :3, 3] - sequence.c2w[:-1, :3, 3]).norm(dim=1)
        assert step.max() < (0.5 if sequence.kind == "room" else 1.5)
        # Down in the picture is down in the world.
        upright = -0.1 if sequence.kind == "aerial" else -0.5  # a survey looks down
        assert (turn[:, 2, 1] < upright).all()


def test_cameras_keep_clear_of_surfaces(sequences: list[SceneSequence]) -> None:
    for sequence in sequences:
        if sequence.kind == "room":
            assert sequence.depth.min() > 0.1
        assert (sequence.depth[sequence.depth > 0] > 0.02).all()


@pytest.mark.parametrize("kind", KINDS)
def test_solids_that_stand_in_the_way_are_taken_out(kind: str) -> None:
    from ttt_core.scenes.generate import _best_trajectory, _intrinsics

    rng = np.random.default_rng(3)
    layout = LAYOUTS[kind](rng, 4)
    before = len(layout.world.solids)
    way = _best_trajectory(rng, layout, SMALL, _intrinsics(rng, SMALL), False)
    table = SurfaceTable(layout.world)
    assert 0 < table.solids <= before
    assert table.clearance(way.c2w[:, :3, 3]).min() >= layout.clearance


def test_sky_is_depth_zero_outside_and_never_seen_in_a_room(
    sequences: list[SceneSequence],
) -> None:
    for sequence in sequences:
        sky = sequence.depth == 0
        if sequence.kind == "room":
            assert not sky.any()
        elif sky.any():
            rows = torch.arange(48.0)[None, :, None].expand_as(sky)
            assert rows[sky].mean() < rows[~sky].mean()


@pytest.mark.parametrize(
    "size",
    [(1, 1, 1), (1, 7, 2), (33, 1, 2), (37, 53, 3)],
    ids=lambda size: "x".join(map(str, size)),
)
def test_odd_sizes(size: tuple[int, int, int]) -> None:
    height, width, views = size
    config = SceneConfig(height=height, width=width, views=views, texture_size=16, textures=2)
    for kind in ("room", "outdoor"):
        sequence = make_sequence(0, "train", replace(config, kind=kind))
        assert sequence.image.shape == (views, 3, height, width)
        assert torch.isfinite(sequence.c2w).all() and torch.isfinite(sequence.depth).all()


def test_switched_off_augmentation_changes_pictures_and_not_geometry() -> None:
    config = replace(SMALL, height=24, width=32, views=3)
    plain = replace(config, exposure=False, noise=False, jpeg=False, blur=False)
    bare, shot = (make_sequence(2, "train", taken) for taken in (plain, config))
    assert torch.equal(bare.depth, shot.depth) and torch.equal(bare.c2w, shot.c2w)
    assert not torch.equal(bare.image, shot.image)


@pytest.mark.parametrize(
    "mode", sorted({m for kind in MODES.values() for m in kind} | {KEPT_OUT_CAMERA})
)
def test_every_camera_mode_stays_where_it_may_be(mode: str) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        layout = LAYOUTS["room"](rng, 4)
        trajectory = make_trajectory(rng, layout, SceneConfig(views=40), mode)
        room = layout.world.room
        assert room is not None
        local = (trajectory.c2w[:, :3, 3] - room.centre) @ room.turn
        assert np.isfinite(trajectory.c2w).all()
        assert (np.abs(local)[:, :2] < room.half[:2] - 0.1).all()
        assert (np.abs(local)[:, 2] < room.half[2] - 0.1).all()


def test_one_ray_at_each_solid() -> None:
    for shape in (BOX, ELLIPSOID, FRUSTUM):
        table = world(solid(shape))
        t, row = shoot(table, [-5.0, 0.01, 0.02], [1.0, 1e-4, 1e-4])
        assert t == pytest.approx(4.0, abs=1e-3) and row == 0
        t, row = shoot(table, [0.01, 0.02, 5.0], [1e-4, 1e-4, -1.0])
        assert t == pytest.approx(4.0, abs=1e-3) and row == 0
        assert shoot(table, [-5.0, 1.5, 0.0], [1.0, 1e-4, 1e-4]) == (FAR, table.sky)
        assert shoot(table, [-5.0, 0.0, 0.0], [-1.0, 1e-4, 1e-4]) == (FAR, table.sky)
    cone = world(solid(FRUSTUM, top=0.5))
    assert shoot(cone, [-5.0, 0.0, 0.0], [1.0, 1e-4, 1e-4])[0] == pytest.approx(4.25, abs=1e-3)


def test_rays_along_the_faces_of_a_box_have_finite_ends() -> None:
    """A direction without a component along an axis: 1/0 must not become inf - inf."""
    origin = tuple(torch.tensor([value]) for value in (0.3, -0.2, 0.5))
    direction = tuple(torch.tensor([value]) for value in (0.0, 1.0, 0.0))
    far, face = _leave_box(origin, direction)
    enter, leave = _box(origin, direction)
    assert float(far) == pytest.approx(1.2) and int(face) == 3
    assert float(enter) == pytest.approx(-0.8) and float(leave) == pytest.approx(1.2)


def test_a_cutter_opens_a_box_and_shows_its_own_wall() -> None:
    cutter = Solid(shape=BOX, centre=np.array([-1.0, 0.0, 0.0]), half=np.array([0.5, 0.5, 0.5]))
    table = world(solid(BOX, cutter=cutter))
    t, row = shoot(table, [-5.0, 0.01, 0.02], [1.0, 1e-4, 1e-4])
    assert t == pytest.approx(4.5, abs=1e-3) and row == table.cutter[0]
    assert shoot(table, [-5.0, 0.8, 0.0], [1.0, 1e-4, 1e-4])[0] == pytest.approx(4.0, abs=1e-3)
    through = Solid(shape=ELLIPSOID, centre=np.zeros(3), half=np.array([9.0, 0.5, 0.5]))
    table = world(solid(BOX, cutter=through))
    assert shoot(table, [-5.0, 0.01, 0.02], [1.0, 1e-4, 1e-4]) == (FAR, table.sky)


def test_one_view_with_windows_sees_what_all_views_at_once_see() -> None:
    for kind in KINDS:
        rng = np.random.default_rng(1)
        layout = LAYOUTS[kind](rng, 4)
        way = make_trajectory(rng, layout, SMALL, "walk_gaze")
        table = SurfaceTable(layout.world)
        lens = np.tile(np.array([50.0, 50.0, 32.0, 24.0]), (10, 1))
        device = torch.device("cpu")
        t, row = nearest(PictureFan(table, way.c2w, lens, (48, 64), device), table)
        for view in range(10):
            part = slice(view, view + 1)
            fan = PictureFan(table, way.c2w[part], lens[part], (48, 64), device)
            alone, mine = nearest(fan, table)
            same = mine == row[view]
            assert same.double().mean() > 0.995, kind
            assert torch.allclose(alone[same], t[view][same], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_rendering_several_views_at_once_changes_nothing(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SceneConfig(height=24, width=32, views=5, texture_size=32, kind=kind, noise=False)
    one = make_sequence(3, "train", config)
    monkeypatch.setattr("ttt_core.scenes.generate._views_at_once", lambda device: 3)
    several = make_sequence(3, "train", config)
    assert torch.isclose(one.depth, several.depth, rtol=1e-3).double().mean() > 0.99
    difference = (one.image.float() - several.image.float()).abs()
    assert difference.median() == 0 and difference.mean() < 2


def test_tensors_can_take_part_in_training() -> None:
    sequence = make_sequence(0, "train", SceneConfig(height=6, width=8, views=2, texture_size=16))
    weight = torch.ones(1, requires_grad=True)
    (weight * sequence.depth).sum().backward()
    assert weight.grad is not None


def test_a_sheet_has_a_row_of_pictures_and_one_of_depth() -> None:
    config = replace(TINY, views=3, kind="room")
    pair = [make_sequence(seed, "train", config) for seed in (0, 1)]
    sheet = contact_sheet(pair, columns=5)
    assert sheet.shape == (4 * 6, 5 * 8, 3) and sheet.dtype == np.uint8
    assert np.array_equal(sheet[:6, :8], pair[0].image[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    "wrong", [{"height": 0}, {"views": 0}, {"texture_size": 100}, {"step": 0.0}, {"kind": "sea"}]
)
def test_sizes_that_nothing_can_be_made_of(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SceneConfig(**wrong)  # type: ignore[arg-type]


def test_unknown_splits_and_negative_seeds_are_refused() -> None:
    with pytest.raises(ConfigError, match="kept_out"):
        make_sequence(0, "test", SMALL)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seed"):
        make_sequence(-1, "train", SMALL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_gpu_sees_the_same_scene() -> None:
    plain = SceneConfig(height=48, width=64, views=10, noise=False, jpeg=False)
    for seed in range(4):
        here, there = (
            make_sequence(seed, "train", plain),
            make_sequence(seed, "train", plain, "cuda"),
        )
        assert torch.equal(here.c2w, there.c2w)
        near = torch.isclose(here.depth, there.depth, rtol=1e-3, atol=1e-3)
        assert near.double().mean() > 0.995
        assert (here.image.float() - there.image.float()).abs().median() <= 1
        again = make_sequence(seed, "train", plain, "cuda")
        assert torch.equal(there.depth, again.depth)


def test_a_survey_looks_down_on_the_land_strip_after_strip() -> None:
    config = replace(TINY, width=24, height=16, views=8, kind="aerial", step=6.0)
    for seed in range(6):
        sequence = make_sequence(seed, "train", config)
        if sequence.trajectory != "survey":
            continue
        down = -sequence.c2w[:, 2, 2]
        assert (down > 0.6).all()
        heights = sequence.c2w[:, 2, 3]
        known = sequence.depth[sequence.depth > 0]
        assert len(known) > 0.9 * sequence.depth.numel()
        assert heights.min() > known.min()  # nothing reaches up to the camera
        return
    pytest.fail("no survey among six aerial scenes")


def test_streams_of_one_set_differ_in_pace() -> None:
    even = replace(TINY, kind="room")
    uneven = replace(even, step_spread=4.0)

    def paces(config: SceneConfig) -> list[float]:
        found = []
        for seed in range(6):
            at = make_sequence(seed, "train", config).c2w[:, :3, 3]
            found.append(float((at[1:] - at[:-1]).norm(dim=1).median()))
        return found

    assert np.mean(paces(uneven)) > 1.3 * np.mean(paces(even))
    with pytest.raises(ConfigError, match="step_spread"):
        SceneConfig(step_spread=0.5)
