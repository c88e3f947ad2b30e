"""The table of held-out quality: what is to be reached, what there is, and the baselines beside it.

    python benchmarks/quality.py ../shared/captures [--only sweep-only ...] [--seeds 0 1]
                                 [--rows office skull ...] [--refine-poses] [--out DIR]
                                 [--json FILE]

Needs two quiet cores and about 40 minutes (70 s for each start and row). Every mark is an
evaluation of its own, so that the pipeline is told the time that it has, as by `splatstream run
--time-limit`; the stream is fed four frames every two seconds and scored after every batch.
`--out` gets the reports of `splatstream eval`, one folder a row; `--json` the table with the
hardware and the date. No learned weights but the packaged checkpoint.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from streamer.evaluation.evaluate import Settings, evaluate
from streamer.evaluation.methods import METHODS, Slug
from streamer.evaluation.report import write_reports
from streamer.evaluation.results import RunResult
from streamer.evaluation.table import text_table
from streamer.hardware import hardware
from streamer.session.threads import use_all_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table; PSNR in dB, with the gain unless said.

    Attributes:
        seconds: the mark; 0: a stream, which takes as long as its frames.
        before: what optimisation alone reached before the judge was there (a prototype, without
            gain unless the capture is the office; long side 240).
        reach: the aim; `reach_plain` without gain.
    """

    name: str
    capture: str
    seconds: float
    before: float
    reach: float
    frames: str | None = None
    reach_plain: float | None = None
    first_batches: bool = False


_OFFICE, _ONLINE = "hololens_office", "office, 2 s a batch"
ROWS = (
    Row(name="office", capture=_OFFICE, frames="0:150", seconds=60, before=24.6, reach=26.0,
        reach_plain=25.0),
    Row(name=f"{_ONLINE}: end", capture=_OFFICE, frames="0:150", seconds=0, before=23.2,
        reach=24.5),
    Row(name=f"{_ONLINE}: first 12 batches", capture=_OFFICE, frames="0:150", seconds=0,
        before=27.6, reach=28.0, first_batches=True),
    Row(name="skull", capture="skull", seconds=60, before=24.8, reach=26.5),
    Row(name="drone", capture="brighton_drone", seconds=60, before=18.6, reach=20.0),
    Row(name="office, 10 s", capture=_OFFICE, frames="0:150", seconds=10, before=21.3, reach=23.0),
    Row(name="skull, 10 s", capture="skull", seconds=10, before=23.5, reach=24.5),
    Row(name="drone, 10 s", capture="brighton_drone", seconds=10, before=18.6, reach=19.5),
)  # fmt: skip


@dataclass(kw_only=True)
class Options:
    captures: tyro.conf.Positional[Path]
    """Folder that holds the three captures."""
    only: tuple[Slug, ...] = tuple(METHODS)
    """Starts, as of `splatstream eval`."""
    rows: tuple[str, ...] = ()
    """Rows whose name begins so; all by default."""
    seeds: tuple[int, ...] = (0,)
    """Every row once for each."""
    refine_poses: bool = False
    """As of `splatstream eval`."""
    out: Path = Path("quality")
    json: Path | None = None


def figures(row: Row, run: RunResult) -> dict[str, float | None]:
    """What a run says to a row."""
    names = ("psnr_gain", "psnr", "ssim_gain", "ssim", "depth_error", "psnr_gain_poses")
    if row.first_batches:
        return {name: run.first_batches(name) for name in names}
    last = run.last
    return {name: None if last is None else getattr(last, name) for name in names}


def measure(options: Options, seed: int) -> list[dict[str, Any]]:
    """All rows with one seed; rows that are of one evaluation share it."""
    done: dict[tuple[str, float], list[RunResult]] = {}
    lines = []
    for row in ROWS:
        if options.rows and not row.name.startswith(options.rows):
            continue
        key = (row.capture, row.seconds)
        if key not in done:
            settings = Settings(
                frames=row.frames,
                at=(row.seconds,) if row.seconds else (),
                mode="batch" if row.seconds else "stream",
                rate=2.0,
                seed=seed,
                refine_poses=options.refine_poses,
                methods=options.only,
            )
            what = f"{row.seconds:g}s" if row.seconds else "stream"
            out = options.out / f"{row.capture}_{what}_seed{seed}"
            out.mkdir(parents=True, exist_ok=True)
            evaluation = evaluate([options.captures / row.capture], settings, out, tell=print)
            write_reports(out, evaluation)
            done[key] = evaluation.captures[0].runs
        for run in done[key]:
            line = {**asdict(row), "seed": seed, "start": run.label, "failed": run.failed}
            lines.append({**line, **figures(row, run)})
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """For the terminal."""
    heads = (
        "row",
        "seed",
        "before",
        "reach",
        "start",
        "+gain",
        "+poses",
        "PSNR",
        "SSIM +gain",
        "depth",
    )
    texts = [
        (
            line["name"],
            str(line["seed"]),
            f"{line['before']:.1f}",
            f"{line['reach']:.1f}"
            + (f" ({line['reach_plain']:.1f} plain)" if line["reach_plain"] else ""),
            line["start"],
            *(
                "" if value is None else f"{value:.{digits}f}"
                for value, digits in (
                    (line["psnr_gain"], 2),
                    (line["psnr_gain_poses"], 2),
                    (line["psnr"], 2),
                    (line["ssim_gain"], 3),
                    (line["depth_error"], 3),
                )
            ),
        )
        for line in lines
    ]
    return text_table(texts, heads)


def main(options: Options) -> None:
    use_all_cores()
    lines = [line for seed in options.seeds for line in measure(options, seed)]
    print(table(lines))
    if options.json is not None:
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        content = {"hardware": hardware(), "date": date, "rows": lines}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
