"""The live page on this machine, for a daemon that may run on another one.

The address is the daemon's updates or requests address; the other one is found beside it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import FlagCreatePairsOff, Positional

from streamer.cli.keys import KeyOptions


@dataclass(kw_only=True, slots=True)
class Options(KeyOptions):
    """Ctrl-C ends it."""

    address: Positional[str] = "tcp://127.0.0.1:5557"
    """Updates or requests address of the daemon."""
    host: str = "127.0.0.1"
    """Address that the page is served on."""
    port: int = 8080
    """Its port; 0 takes a free one."""
    updates: str | None = None
    """Updates address, where it is not the port below the requests one."""
    requests: str | None = None
    """Requests address, where it is not the port above the updates one."""
    token_file: Path | None = None
    """The page asks for the token in this file, which is made where it is missing."""
    insecure: FlagCreatePairsOff[bool] = False
    """Serve the page beyond this machine although nobody is authenticated."""


def run(options: Options) -> int:
    """Serves the page until Ctrl-C."""
    from streamer.addresses import find_daemon
    from streamer.child_process import child_environment
    from streamer.preflight import check_page_host, claim_port

    token = options.token_file
    open_anyway = options.insecure or token is not None
    check_page_host(options.host, insecure=open_anyway, key="--host")
    found = find_daemon(
        options.address, updates=options.updates, requests=options.requests, keys=options.keys()
    )
    port = claim_port(options.host, options.port, "--port")
    print(f"http://{options.host}:{port} shows the daemon at {found.updates}", flush=True)
    # The page is a package that stands on this one, so it is started, never imported.
    command = [sys.executable, "-m", "streamer.child", "viewer", "--updates", found.updates]
    command += ["--requests", found.requests, "--host", options.host, "--port", str(port)]
    if token is not None:
        command += ["--token-file", str(token)]
        print(f"open it with ?token= and the content of {token}", flush=True)
    if options.key is not None:
        command += ["--key", str(options.key), "--server-key", str(options.server_key)]
    process = subprocess.Popen(command, env=child_environment())
    try:
        return process.wait()
    except KeyboardInterrupt:
        # The terminal told the page too.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        return 0
    finally:
        process.kill()
