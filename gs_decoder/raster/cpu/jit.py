"""Compile options shared by every kernel, and where the compiled code is kept.

numba's own cache looks only at the file that holds a kernel: it misses changed constants,
helpers of other modules and the vector type. The cache folder is therefore named by a hash of
all sources of this package, so that code compiled from other sources is never found.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@lru_cache(maxsize=1)
def cache_folder() -> Path:
    """Writable folder of the compiled kernels: `NUMBA_CACHE_DIR` if set, else beside the
    sources, else the user's cache folder, else a temporary folder."""
    package = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for source in sorted(package.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    name = f"raster-{digest.hexdigest()[:16]}"
    given = os.environ.get("NUMBA_CACHE_DIR")
    bases = [Path(given)] if given else []
    bases.append(package / "__pycache__")
    user = os.environ.get("XDG_CACHE_HOME")
    bases.append((Path(user) if user else Path("~/.cache").expanduser()) / "splatstream")
    for base in bases:
        if _is_writable(base / name):
            return base / name
    return Path(tempfile.mkdtemp(prefix="splatstream-kernels-"))


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on first call, without the interpreter lock, cached on disk.

    Fused multiply-add is asked for where it is wanted (`simd.fma`), never left to the
    compiler: forward and backward must take the same decision at the same pixel.
    """
    config: Any = numba.config
    given = config.CACHE_DIR
    config.CACHE_DIR = str(cache_folder())
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", boundscheck=False)(function)
    finally:
        config.CACHE_DIR = given


def helper(function: Callable[..., Any]) -> Any:
    """A function that is compiled into the kernels that call it."""
    return numba.njit(nogil=True, error_model="numpy", inline="never")(function)
