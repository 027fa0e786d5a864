"""Accept connections with `asyncio.start_server`, for as long as there is room for them.

asyncio accepts all that wait in one turn of the loop, as many as its backlog says, and its servers cannot pause. So a
burst of clients could take every file of the process, and the replies under way would get none. Here its backlog is
one, and the kernel's queue has a length of its own. In a pause the loop does not look at the sockets; behind it another
server goes on with them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

from cfchat.net.listen import BACKLOG

log = logging.getLogger("cfchat.server")

RETRY = 1.0  # seconds until the next try if there is no file left
Take = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]


class Acceptor:
    """Gives each new connection to `take`, a plain function: asyncio would make a task of its own for a coroutine."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._taken = 0
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._pausing: asyncio.TimerHandle | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._closing = False

    async def listen(self, sock: socket.socket) -> None:
        """Accept on a socket that was bound elsewhere. It is closed with this object."""
        self._sockets.append(sock)
        await self._open(sock)

    def pause(self, seconds: float, then: Callable[[], None]) -> None:
        """Accept only what is on its way until `resume`. Call `then` if that does not come in so many seconds."""
        if self._pausing is not None:
            self._pausing.cancel()
        self._pausing = asyncio.get_running_loop().call_later(seconds, then)
        self._look_away()

    def resume(self) -> None:
        """Go on after a pause."""
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
            if self._resuming is None and not self._closing:
                self._resuming = asyncio.get_running_loop().create_task(self._reopen())

    async def close(self) -> None:
        """Take those that have come already, and no more. If it is cancelled, it can be called again."""
        self._closing = True
        if self._resuming is not None:
            await asyncio.wait([self._resuming])  # a cancellation must not reach it: it would leave a server half open
        waiting = BACKLOG if self._pausing is None else 0
        while waiting > 0:
            before = self._taken
            await _settle()
            waiting -= self._taken - before or waiting
        await self._end_servers()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None

    async def _open(self, sock: socket.socket) -> None:
        self._servers.append(await asyncio.start_server(self._count, sock=sock.dup(), backlog=1))
        sock.listen(BACKLOG)

    async def _reopen(self) -> None:
        await self._end_servers()
        try:
            for sock in self._sockets:
                await self._open(sock)
        except OSError as error:
            log.error("no connection can be accepted: %s; it is tried again", error.strerror)
            self._pausing = asyncio.get_running_loop().call_later(RETRY, self.resume)
        self._resuming = None
        if self._pausing is not None:
            self._look_away()

    async def _end_servers(self) -> None:
        self._look_away()
        await _settle()  # before the close: asyncio drops connections that it has accepted and not yet handed over
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _look_away(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError):  # of Windows' own loop
            for server in self._servers:
                for sock in server.sockets:
                    loop.remove_reader(sock.fileno())

    def _count(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._taken += 1
        self._take(reader, writer)


async def _settle() -> None:
    """Let each connection that the kernel has accepted arrive here: accept, task, transport, protocol, a turn each."""
    for _ in range(5):
        await asyncio.sleep(0)
