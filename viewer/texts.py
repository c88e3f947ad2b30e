"""The panel's texts, as HTML. Whatever comes from outside is escaped: the page runs raw HTML."""

from __future__ import annotations

from html import escape

from viewer.nodes import Shown
from viewer.state import FeedState, Figures

_GOOD, _BUSY, _BAD, _IDLE = "#40c057", "#fab005", "#fa5252", "#868e96"
_BLOCK = "padding:0 0.75em 0.4em;font-size:0.8125em;line-height:1.5"
_STATES = {
    "starting": ("starting", _BUSY),
    "waiting": ("waiting for frames", _IDLE),
    "idle": ("up to date", _GOOD),
    "streaming": ("mapping", _GOOD),
    "refining": ("refining", _GOOD),
    "paused": ("paused", _BUSY),
    "ended": ("ended and saved; it comes back when somebody sends or asks for its map", _IDLE),
    "lost": ("the session's process died; another one is starting", _BAD),
}


def state_html(state: FeedState) -> str:
    """One line with a coloured dot: what is going on."""
    text, color = describe(state)
    return (
        f'<div style="{_BLOCK};padding-top:0.5em;font-weight:600">'
        f'<span style="color:{color}">&#9679;</span> {escape(text)}</div>'
    )


def describe(state: FeedState) -> tuple[str, str]:
    """What is going on, in words, and the colour of its dot."""
    if state.link == "connecting":
        return "connecting to the daemon", _BUSY
    if state.link == "away":
        return f"the daemon has been away for {state.silent_s:.0f} s; waiting for it", _BAD
    figures = state.figures
    unknown = state.session not in state.sessions
    if unknown and figures is not None and figures.state == "ended":
        return _STATES["ended"]
    if unknown or figures is None or not (figures.frames_in or state.chunks):
        return "waiting for frames", _IDLE
    return _STATES.get(figures.state, (figures.state, _IDLE))


def figures_html(state: FeedState, shown: Shown, origin_text: str | None) -> str:
    """The table of figures below it."""
    figures = state.figures or Figures()
    frames = (
        f"{figures.frames_in:,} in &middot; {figures.frames_done:,} done"
        f" &middot; {figures.frames_waiting:,} waiting"
    )
    lost = f"{figures.frames_dropped:,} dropped"
    if figures.frames_rejected:
        lost += f" &middot; {figures.frames_rejected:,} rejected"
    splats = f"{shown.available:,}"
    if shown.splats < shown.available:
        splats += f" &middot; {shown.splats:,} shown"
    rows = [
        ("Frames", frames),
        ("", lost),
        ("Key frames", f"{max(figures.keyframes, len(state.chunks)):,}"),
        ("Splats", splats),
        ("Latency", _latency(figures)),
        ("Batch", "&ndash;" if figures.batch_ms is None else f"{figures.batch_ms:,.0f} ms"),
        ("PSNR", "&ndash;" if figures.psnr is None else f"{figures.psnr:.2f} dB"),
    ]
    if origin_text is not None:
        rows.append(("Origin", escape(origin_text)))
    if shown.skipped:
        rows.append(("Left out", f"{shown.skipped:,} chunks without a usable pose"))
    cells = "".join(
        f'<tr><td style="opacity:0.65;padding-right:1em;vertical-align:top">{name}</td>'
        f'<td style="font-variant-numeric:tabular-nums">{value}</td></tr>'
        for name, value in rows
    )
    note = ""
    if figures.model:
        note = f'<div style="opacity:0.65;padding-top:0.3em">{escape(figures.model)}</div>'
    return f'<div style="{_BLOCK}"><table style="border-spacing:0">{cells}</table>{note}</div>'


def key_frame_html(text: str) -> str:
    """The caption of the key frame that was clicked."""
    return f'<div style="{_BLOCK}">{escape(text)}</div>'


def _latency(figures: Figures) -> str:
    if figures.latency_p50_ms is None or figures.latency_p95_ms is None:
        return "&ndash;"
    return f"{figures.latency_p50_ms:,.0f} ms p50 &middot; {figures.latency_p95_ms:,.0f} ms p95"
