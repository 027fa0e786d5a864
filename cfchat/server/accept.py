"""Accept connections, for as long as there is room for them.

asyncio's own servers accept all that wait in one turn of the loop, without a way to stop. So a burst of clients could
take every file of the process, and the replies under way would get none. Here the loop reports that a connection
waits, and one is accepted. While there is no room, they wait in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any

from cfchat.net.listen import BACKLOG

log = logging.getLogger("cfchat.server")

RETRY = 1.0  # seconds until the next try if there is no file left
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Gives each new connection and its address to `take`."""

    def __init__(self, take: Callable[[socket.socket, Any], None]) -> None:
        self.sockets: list[socket.socket] = []
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._pausing: asyncio.TimerHandle | None = None
        self._logged = -inf

    def listen(self, sock: socket.socket) -> None:
        """Accept on a socket that was bound elsewhere. It is closed with this object."""
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self.sockets.append(sock)
        self._loop.add_reader(sock, self._accept, sock)

    def pause(self, seconds: float, then: Callable[[], None]) -> None:
        """Accept nothing until `resume`; call `then` if that does not come in so many seconds."""
        if self._pausing is not None:
            self._pausing.cancel()
        self._pausing = self._loop.call_later(seconds, then)
        for sock in self.sockets:
            self._loop.remove_reader(sock)

    def resume(self) -> None:
        """Go on after a pause."""
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
            for sock in self.sockets:
                self._loop.add_reader(sock, self._accept, sock)

    def close(self) -> None:
        """Accept those that have come already, and no more."""
        for sock in self.sockets:
            self._loop.remove_reader(sock)
        with suppress(OSError):
            for sock in self.sockets:
                for _ in range(BACKLOG):
                    if self._pausing is not None or not self._accept(sock):
                        break
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None

    def _accept(self, sock: socket.socket) -> bool:
        """Accept a connection; return whether there was one."""
        try:
            connection, address = sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in _NO_FILES:
                raise
            if self._loop.time() - self._logged >= RETRY:
                self._logged = self._loop.time()
                log.error("no connection can be accepted: %s; it is tried again", os.strerror(error.errno))
            self.pause(RETRY, self.resume)
            return False
        connection.setblocking(False)
        self._take(connection, address)
        return True
