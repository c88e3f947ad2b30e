"""A session process between sockets that play ingest and publisher."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import zmq
from engine_helpers import make_engine
from numpy.typing import NDArray
from torch import Tensor

from streamer.config import ServeConfig, SessionConfig
from streamer.frames import Frame
from streamer.protocol import Message, decode, encode
from streamer.protocol.internal import Batch, BatchFrame, Counts, PosesDone, PosesForward, State
from streamer.protocol.limits import MAX_INTERNAL_PARTS
from streamer.protocol.links import Control, ControlDone
from streamer.session.process import SessionProcess
from ttt_core import Prediction, ViewBatch
from ttt_core.streaming import StreamingConfig, StreamingModel
from ttt_core.streaming_state import StreamingState

NAME = b"office"
LIMIT_MS = 120_000


class Slow(StreamingModel):
    """A model that takes as long as the test wants."""

    def __init__(self) -> None:
        super().__init__(StreamingConfig(network=None))
        self.eval()
        self.may, self.began = threading.Event(), threading.Event()
        self.may.set()
        self.may_move, self.moves = threading.Event(), threading.Event()
        self.may_move.set()

    def stream(self, state: StreamingState, batch: ViewBatch) -> tuple[StreamingState, Prediction]:
        self.began.set()
        assert self.may.wait(LIMIT_MS / 1e3)
        return super().stream(state, batch)

    def move(
        self,
        state: StreamingState,
        poses: Mapping[int, NDArray[np.float64] | Tensor],
        scales: Mapping[int, float] | None = None,
    ) -> StreamingState:
        self.moves.set()
        assert self.may_move.wait(LIMIT_MS / 1e3)
        return super().move(state, poses, scales)

    def hold(self) -> None:
        """The next batch waits for `may`."""
        self.began.clear()
        self.may.clear()

    def hold_moves(self) -> None:
        """The next correction, once it was told, waits for `may_move`."""
        self.moves.clear()
        self.may_move.clear()


class Daemon:
    """A session process in a thread, and the two ends it talks to.

    Args:
        save_every: batches between two states.
        options: of its engine.
    """

    def __init__(
        self,
        folder: Path,
        run_dir: Path,
        *,
        save_every: int = 60,
        **options: object,
    ) -> None:
        self.model = Slow()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.ingest = self._bound(run_dir / "batches")
        self.publisher = self._bound(run_dir / "publish")
        self.engine, _ = make_engine(model=self.model, **{"refine_enabled": False, **options})
        config = ServeConfig(session_dir=folder, session=SessionConfig(save_every=save_every))
        self.folder = folder / "office"
        self.process = SessionProcess(run_dir, config, "office", self.engine)
        self.thread = threading.Thread(target=self.process.run, daemon=True)
        self.thread.start()
        self.orders = 0

    def _bound(self, path: Path) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(f"ipc://{path}")
        return socket

    def until(self, socket: zmq.Socket[bytes], kind: bytes) -> Message:
        """The next message of a kind; others are passed over."""
        while (message := self.next(socket)).kind != kind:
            pass
        return message

    def next(self, socket: zmq.Socket[bytes]) -> Message:
        """The next message."""
        assert socket.poll(LIMIT_MS), "nothing came"
        return decode(socket.recv_multipart()[1:], max_parts=MAX_INTERNAL_PARTS)

    def ask(self, op: str) -> None:
        self.orders += 1
        self.publisher.send_multipart([NAME, *encode(Control(op=op, id=self.orders))])

    def order(self, op: str) -> ControlDone:
        self.ask(op)
        return self.done()

    def answer(self) -> ControlDone:
        """The next one."""
        return self.until(self.publisher, ControlDone.KIND).read(ControlDone)

    def done(self) -> ControlDone:
        """The next answer, which is that to the last order."""
        done = self.answer()
        assert done.id == self.orders
        return done

    def until_processed(self, frames: int) -> None:
        """So many in all, and no batch is under way."""
        while self.until(self.ingest, State.KIND).read(State).done != frames:
            pass

    def batch(self, frames: list[Frame]) -> None:
        entries = [
            BatchFrame(
                seq=frame.seq,
                stamp_ns=frame.stamp_ns,
                camera=frame.camera,
                width=frame.image.shape[1],
                height=frame.image.shape[0],
                K=frame.K.reshape(-1).tolist(),
                c2w=np.asarray(frame.c2w).reshape(-1).tolist(),
                received_ns=frame.received_ns,
            )
            for frame in frames
        ]
        header = Batch(epoch=1, frames=entries, counts=Counts(frames_in=len(frames)))
        images = [frame.image.tobytes() for frame in frames]
        self.ingest.send_multipart([NAME, *encode(header, *images)])

    def correct(self, correction: PosesForward) -> PosesDone:
        self.ingest.send_multipart([NAME, *encode(correction)])
        return self.until(self.ingest, PosesDone.KIND).read(PosesDone)

    def close(self) -> None:
        self.model.may.set()
        self.model.may_move.set()
        self.process.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.context.destroy(linger=0)


def correction(revision: int, frames: list[Frame], shift: float) -> PosesForward:
    """Of the first and the last of these frames."""
    motion = np.eye(4)
    motion[:3, 3] = shift, 0.5, 0.0
    named = {frame.seq: motion @ np.asarray(frame.c2w) for frame in (frames[0], frames[-1])}
    return PosesForward(
        revision=revision,
        client="slam",
        entries=[(seq, pose.reshape(-1).tolist()) for seq, pose in named.items()],
        received_upto=frames[-1].seq,
    )
