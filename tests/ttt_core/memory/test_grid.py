"""The surface grid: what is found along rays, and what can be taken back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ttt_core.errors import StateMismatchError
from ttt_core.memory import MemoryState, Recalled, SurfaceGrid, SurfacePoints, grid_torch

FOOTPRINT = 4 / 110
SAMPLES = 64


def rays(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Origins at zero and directions around +z, (2, count, 3)."""
    plane = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(seed)) - 0.5
    return torch.zeros(2, count, 3), torch.cat((plane, torch.ones(2, count, 1)), dim=-1)


def wall(directions: Tensor, distance: float = 1.5, slope: float = 0.0) -> Tensor:
    """Depth (B, N) of a wall that recedes to the right."""
    return distance / (1 - slope * directions[..., 0])


def points(directions: Tensor, depth: Tensor, weight: float = 5.0) -> SurfacePoints:
    places = directions * depth[..., None]
    colors = (places * 3).sin() * 0.5 + 0.5
    return SurfacePoints(places, depth * FOOTPRINT, colors, torch.full_like(depth, weight))


def asked(
    grid: SurfaceGrid, state: MemoryState, origins: Tensor, directions: Tensor
) -> tuple[Recalled, Recalled]:
    """What the kernels and torch find."""
    shape = directions.shape[:2]
    footprint = torch.full(shape, FOOTPRINT)
    log_range = torch.tensor([-1.0, 2.0]).expand(*shape, 2)
    by_torch = grid_torch.recall(
        state["grid_tags"],
        state["grid_sums"],
        origins,
        directions,
        footprint,
        log_range,
        samples=SAMPLES,
    )
    return grid.recall(state, origins, directions, footprint, log_range), by_torch


def test_finds_walls_where_they_were_written() -> None:
    grid = SurfaceGrid(1 << 16, SAMPLES)
    _, directions = rays(6000)
    depth = wall(directions, slope=0.6)
    state = grid.write(grid.initial_state(2), points(directions, depth))
    origins, other = rays(500, seed=1)
    origins = origins + torch.tensor([0.03, -0.02, 0.05])
    # the wall is x * slope + z = distance in the frame of the first camera
    truth = (1.5 - origins[..., 2] + 0.6 * origins[..., 0]) / (1 - 0.6 * other[..., 0])
    for found in asked(grid, state, origins, other):
        inside = (other[..., :2].abs() < 0.4).all(-1)
        error = (found.log_depth.exp() / truth - 1).abs()[inside]
        assert error.median() < 0.005 and error.quantile(0.98) < 0.03
        assert (found.weight[inside] > 1).all() and found.open[inside].median() > 0.7
        color = ((other * truth[..., None] + origins) * 3).sin() * 0.5 + 0.5
        assert (found.color - color)[inside].abs().median() < 0.02


def test_nearer_surfaces_close_the_way() -> None:
    grid = SurfaceGrid(1 << 16, SAMPLES)
    origins, directions = rays(4000)
    state = grid.write(
        grid.initial_state(2), points(directions, wall(directions, 3.0), weight=50.0)
    )
    state = grid.write(state, points(directions, wall(directions, 1.0), weight=5.0))
    found, _ = asked(grid, state, origins, directions)
    assert (found.log_depth.exp() - 3).abs().median() < 0.05  # where most evidence is
    assert found.open.median() < 0.5
    nearest = found.first.argmax(-1)
    log_z = -1 + 3 * (nearest + 0.5) / SAMPLES
    assert (log_z.exp() - 1).abs().median() < 0.1


def test_nothing_is_found_where_nothing_was_written_though_the_table_be_full() -> None:
    grid = SurfaceGrid(1 << 6, SAMPLES)
    origins, directions = rays(2000)
    state = grid.write(grid.initial_state(2), points(directions, wall(directions)))
    assert (state["grid_tags"] != 0).all()
    for found in asked(grid, state, origins, -directions):
        assert not found.weight.any() and not found.held.any()
        torch.testing.assert_close(found.log_depth, torch.full_like(found.log_depth, 0.5))
        torch.testing.assert_close(found.open, torch.ones_like(found.open))


def test_kernels_and_torch_agree() -> None:
    grid = SurfaceGrid(1 << 17, SAMPLES)
    _, directions = rays(3000)
    written = points(directions, wall(directions, slope=0.3))
    state = grid.write(grid.initial_state(2), written)
    start = grid.initial_state(2)
    tags, sums = grid_torch.added(start["grid_tags"], start["grid_sums"], *written, factor=1.0)
    for stream in range(2):
        ours, theirs = (
            {int(tag): total for tag, total in zip(t[stream], s[stream], strict=True) if tag}
            for t, s in ((state["grid_tags"], state["grid_sums"]), (tags, sums))
        )
        # a few corners are at the limit of the least share that counts
        both = sorted(ours.keys() & theirs.keys())
        assert len(both) > 0.999 * max(len(ours), len(theirs))
        a, b = (torch.stack([held[tag] for tag in both]) for held in (ours, theirs))
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    origins, other = rays(800, seed=2)
    found, by_torch = asked(grid, state, origins + 0.02, other)
    for name in Recalled._fields:
        apart = (getattr(found, name) - getattr(by_torch, name)).abs()
        assert (apart < 1e-3).float().mean() > 0.99, name


@given(st.integers(0, 2**31 - 1), st.floats(0.2, 1.0), st.sampled_from([1 << 7, 1 << 10, 1 << 16]))
def test_what_is_taken_back_is_gone(seed: int, factor: float, slots: int) -> None:
    grid = SurfaceGrid(slots, SAMPLES)
    _, first = rays(40, seed)
    _, second = rays(40, seed + 1)
    kept = points(first, wall(first), weight=1.0)
    passing = points(second, wall(second, 1.3, 0.5), weight=2.0)
    state = grid.write(grid.initial_state(2), kept)
    both = grid.amend(state, passing, factor)
    # others may come in between: what is taken back is not affected by them
    later = points(first, wall(first, 2.0), weight=1.0)
    after = grid.amend(grid.amend(both, later, 1.0), passing, -factor)
    expected = grid.amend(state, later, 1.0)
    if slots > 1 << 10:  # nobody was crowded out by what is gone again
        for stream in range(2):
            held = {
                int(tag): total
                for tag, total in zip(
                    expected["grid_tags"][stream], expected["grid_sums"][stream], strict=True
                )
            }
            tags, sums = after["grid_tags"][stream], after["grid_sums"][stream]
            for tag, total in zip(tags.tolist(), sums, strict=True):
                if tag:
                    there = held.get(tag, torch.zeros_like(total))
                    torch.testing.assert_close(total, there, rtol=1e-4, atol=1e-4)
    back = grid.amend(both, passing, -factor)
    torch.testing.assert_close(
        back["grid_sums"].sum(1), state["grid_sums"].sum(1), rtol=1e-4, atol=1e-3
    )


def test_states_are_not_changed_and_streams_are_apart() -> None:
    grid = SurfaceGrid(1 << 12, SAMPLES)
    _, directions = rays(300)
    written = points(directions, wall(directions))
    alone = SurfacePoints(*(t[1:] for t in written))
    empty = grid.initial_state(2)
    state = grid.write(empty, written)
    grid.amend(state, written, -1.0)
    assert not empty["grid_tags"].any() and not empty["grid_sums"].any()
    one = grid.write(grid.initial_state(1), alone)
    assert torch.equal(state["grid_tags"][1:], one["grid_tags"])
    assert torch.equal(state["grid_sums"][1:], one["grid_sums"])


def test_merging_is_writing_both() -> None:
    grid = SurfaceGrid(1 << 14, SAMPLES)
    empty = grid.initial_state(2)
    _, first = rays(300)
    _, second = rays(300, seed=1)
    one, other = points(first, wall(first)), points(second, wall(second, 1.4))
    merged = grid.merge(grid.write(empty, one), grid.write(empty, other))
    both = grid.amend(grid.write(empty, one), other, 1.0)
    torch.testing.assert_close(merged["grid_sums"].sum(1), both["grid_sums"].sum(1))
    assert merged["grid_tags"].count_nonzero() == both["grid_tags"].count_nonzero()
    origins, directions = rays(300, seed=3)
    torch.testing.assert_close(
        asked(grid, merged, origins, directions)[0].log_depth,
        asked(grid, both, origins, directions)[0].log_depth,
        rtol=0,
        atol=1e-4,
    )
    with pytest.raises(StateMismatchError, match="same model and number of streams"):
        grid.merge(one=empty, other=grid.initial_state(1))


def test_old_writes_fade() -> None:
    grid = SurfaceGrid(1 << 14, SAMPLES)
    _, directions = rays(100)
    state = grid.write(grid.initial_state(2), points(directions, wall(directions)))
    nothing = SurfacePoints(*(t[:, :0] for t in points(directions, wall(directions))))
    later = state
    for _ in range(3):
        later = grid.write(later, nothing)
    kept = grid.retention(3) * state["grid_sums"]
    torch.testing.assert_close(later["grid_sums"], kept)


def test_a_range_may_be_a_single_depth() -> None:
    grid = SurfaceGrid(1 << 14, SAMPLES)
    origins, directions = rays(50)
    state = grid.write(grid.initial_state(2), points(directions, wall(directions)))
    log_range = torch.full((2, 50, 2), 0.4)
    asked = (origins, directions, torch.full((2, 50), FOOTPRINT), log_range)
    by_torch = grid_torch.recall(state["grid_tags"], state["grid_sums"], *asked, samples=SAMPLES)
    for found in (grid.recall(state, *asked), by_torch):
        assert all(t.isfinite().all() for t in found)


def test_what_hardly_weighs_takes_no_slots() -> None:
    grid = SurfaceGrid(1 << 14, SAMPLES)
    _, directions = rays(300)
    faint = points(directions, wall(directions), weight=0.019)
    assert not grid.write(grid.initial_state(2), faint)["grid_tags"].any()
    # and in part: the fainter a point, the fewer of the corners around it
    taken = [
        int(
            grid.write(grid.initial_state(2), points(directions, wall(directions), weight))[
                "grid_tags"
            ].count_nonzero()
        )
        for weight in (0.05, 0.5, 5.0)
    ]
    assert 0 < taken[0] < taken[1] < taken[2]
