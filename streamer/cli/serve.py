"""The daemon: takes frames over ZeroMQ, publishes the growing map, serves the live page.

Prints one line that begins with `ready` and names all addresses when it takes frames.
Ctrl-C ends it.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import FlagCreatePairsOff

from streamer.config import ServeConfig
from streamer.config_files import load_config


@dataclass(kw_only=True, slots=True)
class Options:
    """What is not given keeps the value of --config, or its default."""

    config: str | None = None
    """YAML file with settings, or the name of a packaged preset."""
    ingest: str | None = None
    """Where frames come in (tcp://127.0.0.1:5555; a port of * takes a free one)."""
    updates: str | None = None
    """Where changes of the maps go out (tcp://127.0.0.1:5556)."""
    requests: str | None = None
    """Where snapshots and the like are asked for (tcp://127.0.0.1:5557)."""
    no_viewer: FlagCreatePairsOff[bool] = False
    """Do not start the live page."""
    viewer_host: str | None = None
    """Address that the live page is served on (127.0.0.1)."""
    viewer_port: int | None = None
    """Its port (8080; 0 takes a free one)."""
    viewer_token: Path | None = None
    """The live page asks for the token in this file, which is made where it is missing."""
    session_dir: Path | None = None
    """Folder of the sessions' own folders."""
    journal_keep: str | None = None
    """How much of a session's journal stays: all, a size (20GB) or an age (7d)."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """What the sessions compute on."""
    max_sessions: int | None = None
    """More than so many sessions at a time are refused (4)."""
    session_idle: float | None = None
    """Seconds after which a session that nobody sends into and that has nothing to do saves its
    state and ends (600; 0: never). It comes back when it is asked for."""
    long_side: int | None = None
    """Frames are scaled to this long side, pixels."""
    weights: Path | None = None
    """A checkpoint that corrects what matching finds: a file of `splatstream train`, or a released
    one of tttLRM; "packaged": the one that is shipped. Without it matching alone."""
    keys: Path | None = None
    """The daemon's folder of keys (splatstream keygen daemon): only clients with an allowed key
    may connect."""
    metrics_port: int | None = None
    """Serve metrics for Prometheus on this port (0 takes a free one); off without it."""
    metrics_host: str | None = None
    """Address that they are served on (127.0.0.1)."""
    log_json: FlagCreatePairsOff[bool] = False
    """Log one JSON object a line, from all processes."""
    insecure: FlagCreatePairsOff[bool] = False
    """Bind addresses beyond this machine although nobody is authenticated."""


def run(options: Options) -> int:
    """Serves until it is told to end."""
    from streamer.reporter import Reporter
    from streamer.supervisor import Supervisor

    # What this process and those that it starts write down shows the insides of homes.
    os.umask(0o077)
    config = serve_config(options)
    reporter = Reporter(config.log.file, json=config.log.json)
    try:
        return Supervisor(config, reporter).run()
    finally:
        reporter.close()


def serve_config(options: Options) -> ServeConfig:
    """The settings of the file with those of the command line over them."""
    config = load_config(options.config) if options.config is not None else ServeConfig()

    def given(**values: Any) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value is not None}

    enabled = False if options.no_viewer else None
    viewer = given(
        enabled=enabled,
        host=options.viewer_host,
        port=options.viewer_port,
        token_file=_absolute(options.viewer_token),
    )
    top = given(
        ingest=options.ingest,
        updates=options.updates,
        requests=options.requests,
        session_dir=options.session_dir,
        device=options.device,
        max_sessions=options.max_sessions,
        session_idle_s=options.session_idle,
        keys=_absolute(options.keys),
        insecure=options.insecure or None,
    )
    weights = options.weights
    # the words that are no files: ttt_core.default_model, which is slow to import
    if weights is not None and str(weights) not in ("none", "packaged"):
        weights = weights.expanduser().absolute()
    session = given(long_side=options.long_side, weights=weights)
    return dataclasses.replace(
        config,
        **top,
        viewer=dataclasses.replace(config.viewer, **viewer),
        metrics=dataclasses.replace(
            config.metrics, **given(port=options.metrics_port, host=options.metrics_host)
        ),
        log=dataclasses.replace(config.log, json=options.log_json or config.log.json),
        session=dataclasses.replace(config.session, **session),
        journal=dataclasses.replace(config.journal, **given(keep=options.journal_keep)),
    )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()
