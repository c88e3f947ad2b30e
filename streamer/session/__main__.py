"""`python -m streamer.session --run-dir DIR`: a warm session process that waits for its name."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

import cv2
import numba
import torch
import zmq

from streamer.config import read_run_config
from streamer.control import ControlLink
from streamer.protocol.links import Assign
from streamer.session.engine import Engine
from streamer.session.process import SessionProcess, end_on_sigterm, engine_config
from streamer.session.storage import SessionFolderError


def main() -> int:
    """Warm up, say READY, take a session's name, run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    run_dir = parser.parse_args().run_dir
    logging.basicConfig(level=logging.INFO, format="session %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = read_run_config(run_dir)
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


def use_all_cores() -> None:
    """torch, numba and OpenCV each on every core this process may use; they take turns."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    numba.set_num_threads(min(cores, numba.config.NUMBA_NUM_THREADS))
    # The refinement workers call OpenCV from threads of their own.
    cv2.setNumThreads(1)


if __name__ == "__main__":
    sys.exit(main())
