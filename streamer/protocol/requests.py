"""Headers of section 3: requests to the publisher and their answers, which carry the same kind."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from streamer.protocol.fields import Colour, Floats16, Header, Stamp, UInt
from streamer.protocol.messages import CameraHeader
from streamer.protocol.update_headers import ChunkId, StatusHeader

RequestId = int | Annotated[str, Meta(max_length=256)]
"""Of the reader's choice; short, since it comes back in every answer."""
Have = tuple[ChunkId, UInt, UInt]
"""What a reader holds of a chunk: id, content, revision."""

EXPORT_FORMATS = ("ply", "spz", "splat", "glb", "mesh")
SNAPSHOT_CODECS = ("f32", "f16", "spz")


class Request(Header, frozen=True, kw_only=True):
    """Any request; `id` is echoed."""

    id: RequestId | None = None


class RequestError(Request, frozen=True, kw_only=True):
    """The answer to a request that cannot be met."""

    KIND: ClassVar[bytes] = b"ERROR"
    code: str
    reason: str


class SessionsRequest(Request, frozen=True, kw_only=True):
    """Which sessions there are."""

    KIND: ClassVar[bytes] = b"SESSIONS"


class SessionRequest(Request, frozen=True, kw_only=True):
    """A request about one session."""

    session: str


class ManifestRequest(SessionRequest, frozen=True, kw_only=True):
    """What a session's map consists of."""

    KIND: ClassVar[bytes] = b"MANIFEST"


class SnapshotRequest(SessionRequest, frozen=True, kw_only=True):
    """What differs from `have`, which counts only where `epoch` is the current one."""

    KIND: ClassVar[bytes] = b"SNAPSHOT"
    have: list[Have]
    epoch: UInt
    codec: str = "f32"
    max_splats: UInt | None = None


class KeyframesRequest(SessionRequest, frozen=True, kw_only=True):
    """Key frames, where `newest` is given so many of the last; with `thumbnails` one JPEG part
    each."""

    KIND: ClassVar[bytes] = b"KEYFRAMES"
    thumbnails: bool = False
    newest: UInt | None = None


class StatusRequest(SessionRequest, frozen=True, kw_only=True):
    """The session's last status."""

    KIND: ClassVar[bytes] = b"STATUS"


class SaveRequest(SessionRequest, frozen=True, kw_only=True):
    """Save the session's state into its folder."""

    KIND: ClassVar[bytes] = b"SAVE"


class ResetRequest(SessionRequest, frozen=True, kw_only=True):
    """Forget map and frames; a new epoch begins."""

    KIND: ClassVar[bytes] = b"RESET"


class PauseRequest(SessionRequest, frozen=True, kw_only=True):
    """No batch, no refinement, no change of the map until RESUME."""

    KIND: ClassVar[bytes] = b"PAUSE"


class ResumeRequest(SessionRequest, frozen=True, kw_only=True):
    """Go on."""

    KIND: ClassVar[bytes] = b"RESUME"


class CloseRequest(SessionRequest, frozen=True, kw_only=True):
    """Save the session's state and end its process; who asks for its map brings it back."""

    KIND: ClassVar[bytes] = b"CLOSE"


class ExportRequest(SessionRequest, frozen=True, kw_only=True):
    """The map as a file."""

    KIND: ClassVar[bytes] = b"EXPORT"
    format: str


class RenderRequest(SessionRequest, frozen=True, kw_only=True):
    """A picture of the map from a camera, in the sender's world with OpenCV axes.

    `background` is what lies behind the map (rgb, 0..1; black by default); `rgba` asks for the
    alpha as a fourth channel instead; `depth` for a second part, the z-depth.
    """

    KIND: ClassVar[bytes] = b"RENDER"
    c2w: Floats16
    camera: CameraHeader
    background: Colour | None = None
    rgba: bool = False
    depth: bool = False


class LocalizeRequest(SessionRequest, frozen=True, kw_only=True):
    """Where an image was taken."""

    KIND: ClassVar[bytes] = b"LOCALIZE"


REQUESTS: dict[bytes, type[Request]] = {
    request.KIND: request
    for request in (
        SessionsRequest,
        ManifestRequest,
        SnapshotRequest,
        KeyframesRequest,
        StatusRequest,
        SaveRequest,
        ResetRequest,
        PauseRequest,
        ResumeRequest,
        CloseRequest,
        ExportRequest,
        RenderRequest,
        LocalizeRequest,
    )
}
"""The struct of every request."""


class SessionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One session of the SESSIONS answer."""

    session: str
    epoch: UInt
    splats: UInt
    state: str
    frames_in: UInt = 0
    frames_done: UInt = 0
    idle_s: float = 0.0
    """Seconds since a frame came, the map changed or a reader asked for something."""


class SessionsAnswer(Request, frozen=True, kw_only=True):
    """The sessions that run; those that have ended lie on the disk alone."""

    KIND: ClassVar[bytes] = b"SESSIONS"
    sessions: list[SessionEntry]


class ManifestAnswer(Request, frozen=True, kw_only=True):
    """`[chunk, content, revision, count]` of every chunk."""

    KIND: ClassVar[bytes] = b"MANIFEST"
    epoch: UInt
    seq: UInt
    chunks: list[tuple[ChunkId, UInt, UInt, UInt]]


class SnapshotDone(Request, frozen=True, kw_only=True):
    """End of a snapshot of `messages` messages, exact at `seq`."""

    KIND: ClassVar[bytes] = b"SNAPSHOT"
    epoch: UInt
    seq: UInt
    messages: UInt
    done: bool


class KeyframeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One key frame; `c2w` in the sender's world with OpenCV camera axes."""

    seq: UInt
    stamp_ns: Stamp
    camera: str
    chunk: ChunkId | None
    c2w: Floats16


class KeyframesAnswer(Request, frozen=True, kw_only=True):
    """The key frames of a session."""

    KIND: ClassVar[bytes] = b"KEYFRAMES"
    keyframes: list[KeyframeEntry]


class StatusAnswer(StatusHeader, frozen=True, kw_only=True, omit_defaults=False):
    """The session's status, as it is published."""

    KIND: ClassVar[bytes] = b"STATUS"
    id: RequestId | None = None


class OkAnswer(Request, frozen=True, kw_only=True, omit_defaults=False):
    """SAVE, RESET, PAUSE, RESUME and CLOSE: it is done."""

    ok: bool = True


class ExportAnswer(Request, frozen=True, kw_only=True):
    """One part: the file."""

    KIND: ClassVar[bytes] = b"EXPORT"
    format: str


class RenderAnswer(Request, frozen=True, kw_only=True):
    """A PNG, and where it was asked for a 16-bit PNG of depth in steps of `depth_unit_m`.

    `alpha_mean` says how much of the picture the map covers.
    """

    KIND: ClassVar[bytes] = b"RENDER"
    alpha_mean: float
    depth_unit_m: float | None = None
