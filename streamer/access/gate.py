"""The gate before the daemon's public sockets: CURVE, the allow-list, and rights per message.

libzmq asks for every handshake over ZAP (RFC 27). The answers come from a thread of the process
that owns the sockets, so a flood of handshakes never waits in that process's loop, nor the loop for
it; whoever is refused never gets a message through. Established connections outlive a change of
the allow-list, so rights are looked up again for every message that comes in.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Literal

import zmq
from zmq.utils import z85

from streamer.access.allowlist import AllowList
from streamer.access.keys import Keypair
from streamer.access.rights import NONE, Right, Rights

logger = logging.getLogger(__name__)

Domain = Literal["ingest", "updates", "requests"]
OPENS: dict[str, tuple[Right, ...]] = {
    "ingest": ("ingest",),
    "updates": ("watch",),
    "requests": ("watch", "control"),
}
"""Any of these rights opens the socket, for whatever sessions it is given."""

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
REFRESH_S = 1.0
HANDSHAKE_MS = 10_000
"""Who connects and does not get through a handshake in this time is cut off."""
BACKLOG = 1024
_ANSWER_AT_ONCE = 64


class Gate:
    """Guards the sockets of one context; made before they are bound.

    Args:
        context: of the sockets to be guarded; it may have no other gate.
        key: the daemon's own.
        allowed: read once here, then every second.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], key: Keypair, allowed: AllowList
    ) -> None:
        self._key = key
        self._allowed = allowed
        self._allowed.refresh()
        self._refused = 0
        self._watchers_lost = threading.Event()
        self._zap = context.socket(zmq.ROUTER)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind(ZAP_ENDPOINT)
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
        self._thread.start()

    def guard(self, socket: zmq.Socket[bytes], domain: Domain) -> None:
        """Let only allowed keys in; before the socket is bound."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._key.secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._key.public)
        socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
        # Without it libzmq lets every key in where nobody answers over ZAP.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.setsockopt(zmq.BACKLOG, BACKLOG)

    def rights(self, frame: zmq.Frame) -> Rights:
        """Of the peer that sent this frame of a message, as the allow-list stands now."""
        try:
            public = frame.get("User-Id")
        except zmq.ZMQError:
            return NONE
        return self._allowed.rights(str(public).encode())

    def watchers_lost(self) -> bool:
        """Whether, since this was asked last, a key lost the right to watch. Its subscriptions go
        on, for libzmq has no way to hang up on one peer: the updates socket has to be opened anew.
        """
        if not self._watchers_lost.is_set():
            return False
        # Whoever is lost from here on is told of anew; cleared unseen, he would go on watching.
        self._watchers_lost.clear()
        return True

    def close(self) -> None:
        """End the thread. Sockets that are still bound let nobody in any more."""
        os.write(self._stop_write, b"\0")
        self._thread.join()
        os.close(self._stop_read)
        os.close(self._stop_write)

    # ---- the thread ----

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._zap, zmq.POLLIN)
        poller.register(self._stop_read, zmq.POLLIN)
        refreshed = time.monotonic()
        while True:
            ready = dict(poller.poll(int(REFRESH_S * 1000)))
            if self._stop_read in ready:
                self._zap.close()
                return
            if time.monotonic() - refreshed >= REFRESH_S:
                refreshed = time.monotonic()
                self._refresh()
            for _ in range(_ANSWER_AT_ONCE):
                try:
                    envelope = self._zap.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                self._zap.send_multipart(self._answer(envelope))

    def _refresh(self) -> None:
        before = self._allowed.grants
        if not self._allowed.refresh():
            return
        now = self._allowed
        logger.info("the allow-list changed: %d keys", len(now.grants))
        watched = (key for key, grant in before.items() if grant.rights.any_of(("watch",)))
        if not all(now.rights(key).any_of(("watch",)) for key in watched):
            self._watchers_lost.set()

    def _answer(self, envelope: list[bytes]) -> list[bytes]:
        """RFC 27: [identity, "", version, request, domain, address, identity, mechanism, key]."""
        route, (version, request, domain, address, _, mechanism, *credentials) = (
            envelope[:2],
            envelope[2:],
        )
        user = b""
        if mechanism == b"CURVE" and len(credentials) == 1:
            public = z85.encode(credentials[0])
            if self._allowed.rights(public).any_of(OPENS.get(domain.decode(), ())):
                user = public
            else:
                self._log_refusal(public, address, domain)
        status = [b"200", b"OK", user, b""] if user else [b"400", b"not allowed", b"", b""]
        return [*route, version, request, *status]

    def _log_refusal(self, public: bytes, address: bytes, domain: bytes) -> None:
        self._refused += 1
        # A client that is refused comes back, and a flood must not fill the disk.
        if self._refused & (self._refused - 1) == 0:
            grant = self._allowed.grants.get(public)
            whose = public.decode() if grant is None else f"{grant.name} ({public.decode()})"
            logger.warning(
                "refused on %s (%d so far): key %s from %s is not allowed there",
                domain.decode(),
                self._refused,
                whose,
                address.decode("ascii", "replace"),
            )
