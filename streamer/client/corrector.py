"""`PoseClient`: a SLAM back end that corrects poses of frames which others sent."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt
import zmq

from streamer.access import ClientKeys
from streamer.access.handshakes import HandshakeWatch
from streamer.addresses import connect
from streamer.client.errors import ArgumentError, ConnectionLostError, refusal
from streamer.protocol import PROTO_VERSION, Header, Message, decode, encode
from streamer.protocol.messages import Bye, Error, Hello, Poses, PosesAck, Welcome


class PoseClient:
    """Corrects poses in one session of a daemon; any number of them may.

    Args:
        address: of the daemon's ingest.
        session: whose frames.
        convention: camera axes of the poses; by default those of whoever sent the frames. What
            the daemon publishes has OpenCV axes: say ``opencv`` when you start from that.
        client: this program's name.
        timeout_s: how long the daemon may take to answer.
        keys: for a daemon that has keys; they need the right to `ingest`.

    Raises:
        AddressError: the address is none.
        ConnectionLostError: no daemon answers at it.
        RefusedError: it refuses.
    """

    def __init__(
        self,
        address: str,
        session: str,
        *,
        convention: str | None = None,
        client: str | None = None,
        timeout_s: float = 10.0,
        keys: ClientKeys | None = None,
    ) -> None:
        self.address = address
        self.session = session
        self._convention = convention
        self._client = client or f"{socket.gethostname()}-poses"
        self._timeout_s = timeout_s
        self._keys = keys
        self._socket: zmq.Socket[bytes] | None = None
        self._watch: HandshakeWatch | None = None
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PoseClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def send_poses(
        self,
        revision: int,
        poses: Mapping[int, npt.ArrayLike],
        *,
        by: Literal["seq", "stamp"] = "seq",
        upto: int | None = None,
    ) -> PosesAck:
        """Correct the poses of frames sent earlier; frames between them follow by interpolation.

        Args:
            revision: grows with every correction.
            poses: (4, 4) camera-to-world by seq or stamp; a uniform scale of the rotation is
                allowed.
            by: what the keys are.
            upto: the last seq or stamp that was given in the old frame.

        Returns:
            `moved` chunks, and the `unknown` keys.

        Raises:
            StaleRevisionError: the revision is not newer than the last one.
            RefusedError: a pose is no similarity, or the session cannot take it now.
            ConnectionLostError: no answer in time.
        """
        request = Poses(revision=revision, poses=_entries(poses), by=by, upto=upto)
        for again in (True, False):
            self._say(request)
            answer = self._answer(revision)
            if isinstance(answer, PosesAck):
                return answer
            # A daemon that was started anew does not know this connection.
            if answer.code == "no_hello" and again:
                self._greet()
                continue
            raise refusal(answer.code, answer.reason)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Say BYE and stop. May be called twice."""
        if self._socket is None:
            return
        self._socket.setsockopt(zmq.LINGER, 500)
        self._say(Bye())
        self._hang_up()

    def _greet(self) -> None:
        self._hang_up()
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._watch = HandshakeWatch(self._socket, self._keys)
        connect(self._socket, self.address, self._keys)
        self._say(
            Hello(
                proto=PROTO_VERSION,
                session=self.session,
                client=self._client,
                role="poses",
                convention=self._convention,
            )
        )
        message = self._receive()
        if message.kind == Error.KIND:
            error = message.read(Error)
            raise refusal(error.code, error.reason)
        message.read(Welcome)

    def _hang_up(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _answer(self, revision: int) -> PosesAck | Error:
        while True:
            message = self._receive()
            if message.kind == Error.KIND:
                error = message.read(Error)
                if error.revision in (None, revision):
                    return error
            if message.kind == PosesAck.KIND:
                ack = message.read(PosesAck)
                if ack.revision == revision:
                    return ack

    def _say(self, header: Header) -> None:
        assert self._watch is not None
        if not self._watch.send(encode(header)) and not isinstance(header, Bye):
            raise self._lost()

    def _receive(self) -> Message:
        assert self._socket is not None and self._watch is not None
        if not self._watch.readable(self._timeout_s):
            raise self._lost()
        return decode(self._socket.recv_multipart())

    def _lost(self) -> ConnectionLostError:
        trouble = None if self._watch is None else self._watch.trouble()
        if trouble is not None:
            return ConnectionLostError(f"{self.address} cannot be talked to: {trouble}")
        return ConnectionLostError(
            f"the daemon at {self.address} did not answer within {self._timeout_s:g} s: start "
            "one with `splatstream serve`, or give the address it prints"
        )


def _entries(poses: Mapping[int, npt.ArrayLike]) -> list[tuple[int, list[float]]]:
    keys, given = [int(key) for key in poses], list(poses.values())
    try:
        # Thousands come after a loop closure, and somebody waits.
        stack = np.array(given, np.float64)
    except ValueError:
        stack = np.zeros(0)
    if stack.shape[1:] in ((4, 4), (16,)):
        return list(zip(keys, stack.reshape(-1, 16).tolist(), strict=True))
    return [(key, _sixteen(key, pose)) for key, pose in zip(keys, given, strict=True)]


def _sixteen(key: int, pose: npt.ArrayLike) -> list[float]:
    matrix = np.asarray(pose, np.float64)
    if matrix.shape not in ((4, 4), (16,)):
        raise ArgumentError(f"poses[{key}]: shape {matrix.shape} was given, (4, 4) is needed")
    return matrix.reshape(-1).tolist()
