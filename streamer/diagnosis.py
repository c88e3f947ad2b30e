"""What works on this machine and why the rest does not: the checks behind `splatstream doctor`."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamer.config import ServeConfig, default_session_dir
from streamer.hardware import hardware

State = Literal["ok", "off", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        subject: what was looked at.
        state: `ok`; `off`: does not work here, and is not needed; `broken`: needed, and does not.
        detail: what was found, and for the last two why and what to do.
    """

    subject: str
    state: State
    detail: str


def diagnose() -> list[Finding]:
    """Looks at everything; imports torch and compiles a small kernel, so it takes seconds."""
    torch = _torch()
    cuda = _cuda()
    return [
        Finding("machine", "ok", hardware()),
        Finding("python", "ok", platform.python_version()),
        torch,
        cuda,
        _gsplat(cuda.state == "ok"),
        _numba(),
        _opencv(),
        _package("viser", "viser", "the live page"),
        _package("zmq", "pyzmq", "the wire"),
        _folder("kernel cache", _kernel_cache(), "compiled kernels are kept there"),
        _folder(
            "sessions", default_session_dir(), "sessions are kept there; --session-dir moves it"
        ),
        *_ports(),
        _weights(),
    ]


def _torch() -> Finding:
    def check() -> str:
        torch = importlib.import_module("torch")
        assert float(torch.ones(2, 2).sum()) == 4.0
        return f"{torch.__version__}, {torch.get_num_threads()} threads"

    return _try("torch", check, "reinstall it: pip install torch")


def _cuda() -> Finding:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return Finding("cuda", "off", "torch does not import")
    if torch.version.cuda is None:
        return Finding(
            "cuda",
            "off",
            "this torch is built without CUDA; models and rasteriser run on the CPU",
        )
    if not torch.cuda.is_available():
        return Finding(
            "cuda",
            "off",
            f"torch has CUDA {torch.version.cuda} but finds no working NVIDIA device; "
            "everything runs on the CPU",
        )

    def check() -> str:
        assert float(torch.ones(2, 2, device="cuda").sum()) == 4.0
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"

    return _try("cuda", check, "a device is there but does not compute; see the driver's log")


def _gsplat(cuda_works: bool) -> Finding:
    if not cuda_works:
        return Finding(
            "gsplat", "off", "needs a working CUDA; the numba rasteriser takes its place"
        )
    if importlib.util.find_spec("gsplat") is None:
        return Finding("gsplat", "broken", "is not installed: pip install gsplat")

    def check() -> str:
        importlib.import_module("gsplat")
        return f"{importlib.metadata.version('gsplat')}, compiles its kernels at first use"

    return _try("gsplat", check, "reinstall it: pip install gsplat")


def _numba() -> Finding:
    def check() -> str:
        import numba
        import numpy as np

        @numba.njit(parallel=True)
        def double(values: np.ndarray) -> np.ndarray:
            result = np.empty_like(values)
            for i in numba.prange(len(values)):
                result[i] = 2.0 * values[i]
            return result

        assert double(np.ones(64)).sum() == 128.0
        return (
            f"{numba.__version__}, {numba.get_num_threads()} threads by {numba.threading_layer()}"
        )

    return _try("numba", check, "reinstall it: pip install numba")


def _opencv() -> Finding:
    return _try(
        "opencv",
        lambda: str(importlib.import_module("cv2").__version__),
        "on slim images libGL is missing: apt-get install libgl1 libglib2.0-0, or put "
        "opencv-python-headless in the place of opencv-python",
    )


def _weights() -> Finding:
    remedy = "reinstall splatstream; until then `--weights packaged` cannot be used"

    def check() -> str:
        from ttt_core.compact_checkpoint import load_compact
        from ttt_core.default_model import PACKAGED, compact_model

        compact_model(PACKAGED)  # refuses what does not fit the network
        about = load_compact(PACKAGED)[2]
        record = about["training"]
        return (
            f"{PACKAGED.name}, {about['licence']}: {record['step']} steps "
            f"on {record['samples']} streams in {record['seconds']:.0f} s, on {record['hardware']}"
        )

    return _try("weights", check, remedy)


def _package(module: str, distribution: str, what_for: str) -> Finding:
    def check() -> str:
        importlib.import_module(module)
        return f"{importlib.metadata.version(distribution)} ({what_for})"

    return _try(distribution, check, f"reinstall it: pip install {distribution}")


def _try(subject: str, check: Callable[[], str], remedy: str) -> Finding:
    try:
        return Finding(subject, "ok", check())
    # A broken library may raise anything on import (OSError, RuntimeError, its own types), and a
    # diagnosis that dies of it would be of no use.
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        return Finding(subject, "broken", f"{type(error).__name__}: {first_line}; {remedy}")


def _kernel_cache() -> Path:
    stated = os.environ.get("NUMBA_CACHE_DIR")
    if stated:
        return Path(stated)
    package = importlib.util.find_spec("gs_decoder")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "__pycache__"


def _folder(subject: str, folder: Path, what_for: str) -> Finding:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding(subject, "ok", f"{folder} ({what_for})")
    return Finding(subject, "broken", f"{folder} cannot be written ({what_for})")


def _ports() -> list[Finding]:
    config = ServeConfig()
    ports = {
        "frames": int(config.ingest.rsplit(":", 1)[1]),
        "updates": int(config.updates.rsplit(":", 1)[1]),
        "requests": int(config.requests.rsplit(":", 1)[1]),
        "live page": config.viewer.port,
    }
    taken = {name: port for name, port in ports.items() if not port_is_free(port)}
    if not taken:
        return [Finding("ports", "ok", f"{', '.join(map(str, ports.values()))} are free")]
    return [
        Finding(
            "ports",
            "off",
            f"{port} ({name}) is in use on 127.0.0.1: a daemon runs already, or `serve` needs "
            "other addresses",
        )
        for name, port in taken.items()
    ]


def port_is_free(port: int) -> bool:
    """Whether a TCP port of 127.0.0.1 can be bound now."""
    with socket.socket() as probe:
        # As ZeroMQ and the page bind: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
