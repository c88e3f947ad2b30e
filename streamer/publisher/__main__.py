"""``python -m streamer.publisher --run-dir DIR``: the publisher as a process of the daemon."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import tyro
import zmq

from streamer.access.daemon import open_gate
from streamer.config_files import read_run_config
from streamer.control import AddressInUse, ControlLink
from streamer.metrics.instruments import set_up_metrics
from streamer.processes import set_up_logging
from streamer.publisher.server import Publisher


def main(run_dir: Path) -> int:
    """Serve until SIGTERM.

    Args:
        run_dir: the daemon's private folder.
    """
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: stopped.append(got))
    config = read_run_config(run_dir)
    set_up_logging(config.log)
    set_up_metrics(run_dir, config, "publisher")
    control = ControlLink(run_dir, "publisher")
    gate = open_gate(zmq.Context.instance(), config.keys, run_dir)
    try:
        publisher = Publisher(
            run_dir,
            config.updates,
            config.requests,
            config.publisher,
            control=control,
            gate=gate,
            session_dir=config.session_dir if config.journal.enabled else None,
        )
    except AddressInUse as error:
        control.failed("address_in_use", str(error))
        control.close()
        return 2
    control.ready(publisher.addresses)
    publisher.run(lambda: bool(stopped))
    publisher.close()
    if gate is not None:
        gate.close()
    control.close()
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
