"""What systemd is told of a service of Type=notify (sd_notify(3)): a datagram, a few words."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping


class ServiceManager:
    """Speaks to the service manager that started us; without one it says nothing to nobody.

    Args:
        environment: taken out of it, so that no child speaks in our name.
    """

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._address = environment.pop("NOTIFY_SOCKET", "")
        watchdog_us = environment.pop("WATCHDOG_USEC", "")
        watchdog_pid = environment.pop("WATCHDOG_PID", "")
        ours = watchdog_pid in ("", str(os.getpid()))
        self.watchdog_s = int(watchdog_us) / 1e6 if watchdog_us.isdigit() and ours else None
        """It ends us where it hears nothing of `alive` for so long; None: it does not watch."""
        self._alive_at = 0.0
        self._status = ""

    def ready(self) -> None:
        """The service is up."""
        self._say("READY=1")

    def stopping(self) -> None:
        """The service ends, as it was told."""
        self._say("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; said when it changed."""
        if text != self._status:
            self._status = text
            self._say("STATUS=" + text.replace("\n", " "))

    def alive(self) -> None:
        """Pets the watchdog; call as often as one likes."""
        now = time.monotonic()
        if self.watchdog_s is not None and now - self._alive_at >= self.watchdog_s / 4:
            self._alive_at = now
            self._say("WATCHDOG=1")

    def _say(self, message: str) -> None:
        if not self._address:
            return
        # An @ stands for the zero byte of an abstract address.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
            sender.setblocking(False)
            # A manager that does not listen must not hold the daemon up.
            with contextlib.suppress(OSError):
                sender.sendto(message.encode(), address)
