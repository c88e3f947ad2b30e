"""What is checked before the daemon starts anything: addresses, device, the viewer's port."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import re
import socket

import zmq

from streamer.access.daemon import check_keys_folder
from streamer.access.token import page_token
from streamer.config import ConfigError, ServeConfig
from streamer.control import bind

_TCP = re.compile(r"^tcp://(?P<host>\[[^\]]+\]|[^:]+):(?P<port>\*|\d{1,5})$")
_NO_KEYS = (
    "is not a loopback address, and the daemon has no keys: make some (splatstream keygen daemon, "
    "docs/security.md) and start with --keys DIR, keep to 127.0.0.1 or ipc://, tunnel through ssh, "
    "or accept that anybody who reaches it can send and read: --insecure"
)
_OPEN_PAGE = (
    "is not a loopback address, and the page asks nobody who he is: give it a token "
    "(--viewer-token FILE; view: --token-file FILE), keep it on 127.0.0.1 behind ssh or a reverse "
    "proxy (docs/security.md), or accept that anybody who reaches it sees and pauses the map: "
    "--insecure"
)
_OPEN_METRICS = (
    "is not a loopback address, and the metrics ask nobody who he is: keep them on 127.0.0.1 "
    "(behind ssh or a reverse proxy), or accept that anybody reads them: --insecure"
)
_OPEN_TO_ALL = "is open to everybody who reaches it (--insecure)"
_PLAIN_HTTP = "is plain HTTP: who listens on that network reads map and token (docs/security.md)"


def check_config(config: ServeConfig) -> list[str]:
    """Warnings about settings that work but should be known.

    Raises ConfigError, or KeyFileError, for settings with which the daemon must not start.
    """
    warnings = [] if config.keys is None else check_keys_folder(config.keys)
    for key in ("ingest", "updates", "requests"):
        address = getattr(config, key)
        host = _host_of(key, address)
        if config.keys is None and host is not None and not is_loopback(host):
            _refuse_unless(config.insecure, f"{key}: {address} {_NO_KEYS}")
            warnings.append(f"{key}: {address} {_OPEN_TO_ALL}")
    host, token = config.viewer.host, config.viewer.token_file is not None
    if config.viewer.enabled and config.viewer.token_file is not None:
        page_token(config.viewer.token_file)
    if config.viewer.enabled and not is_loopback(host):
        check_page_host(host, insecure=config.insecure or token, key="viewer.host")
        warnings.append(f"viewer.host: {host} {_PLAIN_HTTP if token else _OPEN_TO_ALL}")
    host = config.metrics.host
    if config.metrics.port is not None and not is_loopback(host):
        _refuse_unless(config.insecure, f"metrics.host: {host} {_OPEN_METRICS}")
        warnings.append(f"metrics.host: {host} {_OPEN_TO_ALL}")
    if config.device == "cuda":
        _check_cuda()
    return warnings


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    host = host.strip("[]")
    if host in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_addresses(config: ServeConfig) -> None:
    """Raises AddressInUse where the daemon's TCP addresses cannot be bound together: said at once,
    before any process starts."""
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        for key in ("ingest", "updates", "requests"):
            address = getattr(config, key)
            if address.startswith("tcp://"):
                probe = stack.enter_context(context.socket(zmq.ROUTER))
                bind(probe, address, f"--{key}")


def claim_viewer_port(config: ServeConfig) -> ServeConfig:
    """The same settings with the viewer's port settled, which must be free.

    Raises ConfigError where another program has it.
    """
    viewer = config.viewer
    port = claim_port(viewer.host, viewer.port, "--viewer-port", "or --no-viewer for no page")
    return dataclasses.replace(config, viewer=dataclasses.replace(viewer, port=port))


def claim_port(host: str, port: int, option: str, otherwise: str = "") -> int:
    """A port that is free to be bound, a free one for 0; raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{option}: {host}:{port} cannot be bound ({error.strerror}): stop what runs "
                f"there, or give another port with {option} (0 takes a free one) {otherwise}"
            ) from None
        return int(probe.getsockname()[1])


def check_page_host(host: str, *, insecure: bool, key: str) -> None:
    """Raises ConfigError for a page that others than this machine would reach unasked."""
    if not is_loopback(host):
        _refuse_unless(insecure, f"{key}: {host} {_OPEN_PAGE}")


def reachable(address: str) -> str:
    """Where this machine connects to an address that was bound to all interfaces."""
    return re.sub(r"^tcp://(0\.0\.0\.0|\*|\[::\]):", "tcp://127.0.0.1:", address)


def _host_of(key: str, address: str) -> str | None:
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        return None
    match = _TCP.match(address)
    if match is None:
        raise ConfigError(
            f"{key}: {address!r} is not an address: give tcp://HOST:PORT (a port of * takes a "
            "free one) or ipc://PATH"
        )
    if match["port"] != "*" and int(match["port"]) > 65535:
        raise ConfigError(f"{key}: port {match['port']} is not in 0..65535")
    return match["host"]


def _refuse_unless(allowed: bool, reason: str) -> None:
    if not allowed:
        raise ConfigError(reason)


def _check_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else " (this torch is built for the CPU only)"
        raise ConfigError(
            f"device: 'cuda' was asked for, but there is no working CUDA device{built}: use "
            "--device cpu or auto; `splatstream doctor` says what is missing"
        )
