"""The figures as rows, the same for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from streamer.evaluation.results import FIRST_BATCHES, CaptureResult, MapResult, RunResult

COLUMNS = (
    "start", "map", "written", "PSNR", "+gain", "+poses", "SSIM", "+gain", "+poses", "depth",
    "filled", "views", "splats", "CPU s", "MB",
)  # fmt: skip
_WORDS = ("start", "map", "row")


def rows(capture: CaptureResult) -> Iterator[tuple[str, ...]]:
    """One for each map of each run, in the order of `COLUMNS`; batches are summed up in two."""
    for run in capture.runs:
        label = run.label
        if run.depth_given and run.method != "sensor-depth":
            label += ", with depth"
        if run.failed is not None:
            yield (label, "failed", *[""] * (len(COLUMNS) - 2))
            continue
        for result in run.maps:
            yield (label, result.name, *_figures(result))
        if run.batches:
            count = min(FIRST_BATCHES, len(run.batches))
            yield (label, f"batches 1-{count}", *_first(run))
            yield (label, f"end ({run.batches[-1].name})", *_figures(run.batches[-1]))


def without_empty(
    lines: Sequence[tuple[str, ...]], heads: tuple[str, ...] = COLUMNS
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(heads, rows) without the columns that say nothing in any row."""
    kept = [n for n in range(len(heads)) if any(line[n] for line in lines)]
    return tuple(heads[n] for n in kept), [tuple(line[n] for n in kept) for line in lines]


def text_table(lines: Sequence[tuple[str, ...]], heads: tuple[str, ...] = COLUMNS) -> str:
    """Rows under their heads, aligned by spaces: numbers to the right, words to the left."""
    everything = [heads, *lines]
    widths = [max(len(line[column]) for line in everything) for column in range(len(heads))]
    words = [head in _WORDS for head in heads]

    def aligned(line: tuple[str, ...]) -> str:
        cells = [
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip(line, widths, words, strict=True)
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(aligned(line) for line in everything)


def _figures(result: MapResult) -> tuple[str, ...]:
    record = result.record
    elsewhere = record.written == 0.0
    return (
        "" if elsewhere else f"{record.written:.1f} s",
        number(result.psnr, 2),
        number(result.psnr_gain, 2),
        number(result.psnr_gain_poses, 2),
        number(result.ssim, 3),
        number(result.ssim_gain, 3),
        number(result.ssim_gain_poses, 3),
        "" if result.depth_error is None else f"{100.0 * result.depth_error:.1f} %",
        "" if result.depth_filled is None else f"{100.0 * result.depth_filled:.0f} %",
        f"{len(result.views)}/{result.views_of}",
        str(record.splats),
        "" if elsewhere else f"{record.cpu_seconds:.0f}",
        "" if elsewhere else f"{record.peak_memory_mb:.0f}",
    )


def _first(run: RunResult) -> tuple[str, ...]:
    names = ("psnr", "psnr_gain", "psnr_gain_poses", "ssim", "ssim_gain", "ssim_gain_poses")
    digits = (2, 2, 2, 3, 3, 3)
    means = [number(run.first_batches(name), places) for name, places in zip(names, digits)]
    return ("", *means, *[""] * (len(COLUMNS) - 3 - len(names)))


def number(value: float | None, digits: int) -> str:
    """A figure, or nothing where there is none."""
    return "" if value is None else f"{value:.{digits}f}"
