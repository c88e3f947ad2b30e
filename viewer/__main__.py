"""``python -m viewer``: the live page of a daemon, here or on another machine."""

from __future__ import annotations

import logging
import signal
import sys

import tyro

from streamer.config import LogConfig
from streamer.processes import set_up_logging
from viewer.config import ViewerConfig
from viewer.host import check_host


def main() -> int:
    """Serve the page until SIGINT or SIGTERM; prints a line with its address when it is up."""
    try:
        config = tyro.cli(ViewerConfig, description=__doc__)
        set_up_logging(LogConfig(json=config.log_json))
        logging.getLogger("websockets").setLevel(logging.WARNING)
        check_host(config.host)
        # A wrong address is said at once: these bring torch and viser, which takes seconds.
        from viewer.app import App
        from viewer.page import address

        app = App(config)
    except ValueError as error:
        print(f"viewer: {error}", file=sys.stderr)
        return 2
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: app.stop())
    print(f"page {address(app.server)}", flush=True)
    app.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
