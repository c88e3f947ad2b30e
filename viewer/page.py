"""The web server of the page, set up as a local tool and not as a public demo."""

from __future__ import annotations

import contextlib
import io
import logging

import viser
from viser import _messages

from viewer.door import Door
from viewer.host import PageError, check_host

TITLE = "splatstream"

_log = logging.getLogger(__name__)


def open_page(host: str, port: int, token: str | None = None) -> viser.ViserServer:
    """Serve the page; where `port` is taken, on the next free one, which is said in the log.

    Raises:
        PageError: `host` is no address of this machine, or viser does not let its visitors be
            checked.
    """
    check_host(host)
    door = Door(host, token)
    # viser prints a box with its own name and addresses on standard output.
    with contextlib.redirect_stdout(io.StringIO()), door.before_viser():
        server = viser.ViserServer(host=host, port=port, label=TITLE, verbose=False)
    if not door.installed:
        server.stop()
        raise PageError(
            f"viser {viser.__version__} starts its server in a way that this version does not "
            "know, so visitors could not be checked: install viser>=1.1.1,<2"
        )
    if port not in (0, server.get_port()):
        _log.warning("port %d is taken: the page is on port %d", port, server.get_port())
    server.gui.configure_theme(
        dark_mode=True, show_logo=False, show_share_button=False, control_width="medium"
    )
    # The tab's title is fixed in viser's page, and it has no call for it.
    server.gui._websock_interface.queue_message(
        _messages.RunJavascriptMessage(source=f'document.title = "{TITLE}";')
    )
    return server


def address(server: viser.ViserServer) -> str:
    """The page's address as a person on this machine types it."""
    host = server.get_host()
    if ":" in host:
        host = f"[{host}]"
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '') else host}:{server.get_port()}"
