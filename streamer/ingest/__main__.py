"""`python -m streamer.ingest --run-dir DIR`: the ingest process of a daemon."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from streamer.config_files import read_run_config
from streamer.control import AddressInUse, ControlLink
from streamer.ingest.service import IngestService
from streamer.metrics.instruments import set_up_metrics
from streamer.processes import set_up_logging


def main() -> int:
    """Serve until SIGTERM; the exit status is 2 where a restart would not help."""
    parser = argparse.ArgumentParser(prog="python -m streamer.ingest", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    run_dir: Path = parser.parse_args().run_dir
    config = read_run_config(run_dir)
    set_up_logging(config.log)
    set_up_metrics(run_dir, config, "ingest")
    # Ctrl-C reaches every process of a terminal; the supervisor decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        service = IngestService(run_dir, config)
    except AddressInUse as error:
        control = ControlLink(run_dir, "ingest")
        control.failed("address_in_use", str(error))
        control.close()
        return 2
    signal.signal(signal.SIGTERM, lambda *_: service.stop())
    try:
        service.run()
    finally:
        service.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
