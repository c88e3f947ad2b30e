"""`splatstream scenes`: writes the sheet, and says what it cannot write."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from streamer import cli
from streamer.scene_capture import write_capture
from streamer.sources import load_frame, open_capture
from ttt_core.scenes import SceneConfig, make_sequence


def test_a_sheet_is_written(tmp_path: Path) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    arguments = ["scenes", "--sheet", str(sheet), "--count", "2", "--split", "kept_out"]
    arguments += ["--views", "2", "--height", "12", "--width", "16", "--seed", "7"]
    assert cli.dispatch(arguments) == 0
    assert cv2.imread(str(sheet)).shape == (2 * 2 * 12, 8 * 16, 3)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--count", "0"], "--count"),
        (["--sheet", "sheet.xyz"], "sheet.png"),
        (["--height", "0"], "height"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_what_it_cannot_do_it_says(
    more: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["scenes", "--sheet", str(tmp_path / "sheet.png"), *more]
    assert cli.dispatch(arguments) == 2
    assert word in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_capture_is_read_back_as_the_scene(tmp_path: Path) -> None:
    """Poses, intrinsics, pictures and depth, to the rounding of the files."""
    arguments = ["scenes", "--captures", str(tmp_path / "made"), "--count", "1", "--seed", "3"]
    arguments += ["--views", "2", "--height", "24", "--width", "32", "--step", "2"]
    assert cli.dispatch(arguments) == 0
    (folder,) = (tmp_path / "made").iterdir()
    scene = make_sequence(3, "train", SceneConfig(views=2, height=24, width=32, step=2.0))
    capture = open_capture(folder)
    for i, entry in enumerate(capture.frames):
        frame = load_frame(capture, entry, seq=i, with_depth=True)
        assert np.allclose(frame.c2w, scene.c2w[i].numpy(), atol=1e-9)
        fx, fy, cx, cy = scene.fxfycxcy[i].tolist()
        assert np.allclose(frame.K, [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], atol=1e-4)
        assert np.array_equal(frame.image, scene.image[i].permute(1, 2, 0).numpy())
        truth = scene.depth[i].numpy()
        assert frame.depth is not None
        assert np.allclose(frame.depth, np.where(truth < 65, truth, 0), atol=6e-4)
    with pytest.raises(FileExistsError, match="another folder"):
        write_capture(scene, folder)
    assert cli.dispatch(["scenes"]) == 2
