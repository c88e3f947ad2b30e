"""Where a daemon is, given one of its two addresses for readers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import zmq

from streamer.access import ClientKeys
from streamer.access.handshakes import HandshakeWatch
from streamer.protocol import encode
from streamer.protocol.requests import SessionsRequest

_TCP = re.compile(r"^tcp://(?P<host>.+):(?P<port>\d+)$")


class AddressError(ValueError):
    """An address that cannot be used; the message names it and the remedy."""


class DaemonNotFound(AddressError):
    """No daemon answers at an address; the message names it and what to check."""


@dataclass(frozen=True, slots=True)
class ReaderAddresses:
    """The two addresses of a daemon that a reader needs."""

    updates: str
    requests: str


def neighbour(address: str, step: int) -> str:
    """The TCP address ``step`` ports further; by default updates + 1 is requests."""
    match = _TCP.match(address)
    if match is None:
        raise AddressError(
            f"address: {address!r} is not tcp://HOST:PORT, so the other one cannot be derived: "
            "give both, --updates and --requests"
        )
    return f"tcp://{match['host']}:{int(match['port']) + step}"


def find_daemon(
    address: str,
    *,
    updates: str | None = None,
    requests: str | None = None,
    timeout: float = 5.0,
    keys: ClientKeys | None = None,
) -> ReaderAddresses:
    """Both addresses, from one that may be either: who answers a request is the requests one.

    Args:
        address: the updates or the requests address of a daemon.
        updates: the updates address, where it is not the port below the requests one.
        requests: the requests address, where it is not the port above the updates one.
        timeout: seconds to wait for the daemon.
        keys: for a daemon that has keys.

    Raises:
        DaemonNotFound: nobody answers.
    """
    if "://" not in address:
        address = f"tcp://{address}"
    if updates and requests:
        return ReaderAddresses(updates, requests)
    if requests:
        return ReaderAddresses(address, requests)
    if updates:
        return ReaderAddresses(updates, address)
    candidates = [
        ReaderAddresses(neighbour(address, -1), address),
        ReaderAddresses(address, neighbour(address, 1)),
    ]
    return _first_to_answer(candidates, address, timeout, keys)


def connect(socket: zmq.Socket[bytes], address: str, keys: ClientKeys | None = None) -> None:
    """Connect, with keys where the daemon has them; raises AddressError for what is no address."""
    if keys is not None:
        keys.apply(socket)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        raise AddressError(
            f"address: {address!r} cannot be connected to ({error.strerror}): "
            "give tcp://HOST:PORT or ipc://PATH"
        ) from None


def _first_to_answer(
    candidates: list[ReaderAddresses], address: str, timeout: float, keys: ClientKeys | None
) -> ReaderAddresses:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    poller = zmq.Poller()
    sockets: dict[zmq.Socket[bytes], ReaderAddresses] = {}
    watches: list[HandshakeWatch] = []
    try:
        for candidate in candidates:
            socket = context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            sockets[socket] = candidate
            watches.append(HandshakeWatch(socket, keys))
            connect(socket, candidate.requests, keys)
            watches[-1].send(encode(SessionsRequest()))
            poller.register(socket, zmq.POLLIN)
        for socket, _ in poller.poll(int(timeout * 1000)):
            return sockets[socket]
        troubles = [trouble for watch in watches if (trouble := watch.trouble())]
    finally:
        for watch in watches:
            watch.close()
        for socket in sockets:
            socket.close()
    what_to_check = (
        "is it running (splatstream serve), and is this its updates or requests address?"
    )
    if troubles:
        what_to_check = troubles[0]
    raise DaemonNotFound(
        f"address: no daemon answers at {address} within {timeout:g} s: {what_to_check}"
    )
