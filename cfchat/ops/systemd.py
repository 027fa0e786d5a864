"""Take sockets from systemd, and report to it: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

The environment variables are removed as they are read, so that no child process takes them for its own. A Notifier
without a socket does nothing: callers need not ask whether a service manager is there. Workers report to their parent
with the same messages, over a socket pair.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger("cfchat.systemd")

FIRST_FILE = 3  # SD_LISTEN_FDS_START


def take_files(environ: MutableMapping[str, str]) -> list[int]:
    """Return the file numbers of the sockets that systemd opened for us, and remove their variables from `environ`.

    Empty if LISTEN_PID names another process: the variables may be inherited from a parent.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return list(range(FIRST_FILE, FIRST_FILE + int(count)))


class Notifier:
    """The way to a service manager. `sock` is None if there is none; `interval` is seconds between signs of life."""

    def __init__(self, sock: socket.socket | None = None, interval: float | None = None) -> None:
        self.sock = sock
        self._interval = interval
        self._timer: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Report that connections are accepted with the current settings, and begin to send signs of life."""
        self._send("READY=1")
        if self._timer is None:
            self._send_watchdog()

    def reloading(self) -> None:
        """Report that settings are being read again, until the next `ready`."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the service stops."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Stop the signs of life and close the socket."""
        if self._timer is not None:
            self._timer.cancel()
        if self.sock is not None:
            self.sock.close()

    def _send_watchdog(self) -> None:
        if self._interval is not None:
            self._send("WATCHDOG=1")
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._send_watchdog)

    def _send(self, *lines: str) -> None:
        if self.sock is None:
            return
        try:
            self.sock.send("".join(f"{line}\n" for line in lines).encode(), socket.MSG_DONTWAIT)
        except OSError as error:
            log.warning("the service manager cannot be notified: %s", error.strerror)


def take_notifier(environ: MutableMapping[str, str]) -> Notifier:
    """Return a Notifier for NOTIFY_SOCKET and WATCHDOG_USEC, and remove these variables from `environ`."""
    address = environ.pop("NOTIFY_SOCKET", "")
    pid, usec = environ.pop("WATCHDOG_PID", ""), environ.pop("WATCHDOG_USEC", "")
    if not address or not hasattr(socket, "AF_UNIX"):
        return Notifier()
    # `@` stands for the zero byte of an abstract name.
    name = "\0" + address[1:] if address.startswith("@") else address
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.connect(name)
    except OSError as error:
        sock.close()
        log.warning("there is no service manager at NOTIFY_SOCKET: %s", error.strerror)
        return Notifier()
    has_watchdog = usec.isdecimal() and int(usec) > 0 and pid in ("", str(os.getpid()))
    # Half the time that the watchdog allows, as sd_watchdog_enabled(3) asks for.
    return Notifier(sock, int(usec) / 2e6 if has_watchdog else None)
