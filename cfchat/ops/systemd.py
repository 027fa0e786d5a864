"""What systemd says to a service and wants to hear: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

Whoever else speaks these few words may use them: the parent of workers does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger("cfchat.systemd")

FIRST_FILE = 3


def take_files(environ: MutableMapping[str, str]) -> list[int]:
    """The numbers of the sockets that were opened for us, none where that was not so. Their variables are removed.

    Only those that LISTEN_PID says are this process's own: the variables may be a parent's, inherited.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return list(range(FIRST_FILE, FIRST_FILE + int(count)))


class Notifier:
    """Tells a service manager how we do; without one, nobody. `pause` is the seconds between two signs of life."""

    def __init__(self, plug: socket.socket | None = None, pause: float | None = None) -> None:
        self.plug = plug
        self._pause = pause
        self._timer: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Connections are accepted, by the settings of now. From here on the loop shows that it turns."""
        self._tell("READY=1")
        if self._timer is None:
            self._beat()

    def reloading(self) -> None:
        """Settings are read anew, until the next `ready`."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.plug is not None:
            self.plug.close()

    def _beat(self) -> None:
        if self._pause is not None:
            self._tell("WATCHDOG=1")
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._beat)

    def _tell(self, *lines: str) -> None:
        if self.plug is None:
            return
        try:
            self.plug.send("".join(f"{line}\n" for line in lines).encode(), socket.MSG_DONTWAIT)
        except OSError as error:
            log.warning("the service manager does not hear us: %s", error.strerror)


def take_notifier(environ: MutableMapping[str, str]) -> Notifier:
    """The one of NOTIFY_SOCKET and WATCHDOG_USEC. Their variables are removed, so that no child speaks for us."""
    address = environ.pop("NOTIFY_SOCKET", "")
    pid, usec = environ.pop("WATCHDOG_PID", ""), environ.pop("WATCHDOG_USEC", "")
    if not address:
        return Notifier()
    # `@` stands for the zero byte of an abstract name.
    name = "\0" + address[1:] if address.startswith("@") else address
    plug = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        plug.connect(name)
    except OSError as error:
        plug.close()
        log.warning("there is no service manager at NOTIFY_SOCKET: %s", error.strerror)
        return Notifier()
    watched = usec.isdecimal() and int(usec) > 0 and pid in ("", str(os.getpid()))
    # Half the time, as sd_watchdog_enabled(3) asks for.
    return Notifier(plug, int(usec) / 2e6 if watched else None)
