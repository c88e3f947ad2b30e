"""`splatstream scenes`: writes the sheet, and says what it cannot write."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from streamer import cli


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
