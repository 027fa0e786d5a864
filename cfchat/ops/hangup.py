"""Take SIGHUP: an order to read files again, or the end of the terminal that cfchat was started from.

By default the signal kills. It is held back from the first moment of the process on until the server can take it, so
that one that comes early is only late; this module imports little, because it is needed before all others. A terminal
that is closed sends the signal, too. By then the process has no terminal any more, and that tells one from the other.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

_EXISTS = hasattr(signal, "SIGHUP")  # Windows has none: there files are read again by a restart alone


class Hangup:
    """SIGHUP, held back from now on until `take` or `release`."""

    def __init__(self) -> None:
        self._by_terminal = False  # whether the end of the terminal is the end of the server
        self.hold()
        if _EXISTS:
            # Under nohup the signal is ignored.
            self._by_terminal = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and _has_terminal() is True

    def take(self, reload: Callable[[], None], end: Callable[[], None]) -> None:
        """Call `reload` for each signal from now on; but once the terminal is gone call `end`, and nothing after it."""
        if not _EXISTS:
            return
        import asyncio  # not before the signal is held back

        ended = False

        def hang_up() -> None:
            nonlocal ended
            if not ended:
                ended = self._by_terminal and _has_terminal() is False
                (end if ended else reload)()

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
        self.release()

    def hold(self) -> None:
        """Hold the signal back again: at the end it would meet a loop that is half closed, or kill."""
        if _EXISTS:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])

    def release(self) -> None:
        """Let the signal through."""
        if _EXISTS:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])


def _has_terminal() -> bool | None:
    """Return whether this process has a controlling terminal; None if the system does not say."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError as error:
        return False if error.errno in (errno.ENXIO, errno.EIO) else None
    return True
