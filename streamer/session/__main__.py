"""`python -m streamer.session --run-dir DIR`: a warm session process that waits for its name."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import zmq

from streamer.config import read_run_config
from streamer.control import ControlLink
from streamer.processes import set_up_logging
from streamer.protocol.links import Assign
from streamer.session.engine import Engine
from streamer.session.process import SessionProcess, end_on_sigterm, engine_config
from streamer.session.storage import SessionFolderError
from streamer.session.threads import use_all_cores


def main() -> int:
    """Warm up, say READY, take a session's name, run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    run_dir = parser.parse_args().run_dir
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = read_run_config(run_dir)
    set_up_logging(config.log)
    use_all_cores()
    engine = Engine(engine_config(config))
    long_side = config.session.long_side
    engine.warm_up(long_side * 2 // 3, long_side)
    link = ControlLink(run_dir, "session")
    link.ready({})
    poller = zmq.Poller()
    poller.register(link.socket, zmq.POLLIN)
    while True:
        poller.poll()
        message = link.receive()
        if message is not None and message.kind == Assign.KIND:
            break
    try:
        process = SessionProcess(run_dir, config, message.read(Assign).session, engine)
    except SessionFolderError as error:
        link.failed("bad_session", str(error))
        return 2
    end_on_sigterm(process)
    process.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
