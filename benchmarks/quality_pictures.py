"""README's curve and pictures, from what `quality.py` left.

    python benchmarks/quality_pictures.py ../shared/captures QUALITY_DIR... --out docs/images

`QUALITY_DIR` is the `--out` of a `quality.py` run; of several, runs of one row are put together.
Writes `stream.svg` (the office as a stream: PSNR after gain of the views passed so far, by the
clock) and `held_out.jpg` (of each 60 s row the held-out view in the middle by PSNR: the picture
taken, and what the map of each start shows there, at the exposure that its neighbours tell).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import tyro
from numpy.typing import NDArray

from streamer.evaluation.charts import Curve, chart
from streamer.evaluation.job import read_outcome
from streamer.evaluation.judge import Judge
from streamer.evaluation.methods import METHODS
from streamer.held_out import HeldOut
from streamer.sources import open_capture, parse_range

_STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #555; } .title { font-weight: 600; }
.grid { stroke: #ccc; } .tick { text-anchor: end; } .tick.x { text-anchor: middle; }
</style>"""
_GAP = 4


@dataclass(kw_only=True)
class Options:
    captures: tyro.conf.Positional[Path]
    """Folder that holds the captures."""
    folders: tyro.conf.Positional[tuple[Path, ...]]
    out: Path


class _Result(msgspec.Struct):
    psnr_gain: float | None
    record: dict[str, float | str | None]


class _Run(msgspec.Struct):
    method: str
    label: str
    batches: list[_Result] = []


class _Capture(msgspec.Struct):
    runs: list[_Run]


class _Settings(msgspec.Struct):
    frames: str | None
    hold_out: int
    long_side: int


class _Report(msgspec.Struct):
    """What is needed of `report.json`."""

    captures: list[_Capture]
    settings: _Settings


def report(folder: Path) -> _Report:
    """Of one row."""
    return msgspec.json.decode((folder / "report.json").read_bytes(), type=_Report)


def stream_chart(folders: list[Path]) -> str:
    """The office as a stream, all starts."""
    curves = []
    for folder in folders:
        for run in report(folder / "hololens_office_stream_seed0").captures[0].runs:
            points = [
                (float(result.record["written"] or 0.0), result.psnr_gain)
                for result in run.batches
                if result.psnr_gain is not None
            ]
            curves.append(Curve(run.label, list(METHODS).index(run.method), points))
    title = "hololens_office, 2 frames/s: held-out PSNR of what was passed so far, dB"
    made = chart(title, "seconds", curves)
    start, rest = made.split(">", 1)
    return f'{start} xmlns="http://www.w3.org/2000/svg">{_STYLE}{rest}'


def row(options: Options, capture: str) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of one capture: the picture, then the maps."""
    shown: list[NDArray[np.uint8]] = []
    chosen: int | None = None
    for folder in options.folders:
        where = folder / f"{capture}_60s_seed0"
        settings = report(where).settings
        span = parse_range(settings.frames)
        opened = open_capture(options.captures / capture).select(*span)
        given, kept = opened.hold_out(settings.hold_out)
        held_out = HeldOut.load(opened, given, kept, long_side=settings.long_side)
        for run in sorted((where / "maps" / capture).iterdir()):
            outcome = read_outcome(run / "run.json")
            background = np.array(outcome.background, np.float32)
            _, scores = Judge(held_out).score_file(run / outcome.maps[-1].file, background)
            if chosen is None:
                order = np.argsort([view.psnr_gain for view in scores.views])
                chosen = int(order[len(order) // 2])
                shown.append(held_out.views[chosen].image)
            shown.append((scores.exposed[chosen] * 255.0 + 0.5).astype(np.uint8))
            print(f"{capture}, {run.name}: {scores.views[chosen].psnr_gain:.1f} dB in this view")
    bar = np.full((shown[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.hstack([part for picture in shown for part in (picture, bar)][:-1])


def main(options: Options) -> None:
    """Both files."""
    options.out.mkdir(parents=True, exist_ok=True)
    svg = stream_chart(list(options.folders))
    (options.out / "stream.svg").write_text(svg + "\n", encoding="utf-8")
    rows = [row(options, name) for name in ("hololens_office", "skull", "brighton_drone")]
    width = max(picture.shape[1] for picture in rows)
    padded = [
        cv2.copyMakeBorder(
            picture, 0, _GAP, 0, width - picture.shape[1], cv2.BORDER_CONSTANT, value=(255,) * 3
        )
        for picture in rows
    ]
    sheet = np.vstack(padded)[:-_GAP, :, ::-1]
    cv2.imwrite(str(options.out / "held_out.jpg"), sheet, [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
