"""The ingest's sockets and its loop."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

import zmq

from streamer.access.daemon import open_gate
from streamer.config import ServeConfig
from streamer.control import BATCHES, ControlLink, bind, ipc_address, notice_dead_peers
from streamer.garbage import QuietTimes
from streamer.ingest.backstage import Backstage
from streamer.ingest.catchup import CatchUp
from streamer.ingest.decoder import Decoder
from streamer.ingest.door import Door
from streamer.ingest.recorder import Journals
from streamer.ingest.restore import SessionMaker, restore_sessions
from streamer.ingest.roster import Roster
from streamer.ingest.stream import StreamLimits
from streamer.journal import Committer
from streamer.metrics.instruments import IngestInstruments
from streamer.protocol import Header, encode
from streamer.protocol.limits import MAX_PART_BYTES

logger = logging.getLogger(__name__)

TICK_S = 0.1
READ_AT_ONCE = 32
"""Messages read from one socket before the others have their turn."""
RECEIVE_HWM = 16
"""Messages that libzmq holds of one sender before TCP holds it back: what somebody sends who does
not mind his credit costs so many of his frames, until they are read and refused."""


class IngestService:
    """Binds in the constructor, works in `run`.

    Raises:
        AddressInUse: the public address cannot be bound.
    """

    def __init__(self, run_dir: Path, config: ServeConfig) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = open_gate(self._context, config.keys, run_dir)
        self._public = self._context.socket(zmq.ROUTER)
        self._public.setsockopt(zmq.RCVHWM, RECEIVE_HWM)
        # Parts somewhat over the limit are read and answered; whatever is far over it is cut off
        # by libzmq before it is allocated.
        self._public.setsockopt(zmq.MAXMSGSIZE, 2 * MAX_PART_BYTES)
        self._public.setsockopt(zmq.LINGER, 200)
        notice_dead_peers(self._public)
        if self._gate is not None:
            self._gate.guard(self._public, "ingest")
        self.address = bind(self._public, config.ingest, "--ingest")
        self._batches = self._context.socket(zmq.ROUTER)
        self._batches.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._batches.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._batches.setsockopt(zmq.LINGER, 0)
        self._batches.bind(ipc_address(run_dir, BATCHES))
        self._control = ControlLink(run_dir, "ingest", self._context)
        queue = config.ingest_queue
        limits = StreamLimits(
            max_waiting=queue.max_waiting,
            live_waiting=queue.live_waiting,
            max_bytes=queue.max_waiting_bytes,
        )
        self._committer = Committer(config.journal.gather_s) if config.journal.enabled else None
        journals = None
        if self._committer is not None:
            size = config.journal.segment_mb << 20
            journals = Journals(self._committer, config.session_dir, size)
        make = SessionMaker(run_dir / "ingest", limits, journals)
        sessions = restore_sessions(make, time.monotonic())
        self._sessions = sessions
        self._instruments = IngestInstruments()
        took = self._instruments.took
        self._decoder = Decoder(queue.decode_threads, config.session.long_side, took)
        self._backstage = Backstage(
            self._batches,
            self._control,
            sessions,
            self._reply,
            queue.batch_timeout_s,
            took,
            self._decoder.submit,
            lambda section: CatchUp(section, config.session.long_side, self._decoder.wake),
        )
        self._roster = Roster(
            sessions,
            make,
            self._backstage,
            self._control,
            limit=config.max_sessions,
            idle_s=config.session_idle_s,
            gone=lambda session: self._door.left(session),
        )
        self._door = Door(
            sessions,
            self._roster,
            self._backstage,
            self._decoder,
            self._reply,
            refused=self._instruments.refused,
        )
        self._stopping = False

    def stop(self) -> None:
        """End `run` soon; safe in a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Work until `stop`."""
        self._control.ready({"ingest": self.address})
        self._backstage.revive()
        logger.info("taking frames on %s", self.address)
        poller = zmq.Poller()
        for waitable in (self._public, self._batches, self._control.socket, self._decoder.wake_fd):
            poller.register(waitable, zmq.POLLIN)
        if self._committer is not None:
            poller.register(self._committer.wake_fd, zmq.POLLIN)
        ticked = 0.0
        quiet = QuietTimes(time.monotonic())
        while not self._stopping:
            if not poller.poll(int(TICK_S * 1000)):
                quiet.use(time.monotonic())
            self._read_public()
            for verdict in self._decoder.collect():
                self._door.decided(verdict)
            if self._committer is not None:
                for report in self._committer.collect():
                    self._backstage.reported(report)
            # Read first, handled last: that a process died was said before its successor began, and
            # is not to be taken for the successor's death.
            spoken = self._hear_sessions()
            while (order := self._control.receive()) is not None:
                if not self._roster.handle(order):
                    self._backstage.handle_control(order)
            for frames in spoken:
                self._backstage.handle_session(frames)
            self._backstage.feed()
            if time.monotonic() - ticked >= TICK_S:
                ticked = time.monotonic()
                self._backstage.tick()
                self._roster.tick()
                self._control.alive()
                self._measure()

    def close(self) -> None:
        """Release sockets and threads."""
        self._public.close()
        self._batches.close()
        self._control.close()
        self._backstage.close()
        self._decoder.close()
        if self._gate is not None:
            self._gate.close()
        if self._committer is not None:
            self._committer.close()
        self._context.term()

    def _measure(self) -> None:
        streams = [session.stream for session in self._sessions.values()]
        self._instruments.holds(
            sum(len(stream.pending) for stream in streams),
            sum(stream.held_bytes for stream in streams),
        )
        for stream in streams:
            self._instruments.dropped(stream.drop_reasons)
            stream.drop_reasons.clear()

    def _read_public(self) -> None:
        for _ in range(READ_AT_ONCE):
            try:
                frames = self._public.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            rights = None if self._gate is None else self._gate.rights(frames[-1])
            self._door.handle([frame.buffer for frame in frames], rights)

    def _hear_sessions(self) -> list[list[bytes]]:
        """What the sessions' processes have said since."""
        spoken: list[list[bytes]] = []
        with contextlib.suppress(zmq.Again):
            while len(spoken) < READ_AT_ONCE:
                spoken.append(self._batches.recv_multipart(zmq.NOBLOCK))
        return spoken

    def _reply(self, identity: bytes, header: Header) -> None:
        try:
            self._public.send_multipart([identity, *encode(header)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
