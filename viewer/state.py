"""What the page knows of the daemon at one moment: plain values, handed from thread to thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gs_decoder import Chunk
from streamer.requests import KeyFrame

Link = Literal["connecting", "waiting", "live", "away"]
"""No word yet; the daemon lives without a session of ours; all is well; silent for 3 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A session's last status, as far as it says."""

    state: str = "starting"
    frames_in: int = 0
    frames_done: int = 0
    frames_waiting: int = 0
    frames_dropped: int = 0
    frames_rejected: int = 0
    keyframes: int = 0
    splats: int = 0
    batch_ms: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    psnr: float | None = None
    model: str | None = None
    """What predicts, in words; says so where no trained checkpoint is loaded."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeedState:
    """One consistent view of a session. Immutable: the next one is another object."""

    link: Link = "connecting"
    silent_s: float = 0.0
    """How long nothing has come from the daemon."""
    session: str | None = None
    sessions: tuple[str, ...] = ()
    generation: int = 0
    """Grows when everything shown has to go: another session, or a new epoch."""
    map_version: int = 0
    """Grows with every change of `chunks`."""
    chunks: Mapping[int, Chunk] = field(default_factory=dict)
    asked: tuple[KeyFrame, ...] = ()
    """The newest key frames, as the daemon told them last."""
    figures: Figures | None = None

    def keyframes(self) -> tuple[KeyFrame, ...]:
        """By seq: the newest, and older ones that have a chunk in the map.

        Put together at every call: states come faster than anybody asks. Where a chunk tells the
        pose it is the newest word.
        """
        known = {keyframe.seq: keyframe for keyframe in self.asked}
        for chunk in self.chunks.values():
            known[chunk.frame_seq] = KeyFrame(
                chunk.frame_seq, chunk.stamp_ns, chunk.camera, chunk.id, chunk.T_world_chunk, None
            )
        return tuple(known[seq] for seq in sorted(known))
