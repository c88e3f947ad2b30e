"""report.json and report.html of an evaluation."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from streamer.evaluation.charts import COLOURS, Curve, chart
from streamer.evaluation.evaluate import Evaluation
from streamer.evaluation.methods import METHODS
from streamer.evaluation.pictures import LARGEST_ERROR, ViewPictures
from streamer.evaluation.results import FIRST_BATCHES, CaptureResult, RunResult
from streamer.evaluation.table import number, rows, without_empty
from streamer.hardware import hardware

JSON, HTML = "report.json", "report.html"
_NAMES = (
    "psnr", "psnr_gain", "psnr_poses", "psnr_gain_poses",
    "ssim", "ssim_gain", "ssim_gain_poses", "depth_error",
)  # fmt: skip


def write_reports(out: Path, evaluation: Evaluation) -> None:
    """Both files, whole or not at all."""
    made = _made()
    for name, text in (
        (JSON, json.dumps(_as_json(evaluation, made), indent=1) + "\n"),
        (HTML, _as_html(evaluation, made)),
    ):
        aside = out / f".{name}.part"
        aside.write_text(text, encoding="utf-8")
        aside.replace(out / name)


def _made() -> dict[str, str]:
    return {
        "hardware": hardware(),
        "program": f"splatstream {version('splatstream')}",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _as_json(evaluation: Evaluation, made: dict[str, str]) -> dict[str, Any]:
    captures = []
    for capture in evaluation.captures:
        runs = []
        for run in capture.runs:
            content = asdict(run)
            if run.batches:
                first = {name: run.first_batches(name) for name in _NAMES}
                content[f"first_{FIRST_BATCHES}_batches"] = first
            runs.append(content)
        captures.append({**asdict(capture), "runs": runs})
    settings = msgspec.to_builtins(asdict(evaluation.settings), enc_hook=str)
    return {**made, "settings": settings, "captures": captures}


def _as_html(evaluation: Evaluation, made: dict[str, str]) -> str:
    settings = evaluation.settings
    how = (
        f"{settings.rate:g} frames a second, in time order"
        if settings.mode == "stream"
        else "all frames at once"
        if settings.steps is None
        else f"{settings.steps} refinement steps after the last frame, no clock"
    )
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>splatstream eval</title><style>{_STYLE}</style></head><body>",
        "<h1>Held-out views</h1>",
        f"<p>Every {_ordinal(settings.hold_out)} frame was held out and never given to any run; "
        f"long side {settings.long_side} pixels; {escape(how)}; seed {settings.seed}. Each run "
        "in a process of its own, its clock from the first frame read to the map written. "
        "PSNR in dB, SSIM (11x11 Gaussian, sigma 1.5), means over views; &ldquo;+gain&rdquo;: "
        "after a per-frame RGB gain interpolated from the neighbours in time; &ldquo;+poses&rdquo;,"
        " where refinement moved cameras: after gain and at a camera moved as those of the "
        "neighbours were, interpolated likewise. Depth: median "
        "relative error against the sensor, and the share of its pixels that the map fills.</p>",
        f"<p class=made>{escape(' · '.join(made.values()))}</p>",
    ]
    for capture, pictures in zip(evaluation.captures, evaluation.pictures, strict=True):
        parts += _capture_section(capture, pictures)
    return "\n".join([*parts, "</body></html>\n"])


def _capture_section(capture: CaptureResult, pictures: list[list[ViewPictures]]) -> list[str]:
    heads, lines = without_empty(list(rows(capture)))
    parts = [
        f"<section><h2>{escape(capture.capture)}</h2>",
        f"<p>{capture.frames_given} frames given, {capture.views_held_out} held out.</p>",
        "<div class=wide><table><thead><tr>",
        *(f"<th>{escape(name)}</th>" for name in heads),
        "</tr></thead><tbody>",
    ]
    for row in lines:
        parts.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    parts.append("</tbody></table></div>")
    for slug, reason in capture.left_out.items():
        parts.append(
            f"<p class=made>{escape(METHODS[slug].label)}: left out, {escape(reason)}.</p>"
        )
    parts.append("<div class=charts>")
    for title, name in (
        ("PSNR after gain, dB", "psnr_gain"),
        ("SSIM after gain", "ssim_gain"),
        ("Median relative depth error", "depth_error"),
    ):
        parts.append(chart(title, "seconds", _curves(capture, name)))
    parts.append("</div>")
    for run, shown in zip(capture.runs, pictures, strict=True):
        parts += _run_section(run, shown)
    return [*parts, "</section>"]


def _curves(capture: CaptureResult, name: str) -> list[Curve]:
    curves = []
    for place, run in enumerate(capture.runs):
        results = sorted([*run.maps, *run.batches], key=lambda result: result.record.written)
        points = [
            (result.record.written, value)
            for result in results
            if result.record.written > 0.0 and (value := getattr(result, name)) is not None
        ]
        curves.append(Curve(run.label, _colour_of(run, place), points))
    return curves


def _colour_of(run: RunResult, place: int) -> int:
    """A method has the same colour on every capture."""
    return list(METHODS).index(run.method) if run.method in METHODS else len(METHODS) + place


def _run_section(run: RunResult, shown: list[ViewPictures]) -> list[str]:
    colour = COLOURS[_colour_of(run, 0) % len(COLOURS)]
    head = f'<h3 style="border-color:{colour}">{escape(run.label)}</h3>'
    if run.failed is not None:
        return [head, f"<p class=failed>failed: {escape(run.failed)}</p>"]
    unread = f" {run.frames_unreadable} frames could not be read." if run.frames_unreadable else ""
    last = run.last
    of = "" if last is None else f" Pictures: {escape(last.name)}."
    parts = [
        head,
        f"<p>{escape(run.about[:1].upper() + run.about[1:])}. {escape(run.model)}{unread}{of}</p>",
    ]
    for kind in ("worst", "best"):
        views = [picture for picture in shown if picture.kind == kind]
        if not views:
            continue
        parts.append(f"<h4>{kind}</h4><div class=views>")
        for picture in views:
            view = picture.score
            depth = (
                ""
                if view.depth_error is None
                else f", depth error {100.0 * view.depth_error:.1f} %"
            )
            poses = (
                ""
                if view.psnr_gain_poses is None
                else f", {number(view.psnr_gain_poses, 2)} with pose"
            )
            parts += [
                "<figure><div>",
                f'<img alt="picture taken" src="{picture.truth}">',
                f'<img alt="rendered" src="{picture.render}">',
                f'<img alt="error" src="{picture.error}">',
                f"</div><figcaption>frame {view.seq}: {number(view.psnr_gain, 2)} dB after gain, "
                f"{number(view.psnr, 2)} without{poses}, SSIM {number(view.ssim, 3)}{depth}"
                "</figcaption>",
                "</figure>",
            ]
        parts.append("</div>")
    parts.append(
        "<p class=made>Left to right: picture taken, rendered (after gain), mean absolute colour "
        f"error (black 0, white {LARGEST_ERROR:g} and more).</p>"
    )
    return parts


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2429; --paper: #fff; --line: #d8dee3; --soft: #66737d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ed; --paper: #14181b; --line: #333c43; --soft: #93a1ab; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1120px; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; } h3 { border-left: 5px solid; padding-left: .6rem; margin-top: 2rem; }
h4 { margin: .8rem 0 .3rem; font-weight: 600; color: var(--soft); }
.made, figcaption { color: var(--soft); font-size: 13px; } .failed { color: #d1495b; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: 1rem; }
svg { width: 540px; max-width: 100%; }
svg .grid { stroke: var(--line); } svg text { fill: var(--ink); font-size: 12px; }
svg .title { font-weight: 600; font-size: 13px; }
svg .tick { fill: var(--soft); text-anchor: end; } svg .tick.x { text-anchor: middle; }
.views { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; } figure div { display: flex; gap: 2px; } img { width: 240px; max-width: 33%; }
"""
