"""The judge on a scene with known answers: every figure against one worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from wall_capture import (
    DISTANCE,
    FRAMES,
    HEIGHT,
    WIDTH,
    picture_of,
    reference,
    seen_wall,
    shifted,
    wall,
    write_wall,
)

from gs_decoder import InvalidPly, write_ply
from streamer.evaluation.job import MapRecord, Outcome
from streamer.evaluation.judge import Judge
from streamer.evaluation.results import RunResult
from streamer.held_out import HeldOut
from streamer.scoring import Scores
from streamer.sources import open_capture

BLACK = np.zeros(3, np.float32)
HELD_OUT = (0, 8, 16)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wall(tmp_path_factory.mktemp("judge") / "wall")


def judge_of(root: Path, backend: str = "auto") -> Judge:
    opened = open_capture(root)
    given, kept = opened.hold_out(8)
    held_out = HeldOut.load(opened, given, kept, long_side=WIDTH, with_depth=True)
    assert not held_out.unreadable
    return Judge(held_out, backend)


def scored(root: Path, ply: Path, backend: str = "auto") -> Scores:
    return judge_of(root, backend).score_file(ply, BLACK)[1]


def psnr_by_hand(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(-10.0 * np.log10(np.square(a - b).mean()))


def ssim_by_hand(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Wang et al. 2004, window by window, channel by channel."""
    offset = np.arange(11) - 5.0
    weights = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2.0 * 1.5**2))
    weights /= weights.sum()
    values = []
    for channel in range(3):
        x, y = (
            np.lib.stride_tricks.sliding_window_view(image[..., channel], (11, 11))
            for image in (a, b)
        )
        mean_x, mean_y = (x * weights).sum((-1, -2)), (y * weights).sum((-1, -2))
        var_x = (np.square(x - mean_x[..., None, None]) * weights).sum((-1, -2))
        var_y = (np.square(y - mean_y[..., None, None]) * weights).sum((-1, -2))
        both = ((x - mean_x[..., None, None]) * (y - mean_y[..., None, None]) * weights).sum(
            (-1, -2)
        )
        c1, c2 = 0.01**2, 0.03**2
        values.append(
            (2 * mean_x * mean_y + c1)
            * (2 * both + c2)
            / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
        )
    return float(np.mean(values))


def test_the_map_itself_scores_as_worked_out_by_hand(capture: Path) -> None:
    scores = scored(capture, capture / "wall.ply")
    assert [view.seq for view in scores.views] == list(HELD_OUT)
    for view in scores.views:
        rgb, _ = seen_wall(view.seq)
        taken = picture_of(capture, view.seq)
        # The picture is the render, rounded to 8 bits, and nothing else differs: about 58.9 dB.
        by_hand = psnr_by_hand(np.clip(rgb, 0.0, 1.0), taken)
        assert by_hand == pytest.approx(10.0 * np.log10(12.0 * 255.0**2), abs=0.3)
        assert view.psnr == pytest.approx(by_hand, abs=0.1)
        assert view.ssim == pytest.approx(ssim_by_hand(np.clip(rgb, 0, 1), taken), abs=1e-5)
        assert view.depth_filled == 1.0
        # Half a millimetre of rounding in two metres.
        assert view.depth_error is not None
        assert view.depth_error < 0.5e-3 / DISTANCE + 1e-6


def test_a_shifted_map_scores_as_by_hand_and_the_worse_the_farther(
    capture: Path, tmp_path: Path
) -> None:
    means = []
    for shift in (0.0, 0.005, 0.02, 0.05):
        write_ply(tmp_path / "shifted.ply", shifted(wall(), shift))
        scores = scored(capture, tmp_path / "shifted.ply")
        if shift:
            for view in scores.views:
                rgb, _ = reference(shifted(wall(), shift), view.seq)
                taken = picture_of(capture, view.seq)
                assert view.psnr == pytest.approx(psnr_by_hand(rgb, taken), abs=0.01)
                assert view.ssim == pytest.approx(ssim_by_hand(rgb, taken), abs=1e-4)
        means.append((scores.mean("psnr"), scores.mean("ssim")))
    assert all(np.greater(before, after).all() for before, after in pairwise(means))


def test_the_kernels_score_as_the_reference_does(capture: Path, tmp_path: Path) -> None:
    write_ply(tmp_path / "shifted.ply", shifted(wall(), 0.02))
    fast, plain = (scored(capture, tmp_path / "shifted.ply", b) for b in ("auto", "reference"))
    for a, b in zip(fast.views, plain.views, strict=True):
        assert a.psnr == pytest.approx(b.psnr, abs=1e-3)
        assert a.ssim == pytest.approx(b.ssim, abs=1e-5)
        assert a.depth_error == pytest.approx(b.depth_error, abs=1e-5)


def test_depth_error_is_that_of_a_wall_in_the_wrong_place(capture: Path, tmp_path: Path) -> None:
    write_ply(tmp_path / "far.ply", wall(1.05 * DISTANCE))
    scores = scored(capture, tmp_path / "far.ply")
    for view in scores.views:
        assert view.depth_error == pytest.approx(0.05, abs=1e-3)


def test_pixels_that_the_map_leaves_empty_count_as_background_and_as_not_filled(
    capture: Path, tmp_path: Path
) -> None:
    splats = wall()
    write_ply(tmp_path / "half.ply", splats.select(np.flatnonzero(splats.means[:, 1] < 0.0)))
    scores = scored(capture, tmp_path / "half.ply")
    for view in scores.views:
        assert view.depth_filled == pytest.approx(0.5, abs=0.1)
        assert view.depth_error is not None
        assert view.depth_error < 1e-3
        taken = picture_of(capture, view.seq)
        half = HEIGHT // 2
        # The empty half alone makes this error, beside a seam.
        assert view.psnr == pytest.approx(
            -10.0 * np.log10(np.square(taken[half:]).sum() / taken.size), abs=1.0
        )


def test_exposure_is_taken_from_the_neighbours_and_never_from_the_view(tmp_path: Path) -> None:
    log_gains = np.linspace(-0.12, 0.2, FRAMES)
    drifting = write_wall(tmp_path / "drifting", np.exp(log_gains))
    scores = scored(drifting, drifting / "wall.ply")
    for view in scores.views:
        rgb, _ = seen_wall(view.seq)
        taken = picture_of(drifting, view.seq)
        assert view.psnr == pytest.approx(psnr_by_hand(np.clip(rgb, 0, 1), taken), abs=0.05)
    # Between two neighbours a steady drift is known exactly; at an end only one of them is there.
    middle = scores.views[1]
    assert middle.psnr < 40.0
    assert middle.psnr_gain > 50.0
    # Nearer to the one before it, it takes more of that one's.
    judge = judge_of(drifting)
    before, after = (frame for frame in judge.held_out.neighbours if frame.seq in (7, 9))
    stamp = before.stamp_ns + (after.stamp_ns - before.stamp_ns) // 4
    early = replace(judge.held_out.views[1], stamp_ns=stamp)
    shown = judge.score_file(drifting / "wall.ply", BLACK, [early])[1].views[0]
    rgb, _ = seen_wall(8)
    lent = np.clip(rgb * np.exp(0.75 * log_gains[7] + 0.25 * log_gains[9]), 0.0, 1.0)
    by_hand = psnr_by_hand(lent, picture_of(drifting, 8))
    assert shown.psnr_gain == pytest.approx(by_hand, abs=0.3)
    assert shown.psnr_gain < middle.psnr_gain - 10.0
    step = log_gains[1] - log_gains[0]
    for view, other in ((scores.views[0], 1), (scores.views[2], FRAMES - 2)):
        rgb, _ = seen_wall(view.seq)
        lent = np.clip(rgb * np.exp(log_gains[other]), 0.0, 1.0)
        expected = psnr_by_hand(lent, picture_of(drifting, view.seq))
        assert view.psnr_gain == pytest.approx(expected, abs=0.5)
        assert abs(log_gains[view.seq] - log_gains[other]) == pytest.approx(step)

    flash = np.ones(FRAMES)
    flash[8] = 1.3
    flashing = write_wall(tmp_path / "flashing", flash)
    view = scored(flashing, flashing / "wall.ply").views[1]
    assert view.psnr_gain == pytest.approx(view.psnr, abs=0.3)
    assert view.psnr < 30.0


def test_masked_pixels_do_not_count(capture: Path, tmp_path: Path) -> None:
    masked = write_wall(tmp_path / "masked")
    document = (masked / "transforms.json").read_text()
    for frame in range(FRAMES):
        name = f"images/{frame:02}.png"
        document = document.replace(
            f'"file_path": "{name}"', f'"file_path": "{name}", "mask_path": "mask.png"', 1
        )
        spoiled = cv2.imread(str(masked / name))
        assert spoiled is not None
        spoiled[:, :30] = 255
        cv2.imwrite(str(masked / name), spoiled)
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:, :30] = 0
    cv2.imwrite(str(masked / "mask.png"), mask)
    (masked / "transforms.json").write_text(document)
    for view in scored(masked, masked / "wall.ply").views:
        rgb, _ = seen_wall(view.seq)
        taken = picture_of(masked, view.seq)
        by_hand = psnr_by_hand(rgb[:, 30:].clip(0, 1), taken[:, 30:])
        assert view.psnr == pytest.approx(by_hand, abs=0.1)
        assert view.ssim > 0.999


def test_in_a_stream_a_map_is_asked_for_what_it_has_passed(capture: Path, tmp_path: Path) -> None:
    records = []
    # Given are 1 to 7 and 9 to 15; of those the last cannot be read, and 16 is held out behind it.
    for batch, (frames_in, newest) in enumerate([(4, 4), (8, 9), (13, 14)], start=1):
        write_ply(tmp_path / f"batch_{batch:04}.ply", wall())
        records.append(record_of(batch=batch, frames_in=frames_in, newest=newest))
    outcome = Outcome(
        model="",
        background=(0.0, 0.0, 0.0),
        frames_in=13,
        frames_done=13,
        stream_seconds=6.0,
        settled_after=None,
        unreadable=[(15, "no picture")],
        maps=records,
    )
    result = RunResult(method="sweep-only", label="sweep only", about="", depth_given=False)
    last = judge_of(capture).score_run(result, tmp_path, outcome, stream=True)
    asked = [[view.seq for view in scored.views] for scored in result.batches]
    assert asked == [[0], [0, 8], [0, 8, 16]]
    assert [view.seq for view in last.views] == [0, 8, 16]
    assert list(tmp_path.iterdir()) == []


def record_of(*, batch: int, frames_in: int, newest: int) -> MapRecord:
    """Of the wall, written two seconds after the one before."""
    return MapRecord(
        file=f"batch_{batch:04}.ply",
        at=None,
        batch=batch,
        written=2.0 * batch,
        cpu_seconds=1.0,
        peak_memory_mb=1.0,
        frames_in=frames_in,
        newest=newest,
        keyframes=1,
        refinement_steps=0,
        splats=wall().count,
    )


def test_a_view_without_any_error_has_a_figure_that_json_can_hold(
    capture: Path, tmp_path: Path
) -> None:
    write_ply(tmp_path / "far.ply", shifted(wall(), 50.0))
    (view, *_) = judge_of(capture).held_out.views
    black = replace(view, image=np.zeros_like(view.image), depth=None)
    judge = Judge(HeldOut([black], []))
    (scored_view,) = judge.score_file(tmp_path / "far.ply", BLACK)[1].views
    assert (scored_view.psnr, scored_view.psnr_gain, scored_view.ssim) == (100.0, 100.0, 1.0)


def test_a_view_that_its_mask_covers_is_named_not_scored(tmp_path: Path) -> None:
    covered = write_wall(tmp_path / "covered")
    document = (covered / "transforms.json").read_text()
    document = document.replace(
        '"file_path": "images/08.png"', '"file_path": "images/08.png", "mask_path": "mask.png"'
    )
    (covered / "transforms.json").write_text(document)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:10] = 255  # ten rows are no window of eleven
    cv2.imwrite(str(covered / "mask.png"), mask)
    (covered / "images/09.png").write_bytes(b"no picture")
    opened = open_capture(covered)
    held_out = HeldOut.load(opened, *opened.hold_out(8), long_side=WIDTH)
    assert [view.seq for view in held_out.views] == [0, 16]
    assert [frame.seq for frame in held_out.neighbours] == [1, 7, 15]
    assert {entry.frame.index for entry in held_out.unreadable} == {8, 9}
    # 96x64 becomes 15x10.
    tiny = HeldOut.load(opened, *opened.hold_out(8), long_side=15)
    assert tiny.views == []
    assert "--long-side" in tiny.unreadable[0].reason


def test_a_file_that_is_no_map_is_refused_by_name(capture: Path) -> None:
    with pytest.raises(InvalidPly, match=r"transforms\.json"):
        judge_of(capture).score_file(capture / "transforms.json", BLACK)
