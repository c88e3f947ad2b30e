"""`python -m streamer.session --run-dir DIR`: a warm session process that waits for its name."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import zmq

from streamer.config_files import read_run_config
from streamer.control import ControlLink
from streamer.garbage import begin
from streamer.metrics.instruments import set_up_metrics
from streamer.processes import set_up_logging
from streamer.protocol.links import Assign
from streamer.session.engine import Engine
from streamer.session.folder import SessionFolderError
from streamer.session.process import SessionProcess, end_on_sigterm
from streamer.session.settings import engine_config
from streamer.session.threads import use_all_cores
from ttt_core import default_model
from ttt_core.errors import CheckpointError


def main() -> int:
    """Warm up, say READY, take a session's name, run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    run_dir = parser.parse_args().run_dir
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = read_run_config(run_dir)
    set_up_logging(config.log)
    use_all_cores()
    link = ControlLink(run_dir, "session")
    try:
        settings = engine_config(config)
        chosen = config.session
        model = default_model(chosen.weights, settings.device, chosen.submaps)
        engine = Engine(settings, model=model)
    except CheckpointError as error:
        link.failed("internal", f"session.weights: {error}")
        return 2
    long_side = config.session.long_side
    engine.warm_up(long_side * 2 // 3, long_side)
    begin()
    link.ready({})
    poller = zmq.Poller()
    poller.register(link.socket, zmq.POLLIN)
    while True:
        poller.poll()
        message = link.receive()
        if message is not None and message.kind == Assign.KIND:
            break
    session = message.read(Assign).session
    set_up_metrics(run_dir, config, f"session {session}")
    try:
        process = SessionProcess(run_dir, config, session, engine)
    except SessionFolderError as error:
        link.failed("bad_session", str(error))
        return 2
    end_on_sigterm(process)
    process.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
